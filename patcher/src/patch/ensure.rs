//! Our own edits: what a config must say, not how to change it.
//!
//! An edit that finds its wish fulfilled changes nothing, so a second run is empty. What an edit is not about
//! stays byte for byte: comments, order, quoting, keys and documents that we do not know. Every edit has a
//! reason, and every changed line knows the edit that it comes from.

mod draft;
mod origins;
mod wish;

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use super::error::{Class, PatchError};
use super::line::TalosLine;
use super::tree::Tree;
use super::value::Key;
use crate::machine::DocumentId;
use draft::Draft;
use origins::Origins;

pub use self::wish::{Edit, Place, Setting, Step, Wish};

/// A config in which every wish is fulfilled.
#[derive(Clone)]
pub struct Ensured {
    /// Its text.
    pub text: String,
    /// For each line of the new text that is not in the old one: the edit (by index) that it comes from.
    pub added: BTreeMap<usize, usize>,
    /// For each line of the old text that is not in the new one: the edit that took it out.
    pub removed: BTreeMap<usize, usize>,
}

impl fmt::Debug for Ensured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ensured")
            .field("len", &self.text.len())
            .field("added", &self.added)
            .field("removed", &self.removed)
            .finish()
    }
}

impl Ensured {
    /// The edit behind a line of the new text, counted from 0.
    pub fn why_added(&self, line: usize) -> Option<usize> {
        self.added.get(&line).copied()
    }

    /// The edit behind a line that is gone from the old text, counted from 0.
    pub fn why_removed(&self, line: usize) -> Option<usize> {
        self.removed.get(&line).copied()
    }
}

/// Makes a config fulfil wishes, in order.
///
/// # Errors
/// When the config is no YAML, a wish meets a value that it cannot go into, or the text cannot be edited without
/// writing more of it anew than the wish is about. The config is as it was then.
pub fn apply_edits(config: &str, edits: &[Edit], line: TalosLine) -> Result<Ensured, PatchError> {
    // A byte order mark is no part of the first key.
    let (mark, body) = match config.strip_prefix('\u{feff}') {
        Some(body) => ("\u{feff}", body),
        None => ("", config),
    };
    let mut origins = Origins::new(body);
    let mut draft = Draft::read(body, line)?;
    let mut text = Zeroizing::new(body.to_owned());
    for (index, edit) in edits.iter().enumerate() {
        if draft.fulfil(edit).map_err(|error| error.in_document(&edit.document))? {
            let next = draft.text();
            origins.update(&text, &next, index);
            text = next;
        }
    }
    draft.prove(&text)?;
    let (added, removed) = origins.finish();
    Ok(Ensured { text: format!("{mark}{}", *text), added, removed })
}

/// The document that a wish makes where there is none.
fn wanted_of_nothing(id: &DocumentId, wish: &Wish) -> Result<Tree, PatchError> {
    let mut document = Tree::Map(identity(id));
    fulfil(&mut document, id, wish)?;
    Ok(document)
}

fn identity(id: &DocumentId) -> Vec<(Key, Tree)> {
    let entry = |key: &str, text: &str| (Key::Str(key.to_owned()), Tree::Str(text.to_owned()));
    if id.is_legacy() {
        return vec![entry("version", "v1alpha1")];
    }
    let mut entries = vec![entry("apiVersion", &id.api_version), entry("kind", &id.kind)];
    if !id.name.is_empty() {
        entries.push(entry("name", &id.name));
    }
    entries
}

fn fulfil(document: &mut Tree, id: &DocumentId, wish: &Wish) -> Result<(), PatchError> {
    match wish {
        Wish::DocumentAbsent => Ok(()),
        Wish::DocumentHas(entries) => {
            for (key, value) in entries {
                put(document, &[Step::Key(key.clone())], &mut |slot| {
                    *slot = value.tree();
                    Ok(())
                })?;
            }
            Ok(())
        }
        Wish::DocumentIs(entries) => {
            let mut wanted = identity(id);
            wanted.extend(entries.iter().map(|(key, value)| (Key::Str(key.clone()), value.tree())));
            if *document != Tree::Map(wanted.clone()) {
                *document = Tree::Map(wanted);
            }
            Ok(())
        }
        Wish::Is(place, value) => put(document, &place.0, &mut |slot| {
            *slot = value.tree();
            Ok(())
        }),
        Wish::Contains(place, items) => put(document, &place.0, &mut |slot| {
            if matches!(slot, Tree::Null) {
                *slot = Tree::List(Vec::new());
            }
            let Tree::List(list) = slot else { return Err(unexpected(place, "a list")) };
            for item in items {
                let item = item.tree();
                if !list.contains(&item) {
                    list.push(item);
                }
            }
            Ok(())
        }),
        Wish::Absent(place) => {
            take(document, &place.0);
            Ok(())
        }
    }
}

