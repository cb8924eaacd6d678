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

    /// The minor release whose features can be counted on: a pre-release has those of the one before it.
    const fn features(&self, is_prerelease: bool) -> (u16, u16) {
        (self.major, if is_prerelease { self.minor.saturating_sub(1) } else { self.minor })
    }
}

/// How much of a version of Talos is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Before 1.11: nothing is promised.
    TooOld,
    /// 1.11: reads and changes of the config.
    ConfigOnly,
    /// 1.12 to 1.14.
    Full,
    /// After 1.14: reads, and changes only when the user insists.
    Unknown,
}

/// What a node can do, from its version. Decided per node: clusters are mixed while they are upgraded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The version.
    pub version: TalosVersion,
    /// How much of it is known.
    pub support: Support,
    /// `LifecycleService` and `ImageService` are there.
    pub lifecycle_service: bool,
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
}

impl Capabilities {
    /// What nodes of this version can do. A newer one is taken for the newest that is known.
    pub fn of(version: TalosVersion) -> Self {
        let features = version.features(version.is_prerelease());
        let since = |minor| features >= (1, minor);
        let support = match features {
            (0, _) | (1, 0..11) => Support::TooOld,
            (1, 11) => Support::ConfigOnly,
            (1, 12..=14) => Support::Full,
            _ => Support::Unknown,
        };
        Self {
            support,
            lifecycle_service: since(13),
            apply_reboot: !since(14),
            auto_may_reboot: !since(14),
            apply_is_exclusive: since(13),
            reboot_force: since(12),
            boot_id_resource: since(14),
            maintenance_reads: since(13),
            version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_leniently() {
        for (text, shown, support) in [
            ("v1.13.9", "v1.13.9", Support::Full),
            ("1.14", "v1.14.0", Support::Full),
            ("v1.14.0-rc.1", "v1.14.0-rc.1", Support::Full),
            ("v1.12.0-alpha.2-7-gdeadbee-dirty", "v1.12.0-alpha.2-7-gdeadbee-dirty", Support::ConfigOnly),
            ("v1.12.2-5-gdeadbee", "v1.12.2-5-gdeadbee", Support::Full),
            ("v1.12.1+build", "v1.12.1", Support::Full),
            ("v1.15.0", "v1.15.0", Support::Unknown),
            ("v1.15.0-alpha.0", "v1.15.0-alpha.0", Support::Full),
            ("v2.0.0", "v2.0.0", Support::Unknown),
            ("v1.10.9", "v1.10.9", Support::TooOld),
            ("v1.11.0-beta.0", "v1.11.0-beta.0", Support::TooOld),
            ("v0.14.0", "v0.14.0", Support::TooOld),
        ] {
            let version: TalosVersion = text.parse().unwrap();
            assert_eq!(version.to_string(), shown);
            assert_eq!(Capabilities::of(version).support, support, "{text}");
        }
        for text in ["", "v1", "latest", "v1.x.0", "v1.2.3.4", "v99999.1.1"] {
            assert!(text.parse::<TalosVersion>().is_err(), "{text}");
        }
    }

    #[test]
    fn capabilities_follow_the_version() {
        let of = |text: &str| Capabilities::of(text.parse().unwrap());
        assert!(!of("v1.12.9").lifecycle_service && of("v1.13.0").lifecycle_service);
        assert!(!of("v1.13.0-rc.0").lifecycle_service, "a pre-release may be from before the feature");
        assert!(of("v1.13.9").auto_may_reboot && !of("v1.14.0").auto_may_reboot);
        assert!(!of("v1.13.9").boot_id_resource && of("v1.15.0").boot_id_resource);
    }
}
