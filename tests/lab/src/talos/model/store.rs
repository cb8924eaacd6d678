//! The resources of a node, with their versions and their changes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ichor_proto::talos::cosi::resource::{Event, EventType, Metadata, Resource, Spec};

/// Most changes that are kept for those who watch (COSI: the capacity of an in-memory collection).
const MAX_CHANGES: usize = 1000;

/// Names a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) kind: &'static str,
    pub(crate) id: String,
}

/// What a resource says, in both forms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) yaml: String,
    pub(crate) proto: Vec<u8>,
    pub(crate) annotations: Vec<(&'static str, &'static str)>,
}

/// A change of a resource.
#[derive(Debug, Clone)]
pub struct Change {
    /// What happened.
    pub event: EventType,
    /// The resource after it; before it, when it was destroyed.
    pub resource: Resource,
    /// The resource before it, when it was updated.
    pub old: Option<Resource>,
}

impl Change {
    /// As it is sent.
    pub fn to_event(&self) -> Event {
        Event {
            resource: Some(self.resource.clone()),
            event_type: self.event.into(),
            old: self.old.clone(),
            ..Event::default()
        }
    }
}

/// All resources of a node.
#[derive(Debug, Clone, Default)]
pub struct Store {
    resources: BTreeMap<Key, Resource>,
    changes: VecDeque<Change>,
    /// The number of the next change.
    next: u64,
}

impl Store {
    /// Makes the resources equal to `wanted`: what differs gets a new version, what is not wanted is destroyed.
    pub(crate) fn sync(&mut self, wanted: BTreeMap<Key, Content>, now: Duration) {
        let gone: Vec<Key> = self.resources.keys().filter(|key| !wanted.contains_key(key)).cloned().collect();
        for key in gone {
            if let Some(resource) = self.resources.remove(&key) {
                self.note(Change { event: EventType::Destroyed, resource, old: None });
            }
        }
        for (key, content) in wanted {
            let spec = Spec { proto_spec: content.proto, yaml_spec: content.yaml };
            let stamp = timestamp(now);
            let old = self.resources.get(&key).cloned();
            let (version, created) = match &old {
                Some(old) if old.spec.as_ref() == Some(&spec) => continue,
                Some(old) => {
                    let metadata = old.metadata.clone().unwrap_or_default();
                    (metadata.version.parse::<u64>().unwrap_or(0) + 1, metadata.created)
                }
                None => (1, Some(stamp)),
            };
            let metadata = Metadata {
                namespace: key.namespace.clone(),
                r#type: key.kind.to_owned(),
                id: key.id.clone(),
                version: version.to_string(),
                phase: "running".to_owned(),
                created,
                updated: Some(stamp),
                annotations: content.annotations.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
                ..Metadata::default()
            };
            let resource = Resource { metadata: Some(metadata), spec: Some(spec) };
            let event = if old.is_some() { EventType::Updated } else { EventType::Created };
            self.note(Change { event, resource: resource.clone(), old });
            self.resources.insert(key, resource);
        }
    }

    fn note(&mut self, change: Change) {
        if self.changes.len() == MAX_CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
        self.next += 1;
    }

    /// One resource.
    pub fn get(&self, namespace: &str, kind: &str, id: &str) -> Option<&Resource> {
        self.list(namespace, kind).find(|resource| id_of(resource) == id)
    }

    /// The resources of a type in a namespace, by their ids.
    pub fn list(&self, namespace: &str, kind: &str) -> impl Iterator<Item = &Resource> {
        let is = move |key: &Key| key.namespace == namespace && key.kind.eq_ignore_ascii_case(kind);
        self.resources.iter().filter(move |(key, _)| is(key)).map(|(_, resource)| resource)
    }

    /// The number of the next change.
    pub fn end(&self) -> u64 {
        self.next
    }

    /// The changes from number `from` on; `None` when some of them are forgotten already.
    pub fn since(&self, from: u64) -> Option<impl Iterator<Item = &Change>> {
        let oldest = self.next - self.changes.len() as u64;
        let skip = usize::try_from(from.checked_sub(oldest)?).ok()?;
        Some(self.changes.iter().skip(skip))
    }
}

/// The id of a resource.
pub fn id_of(resource: &Resource) -> &str {
    resource.metadata.as_ref().map_or("", |metadata| &metadata.id)
}

/// A time since 1970 as protobuf has it.
pub fn timestamp(since_epoch: Duration) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since_epoch.subsec_nanos()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        Key { namespace: "runtime".into(), kind: "Versions.runtime.talos.dev", id: id.into() }
    }

    fn wanted(items: &[(&str, &str)]) -> BTreeMap<Key, Content> {
        let content = |yaml: &str| Content { yaml: yaml.into(), ..Content::default() };
        items.iter().map(|(id, yaml)| (key(id), content(yaml))).collect()
    }

    fn version(store: &Store, id: &str) -> String {
        let found = store.get("runtime", "versions.runtime.talos.dev", id).unwrap();
        found.metadata.as_ref().unwrap().version.clone()
    }

    #[test]
    fn the_version_counts_changes_and_nothing_else() {
        let mut store = Store::default();
        for (yaml, expected) in [("a", "1"), ("a", "1"), ("b", "2"), ("a", "3")] {
            store.sync(wanted(&[("x", yaml)]), Duration::from_secs(1));
            assert_eq!(version(&store, "x"), expected);
        }
    }

    #[test]
    fn a_resource_that_comes_back_starts_again() {
        let mut store = Store::default();
        for items in [&[("x", "a"), ("y", "a")][..], &[("y", "a")], &[("x", "a"), ("y", "b")]] {
            store.sync(wanted(items), Duration::ZERO);
        }
        assert_eq!(version(&store, "x"), "1");
        let seen: Vec<_> =
            store.since(0).unwrap().map(|change| (change.event, id_of(&change.resource))).collect();
        let expected = [
            (EventType::Created, "x"),
            (EventType::Created, "y"),
            (EventType::Destroyed, "x"),
            (EventType::Created, "x"),
            (EventType::Updated, "y"),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn who_watches_too_slowly_is_told() {
        let mut store = Store::default();
        for n in 0..=MAX_CHANGES {
            store.sync(wanted(&[("x", &n.to_string())]), Duration::ZERO);
        }
        assert!(store.since(0).is_none());
        assert_eq!(store.since(1).unwrap().count(), MAX_CHANGES);
    }
}
