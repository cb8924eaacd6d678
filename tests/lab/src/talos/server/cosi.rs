//! `cosi.resource.State` of a simulated node.

use ichor_proto::talos::cosi::resource::label_term::Operation;
use ichor_proto::talos::cosi::resource::state_server::State;
use ichor_proto::talos::cosi::resource::{self as proto, EventType, LabelQuery, Resource};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::route::{Caller, NodeApi};
use super::stream::{Step, all, follow};
use crate::talos::model::{Kind, Refusal, Store, id_of};
use crate::talos::role::Role;

type Reply<T> = Result<Response<T>, Status>;

/// What a watch or a list wants of a type.
#[derive(Debug, Clone)]
struct Wanted {
    namespace: String,
    kind: String,
    id: Option<String>,
    labels: Vec<LabelQuery>,
}

impl Wanted {
    fn takes(&self, resource: &Resource) -> bool {
        let Some(metadata) = &resource.metadata else { return false };
        metadata.namespace == self.namespace
            && metadata.r#type.eq_ignore_ascii_case(&self.kind)
            && self.id.as_ref().is_none_or(|id| *id == metadata.id)
            && (self.labels.is_empty() || self.labels.iter().any(|query| fits(query, &metadata.labels)))
    }

    fn of<'s>(&'s self, store: &'s Store) -> impl Iterator<Item = &'s Resource> {
        store.list(&self.namespace, &self.kind).filter(|resource| self.takes(resource))
    }
}

/// Whether labels fit all terms of a query.
fn fits(query: &LabelQuery, labels: &std::collections::HashMap<String, String>) -> bool {
    query.terms.iter().all(|term| {
        let label = labels.get(&term.key);
        let first = term.value.first();
        let number = |text: &String| text.parse::<i64>().ok();
        let compare = |is: fn(std::cmp::Ordering) -> bool| {
            label.zip(first).is_some_and(|(label, value)| is(label.cmp(value)))
        };
        let compare_numbers = |is: fn(std::cmp::Ordering) -> bool| {
            let both = label.and_then(number).zip(first.and_then(number));
            both.is_some_and(|(label, value)| is(label.cmp(&value)))
        };
        let holds = match term.op() {
            Operation::Exists => label.is_some(),
            Operation::NotExists => label.is_none(),
            Operation::Equal => label.is_some() && label == first,
            Operation::In => label.is_some_and(|label| term.value.contains(label)),
            Operation::Lt => compare(std::cmp::Ordering::is_lt),
            Operation::Lte => compare(std::cmp::Ordering::is_le),
            Operation::LtNumeric => compare_numbers(std::cmp::Ordering::is_lt),
            Operation::LteNumeric => compare_numbers(std::cmp::Ordering::is_le),
        };
        holds != term.invert
    })
}

impl NodeApi {
    /// Refuses types and namespaces that the node does not have, and secrets to all but admins.
    fn check<T>(&self, request: &Request<T>, namespace: &str, kind: &str) -> Result<(), Status> {
        let denied = |text: String| Refusal::new(tonic::Code::PermissionDenied, text);
        self.look(|cluster| {
            let line = cluster.node(&self.node)?.line();
            let found = Kind::find(kind, line);
            let found = found.ok_or_else(|| denied(format!("resource type {kind:?} is not supported")))?;
            let caller = request.extensions().get::<Caller>();
            let is_admin = caller.is_some_and(|caller| caller.roles.contains(&Role::Admin));
            if found.sensitive && !is_admin {
                return Err(Refusal::not_authorized());
            }
            match Kind::has_namespace(namespace) {
                true => Ok(()),
                false => Err(denied(format!("namespace {namespace:?} is not supported"))),
            }
        })
    }

    fn read_only<T>(&self) -> Reply<T> {
        Err(Status::permission_denied("write access is not allowed"))
    }
}

