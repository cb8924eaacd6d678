//! Unified diffs of configs in which no secret can be read.

use similar::{ChangeTag, TextDiff};

use super::secret::cover;

/// Lines of context around a change.
const CONTEXT: usize = 3;

/// A line of a diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiffLine {
    /// What happened to it.
    pub sign: Sign,
    /// Its text without the line break, secrets covered.
    pub text: String,
    /// Its number in the old text, from 0, when it was there.
    pub old: Option<usize>,
    /// Its number in the new text, from 0, when it is there.
    pub new: Option<usize>,
}

/// What happened to a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It is new.
    Added,
    /// It is the same.
    Kept,
    /// It is gone.
    Removed,
}

impl Sign {
    /// As it stands in front of the line.
    pub fn mark(self) -> char {
        match self {
            Self::Added => '+',
            Self::Kept => ' ',
            Self::Removed => '-',
        }
    }
}

/// Lines that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hunk {
    /// `@@ -1,4 +1,5 @@`
    pub header: String,
    /// Changed lines and the lines around them.
    pub lines: Vec<DiffLine>,
}

/// The hunks between two texts. Lines are compared as they are and shown with their secrets covered: a secret that
/// changes is seen to change, but not to what.
pub fn hunks(before: &str, after: &str) -> Vec<Hunk> {
    let diff = TextDiff::from_lines(before, after);
    let (old, new) = (cover(before), cover(after));
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let line = |change: similar::Change<&str>| {
        let text = match change.tag() {
            ChangeTag::Delete => change.old_index().and_then(|index| old.get(index)),
            ChangeTag::Equal | ChangeTag::Insert => change.new_index().and_then(|index| new.get(index)),
        };
        let sign = match change.tag() {
            ChangeTag::Delete => Sign::Removed,
            ChangeTag::Equal => Sign::Kept,
            ChangeTag::Insert => Sign::Added,
        };
        let text = text.copied().unwrap_or_default().to_owned();
        DiffLine { sign, text, old: change.old_index(), new: change.new_index() }
    };
    let mut unified = diff.unified_diff();
    let hunks = unified.context_radius(CONTEXT).iter_hunks();
    let hunks = hunks.map(|hunk| Hunk {
        header: hunk.header().to_string(),
        lines: hunk.iter_changes().map(line).collect(),
    });
    hunks.collect()
}

/// A unified diff of two texts under these names; empty when they are the same.
pub fn unified(before: &str, after: &str, names: (&str, &str)) -> String {
    let mut out = String::new();
    for hunk in hunks(before, after) {
        if out.is_empty() {
            out.push_str(&format!("--- {}\n+++ {}\n", names.0, names.1));
        }
        out.push_str(&hunk.header);
        out.push('\n');
        for line in hunk.lines {
            out.push(line.sign.mark());
            out.push_str(&line.text);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::patch::TalosLine;

    /// A value below a path of a field table.
    fn under(path: &[String], leaf: &str) -> Value {
        path.iter().rev().fold(json!(leaf), |value, step| match step.as_str() {
            "[]" => json!([value]),
            "*" => json!({ "any": value }),
            key => json!({ key: value }),
        })
    }

    #[test]
    fn no_secret_of_any_line_is_shown_however_it_is_written() {
        let secrets: BTreeSet<&(String, Vec<String>)> =
            TalosLine::ALL.iter().flat_map(|line| &line.schema().secrets).collect();
        assert!(secrets.len() > 30);
        for (kind, path) in secrets {
            let text = |leaf: &str, flow: bool| {
                let mut document = under(path, leaf);
                if kind != "v1alpha1" {
                    document["kind"] = json!(kind);
                    document["apiVersion"] = json!("v1alpha1");
                }
                if flow { format!("{document}\n") } else { yaml_serde::to_string(&document).unwrap() }
            };
            for flow in [true, false] {
                let diff = unified(&text("canary one", flow), &text("canary two", flow), ("a", "b"));
                assert!(diff.contains("******"), "{kind} {path:?}: {diff}");
                assert!(!diff.contains("canary"), "{kind} {path:?}: {diff}");
            }
        }
    }

    #[test]
    fn what_extensions_and_manifests_keep_private_is_not_shown() {
        let files = "\
apiVersion: v1alpha1
kind: ExtensionServiceConfig
name: ichor
configFiles:
  - mountPath: /etc/ichor.yaml
    content: |
      network: home
      static:
        privateKey: canary1
        presharedKey: |
          canary2
      joinString: canary3
environment:
  - ICHOR_TOKEN=canary4
---
apiVersion: v1alpha1
kind: WireguardConfig
name: wg0
privateKey: canary5
peers: [{publicKey: abc, presharedKey: canary6}]
---
cluster:
  inlineManifests:
    - name: secret
      contents: |
        kind: Secret
        data:
          a: canary7
";
        let after = files.replace("canary", "other-canary");
        let diff = unified(files, &after, ("a", "b"));
        assert!(!diff.contains("canary"), "{diff}");
        assert_eq!(
            diff.lines().filter(|line| line.starts_with('-') && !line.starts_with("---")).count(),
            7,
            "{diff}"
        );
        assert!(diff.contains("network: home") && diff.contains("publicKey: abc"), "{diff}");
    }

    #[test]
    fn a_changed_secret_is_seen_to_change_and_not_to_what() {
        let before = "machine:\n  type: worker\n  token: old.token\n";
        let after = "machine:\n  type: worker\n  token: new.token\n";
        let diff = unified(before, after, ("before", "after"));
        assert_eq!(
            diff,
            "--- before\n+++ after\n@@ -1,3 +1,3 @@\n machine:\n   type: worker\n-  token: ******\n+  token: ******\n"
        );
        assert_eq!(unified(before, before, ("a", "b")), "");
    }
}
