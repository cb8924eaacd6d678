//! What validation refuses although it can be loaded: settings of the legacy document beside the documents that
//! replace them, and documents for control planes on workers.
//!
//! `talosctl machineconfig patch` does not look at this; the node does when it is given the config.

use std::collections::BTreeSet;

use super::document::{Doc, load_config};
use super::error::PatchError;
use super::line::TalosLine;
use super::schema::{Conflict, Shape, TypeId};
use super::value::{Key, Value};
use crate::machine::DocumentId;

/// A contradiction in a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contradiction {
    /// The document that does not fit.
    pub document: DocumentId,
    /// The setting of the legacy document that it contradicts.
    pub path: String,
    /// The official text.
    pub message: String,
}

/// Finds the contradictions of a config.
///
/// # Errors
/// When the config cannot be loaded at all.
pub fn contradictions(config: &str, line: TalosLine) -> Result<Vec<Contradiction>, PatchError> {
    let (_, docs) = load_config(config.as_bytes(), line)?;
    let mut found = Vec::new();
    let legacy = docs.iter().find(|doc| doc.id.is_legacy());
    if let Some(legacy) = legacy {
        for doc in docs.iter().filter(|doc| !doc.id.is_legacy()) {
            found.extend(first_conflict(line, legacy, doc));
        }
    }
    found.extend(misplaced(line, legacy, &docs));
    Ok(found)
}

/// The library names the first conflict of a document only.
fn first_conflict(line: TalosLine, legacy: &Doc, doc: &Doc) -> Option<Contradiction> {
    let rules = line.schema().conflicts.iter().filter(|rule| rule.kind == doc.id.kind);
    let rule = rules.into_iter().find(|rule| applies(line, rule, legacy, doc))?;
    Some(Contradiction { document: doc.id.clone(), path: rule.path.join("."), message: rule.text.clone() })
}

fn applies(line: TalosLine, rule: &Conflict, legacy: &Doc, doc: &Doc) -> bool {
    let Some(setting) = look_up(line, legacy.typ, &legacy.value, &rule.path) else { return false };
    let set = match setting {
        Value::Nil => false,
        value if rule.nonzero => is_something(value),
        _ => true,
    };
    let own = match &rule.only_with {
        None => true,
        Some(field) => look_up(line, doc.typ, &doc.value, std::slice::from_ref(field))
            .is_some_and(|value| !value.is_zero()),
    };
    set && own
}

fn is_something(value: &Value) -> bool {
    match value {
        Value::Pointer(inner) => !inner.is_zero(),
        Value::List(items) => !items.is_empty(),
        Value::Map(map) => !map.is_empty(),
        Value::Bytes(bytes) => !bytes.is_empty(),
        Value::Struct(fields) => fields.iter().any(is_something),
        other => !other.is_zero(),
    }
}

fn look_up<'v>(line: TalosLine, typ: TypeId, value: &'v Value, path: &[String]) -> Option<&'v Value> {
    let schema = line.schema();
    let Some((first, rest)) = path.split_first() else { return Some(value) };
    match (&schema.typ(typ).shape, value) {
        (Shape::Pointer(target), Value::Pointer(inner)) => look_up(line, *target, inner, path),
        (Shape::Struct(fields), Value::Struct(_)) => {
            let (way, typ) = super::decode::find_field(schema, fields, first)?;
            let inner = way.into_iter().try_fold(value, |value, index| match value {
                Value::Struct(values) => values.get(index),
                _ => None,
            });
            look_up(line, typ, inner?, rest)
        }
        (Shape::Map(item), Value::Map(map)) => look_up(line, *item, map.get(&Key::Str(first.clone()))?, rest),
        _ => None,
    }
}

