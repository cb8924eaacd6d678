//! What is wrong, where, by which rule, and for which lines of Talos.

use std::fmt;

use serde::Serialize;

use crate::patch::TalosLine;

/// Something that is wrong with an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, as it is named in the image.
    pub file: String,
    /// The line of the file, from 1, where one is to blame.
    pub line: Option<usize>,
    /// The rule that is broken.
    pub rule: Rule,
    /// What is wrong, for people.
    pub detail: String,
    /// The Talos lines that the rule holds for.
    pub talos: Vec<TalosLine>,
}

impl Fault {
    /// A fault of a file as a whole, for all Talos lines.
    pub fn new(file: impl Into<String>, rule: Rule, detail: impl Into<String>) -> Self {
        Self { file: file.into(), line: None, rule, detail: detail.into(), talos: TalosLine::ALL.to_vec() }
    }

    /// The same, for one place in the file.
    #[must_use]
    pub fn at(mut self, line: usize) -> Self {
        self.line = Some(line);
        self
    }

    /// The same, for some Talos lines only.
    #[must_use]
    pub fn only(mut self, talos: Vec<TalosLine>) -> Self {
        self.talos = talos;
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}: {}", self.rule, self.detail)?;
        if self.talos != TalosLine::ALL {
            let lines: Vec<String> = self.talos.iter().map(ToString::to_string).collect();
            write!(f, " (Talos {})", lines.join(", "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// The rules. Their names are part of the interface: they stand in messages and in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Rule {
    /// The binary is a static program for the architecture of the image.
    Binary,
    /// A binary is at most [`super::MAX_BINARY_BYTES`].
    BinarySize,
    /// A dependency is exactly one of the kinds that Talos knows.
    Depends,
    /// Our service waits for `cri`, whatever mounts from /var does too, and ours for nothing else.
    DependsOnCri,
    /// A key stands once in its mapping.
    DuplicateKey,
    /// A path stands once in an image.
    DuplicatePath,
    /// A service name is used once.
    DuplicateService,
    /// The entrypoint is an absolute path of an executable in the root file system of the service.
    Entrypoint,
    /// The environment is a list of `KEY=VALUE`, each key once, without those that are for users.
    Environment,
    /// Only directories, regular files and symbolic links.
    FileType,
    /// The service name becomes a path and an identifier, the extension name a label.
    Name,
    /// The manifest, the service and the directory of its root file system have one name.
    NamesAgree,
    /// `version` of the manifest is `v1alpha1`.
    ManifestVersion,
    /// Layers are tar or tar+gzip of a bounded size.
    Layer,
    /// A key that must be there.
    MissingKey,
    /// A file that must be there.
    MissingFile,
    /// No set-uid bits, nothing that everybody may write.
    Mode,
    /// There is one image for each machine, and it says so.
    Platform,
    /// Where things are mounted.
    MountDestination,
    /// How things are mounted.
    MountOptions,
    /// What is mounted: something that is there or can be made.
    MountSource,
    /// Only bind mounts.
    MountType,
    /// Owner and group are root.
    Owner,
    /// Paths stay in the image.
    Path,
    /// Extensions may bring files below some directories only.
    PathNotAllowed,
    /// How mounts propagate between namespaces.
    Propagation,
    /// When a service is restarted.
    Restart,
    /// A bill of materials is SPDX 2 in JSON.
    Sbom,
    /// Specs are files whose names end in `.yaml`.
    SpecFile,
    /// Symbolic links stay in the root of the node.
    Symlink,
    /// Nothing but `manifest.yaml` and `rootfs` at the top.
    TopLevel,
    /// Keys that Talos would pass over in silence.
    UnknownKey,
    /// The range of Talos versions.
    TalosRange,
    /// The forms that a version may have.
    VersionForm,
    /// Values have the type that Talos decodes them to.
    WrongType,
    /// Extended attributes are dropped when the boot asset is made.
    Xattr,
    /// The text is YAML, one document, without anchors, aliases and tags.
    Yaml,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_file_line_rule_and_the_talos_lines_if_not_all() {
        let fault = Fault::new("manifest.yaml", Rule::VersionForm, "it is empty").at(3);
        assert_eq!(fault.to_string(), "manifest.yaml:3: version-form: it is empty");
        let fault = Fault::new("rootfs/x", Rule::PathNotAllowed, "no").only(vec![TalosLine::V1_11]);
        assert_eq!(fault.to_string(), "rootfs/x: path-not-allowed: no (Talos 1.11)");
    }
}
