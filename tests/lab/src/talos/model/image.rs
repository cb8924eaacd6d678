//! Installer images, and what can be wrong with the system in one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::digest;
use super::line::Line;

/// An installer image that nodes can pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its name with a tag.
    pub reference: String,
    /// The Talos in it.
    pub line: Line,
    /// What that Talos calls its version.
    pub tag: String,
    /// The system extensions in it that are services, with their versions.
    pub extensions: Vec<(String, String)>,
    /// The id of its schematic, if it comes from an Image Factory.
    pub schematic: Option<String>,
    /// What is wrong with it.
    pub fault: Option<SystemFault>,
}

/// What is wrong with a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemFault {
    /// It cannot be installed: the installer fails.
    NotInstallable,
    /// An extension service never starts, so that booting does not end.
    StuckBooting,
    /// The kernel dies before anything of Talos could go back to the other system.
    BootLoop,
    /// Booting fails soon, and Talos goes back to the other system by itself.
    RollsBack,
    /// Booting takes so much longer.
    SlowBoot(Duration),
}

impl Image {
    /// An image of `line` with the extension `ichor` in it.
    pub fn new(reference: impl Into<String>, line: Line) -> Self {
        Self {
            reference: reference.into(),
            line,
            tag: line.tag().to_owned(),
            extensions: vec![("ichor".to_owned(), env!("CARGO_PKG_VERSION").to_owned())],
            schematic: None,
            fault: None,
        }
    }

    /// The same image without any extension.
    #[must_use]
    pub fn without_extensions(mut self) -> Self {
        self.extensions.clear();
        self
    }

    /// The same image with something wrong.
    #[must_use]
    pub fn with_fault(mut self, fault: SystemFault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Its name with a digest in place of the tag, as pulling gives it.
    pub fn pinned(&self) -> String {
        let slash = self.reference.rfind('/').map_or(0, |at| at + 1);
        let colon = self.reference[slash..].find(':').map(|at| slash + at);
        let name = &self.reference[..colon.unwrap_or(self.reference.len())];
        let digest: String = digest(&self.reference).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name}@sha256:{digest}")
    }

    /// Why its installer does not run on a node of `host`.
    pub(crate) fn refuses(&self, host: Line, fault: Option<SystemFault>) -> Option<Failure> {
        // Installers have told causes apart since 1.14.
        let code = |code| if self.line >= Line::V1_14 { code } else { 1 };
        if !self.line.upgrades_from(host) {
            let text = format!("pre-flight checks failed: host version {} is not supported", host.tag());
            return Some(Failure { code: code(4), text });
        }
        let fails = [self.fault, fault].contains(&Some(SystemFault::NotInstallable));
        fails.then(|| Failure { code: code(7), text: "failed to install bootloader".to_owned() })
    }
}

/// How an installer ended that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: i32,
    pub(crate) text: String,
}

/// The images that there are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry(BTreeMap<String, Image>);

impl Registry {
    pub(crate) fn add(&mut self, image: Image) {
        self.0.insert(image.reference.clone(), image);
    }

    /// The image called `name`, by tag or by digest.
    pub(crate) fn find(&self, name: &str) -> Option<&Image> {
        self.0.get(name).or_else(|| self.0.values().find(|image| image.pinned() == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_found_by_tag_and_by_digest() {
        let mut registry = Registry::default();
        for name in ["registry:5000/installer:v1.14.1", "plain:v1.14.1", "untagged"] {
            registry.add(Image::new(name, Line::V1_14));
            let pinned = registry.find(name).unwrap().pinned();
            assert_eq!(registry.find(&pinned).unwrap().reference, name);
        }
        let pinned = registry.find("registry:5000/installer:v1.14.1").unwrap().pinned();
        assert!(pinned.starts_with("registry:5000/installer@sha256:"), "{pinned}");
        assert!(registry.find("registry:5000/installer:v1.14.2").is_none());
    }

    #[test]
    fn an_installer_takes_two_lines_back_and_one_ahead() {
        let refused =
            |image: Line, host: Line| Image::new("x:y", image).refuses(host, None).map(|it| it.code);
        assert_eq!(refused(Line::V1_13, Line::V1_11), None);
        assert_eq!(refused(Line::V1_12, Line::V1_13), None);
        assert_eq!(refused(Line::V1_14, Line::V1_11), Some(4));
        assert_eq!(refused(Line::V1_11, Line::V1_13), Some(1));
    }
}
