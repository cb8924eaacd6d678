//! References to installers that an image factory serves.

use std::fmt;
use std::str::FromStr;

use crate::image::Reference;

/// The platform of bare metal, which the older form without a platform means too.
const METAL: &str = "metal";

/// An installer of a factory: `HOST/<platform>-installer[-secureboot]/<schematic>:<version>`.
///
/// The form is the same for Talos 1.11 to 1.14, and the only one since 1.14: there is no installer without a
/// schematic any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installer {
    /// The factory, with path if it has one.
    pub factory: String,
    /// The platform, such as `metal` or `aws`.
    pub platform: String,
    /// For machines with secure boot.
    pub secureboot: bool,
    /// The id of the schematic.
    pub schematic: String,
    /// The version of Talos, with its `v`.
    pub version: String,
}

/// What is no installer of a factory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no installer of an image factory: {problem}")]
pub struct InstallerError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Installer {
    /// A reference to the installer of a schematic.
    ///
    /// # Errors
    ///
    /// When one of its parts cannot be a part of a reference.
    pub fn new(
        factory: &str,
        platform: &str,
        secureboot: bool,
        schematic: &str,
        version: &str,
    ) -> Result<Self, InstallerError> {
        let version = if version.starts_with('v') { version.to_owned() } else { format!("v{version}") };
        let installer = Self {
            factory: factory.to_owned(),
            platform: platform.to_owned(),
            secureboot,
            schematic: schematic.to_owned(),
            version,
        };
        // Reading it again applies all rules.
        match installer.to_string().parse::<Self>() {
            Ok(again) if again == installer => Ok(installer),
            Ok(_) => Err(refuse(&installer.to_string(), "its parts are not what they should be")),
            Err(error) => Err(error),
        }
    }
}

impl fmt::Display for Installer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { factory, platform, schematic, version, .. } = self;
        let secureboot = if self.secureboot { "-secureboot" } else { "" };
        write!(f, "{factory}/{platform}-installer{secureboot}/{schematic}:{version}")
    }
}

impl FromStr for Installer {
    type Err = InstallerError;

    /// Reads the current form, and the older one without a platform.
    fn from_str(text: &str) -> Result<Self, InstallerError> {
        let refuse = |problem| refuse(text, problem);
        let reference: Reference = text.parse().map_err(|_| refuse("it is no image reference"))?;
        if reference.digest.is_some() {
            return Err(refuse("a digest says nothing about schematic and version"));
        }
        let (rest, schematic) =
            reference.repository.rsplit_once('/').ok_or_else(|| refuse("there is no schematic"))?;
        let (path, name) = match rest.rsplit_once('/') {
            Some((path, name)) => (Some(path), name),
            None => (None, rest),
        };
        let (name, secureboot) = match name.strip_suffix("-secureboot") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let platform = match name.strip_suffix("installer") {
            Some("") => METAL,
            Some(platform) => {
                platform.strip_suffix('-').ok_or_else(|| refuse("there is no installer in it"))?
            }
            None => return Err(refuse("there is no installer in it")),
        };
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if schematic.len() != 64 || !schematic.bytes().all(is_hex) {
            return Err(refuse("a schematic has 64 digits 0-9a-f"));
        }
        let version = reference.tag.ok_or_else(|| refuse("there is no Talos version"))?;
        if version.strip_prefix('v').is_none_or(|bare| semver::Version::parse(bare).is_err()) {
            return Err(refuse("a Talos version is vX.Y.Z"));
        }
        let path = path.map(|path| format!("/{path}")).unwrap_or_default();
        Ok(Self {
            factory: format!("{}{path}", reference.host),
            platform: platform.to_owned(),
            secureboot,
            schematic: schematic.to_owned(),
            version,
        })
    }
}

fn refuse(text: &str, problem: &'static str) -> InstallerError {
    InstallerError { text: text.chars().take(300).collect(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba";

    #[test]
    fn every_line_has_the_same_form_with_and_without_secure_boot() {
        for version in ["v1.11.6", "v1.12.7", "v1.13.9", "v1.14.1", "v1.14.0-rc.1"] {
            let plain = Installer::new("factory.talos.dev", "metal", false, ID, version).unwrap();
            assert_eq!(plain.to_string(), format!("factory.talos.dev/metal-installer/{ID}:{version}"));
            let secure = Installer::new("factory.talos.dev", "metal", true, ID, version).unwrap();
            assert_eq!(
                secure.to_string(),
                format!("factory.talos.dev/metal-installer-secureboot/{ID}:{version}")
            );
            for installer in [plain, secure] {
                assert_eq!(installer.to_string().parse(), Ok(installer));
            }
        }
    }

    #[test]
    fn the_older_form_and_a_factory_below_a_path_are_read() {
        let old: Installer = format!("factory.talos.dev/installer-secureboot/{ID}:v1.11.0").parse().unwrap();
        assert_eq!((&*old.platform, old.secureboot), ("metal", true));
        let own: Installer = format!("10.0.0.1:8080/f/g/aws-installer/{ID}:v1.12.0").parse().unwrap();
        assert_eq!((&*own.factory, &*own.platform), ("10.0.0.1:8080/f/g", "aws"));
        assert_eq!(Installer::new("a.b", "metal", false, ID, "1.13.0").unwrap().version, "v1.13.0");
    }

    #[test]
    fn other_images_are_refused() {
        for text in [
            "ghcr.io/siderolabs/installer:v1.11.0".to_owned(),
            format!("factory.talos.dev/metal-installer/{}:v1.11.0", &ID[1..]),
            format!("factory.talos.dev/metal-installer/{ID}"),
            format!("factory.talos.dev/metal-installer/{ID}:latest"),
            format!("factory.talos.dev/metal-installers/{ID}:v1.11.0"),
            format!("factory.talos.dev/metalinstaller/{ID}:v1.11.0"),
            format!("factory.talos.dev/{ID}:v1.11.0"),
            format!("factory.talos.dev/metal-installer/{ID}:v1.11.0@sha256:{ID}"),
        ] {
            assert!(text.parse::<Installer>().is_err(), "{text}");
        }
        assert!(Installer::new("a.b", "x/y", false, ID, "v1.11.0").is_err());
    }
}
