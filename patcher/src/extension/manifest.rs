//! `manifest.yaml`: what an extension says about itself.

use super::reader::Reader;
use super::{Fault, MAX_LABEL, NAME, Range, Rule};
use crate::patch::TalosLine;

/// The one version of the format.
const FORMAT: &str = "v1alpha1";

/// The name of an extension that the image factory adds itself.
const SCHEMATIC: &str = "schematic";

/// What a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Name, shown by the node and used in the label `extensions.talos.dev/<name>`.
    pub name: String,
    /// Version of what is packaged.
    pub version: String,
    /// Who made it.
    pub author: String,
    /// What it is.
    pub description: String,
    /// The Talos versions that it is for, as written.
    pub talos: String,
    /// Free text.
    pub extra_info: String,
}

impl Manifest {
    /// Reads a manifest; None when there are faults that leave nothing to go on with.
    pub fn parse(file: &str, text: &[u8]) -> (Option<Self>, Vec<Fault>) {
        let mut reader = match Reader::open(file, text) {
            Ok(reader) => reader,
            Err(fault) => return (None, vec![fault]),
        };
        let manifest = read(&mut reader, file);
        (manifest, reader.faults)
    }
}

fn read(reader: &mut Reader<'_>, file: &str) -> Option<Manifest> {
    let top = reader.top(&["version", "metadata"])?;
    if let Some(format) = reader.required(&top, "version")
        && format != FORMAT
    {
        let detail = format!("version is {format:?}, and Talos reads {FORMAT} only");
        reader.fault(top.line_of(reader, "version"), Rule::ManifestVersion, detail);
    }
    if top.get("metadata").is_none() {
        reader.fault(top.line(), Rule::MissingKey, "metadata is missing");
    }
    let known = ["name", "version", "author", "description", "compatibility", "extraInfo"];
    let metadata = reader.section(&top, "metadata", &known)?;
    let name = reader.required(&metadata, "name");
    let version = reader.required(&metadata, "version");
    let author = reader.required(&metadata, "author").unwrap_or_default();
    let description = reader.required(&metadata, "description").unwrap_or_default();
    let extra_info = reader.text(&metadata, "extraInfo").unwrap_or_default();
    if let Some(name) = &name {
        let line = metadata.line_of(reader, "name");
        if !is_label(name) {
            let detail = format!("{name:?} cannot be part of a node label");
            reader.fault(line, Rule::Name, detail);
        } else if name == SCHEMATIC {
            reader.fault(line, Rule::Name, "schematic is the name of what the image factory adds itself");
        }
    }
    if let Some(version) = &version
        && !has_known_form(version)
    {
        let detail = format!(
            "{version:?} is none of X.Y.Z[-pre], X.Y, YYYYMMDD[.N], X.Y.Z-vA.B.C and HEX-vA.B.C; build metadata is refused"
        );
        reader.fault(metadata.line_of(reader, "version"), Rule::VersionForm, detail);
    }
    let mut talos = String::new();
    if let Some(compatibility) = reader.section(&metadata, "compatibility", &["talos"])
        && let Some(section) = reader.section(&compatibility, "talos", &["version"])
    {
        talos = reader.text(&section, "version").unwrap_or_default();
        let line = section.line_of(reader, "version");
        check_range(reader, file, &talos, line, name.as_deref());
    }
    Some(Manifest { name: name?, version: version?, author, description, talos, extra_info })
}

fn check_range(reader: &mut Reader<'_>, file: &str, text: &str, line: usize, name: Option<&str>) {
    let range = match Range::parse(text) {
        Ok(range) => range,
        Err(error) => return reader.fault(line, Rule::TalosRange, error.to_string()),
    };
    if name == Some(NAME) && !range.is_open() {
        let detail = format!("{text:?} has an upper bound, which breaks upgrades of the nodes");
        reader.fault(line, Rule::TalosRange, detail);
    }
    let first = |line: TalosLine| {
        let minor = 11 + TalosLine::ALL.iter().position(|other| *other == line).unwrap_or_default();
        semver::Version::new(1, minor as u64, 0)
    };
    let excluded: Vec<TalosLine> =
        TalosLine::ALL.into_iter().filter(|line| !range.contains(&first(*line))).collect();
    if !excluded.is_empty() {
        let versions: Vec<String> = excluded.iter().map(|line| format!("v{}", first(*line))).collect();
        let detail = format!("{text:?} leaves out {}", versions.join(", "));
        reader.faults.push(Fault::new(file, Rule::TalosRange, detail).at(line).only(excluded));
    }
}

/// The forms that the official validator takes. The version becomes the value of a node label, or an annotation.
fn has_known_form(version: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let semver = |text: &str| semver::Version::parse(text).is_ok_and(|version| version.build.is_empty());
    let bare = version.strip_prefix('v').unwrap_or(version);
    // X.Y.Z-vA.B.C is X.Y.Z with a pre-release to SemVer.
    let is_semver = semver(bare);
    let is_short = bare.split_once('.').is_some_and(|(major, minor)| digits(major) && digits(minor));
    let (date, count) = version.split_once('.').map_or((version, None), |(date, count)| (date, Some(count)));
    let is_date = date.len() == 8 && digits(date) && count.is_none_or(digits);
    let is_commit = version.split_once("-v").is_some_and(|(commit, talos)| {
        !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_hexdigit()) && semver(talos)
    });
    is_semver || is_short || is_date || is_commit
}

/// Names of labels: letters, digits, `-`, `_` and `.`, with a letter or digit at both ends (Kubernetes: labels).
fn is_label(text: &str) -> bool {
    let outer = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.len() <= MAX_LABEL
        && outer(text.bytes().next())
        && outer(text.bytes().last())
        && text.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use super::super::{MANIFEST, MANIFEST_FILE};
    use super::*;

    #[test]
    fn our_manifest_has_no_fault_and_the_version_of_the_workspace() {
        let (manifest, faults) = Manifest::parse(MANIFEST_FILE, MANIFEST.as_bytes());
        assert_eq!(faults, []);
        let manifest = manifest.unwrap();
        assert_eq!((&*manifest.name, &*manifest.version), (NAME, env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn versions_have_one_of_five_forms() {
        for good in [
            "1.2.3",
            "v1.2.3-rc.1",
            "1.2",
            "20260821",
            "20260821.3",
            "1.2.3-v1.14.0",
            "ad88231-v1.14.0-beta.1",
        ] {
            assert!(has_known_form(good), "{good}");
        }
        for bad in
            ["", "1", "1.2.3+abc", "latest", "2026082", "1.2.x", "v", "1..2", "xyz-v1.0.0", "1.2.3-v1+b"]
        {
            assert!(!has_known_form(bad), "{bad}");
        }
    }

    #[test]
    fn a_range_that_leaves_out_a_line_is_a_fault_for_that_line() {
        let text = MANIFEST.replace(">= v1.11.0", ">= v1.13.0");
        let (_, faults) = Manifest::parse(MANIFEST_FILE, text.as_bytes());
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].rule, Rule::TalosRange);
        assert_eq!(faults[0].talos, [TalosLine::V1_11, TalosLine::V1_12]);
    }

    #[test]
    fn garbage_is_a_fault_and_never_a_panic() {
        for text in ["", "[]", "a", "version: [", "{}", "metadata: {name: {}}", "\0", "? {a: b}\n: c"] {
            let (_, faults) = Manifest::parse(MANIFEST_FILE, text.as_bytes());
            assert!(!faults.is_empty(), "{text:?}");
        }
    }
}
