//! A whole image against all rules.

use super::elf::{self, ElfProblem, Machine};
use super::tree::{Kind, Tree};
use super::{
    CONTAINER_DIRECTORY, Fault, MANIFEST_FILE, MAX_BINARY_BYTES, Manifest, NAME, ROOTFS, Rule,
    SBOM_DIRECTORY, SPEC_DIRECTORY, ServiceSpec, content,
};

/// What an image is, and what is wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Its manifest, if there is one that can be read.
    pub manifest: Option<Manifest>,
    /// Its services.
    pub services: Vec<ServiceSpec>,
    /// What is wrong, sorted by file.
    pub faults: Vec<Fault>,
}

/// Checks the files of an image for one architecture.
pub fn check(tree: &Tree, machine: Machine) -> Checked {
    let mut checked = Checked { faults: structure(tree), ..Checked::default() };
    checked.faults.extend(content::check(tree));
    if let Some(text) = tree.content(MANIFEST_FILE) {
        let (manifest, faults) = Manifest::parse(MANIFEST_FILE, text);
        checked.manifest = manifest;
        checked.faults.extend(faults);
    }
    specs(tree, &mut checked);
    for spec in &checked.services {
        checked.faults.extend(container(tree, spec, machine));
    }
    orphans(tree, &mut checked);
    names(&mut checked);
    sboms(tree, &mut checked);
    checked.faults.sort_by(|a, b| (&a.file, a.line, a.rule).cmp(&(&b.file, b.line, b.rule)));
    checked
}

/// Exactly a manifest and a root, nothing else at the top (Talos: extensions/load.go).
fn structure(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, entry) in tree.iter().filter(|(path, _)| !path.contains('/')) {
        let is_right = match path {
            MANIFEST_FILE => matches!(entry.kind, Kind::File { .. }),
            ROOTFS => entry.kind == Kind::Directory,
            _ => {
                let detail = "only manifest.yaml and rootfs may be at the top of the image";
                faults.push(Fault::new(path, Rule::TopLevel, detail));
                continue;
            }
        };
        if !is_right {
            faults.push(Fault::new(path, Rule::FileType, "manifest.yaml is a file and rootfs a directory"));
        }
    }
    for path in [MANIFEST_FILE, ROOTFS] {
        if tree.get(path).is_none() {
            faults.push(Fault::new(path, Rule::MissingFile, "it is not in the image"));
        }
    }
    faults
}

fn specs(tree: &Tree, checked: &mut Checked) {
    let directory = format!("{ROOTFS}/{SPEC_DIRECTORY}/");
    for (path, entry) in tree.iter() {
        let Some(name) = path.strip_prefix(&directory) else { continue };
        if name.contains('/') || entry.kind == Kind::Directory {
            let detail = "Talos reads the files of this directory only, not what is below it";
            checked.faults.push(Fault::new(path, Rule::SpecFile, detail));
            continue;
        }
        if !name.ends_with(".yaml") {
            let detail = "Talos passes over names that do not end in .yaml";
            checked.faults.push(Fault::new(path, Rule::SpecFile, detail));
            continue;
        }
        let Some(text) = tree.content(path) else {
            checked.faults.push(Fault::new(path, Rule::SpecFile, "it is no file that can be read"));
            continue;
        };
        let (spec, faults) = ServiceSpec::parse(path, text);
        checked.faults.extend(faults);
        let Some(spec) = spec else { continue };
        if checked.services.iter().any(|other| other.name == spec.name) {
            let detail = format!("there is another service {}, and Talos takes one of them", spec.name);
            checked.faults.push(Fault::new(path, Rule::DuplicateService, detail));
        }
        checked.services.push(spec);
    }
}

/// The root file system of a service and its program.
fn container(tree: &Tree, spec: &ServiceSpec, machine: Machine) -> Option<Fault> {
    let root = format!("{ROOTFS}/{CONTAINER_DIRECTORY}/{}", spec.name);
    if !tree.get(&root).is_some_and(|entry| entry.kind == Kind::Directory) {
        let detail = format!("service {} has no root file system here", spec.name);
        return Some(Fault::new(root, Rule::MissingFile, detail));
    }
    if spec.entrypoint.is_empty() {
        return None;
    }
    let path = format!("{root}{}", spec.entrypoint);
    let fault = |rule, detail: String| Some(Fault::new(path.as_str(), rule, detail));
    let Some(entry) = tree.get(&path) else {
        return fault(Rule::Entrypoint, format!("service {} starts it, and it is not there", spec.name));
    };
    let Kind::File { size, content } = &entry.kind else {
        return fault(Rule::Entrypoint, "it is no regular file".to_owned());
    };
    if entry.mode & 0o111 == 0 {
        return fault(Rule::Entrypoint, format!("mode {:04o}: nobody may execute it", entry.mode));
    }
    if spec.name == NAME && *size > MAX_BINARY_BYTES {
        return fault(Rule::BinarySize, format!("{size} bytes are more than {MAX_BINARY_BYTES}"));
    }
    match elf::check_static(content.as_deref().unwrap_or_default(), machine) {
        Ok(()) => None,
        // Others may bring libraries along, or start a script. Ours does neither.
        Err(ElfProblem::Dynamic(_) | ElfProblem::NotElf) if spec.name != NAME => None,
        Err(problem) => fault(Rule::Binary, problem.to_string()),
    }
}

/// Directories of containers that no service starts.
fn orphans(tree: &Tree, checked: &mut Checked) {
    let directory = format!("{ROOTFS}/{CONTAINER_DIRECTORY}/");
    for (path, _) in tree.iter() {
        let Some(name) = path.strip_prefix(&directory).filter(|name| !name.contains('/')) else { continue };
        if !checked.services.iter().any(|spec| spec.name == name) {
            let detail = format!("there is no spec of a service {name}");
            checked.faults.push(Fault::new(path, Rule::NamesAgree, detail));
        }
    }
}

/// Documents for a node name the service, people the extension: for ours that is one name.
fn names(checked: &mut Checked) {
    let Some(manifest) = &checked.manifest else { return };
    let ours = |spec: &ServiceSpec| spec.name == NAME;
    if (manifest.name == NAME) != checked.services.iter().any(ours) {
        let names: Vec<&str> = checked.services.iter().map(|spec| &*spec.name).collect();
        let detail =
            format!("the extension is {} and its services are [{}]", manifest.name, names.join(", "));
        checked.faults.push(Fault::new(MANIFEST_FILE, Rule::NamesAgree, detail));
    }
}

fn sboms(tree: &Tree, checked: &mut Checked) {
    let directory = format!("{ROOTFS}/{SBOM_DIRECTORY}/");
    for (path, _) in tree.iter().filter(|(path, _)| path.starts_with(&directory)) {
        let Some(text) = tree.content(path) else { continue };
        let document: Option<serde_json::Value> = serde_json::from_slice(text).ok();
        let version = document.as_ref().and_then(|it| it["spdxVersion"].as_str());
        if !version.is_some_and(|version| version.starts_with("SPDX-2.")) {
            checked.faults.push(Fault::new(path, Rule::Sbom, "it is no SPDX 2 document in JSON"));
        }
    }
}
