//! Taking a cluster over into a kubeconfig.
//!
//! A cluster, user or context whose name is taken by something else is renamed, or replaces it. Everything else in
//! the file stays. The rules are those of talosctl (siderolabs/go-kubeconfig).

use std::collections::BTreeMap;
use std::path::PathBuf;

use yaml_serde::{Mapping, Value};
use zeroize::Zeroizing;

/// What happens to a name that is taken by something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The newcomer gets a number.
    Rename,
    /// The newcomer takes its place.
    Overwrite,
}

/// A newcomer under another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// `cluster`, `auth info` or `context`.
    pub what: &'static str,
    /// Its name in the new kubeconfig.
    pub from: String,
    /// Its name in the merged one.
    pub to: String,
}

/// A kubeconfig that cannot be merged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubeconfigMergeError {
    /// Not YAML.
    #[error("the {which} kubeconfig is not valid YAML")]
    Syntax {
        /// `existing` or `new`.
        which: &'static str,
        /// What the parser said.
        source: yaml_serde::Error,
    },
    /// Not a kubeconfig.
    #[error("the {which} kubeconfig has {key}, which must be {expected}")]
    Shape {
        /// `existing` or `new`.
        which: &'static str,
        /// The key.
        key: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
}

/// Lists of a kubeconfig, what is in their elements, and how messages call it.
const LISTS: [(&str, &str, &str); 3] =
    [("clusters", "cluster", "cluster"), ("users", "user", "auth info"), ("contexts", "context", "context")];

/// Merges `new` into `existing` and makes its context the current one. `decide` is asked about each name that is
/// taken by something else.
///
/// # Errors
///
/// When one of them is no kubeconfig.
pub fn merge(
    existing: &str,
    new: &str,
    forced_context: Option<&str>,
    mut decide: impl FnMut(&'static str, &str) -> Conflict,
) -> Result<(Zeroizing<String>, Vec<Rename>), KubeconfigMergeError> {
    let mut merged = parse("existing", existing)?;
    let new = parse("new", new)?;
    let mut renames = Vec::new();
    let mut names: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    let mut current = None;
    for (list, inner, what) in LISTS {
        let earlier = match list {
            "users" => names.get("clusters"),
            "contexts" => names.get("users"),
            _ => None,
        };
        let mut mapped = BTreeMap::new();
        for (name, value) in entries("new", &new, list, inner)? {
            let mut value = value.clone();
            let mut to =
                earlier.into_iter().flatten().fold(name.clone(), |to, (from, by)| to.replace(from, by));
            if list == "contexts" {
                point_to(&mut value, "cluster", names.get("clusters"));
                point_to(&mut value, "user", names.get("users"));
                to = forced_context.map_or(to, str::to_owned);
            }
            let taken: BTreeMap<String, &Value> =
                entries("existing", &merged, list, inner)?.into_iter().collect();
            let is_conflict = taken.get(&to).is_some_and(|other| **other != value);
            if is_conflict && decide(what, &name) == Conflict::Rename {
                to = free_name(&to, |candidate| taken.contains_key(candidate));
            }
            if to != name {
                renames.push(Rename { what, from: name.clone(), to: to.clone() });
            }
            put(&mut merged, list, inner, &to, value);
            if list == "contexts" {
                current = Some(to.clone());
            }
            mapped.insert(name, to);
        }
        names.insert(list, mapped);
    }
    if let Some(current) = current {
        merged.insert("current-context".into(), current.into());
    }
    let text = yaml_serde::to_string(&merged)
        .map_err(|source| KubeconfigMergeError::Syntax { which: "existing", source })?;
    Ok((Zeroizing::new(text), renames))
}

/// Where `kubectl` keeps its config: `KUBECONFIG` if it names one file, else `~/.kube/config`. None when that is not
/// one file.
pub fn default_path(variable: Option<&str>, home: Option<PathBuf>) -> Option<PathBuf> {
    match variable.filter(|value| !value.is_empty()) {
        Some(value) if value.contains(':') => None,
        Some(value) => Some(value.into()),
        None => home.map(|home| home.join(".kube/config")),
    }
}

fn parse(which: &'static str, text: &str) -> Result<Mapping, KubeconfigMergeError> {
    match yaml_serde::from_str(text).map_err(|source| KubeconfigMergeError::Syntax { which, source })? {
        Value::Mapping(map) => Ok(map),
        Value::Null => Ok(Mapping::new()),
        _ => Err(KubeconfigMergeError::Shape { which, key: "a document", expected: "a map" }),
    }
}

/// Names and contents of a list, in order.
fn entries<'a>(
    which: &'static str,
    config: &'a Mapping,
    list: &'static str,
    inner: &str,
) -> Result<Vec<(String, &'a Value)>, KubeconfigMergeError> {
    let elements = match config.get(list) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(value) => value.as_sequence(),
    };
    let shape = |expected| KubeconfigMergeError::Shape { which, key: list, expected };
    let elements = elements.ok_or_else(|| shape("a list"))?;
    let pair = |element: &'a Value| {
        let name = element.get("name").and_then(Value::as_str)?;
        Some((name.to_owned(), element.get(inner).unwrap_or(&Value::Null)))
    };
    let pairs = elements.iter().map(pair).collect::<Option<Vec<_>>>();
    pairs.ok_or_else(|| shape("a list of maps with names"))
}

