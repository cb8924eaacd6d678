//! The lines of Talos that can be simulated, and in what they differ.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A minor version of Talos.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Line {
    /// 1.11
    #[serde(rename = "1.11")]
    V1_11,
    /// 1.12
    #[serde(rename = "1.12")]
    V1_12,
    /// 1.13
    #[serde(rename = "1.13")]
    V1_13,
    /// 1.14
    #[default]
    #[serde(rename = "1.14")]
    V1_14,
}

impl Line {
    /// All of them, the oldest first.
    pub const ALL: [Self; 4] = [Self::V1_11, Self::V1_12, Self::V1_13, Self::V1_14];

    /// What the node calls its version.
    pub const fn tag(self) -> &'static str {
        match self {
            Self::V1_11 => "v1.11.6",
            Self::V1_12 => "v1.12.11",
            Self::V1_13 => "v1.13.9",
            Self::V1_14 => "v1.14.1",
        }
    }

    /// The etcd that comes with it.
    pub const fn etcd(self) -> &'static str {
        match self {
            Self::V1_11 => "3.6.5",
            Self::V1_12 => "3.6.11",
            Self::V1_13 => "3.6.12",
            Self::V1_14 => "3.7.1",
        }
    }

    /// Whether a change is judged before it is applied: some need a reboot, which AUTO then does by itself. Since
    /// 1.14 everything is applied at once, and the mode REBOOT is gone.
    pub const fn judges_changes(self) -> bool {
        (self as u8) < Self::V1_14 as u8
    }

    /// Whether maintenance mode is a server of its own, with a few calls only.
    pub const fn has_small_maintenance_server(self) -> bool {
        (self as u8) < Self::V1_13 as u8
    }

    /// Whether concurrent applies, and applies after one that reboots, are refused.
    pub const fn locks_applies(self) -> bool {
        (self as u8) >= Self::V1_13 as u8
    }

    /// Whether LifecycleService and ImageService are there.
    pub const fn has_lifecycle(self) -> bool {
        (self as u8) >= Self::V1_13 as u8
    }

    /// Whether an installer of this line runs on a node of `host` (Talos: the versions in its pre-flight check).
    pub const fn upgrades_from(self, host: Self) -> bool {
        let (target, host) = (self as u8, host as u8);
        host + 2 >= target && host <= target + 1
    }

    /// Whether the YAML form of a machine config is a string, and not the documents themselves.
    pub const fn quotes_machine_configs(self) -> bool {
        (self as u8) >= Self::V1_12 as u8
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1_11 => "1.11",
            Self::V1_12 => "1.12",
            Self::V1_13 => "1.13",
            Self::V1_14 => "1.14",
        })
    }
}

/// Text that names no line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no version of Talos that can be simulated; there are 1.11, 1.12, 1.13 and 1.14")]
pub struct UnknownLine(String);

impl FromStr for Line {
    type Err = UnknownLine;

    fn from_str(text: &str) -> Result<Self, UnknownLine> {
        let plain = text.strip_prefix('v').unwrap_or(text);
        let found = Self::ALL.into_iter().find(|line| plain == line.to_string() || text == line.tag());
        found.ok_or_else(|| UnknownLine(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_known_by_its_number_and_by_its_tag() {
        for line in Line::ALL {
            assert_eq!(line.to_string().parse(), Ok(line));
            assert_eq!(format!("v{line}").parse(), Ok(line));
            assert_eq!(line.tag().parse(), Ok(line));
        }
        assert!("1.15".parse::<Line>().is_err());
    }

    #[test]
    fn the_modes_changed_with_1_14() {
        assert!(Line::V1_13.judges_changes() && !Line::V1_14.judges_changes());
    }
}