/// Documents that only control planes may have, on any other machine.
fn misplaced(line: TalosLine, legacy: Option<&Doc>, docs: &[Doc]) -> Option<Contradiction> {
    let path = ["machine".to_owned(), "type".to_owned()];
    let role = legacy.and_then(|doc| look_up(line, doc.typ, &doc.value, &path));
    if matches!(role, Some(Value::Str(role)) if matches!(role.as_str(), "controlplane" | "init")) {
        return None;
    }
    let kinds = &line.schema().kinds;
    let only = |doc: &&Doc| kinds.get(&doc.id.kind).is_some_and(|info| info.control_plane);
    let first = docs.iter().find(only)?;
    let names: BTreeSet<&str> = docs.iter().filter(only).map(|doc| doc.id.kind.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let message = format!(
        "the following document kinds are only allowed on control plane machines: [{}]",
        names.join(" ")
    );
    Some(Contradiction { document: first.id.clone(), path: path.join("."), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in a legacy document and others: kind, path and text.
    fn found(line: TalosLine, legacy: &str, others: &[&str]) -> Vec<(String, String, String)> {
        let mut config = legacy.to_owned();
        for other in others {
            config.push_str(&format!("---\napiVersion: v1alpha1\n{other}\n"));
        }
        let found = contradictions(&config, line).unwrap();
        found.into_iter().map(|it| (it.document.kind, it.path, it.message)).collect()
    }

    fn paths(line: TalosLine, legacy: &str, others: &[&str]) -> Vec<String> {
        found(line, legacy, others).into_iter().map(|(kind, path, _)| format!("{kind} {path}")).collect()
    }

    const WORKER: &str = "version: v1alpha1\nmachine:\n  type: worker\n";

    #[test]
    fn a_setting_beside_the_document_that_replaces_it_is_named_in_the_official_words() {
        let legacy = format!("{WORKER}  kubelet:\n    nodeIP:\n      validSubnets: [10.0.0.0/8]\n");
        let expected = (
            "KubeNodeConfig".to_owned(),
            "machine.kubelet.nodeIP".to_owned(),
            ".machine.kubelet.nodeIP is already set in v1alpha1 config".to_owned(),
        );
        assert_eq!(found(TalosLine::V1_14, &legacy, &["kind: KubeNodeConfig"]), [expected]);
        assert_eq!(found(TalosLine::V1_14, WORKER, &["kind: KubeNodeConfig"]), []);
    }

    #[test]
    fn each_line_has_its_own_rules() {
        let legacy = format!("{WORKER}  time:\n    disabled: true\n");
        let document = ["kind: TimeSyncConfig\nenabled: true"];
        assert_eq!(paths(TalosLine::V1_14, &legacy, &document), ["TimeSyncConfig machine.time.disabled"]);
        // The kind came with 1.12.
        assert!(
            contradictions(
                &format!("{legacy}---\napiVersion: v1alpha1\n{}\n", document[0]),
                TalosLine::V1_11
            )
            .is_err()
        );
    }

    #[test]
    fn an_empty_text_is_no_setting_but_an_empty_mapping_is() {
        let empty_text = format!("{WORKER}  network:\n    hostname: \"\"\n");
        assert_eq!(paths(TalosLine::V1_14, &empty_text, &["kind: HostnameConfig\nhostname: a"]), [""; 0]);
        let text = format!("{WORKER}  network:\n    hostname: b\n");
        let document = ["kind: HostnameConfig\nhostname: a"];
        assert_eq!(paths(TalosLine::V1_14, &text, &document), ["HostnameConfig machine.network.hostname"]);
        let empty_mapping = format!("{WORKER}  kubelet: {{}}\n");
        let document = ["kind: KubeletConfig"];
        assert_eq!(paths(TalosLine::V1_14, &empty_mapping, &document), ["KubeletConfig machine.kubelet"]);
    }

    #[test]
    fn of_each_document_the_first_contradiction_is_named() {
        let legacy = format!(
            "{WORKER}  nodeLabels: {{a: b}}\n  nodeAnnotations: {{a: b}}\n  network:\n    hostname: b\n    kubespan: {{}}\n"
        );
        let documents = ["kind: KubeNodeConfig", "kind: HostnameConfig\nhostname: a", "kind: KubeSpanConfig"];
        let expected = [
            "KubeNodeConfig machine.nodeLabels",
            "HostnameConfig machine.network.hostname",
            "KubeSpanConfig machine.network.kubespan",
        ];
        assert_eq!(paths(TalosLine::V1_14, &legacy, &documents), expected);
    }

    #[test]
    fn some_settings_contradict_only_a_document_that_says_the_same() {
        let legacy = format!("{WORKER}  features:\n    hostDNS:\n      enabled: true\n");
        let without = ["kind: ResolverConfig\nnameservers:\n  - address: 10.0.0.1"];
        assert_eq!(paths(TalosLine::V1_14, &legacy, &without), [""; 0]);
        let with = ["kind: ResolverConfig\nhostDNS:\n  enabled: true"];
        assert_eq!(paths(TalosLine::V1_14, &legacy, &with), ["ResolverConfig machine.features.hostDNS"]);
    }

    #[test]
    fn documents_of_control_planes_are_named_together_on_any_other_machine() {
        let documents = ["kind: KubeSchedulerConfig", "kind: KubeControllerManagerConfig"];
        let text = "the following document kinds are only allowed on control plane machines: \
                    [KubeControllerManagerConfig KubeSchedulerConfig]";
        let expected = ("KubeSchedulerConfig".to_owned(), "machine.type".to_owned(), text.to_owned());
        assert_eq!(found(TalosLine::V1_14, WORKER, &documents), std::slice::from_ref(&expected));
        // Without a legacy document nobody says that it is one.
        let alone = "apiVersion: v1alpha1\nkind: HostnameConfig\nhostname: a\n";
        assert_eq!(found(TalosLine::V1_14, alone, &documents), [expected]);
        for role in ["controlplane", "init"] {
            let legacy = format!("version: v1alpha1\nmachine:\n  type: {role}\n");
            assert_eq!(found(TalosLine::V1_14, &legacy, &documents), [], "{role}");
        }
    }

    #[test]
    fn what_cannot_be_loaded_has_no_contradictions_but_an_error() {
        let error = contradictions("machine:\n  nonsense: 1\n", TalosLine::V1_14).unwrap_err();
        assert_eq!(error.class, crate::patch::Class::UnknownKeys);
        assert!(contradictions("machine: [", TalosLine::V1_14).is_err());
    }
}