fn unexpected(place: &Place, wanted: &str) -> PatchError {
    PatchError::new(Class::WrongType, format!("expected {wanted}")).at(place.to_string())
}

/// Goes along the steps, makes what is missing, and changes what is there.
fn put(
    tree: &mut Tree,
    steps: &[Step],
    change: &mut dyn FnMut(&mut Tree) -> Result<(), PatchError>,
) -> Result<(), PatchError> {
    let Some((step, rest)) = steps.split_first() else { return change(tree) };
    let at = || Place(vec![step.clone()]);
    match step {
        Step::Key(key) => {
            if matches!(tree, Tree::Null) {
                *tree = Tree::Map(Vec::new());
            }
            let Tree::Map(entries) = tree else { return Err(unexpected(&at(), "a mapping around it")) };
            let index = match entries.iter().position(|(name, _)| name.text() == key) {
                Some(index) => index,
                None => {
                    entries.push((Key::Str(key.clone()), Tree::Null));
                    entries.len() - 1
                }
            };
            put(&mut entries[index].1, rest, change)
        }
        Step::Item { key, text } => {
            if matches!(tree, Tree::Null) {
                *tree = Tree::List(Vec::new());
            }
            let Tree::List(items) = tree else { return Err(unexpected(&at(), "a list around it")) };
            let index = match items.iter().position(|item| has_text(item, key, text)) {
                Some(index) => index,
                None => {
                    items.push(Tree::Map(vec![(Key::Str(key.clone()), Tree::Str(text.clone()))]));
                    items.len() - 1
                }
            };
            put(&mut items[index], rest, change)
        }
    }
}

/// Takes out what the steps lead to, and mappings that are empty then.
fn take(tree: &mut Tree, steps: &[Step]) {
    let Some((step, rest)) = steps.split_first() else { return };
    match (step, tree) {
        (Step::Key(key), Tree::Map(entries)) => {
            let Some(index) = entries.iter().position(|(name, _)| name.text() == key) else { return };
            if !rest.is_empty() {
                let had = !is_empty(&entries[index].1);
                take(&mut entries[index].1, rest);
                if !(had && is_empty(&entries[index].1)) {
                    return;
                }
            }
            entries.remove(index);
        }
        (Step::Item { key, text }, Tree::List(items)) => {
            let Some(index) = items.iter().position(|item| has_text(item, key, text)) else { return };
            if rest.is_empty() {
                items.remove(index);
            } else {
                take(&mut items[index], rest);
            }
        }
        _ => {}
    }
}

fn is_empty(tree: &Tree) -> bool {
    match tree {
        Tree::Map(entries) => entries.is_empty(),
        Tree::List(items) => items.is_empty(),
        _ => false,
    }
}

