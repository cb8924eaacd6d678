//! Watches that outlive the reasons for which nodes end them.

use std::collections::BTreeMap;
use std::time::Duration;

use ichor_proto::talos::cosi::resource::{EventType, Metadata, Spec};

use super::print::{Document, Printer};
use super::{Query, note_restart};
use crate::api::{ApiError, Event, NodeClient, Resource, WatchFilter};

/// Pause before a watch is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// Prints what is there and what changes, until the node refuses or nobody reads any more.
///
/// A node ends a watch when we were too slow, when its API restarts, and when it reboots. The watch is started again,
/// and what did not change meanwhile is not printed again.
pub(super) async fn follow(node: &NodeClient, query: &Query, printer: &Printer) -> anyhow::Result<()> {
    let mut view = View::default();
    let mut established = false;
    loop {
        let reason = match run(node, query, printer, &mut view, &mut established).await {
            Ok(reason) => reason,
            Err(error) => match error.downcast_ref::<ApiError>() {
                Some(failed) if established && failed.cause.is_transient() => failed.cause.to_string(),
                _ => return Err(error),
            },
        };
        note_restart(node.name(), &reason);
        view.restart();
        tokio::time::sleep(PAUSE).await;
    }
}

/// One watch, until the node ends it. Returns the reason.
async fn run(
    node: &NodeClient,
    query: &Query,
    printer: &Printer,
    view: &mut View,
    established: &mut bool,
) -> anyhow::Result<String> {
    let is_kind = query.id.is_none();
    let filter = WatchFilter { id: query.id.clone(), bootstrap: is_kind, aggregated: is_kind };
    let mut watch = node.watch(&query.namespace, &query.definition.kind, filter).await?;
    let mut is_complete = !is_kind;
    while let Some(events) = watch.next().await? {
        *established = true;
        let mut changes = Vec::new();
        for event in events {
            match event.kind {
                EventType::Errored => return Ok(event.error.unwrap_or_default()),
                EventType::Bootstrapped => {
                    is_complete = true;
                    changes.extend(view.complete());
                }
                EventType::Created | EventType::Updated | EventType::Destroyed => {
                    changes.extend(view.change(event))
                }
                EventType::Noop => {}
            }
        }
        printer.add(
            changes
                .into_iter()
                .map(|(kind, resource)| Document::new(node.name(), Some(kind), resource))
                .collect(),
        );
        if is_complete {
            printer.flush()?;
        }
    }
    Ok("the node ended it".to_owned())
}

/// What has been printed, so that a watch that starts again prints the difference.
#[derive(Debug, Default)]
struct View {
    known: BTreeMap<String, Metadata>,
    /// Known before the watch started again, and not confirmed since.
    unconfirmed: BTreeMap<String, Metadata>,
}

impl View {
    fn restart(&mut self) {
        self.unconfirmed.append(&mut self.known);
    }

    fn change(&mut self, event: Event) -> Option<(EventType, Resource)> {
        let resource = event.resource?;
        let id = resource.metadata.id.clone();
        let before = self.unconfirmed.remove(&id);
        if event.kind == EventType::Destroyed {
            self.known.remove(&id);
            return Some((event.kind, resource));
        }
        self.known.insert(id, resource.metadata.clone());
        match before {
            Some(before) if before == resource.metadata => None,
            Some(_) => Some((EventType::Updated, resource)),
            None => Some((event.kind, resource)),
        }
    }

    /// All that is there has been seen: the rest is gone.
    fn complete(&mut self) -> Vec<(EventType, Resource)> {
        let gone = std::mem::take(&mut self.unconfirmed);
        let tombstone = |metadata| Resource { metadata, spec: Spec::default() };
        gone.into_values().map(|metadata| (EventType::Destroyed, tombstone(metadata))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_starts_again_prints_the_difference() {
        let mut view = View::default();
        for (id, version) in [("same", 1), ("changed", 1), ("gone", 1)] {
            assert_eq!(shown(view.change(created(id, version))), Some((EventType::Created, id.to_owned())));
        }
        assert!(view.complete().is_empty());

        view.restart();
        assert_eq!(view.change(created("same", 1)), None);
        assert_eq!(shown(view.change(created("changed", 2))), Some((EventType::Updated, "changed".into())));
        assert_eq!(shown(view.change(created("new", 1))), Some((EventType::Created, "new".into())));
        let gone: Vec<_> = view.complete().into_iter().map(|change| shown(Some(change))).collect();
        assert_eq!(gone, [Some((EventType::Destroyed, "gone".into()))]);
    }

    fn created(id: &str, version: u32) -> Event {
        let metadata = Metadata { id: id.into(), version: version.to_string(), ..Metadata::default() };
        let resource = Some(Resource { metadata, spec: Spec::default() });
        Event { kind: EventType::Created, resource, error: None }
    }

    fn shown(change: Option<(EventType, Resource)>) -> Option<(EventType, String)> {
        change.map(|(kind, resource)| (kind, resource.metadata.id))
    }
}
