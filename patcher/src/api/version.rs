//! Versions of Talos and what a node of one can do.

use std::fmt;
use std::str::FromStr;

/// The version that a node says it has, as `v1.13.9`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TalosVersion {
    /// 1 for every Talos there is.
    pub major: u16,
    /// What decides about features.
    pub minor: u16,
    /// The patch release.
    pub patch: u16,
    /// What follows a hyphen: `rc.1`, or the suffix of a development build.
    pub suffix: Option<String>,
}

/// Text that is no version.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version of Talos")]
pub struct VersionError(String);

impl FromStr for TalosVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let bare = text.trim().trim_start_matches('v');
        let bare = bare.split_once('+').map_or(bare, |(bare, _)| bare);
        let (numbers, suffix) = match bare.split_once('-') {
            Some((numbers, suffix)) => (numbers, Some(suffix.to_owned()).filter(|suffix| !suffix.is_empty())),
            None => (bare, None),
        };
        let mut parts = numbers.split('.').map(|part| part.parse::<u16>().ok());
        let (major, minor) = (parts.next().flatten(), parts.next().flatten());
        let patch = parts.next().unwrap_or(Some(0));
        match (major, minor, patch, parts.next()) {
            (Some(major), Some(minor), Some(patch), None) => Ok(Self { major, minor, patch, suffix }),
            _ => Err(VersionError(text.to_owned())),
        }
    }
}

impl fmt::Display for TalosVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}.{}", self.major, self.minor, self.patch)?;
        match &self.suffix {
            Some(suffix) => write!(f, "-{suffix}"),
            None => Ok(()),
        }
    }
}

impl TalosVersion {
    /// True before the first release of its minor: `alpha`, `beta` and `rc` of a `.0`.
    pub fn is_prerelease(&self) -> bool {
        let suffix = self.suffix.as_deref().unwrap_or_default();
        self.patch == 0 && ["alpha", "beta", "rc"].iter().any(|kind| suffix.starts_with(kind))
    }

    /// The line whose features can be counted on: a pre-release has those of the line before it.
    pub fn line(&self) -> TalosLine {
        let minor = if self.is_prerelease() { self.minor.saturating_sub(1) } else { self.minor };
        match (self.major, minor) {
            (1, 11) => TalosLine::V1_11,
            (1, 12) => TalosLine::V1_12,
            (1, 13) => TalosLine::V1_13,
            (1, 14) => TalosLine::V1_14,
            (1, 0..11) | (0, _) => TalosLine::Older,
            _ => TalosLine::Newer,
        }
    }
}

/// A minor release of Talos, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TalosLine {
    /// Before 1.11: not supported.
    Older,
    /// 1.11: reads and config patching.
    V1_11,
    /// 1.12.
    V1_12,
    /// 1.13.
    V1_13,
    /// 1.14.
    V1_14,
    /// After 1.14: reads, and changes only when the user insists.
    Newer,
}

impl fmt::Display for TalosLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Older => "older than 1.11",
            Self::V1_11 => "1.11",
            Self::V1_12 => "1.12",
            Self::V1_13 => "1.13",
            Self::V1_14 => "1.14",
            Self::Newer => "newer than 1.14",
        })
    }
}

/// What a node can do, from the line of its version. Decided per node: clusters are mixed while they are upgraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The line.
    pub line: TalosLine,
    /// `LifecycleService` and `ImageService` are there.
    pub lifecycle_service: bool,
    /// `MachineService.Upgrade` checks etcd; without [`Capabilities::lifecycle_service`] it is the only way.
    pub legacy_upgrade: bool,
    /// ApplyConfiguration takes the mode REBOOT.
    pub apply_reboot: bool,
    /// ApplyConfiguration with the mode AUTO may reboot the node.
    pub auto_may_reboot: bool,
    /// Concurrent ApplyConfiguration calls are refused.
    pub apply_is_exclusive: bool,
    /// RebootRequest has the mode FORCE.
    pub reboot_force: bool,
    /// `BootIDs.runtime.talos.dev` tells boots apart, to a reader too.
    pub boot_id_resource: bool,
    /// The maintenance service answers what a reader may ask.
    pub maintenance_reads: bool,
    /// What ichorctl knows of it is complete enough to change it unasked.
    pub known: bool,
}

impl Capabilities {
    /// What nodes of `line` can do. A newer one is taken for the newest that is known.
    pub fn of(line: TalosLine) -> Self {
        use TalosLine::{Newer, Older, V1_12, V1_13, V1_14};
        Self {
            line,
            lifecycle_service: line >= V1_13,
            legacy_upgrade: line < Newer,
            apply_reboot: line < V1_14,
            auto_may_reboot: line < V1_14,
            apply_is_exclusive: line >= V1_13,
            reboot_force: line >= V1_12,
            boot_id_resource: line >= V1_14,
            maintenance_reads: line >= V1_13,
            known: line > Older && line < Newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_leniently() {
        for (text, shown, line) in [
            ("v1.13.9", "v1.13.9", TalosLine::V1_13),
            ("1.14", "v1.14.0", TalosLine::V1_14),
            ("v1.14.0-rc.1", "v1.14.0-rc.1", TalosLine::V1_13),
            ("v1.13.0-alpha.2-7-gdeadbee-dirty", "v1.13.0-alpha.2-7-gdeadbee-dirty", TalosLine::V1_12),
            ("v1.13.2-5-gdeadbee", "v1.13.2-5-gdeadbee", TalosLine::V1_13),
            ("v1.12.1+build", "v1.12.1", TalosLine::V1_12),
            ("v1.15.0", "v1.15.0", TalosLine::Newer),
            ("v1.15.0-alpha.0", "v1.15.0-alpha.0", TalosLine::V1_14),
            ("v2.0.0", "v2.0.0", TalosLine::Newer),
            ("v1.10.9", "v1.10.9", TalosLine::Older),
            ("v1.11.0-beta.0", "v1.11.0-beta.0", TalosLine::Older),
        ] {
            let version: TalosVersion = text.parse().unwrap();
            assert_eq!((version.to_string().as_str(), version.line()), (shown, line), "{text}");
        }
        for text in ["", "v1", "latest", "v1.x.0", "v1.2.3.4", "v99999.1.1"] {
            assert!(text.parse::<TalosVersion>().is_err(), "{text}");
        }
    }

    #[test]
    fn capabilities_follow_the_line() {
        let of = Capabilities::of;
        assert!(!of(TalosLine::V1_12).lifecycle_service && of(TalosLine::V1_13).lifecycle_service);
        assert!(of(TalosLine::V1_13).auto_may_reboot && !of(TalosLine::V1_14).auto_may_reboot);
        assert!(!of(TalosLine::V1_13).boot_id_resource && of(TalosLine::Newer).boot_id_resource);
        assert!(of(TalosLine::V1_11).known && !of(TalosLine::Newer).known && !of(TalosLine::Older).known);
    }
}