fn has_text(item: &Tree, key: &str, text: &str) -> bool {
    match item.get(&Key::Str(key.to_owned())) {
        Some(Tree::Str(found) | Tree::Raw(found)) => found == text,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "\
version: v1alpha1 # the legacy document
machine:
  # do not touch
  type: controlplane
  kubelet: {}
  unknown: [1, 2] # kept
cluster:
  etcd:
    advertisedSubnets: # one LAN
    - 192.168.1.0/24
---
apiVersion: v1alpha1
kind: FutureConfig   # nobody knows it yet
odd:   {a:   1}
";

    fn edit(wish: Wish) -> Edit {
        Edit { document: DocumentId::legacy(), wish, reason: "test".into() }
    }

    fn ensure(config: &str, edits: &[Edit]) -> Ensured {
        apply_edits(config, edits, TalosLine::V1_14).unwrap()
    }

    #[test]
    fn what_is_added_at_the_end_of_a_document_does_not_run_into_the_next_one() {
        let config = "machine:\n  kernel:\n   ? modules:\n      - name: a\n---\nkind: FutureConfig\n";
        let wish = Wish::Is(Place::at("machine.kubelet.nodeIP.validSubnets"), Setting::texts(["10.0.0.0/8"]));
        let edits = [edit(wish)];
        let once = ensure(config, &edits).text;
        assert!(once.ends_with("10.0.0.0/8\n---\nkind: FutureConfig\n"), "{once}");
        assert_eq!(ensure(&once, &edits).text, once);
    }

    #[test]
    fn only_the_lines_of_the_wish_change_and_a_second_run_changes_nothing() {
        let edits = [
            edit(Wish::Is(Place::at("machine.kubelet.nodeIP.validSubnets"), Setting::texts(["10.0.0.0/8"]))),
            edit(Wish::Contains(
                Place::at("cluster.etcd.advertisedSubnets"),
                vec![Setting::text("192.168.1.0/24"), Setting::text("10.0.0.0/8")],
            )),
            edit(Wish::Absent(Place::at("machine.type"))),
        ];
        let ensured = ensure(CONFIG, &edits);
        let expected = "\
version: v1alpha1 # the legacy document
machine:
  # do not touch
  kubelet: {nodeIP: {validSubnets: [10.0.0.0/8]}}
  unknown: [1, 2] # kept
cluster:
  etcd:
    advertisedSubnets: # one LAN
    - 192.168.1.0/24
    - 10.0.0.0/8
---
apiVersion: v1alpha1
kind: FutureConfig   # nobody knows it yet
odd:   {a:   1}
";
        assert_eq!(ensured.text, expected);
        assert_eq!(ensured.why_added(3), Some(0));
        assert_eq!(ensured.why_added(9), Some(1));
        assert_eq!(ensured.why_removed(3), Some(2));
        assert_eq!(ensured.why_removed(4), Some(0));
        assert_eq!(ensured.why_added(0), None);
        let again = ensure(&ensured.text, &edits);
        assert_eq!(again.text, ensured.text);
        assert!(again.added.is_empty() && again.removed.is_empty());
    }

    #[test]
    fn documents_are_added_changed_and_taken_out() {
        let document = DocumentId::new("KubeNodeConfig", "");
        let wish = |wish| Edit { document: document.clone(), wish, reason: "test".into() };
        let subnets = || Setting::map([("validSubnets", Setting::texts(["10.0.0.0/8"]))]);
        let added = ensure(CONFIG, &[wish(Wish::DocumentIs(vec![("nodeIP".into(), subnets())]))]).text;
        assert!(added.starts_with(CONFIG));
        let tail = "---\napiVersion: v1alpha1\nkind: KubeNodeConfig\nnodeIP:\n    validSubnets:\n        - 10.0.0.0/8\n";
        assert!(added.ends_with(tail), "{added}");
        let has = wish(Wish::DocumentHas(vec![("registerWithFQDN".into(), Setting::Bool(true))]));
        let changed = ensure(&added, &[has]).text;
        assert_eq!(changed, format!("{added}registerWithFQDN: true\n"));
        assert_eq!(ensure(&changed, &[wish(Wish::DocumentAbsent)]).text, CONFIG);
    }

    #[test]
    fn items_of_lists_are_found_by_their_key() {
        let routes = Place::at("machine.network.interfaces").item("interface", "ichor0").key("routes");
        let route = Setting::map([("network", Setting::text("10.0.0.0/8")), ("metric", Setting::Int(2048))]);
        let edits = [edit(Wish::Contains(routes, vec![route]))];
        let text = "machine:\n  network:\n    interfaces:\n    - interface: eth0 # up\n      dhcp: true\n";
        let ensured = ensure(text, &edits);
        let expected = format!(
            "{text}    - interface: ichor0\n      routes:\n      - network: 10.0.0.0/8\n        metric: 2048\n"
        );
        assert_eq!(ensured.text, expected);
        assert_eq!(ensure(&ensured.text, &edits).text, ensured.text);
    }

    #[test]
    fn a_byte_order_mark_and_the_line_breaks_of_windows_stay() {
        let text = "\u{feff}machine:\r\n  type: worker\r\n";
        let edits = [edit(Wish::Is(Place::at("machine.nodeLabels").key("a.b/c"), Setting::text("off")))];
        let ensured = ensure(text, &edits);
        assert_eq!(
            ensured.text,
            "\u{feff}machine:\r\n  type: worker\r\n  nodeLabels:\r\n    a.b/c: \"off\"\r\n"
        );
    }

    #[test]
    fn flow_style_stays_flow_style() {
        let text = "machine: {type: worker, kubelet: {image: x}} # one line\n";
        let edits = [
            edit(Wish::Is(Place::at("machine.kubelet.image"), Setting::text("z"))),
            edit(Wish::Contains(Place::at("machine.certSANs"), vec![Setting::text("a")])),
        ];
        let ensured = ensure(text, &edits);
        assert_eq!(ensured.text, "machine: {type: worker, kubelet: {image: z}, certSANs: [a]} # one line\n");
        assert_eq!(ensure(&ensured.text, &edits).text, ensured.text);
    }

    #[test]
    fn a_missing_line_break_at_the_end_is_no_hindrance() {
        let edits = [edit(Wish::Is(Place::at("machine.install.disk"), Setting::text("/dev/sda")))];
        let ensured = ensure("machine:\n  type: worker", &edits);
        assert_eq!(ensured.text.trim_end(), "machine:\n  type: worker\n  install:\n    disk: /dev/sda");
        assert_eq!(ensure(&ensured.text, &edits).text, ensured.text);
        let document = Edit {
            document: DocumentId::new("KubePrismConfig", ""),
            wish: Wish::DocumentHas(vec![("port".into(), Setting::Int(7445))]),
            reason: "test".into(),
        };
        let ensured = ensure("machine:\n  type: worker", &[document]);
        assert_eq!(
            ensured.text,
            "machine:\n  type: worker\n---\napiVersion: v1alpha1\nkind: KubePrismConfig\nport: 7445\n"
        );
    }

    #[test]
    fn only_the_document_of_the_name_changes() {
        let link = |name: &str, mtu: &str| {
            format!("---\napiVersion: v1alpha1\nkind: LinkConfig\nname: {name} # {name}\nmtu: {mtu}\n")
        };
        let text = format!("{CONFIG}{}{}", link("eth0", "1500"), link("eth1", "1500"));
        let wish = Wish::DocumentHas(vec![("mtu".into(), Setting::Int(1400))]);
        let edits = [Edit { document: DocumentId::new("LinkConfig", "eth1"), wish, reason: "test".into() }];
        let ensured = ensure(&text, &edits);
        assert_eq!(ensured.text, format!("{CONFIG}{}{}", link("eth0", "1500"), link("eth1", "1400")));
    }

    #[test]
    fn a_document_that_says_it_all_stays_as_it_is_written() {
        let text = "apiVersion: v1alpha1\nmtu:   1400 # small\nkind: LinkConfig\n\nname: eth0\n";
        let wish = Wish::DocumentIs(vec![("mtu".into(), Setting::Int(1400))]);
        let edits = [Edit { document: DocumentId::new("LinkConfig", "eth0"), wish, reason: "test".into() }];
        assert_eq!(ensure(text, &edits).text, text);
        let more = format!("{text}up: true\n");
        assert_eq!(ensure(&more, &edits).text, text, "what the wish does not name goes");
    }

    #[test]
    fn what_is_absent_already_leaves_every_byte() {
        let edits = [
            edit(Wish::Absent(Place::at("machine.network.interfaces").item("interface", "eth9"))),
            edit(Wish::Absent(Place::at("cluster.nope"))),
            Edit {
                document: DocumentId::new("LinkConfig", "x"),
                wish: Wish::DocumentAbsent,
                reason: "test".into(),
            },
        ];
        let ensured = ensure(CONFIG, &edits);
        assert_eq!(ensured.text, CONFIG);
        assert!(ensured.added.is_empty() && ensured.removed.is_empty());
    }

    #[test]
    fn no_value_is_seen_in_a_debug_text() {
        let secret = edit(Wish::Is(Place::at("machine.token"), Setting::text("hunter2")));
        let ensured = ensure(CONFIG, std::slice::from_ref(&secret));
        assert!(ensured.text.contains("hunter2"));
        assert!(!format!("{secret:?} {ensured:?}").contains("hunter2"));
    }

    #[test]
    fn a_value_in_the_way_is_an_error() {
        let edits = [edit(Wish::Is(Place::at("machine.type.x"), Setting::Bool(true)))];
        let error = apply_edits(CONFIG, &edits, TalosLine::V1_14).unwrap_err();
        assert_eq!(error.class, Class::WrongType);
    }
}