fn point_to(context: &mut Value, key: &str, names: Option<&BTreeMap<String, String>>) {
    let target = context.get_mut(key);
    if let Some(target) = target
        && let Some(to) = target.as_str().and_then(|from| names?.get(from))
    {
        *target = Value::String(to.clone());
    }
}

fn free_name(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let mut candidate = name.to_owned();
    for number in 1u32.. {
        if !is_taken(&candidate) {
            break;
        }
        candidate = format!("{name}-{number}");
    }
    candidate
}

fn put(config: &mut Mapping, list: &str, inner: &str, name: &str, value: Value) {
    let slot = config.entry(list.into()).or_insert(Value::Null);
    if !slot.is_sequence() {
        *slot = Value::Sequence(Vec::new());
    }
    let Some(elements) = slot.as_sequence_mut() else { return };
    let same = elements.iter_mut().find(|element| element.get("name").and_then(Value::as_str) == Some(name));
    let mut element = Mapping::new();
    element.insert("name".into(), name.into());
    element.insert(inner.into(), value);
    match same {
        Some(same) => *same = Value::Mapping(element),
        None => elements.push(Value::Mapping(element)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXISTING: &str = "\
apiVersion: v1
kind: Config
clusters:
- name: home
  cluster: {server: 'https://old:6443'}
users:
- name: admin@home
  user: {token: old}
contexts:
- name: admin@home
  context: {cluster: home, user: admin@home}
current-context: other
future: kept
";

    const NEW: &str = "\
clusters:
- name: home
  cluster: {server: 'https://new:6443'}
users:
- name: admin@home
  user: {token: new}
contexts:
- name: admin@home
  context: {cluster: home, user: admin@home, namespace: default}
current-context: admin@home
";

    #[test]
    fn a_cluster_of_the_same_name_is_renamed_with_all_that_belongs_to_it() {
        let (text, renames) = merge(EXISTING, NEW, None, |_, _| Conflict::Rename).unwrap();
        let merged: Value = yaml_serde::from_str(&text).unwrap();
        assert_eq!(merged["current-context"], "admin@home-1");
        assert_eq!(merged["contexts"][1]["context"]["cluster"], "home-1");
        assert_eq!(merged["contexts"][1]["context"]["user"], "admin@home-1");
        assert_eq!(merged["contexts"][1]["context"]["namespace"], "default");
        assert_eq!(merged["clusters"][0]["cluster"]["server"], "https://old:6443");
        assert_eq!(merged["users"][1]["user"]["token"], "new");
        assert_eq!(merged["future"], "kept");
        let shown: Vec<_> = renames.iter().map(|rename| (rename.what, &*rename.to)).collect();
        assert_eq!(
            shown,
            [("cluster", "home-1"), ("auth info", "admin@home-1"), ("context", "admin@home-1")]
        );
    }

    #[test]
    fn a_name_can_be_taken_over() {
        let (text, renames) = merge(EXISTING, NEW, None, |_, _| Conflict::Overwrite).unwrap();
        let merged: Value = yaml_serde::from_str(&text).unwrap();
        assert!(renames.is_empty());
        assert_eq!(merged["clusters"].as_sequence().unwrap().len(), 1);
        assert_eq!(merged["users"][0]["user"]["token"], "new");
    }

    #[test]
    fn merging_twice_is_merging_once() {
        let rename = |_: &'static str, _: &str| Conflict::Rename;
        let (once, _) = merge("", NEW, None, rename).unwrap();
        let (twice, renames) = merge(&once, NEW, None, rename).unwrap();
        assert_eq!((&*once, renames), (&*twice, vec![]));
    }

    #[test]
    fn a_context_can_be_given_a_name() {
        let (text, _) = merge(EXISTING, NEW, Some("here"), |_, _| Conflict::Rename).unwrap();
        let merged: Value = yaml_serde::from_str(&text).unwrap();
        assert_eq!(
            (&merged["current-context"], &merged["contexts"][1]["name"]),
            (&"here".into(), &"here".into())
        );
    }

    #[test]
    fn what_is_no_kubeconfig_is_refused() {
        let error = |existing: &str| merge(existing, NEW, None, |_, _| Conflict::Rename).unwrap_err();
        assert!(matches!(error("{"), KubeconfigMergeError::Syntax { which: "existing", .. }));
        assert!(matches!(error("[]"), KubeconfigMergeError::Shape { .. }));
        assert!(matches!(error("users: {}"), KubeconfigMergeError::Shape { key: "users", .. }));
        assert!(matches!(error("clusters: [{}]"), KubeconfigMergeError::Shape { key: "clusters", .. }));
    }

    #[test]
    fn the_usual_path_is_one_file() {
        let home = Some(PathBuf::from("/home/a"));
        assert_eq!(default_path(None, home.clone()), Some("/home/a/.kube/config".into()));
        assert_eq!(default_path(Some(""), home.clone()), Some("/home/a/.kube/config".into()));
        assert_eq!(default_path(Some("/k"), home.clone()), Some("/k".into()));
        assert_eq!(default_path(Some("/k:/l"), home), None);
    }
}
