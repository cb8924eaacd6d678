//! Resources of a node.

use ichor_proto::talos::cosi::resource as proto;
use ichor_proto::talos::cosi::resource::EventType;
use ichor_proto::talos::resource::config::MachineConfigSpec;
use prost::Message as _;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::call::state_service;
use super::{ApiError, Cause, NodeClient, NodeStream};

/// The generation of watches that reports BOOTSTRAPPED and ERRORED.
const WATCH_API_VERSION: i32 = 1;

/// A resource: metadata, and its spec in both forms. `Debug` shows the length of the spec only.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Who and which version it is.
    pub metadata: proto::Metadata,
    /// What it says. Empty for tombstones.
    pub spec: proto::Spec,
}

/// A spec that is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {id} has a spec that is not understood")]
pub struct SpecError {
    /// Type of the resource.
    pub kind: String,
    /// Id of the resource.
    pub id: String,
    /// What the parser said.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl Resource {
    /// The spec from its YAML form, which changes less between versions of Talos than the other.
    ///
    /// # Errors
    ///
    /// When it does not fit.
    pub fn spec<T: DeserializeOwned>(&self) -> Result<T, SpecError> {
        yaml_serde::from_str(&self.spec.yaml_spec).map_err(|error| self.spec_error(error.into()))
    }

    /// The text of a machine config, all documents, byte for byte as it was submitted.
    ///
    /// # Errors
    ///
    /// When this is no machine config.
    pub fn machine_config(&self) -> Result<Zeroizing<String>, SpecError> {
        let spec = MachineConfigSpec::decode(&*self.spec.proto_spec)
            .map_err(|error| self.spec_error(error.into()))?;
        let text = String::from_utf8(spec.yaml_marshalled)
            .map_err(|error| self.spec_error(error.utf8_error().into()))?;
        Ok(Zeroizing::new(text))
    }

    fn spec_error(&self, source: Box<dyn std::error::Error + Send + Sync>) -> SpecError {
        SpecError { kind: self.metadata.r#type.clone(), id: self.metadata.id.clone(), source }
    }
}

/// Which resources of a kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListFilter {
    /// Alternatives of label terms.
    pub labels: Vec<proto::LabelQuery>,
    /// A regular expression on the id.
    pub id: Option<String>,
}

/// What of a kind is watched.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WatchFilter {
    /// One resource. The first event is its current state, or a tombstone.
    pub id: Option<String>,
    /// Start with what is there, ended by BOOTSTRAPPED. Not with `id`.
    pub bootstrap: bool,
    /// Several events per message. Not with `id`.
    pub aggregated: bool,
}

/// A change.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What happened.
    pub kind: EventType,
    /// To what; None for events that are about no resource.
    pub resource: Option<Resource>,
    /// Why the watch is of no further use, for ERRORED.
    pub error: Option<String>,
}

/// A watch that is established.
#[derive(Debug)]
pub struct Watch {
    stream: NodeStream<proto::WatchResponse>,
}

impl NodeClient {
    /// One resource.
    ///
    /// # Errors
    ///
    /// Those of every call; [`Cause::NotFound`] when it is not there.
    pub async fn get(&self, namespace: &str, kind: &str, id: &str) -> Result<Resource, ApiError> {
        let message = proto::GetRequest {
            namespace: namespace.to_owned(),
            r#type: kind.to_owned(),
            id: id.to_owned(),
            options: None,
        };
        let reply: proto::GetResponse =
            self.unary("Get", message, |channel, request| async move {
                state_service(channel).get(request).await
            })
            .await?;
        let resource = reply.resource.and_then(resource);
        resource.ok_or_else(|| self.error("Get", Cause::Incomplete("it has no resource")))
    }

    /// One resource, or None when it is not there.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn find(&self, namespace: &str, kind: &str, id: &str) -> Result<Option<Resource>, ApiError> {
        match self.get(namespace, kind, id).await {
            Ok(resource) => Ok(Some(resource)),
            Err(ApiError { cause: Cause::NotFound(_), .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All resources of a kind in a namespace that pass the filter.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn list(
        &self,
        namespace: &str,
        kind: &str,
        filter: ListFilter,
    ) -> Result<Vec<Resource>, ApiError> {
        let message = proto::ListRequest {
            namespace: namespace.to_owned(),
            r#type: kind.to_owned(),
            options: Some(proto::ListOptions {
                label_query: filter.labels,
                id_query: filter.id.map(|regexp| proto::IdQuery { regexp }),
            }),
        };
        let deadline = Some(self.deadline);
        let mut stream: NodeStream<proto::ListResponse> = self
            .stream("List", message, deadline, deadline, |channel, request| async move {
                state_service(channel).list(request).await
            })
            .await?;
        let mut resources = Vec::new();
        while let Some(reply) = stream.next().await? {
            resources.extend(reply.resource.and_then(resource));
        }
        Ok(resources)
    }

    /// Watches one resource or a kind.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn watch(&self, namespace: &str, kind: &str, filter: WatchFilter) -> Result<Watch, ApiError> {
        let message = proto::WatchRequest {
            namespace: namespace.to_owned(),
            r#type: kind.to_owned(),
            id: filter.id,
            options: Some(proto::WatchOptions {
                bootstrap_contents: filter.bootstrap,
                aggregated: filter.aggregated,
                ..proto::WatchOptions::default()
            }),
            api_version: WATCH_API_VERSION,
        };
        let stream = self
            .stream("Watch", message, Some(self.deadline), None, |channel, request| async move {
                state_service(channel).watch(request).await
            })
            .await?;
        Ok(Watch { stream })
    }
}

impl Watch {
    /// The next changes, or None when the node ended the watch. May be empty: the first one says that the watch
    /// is established.
    ///
    /// # Errors
    ///
    /// Those of the call.
    pub async fn next(&mut self) -> Result<Option<Vec<Event>>, ApiError> {
        let reply = self.stream.next().await?;
        Ok(reply.map(|reply| reply.event.into_iter().map(event).collect()))
    }
}

fn resource(resource: proto::Resource) -> Option<Resource> {
    Some(Resource { metadata: resource.metadata?, spec: resource.spec.unwrap_or_default() })
}

fn event(event: proto::Event) -> Event {
    Event { kind: event.event_type(), resource: event.resource.and_then(resource), error: event.error }
}