#[tonic::async_trait]
impl State for NodeApi {
    async fn get(&self, request: Request<proto::GetRequest>) -> Reply<proto::GetResponse> {
        let wanted = request.get_ref();
        self.check(&request, &wanted.namespace, &wanted.r#type)?;
        let (namespace, kind, id) = (&wanted.namespace, &wanted.r#type, &wanted.id);
        let found =
            self.look(|cluster| Ok(cluster.node(&self.node)?.resources().get(namespace, kind, id).cloned()))?;
        let missing =
            || Status::not_found(format!("resource {kind}({namespace}/{id}@undefined) doesn't exist"));
        Ok(Response::new(proto::GetResponse { resource: Some(found.ok_or_else(missing)?) }))
    }

    async fn list(&self, request: Request<proto::ListRequest>) -> Reply<BoxStream<proto::ListResponse>> {
        self.check(&request, &request.get_ref().namespace, &request.get_ref().r#type)?;
        let request = request.into_inner();
        let options = request.options.unwrap_or_default();
        if options.id_query.is_some_and(|query| !query.regexp.is_empty()) {
            return Err(Status::unimplemented("id queries are not simulated"));
        }
        let wanted = Wanted {
            namespace: request.namespace,
            kind: request.r#type,
            id: None,
            labels: options.label_query,
        };
        let found: Vec<_> = self.look(|cluster| {
            let store = cluster.node(&self.node)?.resources();
            Ok(wanted.of(store).map(|it| proto::ListResponse { resource: Some(it.clone()) }).collect())
        })?;
        Ok(Response::new(all(found)))
    }

    async fn watch(&self, request: Request<proto::WatchRequest>) -> Reply<BoxStream<proto::WatchResponse>> {
        self.check(&request, &request.get_ref().namespace, &request.get_ref().r#type)?;
        let request = request.into_inner();
        let options = request.options.unwrap_or_default();
        if request.id.is_some() && (options.bootstrap_contents || !options.label_query.is_empty()) {
            return Err(Status::unimplemented("bootstrap contents and label queries need a watch of a kind"));
        }
        if options.start_from_bookmark.is_some() {
            return Err(Status::failed_precondition("failed to watch: invalid bookmark"));
        }
        let wanted = Wanted {
            namespace: request.namespace,
            kind: request.r#type,
            id: request.id,
            labels: options.label_query,
        };
        // Old clients do not know these.
        let tells_all = request.api_version >= 1;
        let node = self.node.clone();
        let mut next = None;
        Ok(Response::new(follow(&self.simulation, move |cluster| {
            let Ok(node) = cluster.node(&node) else { return Step::last([]) };
            let store = node.resources();
            let mut batches = Vec::new();
            let from = match next {
                Some(from) => from,
                None => {
                    // The first message says that the watch is established.
                    batches.push(Vec::new());
                    batches.extend(one_by_one(first(&wanted, store, options.bootstrap_contents, tells_all)));
                    store.end()
                }
            };
            let Some(changes) = store.since(from) else {
                let overrun = proto::Event {
                    event_type: EventType::Errored.into(),
                    error: Some("buffer overrun".to_owned()),
                    ..Default::default()
                };
                let event = if tells_all { vec![overrun] } else { Vec::new() };
                return Step::last([Ok(proto::WatchResponse { event })]);
            };
            let new: Vec<proto::Event> =
                changes.filter(|change| wanted.takes(&change.resource)).map(|it| it.to_event()).collect();
            next = Some(store.end());
            match options.aggregated && wanted.id.is_none() {
                true if !new.is_empty() => batches.push(new),
                true => {}
                false => batches.extend(one_by_one(new)),
            }
            Step::more(batches.into_iter().map(|event| proto::WatchResponse { event }))
        })))
    }

    async fn create(&self, _request: Request<proto::CreateRequest>) -> Reply<proto::CreateResponse> {
        self.read_only()
    }

    async fn update(&self, _request: Request<proto::UpdateRequest>) -> Reply<proto::UpdateResponse> {
        self.read_only()
    }

    async fn destroy(&self, _request: Request<proto::DestroyRequest>) -> Reply<proto::DestroyResponse> {
        self.read_only()
    }
}

fn one_by_one(events: Vec<proto::Event>) -> impl Iterator<Item = Vec<proto::Event>> {
    events.into_iter().map(|event| vec![event])
}

/// What a watch begins with.
fn first(wanted: &Wanted, store: &Store, bootstrap: bool, tells_all: bool) -> Vec<proto::Event> {
    let event = |kind: EventType, resource: Option<Resource>| proto::Event {
        event_type: kind.into(),
        resource,
        ..Default::default()
    };
    if let Some(id) = &wanted.id {
        let found = wanted.of(store).find(|resource| id_of(resource) == id).cloned();
        let tombstone = || {
            let metadata = proto::Metadata {
                namespace: wanted.namespace.clone(),
                r#type: wanted.kind.clone(),
                id: id.clone(),
                version: "undefined".to_owned(),
                phase: "running".to_owned(),
                ..Default::default()
            };
            Resource { metadata: Some(metadata), spec: None }
        };
        return vec![match found {
            Some(resource) => event(EventType::Created, Some(resource)),
            None => event(EventType::Destroyed, Some(tombstone())),
        }];
    }
    if !bootstrap {
        return Vec::new();
    }
    let mut events: Vec<_> =
        wanted.of(store).map(|resource| event(EventType::Created, Some(resource.clone()))).collect();
    if tells_all {
        events.push(event(EventType::Bootstrapped, None));
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use ichor_proto::talos::cosi::resource::LabelTerm;

    #[test]
    fn terms_of_a_query_must_all_hold_and_can_be_turned_round() {
        let labels = [("a".to_owned(), "5".to_owned())].into();
        let term = |key: &str, op: Operation, value: &[&str], invert| LabelTerm {
            key: key.to_owned(),
            op: op.into(),
            value: value.iter().map(|text| (*text).to_owned()).collect(),
            invert,
        };
        let holds = |terms: &[LabelTerm]| fits(&LabelQuery { terms: terms.to_vec() }, &labels);
        assert!(holds(&[term("a", Operation::Exists, &[], false), term("b", Operation::Exists, &[], true)]));
        assert!(!holds(&[
            term("a", Operation::Exists, &[], false),
            term("b", Operation::Exists, &[], false)
        ]));
        assert!(holds(&[term("a", Operation::In, &["4", "5"], false)]));
        assert!(holds(&[term("a", Operation::LtNumeric, &["10"], false)]));
        assert!(!holds(&[term("a", Operation::Lt, &["10"], false)]), "as text");
        assert!(!holds(&[term("b", Operation::Equal, &[], false)]));
    }
}
