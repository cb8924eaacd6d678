//! Patches of machine configs.

use anyhow::bail;

/// A Talos minor release whose rules for patches are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(non_camel_case_types, reason = "the names are version numbers")]
pub enum TalosLine {
    /// Talos 1.11
    V1_11,
    /// Talos 1.12
    V1_12,
    /// Talos 1.13
    V1_13,
    /// Talos 1.14
    V1_14,
}

impl TalosLine {
    /// The newest line.
    pub const NEWEST: Self = Self::V1_14;

    /// The line of a version such as `v1.13.9`. A newer minor maps to the newest known line.
    pub fn of_version(version: &str) -> Option<Self> {
        let version: crate::api::TalosVersion = version.parse().ok()?;
        match (version.major, version.minor) {
            (1, 11) => Some(Self::V1_11),
            (1, 12) => Some(Self::V1_12),
            (1, 13) => Some(Self::V1_13),
            (1, 14..) => Some(Self::V1_14),
            _ => None,
        }
    }
}

/// Applies patches, as `-p` takes them, to a config by the rules of a line.
///
/// # Errors
///
/// Always: the engine is not part of this build.
pub fn apply_patches(config: &str, patches: &[String], line: TalosLine) -> anyhow::Result<String> {
    let _ = (config, line);
    bail!("{} patches cannot be applied: patching is not available yet", patches.len())
}

/// Diffs in which no secret can be read.
pub mod diff {
    /// A unified diff of two texts under these names; empty when they are the same. Values are covered, all of them.
    pub fn unified(before: &str, after: &str, names: (&str, &str)) -> String {
        let cover = |text: &str| -> String {
            text.split_inclusive('\n').map(cover_line).collect()
        };
        if before == after {
            return String::new();
        }
        let (before, after) = (cover(before), cover(after));
        similar::TextDiff::from_lines(&before, &after).unified_diff().header(names.0, names.1).to_string()
    }

    /// The key of a line, and as many stars as its value has characters: a change of a value can be seen.
    fn cover_line(line: &str) -> String {
        match line.split_once(": ") {
            Some((key, value)) => format!("{key}: {}\n", "*".repeat(value.trim_end().len())),
            None => line.to_owned(),
        }
    }
}
