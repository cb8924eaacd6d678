//! A planned change as patches for talosctl.
//!
//! talosctl's merge appends to lists and cannot take anything away. So what must go is deleted by a first patch, and
//! what is new is merged by a second one. Every pair of patches is tried before it is written: applied by talosctl's
//! rules to the old config it must give the new one.

use yaml_serde::{Mapping, Value};
use zeroize::Zeroizing;

use super::NodePlan;
use crate::machine::{DocumentId, MachineConfig};
use crate::patch::{self, PatchArg, PatchError, TalosLine};

/// Patches that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PatchesError {
    /// A config is not understood.
    #[error("failed to compare the machine configs of {node}")]
    Compare {
        /// The node.
        node: String,
        /// Why.
        source: yaml_serde::Error,
    },
    /// The patches are refused by the rules of the line.
    #[error("failed to try the patches for {node}")]
    Apply {
        /// The node.
        node: String,
        /// Why.
        source: Box<PatchError>,
    },
    /// The patches give something else.
    #[error("the changes of {node} cannot be said as patches: use the whole config of -o in place of them")]
    Different {
        /// The node.
        node: String,
    },
}

/// The patches that lead from a node's config of today to the planned one, in the order in which they are applied.
/// None when nothing changes.
///
/// # Errors
///
/// When there are no patches that do so.
pub fn patches(plan: &NodePlan) -> Result<Vec<Zeroizing<String>>, PatchesError> {
    let compare = |source| PatchesError::Compare { node: plan.name.clone(), source };
    let before = documents(&plan.before, plan.line).map_err(compare)?;
    let after = documents(plan.after(), plan.line).map_err(compare)?;
    let (mut deletes, mut merges, mut touched) = (Vec::new(), Vec::new(), Vec::new());
    for (id, value) in &after {
        match before.iter().find(|(other, _)| other == id) {
            None => merges.push(value.clone()),
            Some((_, old)) if old == value => continue,
            Some((_, old)) => {
                let (delete, merge) = difference(old, value, &id.kind);
                deletes.extend(delete.map(|patch| named(id, patch)));
                merges.extend(merge.map(|patch| named(id, patch)));
            }
        }
        touched.push(named(id, Mapping::new()));
    }
    for (id, _) in before.iter().filter(|(id, _)| after.iter().all(|(other, _)| other != id)) {
        let mut patch = Mapping::new();
        patch.insert("$patch".into(), "delete".into());
        deletes.push(named(id, patch));
    }
    let texts: Result<Vec<_>, _> =
        [deletes, merges].into_iter().filter(|it| !it.is_empty()).map(stream).collect();
    let texts: Vec<Zeroizing<String>> = texts.map_err(compare)?;
    if !texts.is_empty() {
        let touched = stream(touched).map_err(compare)?;
        check(plan, &texts, touched)?;
    }
    Ok(texts)
}

/// Both ways are encoded by the same rules, so that hardly anything but what they say can differ.
fn check(
    plan: &NodePlan,
    patches: &[Zeroizing<String>],
    touched: Zeroizing<String>,
) -> Result<(), PatchesError> {
    let apply = |config: &str, patches: &[Zeroizing<String>]| {
        let args: Vec<PatchArg> = patches.iter().map(|text| PatchArg::Inline(text.to_string())).collect();
        let loaded = patch::load(&args, plan.line).map_err(Box::new)?;
        patch::apply(config, &loaded, plan.line).map(Zeroizing::new).map_err(Box::new)
    };
    let failed = |source| PatchesError::Apply { node: plan.name.clone(), source };
    let patched = apply(&plan.before, patches).map_err(failed)?;
    let planned = apply(plan.after(), &[touched]).map_err(failed)?;
    let compare = |source| PatchesError::Compare { node: plan.name.clone(), source };
    match pruned(&patched, plan.line).map_err(compare)? == pruned(&planned, plan.line).map_err(compare)? {
        true => Ok(()),
        false => Err(PatchesError::Different { node: plan.name.clone() }),
    }
}

/// The documents without what an encoder adds: empty values stand for absent ones, but in maps whose keys say it all.
fn pruned(text: &str, line: TalosLine) -> Result<Documents, yaml_serde::Error> {
    let mut documents = documents(text, line)?;
    for (_, value) in &mut documents {
        prune(value, false);
    }
    Ok(documents)
}

fn prune(value: &mut Value, is_map: bool) {
    match value {
        Value::Mapping(entries) => {
            for (key, value) in entries.iter_mut() {
                let maps = ["labels", "nodeLabels", "taints", "nodeTaints", "annotations", "nodeAnnotations"];
                prune(value, key.as_str().is_some_and(|key| maps.contains(&key)));
            }
            entries.retain(|_, value| match value {
                Value::Null => false,
                Value::String(text) => is_map || !text.is_empty(),
                Value::Sequence(items) => !items.is_empty(),
                Value::Mapping(entries) => !entries.is_empty(),
                _ => true,
            });
        }
        Value::Sequence(items) => items.iter_mut().for_each(|item| prune(item, false)),
        _ => {}
    }
}

