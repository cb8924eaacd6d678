//! Which Talos line's rules apply.

use std::fmt;
use std::sync::OnceLock;

use super::schema::Schema;
use crate::machine::Dialect;

/// A Talos minor release whose rules for configs and patches are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// All lines, oldest first.
    pub const ALL: [Self; 4] = [Self::V1_11, Self::V1_12, Self::V1_13, Self::V1_14];
    /// The newest line.
    pub const NEWEST: Self = Self::V1_14;

    /// The line of a version such as `v1.13.9` or `1.14`. A newer minor maps to the newest known line, which is
    /// right for reading; whether to *change* such a node is for the caller to decide. Nothing for older ones
    /// and for what is no version.
    pub fn of_version(version: &str) -> Option<Self> {
        let version = version.trim().trim_start_matches('v');
        let mut parts = version.split(['.', '-', '+']);
        let major: u32 = parts.next()?.parse().ok()?;
        let minor: u32 = parts.next()?.parse().ok()?;
        match (major, minor) {
            (1, 11) => Some(Self::V1_11),
            (1, 12) => Some(Self::V1_12),
            (1, 13) => Some(Self::V1_13),
            (1, 14..) => Some(Self::V1_14),
            _ => None,
        }
    }

    /// What the official library of the line knows about its types.
    pub fn schema(self) -> &'static Schema {
        static SCHEMAS: [OnceLock<Schema>; 4] =
            [OnceLock::new(), OnceLock::new(), OnceLock::new(), OnceLock::new()];
        let (index, table) = match self {
            Self::V1_11 => (0, include_str!("fields/v1.11.txt")),
            Self::V1_12 => (1, include_str!("fields/v1.12.txt")),
            Self::V1_13 => (2, include_str!("fields/v1.13.txt")),
            Self::V1_14 => (3, include_str!("fields/v1.14.txt")),
        };
        SCHEMAS[index].get_or_init(|| Schema::parse(table))
    }

    /// The YAML library that the line reads configs with.
    pub fn dialect(self) -> Dialect {
        match self {
            Self::V1_11 => Dialect::V3,
            Self::V1_12 => Dialect::V4Rc3,
            Self::V1_13 => Dialect::V4Rc4,
            Self::V1_14 => Dialect::V4Rc6,
        }
    }
}

impl fmt::Display for TalosLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1_11 => "1.11",
            Self::V1_12 => "1.12",
            Self::V1_13 => "1.13",
            Self::V1_14 => "1.14",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_minor_is_read_as_the_newest_known_line() {
        assert_eq!(TalosLine::of_version("v1.13.9"), Some(TalosLine::V1_13));
        assert_eq!(TalosLine::of_version("1.14"), Some(TalosLine::V1_14));
        assert_eq!(TalosLine::of_version("v1.15.0-alpha.1"), Some(TalosLine::V1_14));
        assert_eq!(TalosLine::of_version("v1.10.4"), None);
        assert_eq!(TalosLine::of_version("main"), None);
    }
}