type Documents = Vec<(DocumentId, Value)>;

fn documents(text: &str, line: TalosLine) -> Result<Documents, yaml_serde::Error> {
    let Ok(config) = MachineConfig::parse(text.as_bytes(), line.dialect()) else {
        return Ok(Vec::new());
    };
    let parts = config.parts().iter().filter(|part| !part.is_empty());
    let read = |part: &crate::machine::document::Part| {
        let own = &text[part.span.clone()];
        let body = own.strip_prefix("---").unwrap_or(own);
        yaml_serde::from_str(body).map(|value| (part.id.clone(), value))
    };
    parts.map(read).collect()
}

/// What must go and what must come to lead from one mapping to another.
fn difference(before: &Value, after: &Value, context: &str) -> (Option<Mapping>, Option<Mapping>) {
    let (Value::Mapping(before), Value::Mapping(after)) = (before, after) else { return (None, None) };
    let (mut delete, mut merge) = (Mapping::new(), Mapping::new());
    for (key, value) in after {
        let Some(old) = before.get(key) else {
            merge.insert(key.clone(), value.clone());
            continue;
        };
        if old == value {
            continue;
        }
        let name = key.as_str().unwrap_or_default();
        match (old, value) {
            (Value::Mapping(_), Value::Mapping(_)) => {
                let (gone, new) = difference(old, value, context);
                gone.map(|gone| delete.insert(key.clone(), gone.into()));
                new.map(|new| merge.insert(key.clone(), new.into()));
            }
            (Value::Sequence(old), Value::Sequence(value)) => {
                let (is_deleted, items) = list(old, value, name, context);
                if is_deleted {
                    delete.insert(key.clone(), gone());
                }
                merge.insert(key.clone(), Value::Sequence(items));
            }
            _ => {
                merge.insert(key.clone(), value.clone());
            }
        }
    }
    for (key, _) in before.iter().filter(|(key, _)| !after.contains_key(key)) {
        delete.insert(key.clone(), gone());
    }
    let some = |mapping: Mapping| (!mapping.is_empty()).then_some(mapping);
    (some(delete), some(merge))
}

/// Whether a list must be deleted first, and the items to merge.
fn list(before: &[Value], after: &[Value], name: &str, context: &str) -> (bool, Vec<Value>) {
    let key = match name {
        "interfaces" => Some("interface"),
        "configFiles" => Some("mountPath"),
        _ => None,
    };
    if let Some(key) = key {
        return (false, keyed(before, after, key, context));
    }
    // Talos replaces these.
    let is_replaced = context == "NetworkRuleConfig" || matches!(name, "podSubnets" | "serviceSubnets");
    if is_replaced {
        return (false, after.to_vec());
    }
    match after.strip_prefix(before) {
        Some(new) => (false, new.to_vec()),
        None => (true, after.to_vec()),
    }
}

fn keyed(before: &[Value], after: &[Value], key: &str, context: &str) -> Vec<Value> {
    let mut items = Vec::new();
    for item in after.iter().filter(|item| !before.contains(item)) {
        let old = before.iter().find(|old| old.get(key).is_some() && old.get(key) == item.get(key));
        let Some(old) = old else {
            items.push(item.clone());
            continue;
        };
        let mut merged = Mapping::new();
        merged.extend(item.get(key).map(|value| (Value::from(key), value.clone())));
        merged.extend(difference(old, item, context).1.unwrap_or_default());
        items.push(merged.into());
    }
    items
}

fn gone() -> Value {
    let mut patch = Mapping::new();
    patch.insert("$patch".into(), "delete".into());
    patch.into()
}

/// A patch with the identity of its document in front.
fn named(id: &DocumentId, body: Mapping) -> Value {
    let mut patch = Mapping::new();
    if id.is_legacy() {
        patch.insert("version".into(), "v1alpha1".into());
    } else {
        patch.insert("apiVersion".into(), id.api_version.clone().into());
        patch.insert("kind".into(), id.kind.clone().into());
    }
    if !id.name.is_empty() {
        patch.insert("name".into(), id.name.clone().into());
    }
    patch.extend(body);
    patch.into()
}

fn stream(documents: Vec<Value>) -> Result<Zeroizing<String>, yaml_serde::Error> {
    let mut text = String::new();
    for (index, document) in documents.iter().enumerate() {
        if index > 0 {
            text.push_str("---\n");
        }
        text.push_str(&yaml_serde::to_string(document)?);
    }
    Ok(Zeroizing::new(text))
}
