//! Planted faults: each breaks one thing in our extension, and our check must name the file and the rule.

use anyhow::Result;
use ichorctl::extension::{Entry, Kind, MANIFEST, MAX_BINARY_BYTES, Machine, Rule, SERVICE, Tree};

use super::{BINARY, SBOM, SPEC, program};

/// A fault, who must be blamed, and whether the official library sees it.
#[derive(Debug)]
pub struct Planted {
    /// What is wrong.
    pub name: &'static str,
    /// The file that our check must name.
    pub file: &'static str,
    /// The rule that it must name.
    pub rule: Rule,
    /// Whether the official library refuses it too (structure, range, content, specs).
    pub official: bool,
    /// Breaks a good extension.
    pub plant: fn(&mut Tree) -> Result<()>,
}

fn put(tree: &mut Tree, path: &str, entry: Entry) -> Result<()> {
    tree.insert(path, entry)?;
    Ok(())
}

fn text(tree: &mut Tree, path: &str, text: &str) -> Result<()> {
    put(tree, path, Entry::file(0o644, text.into()))
}

/// The manifest with one thing replaced, which must be there.
fn manifest(tree: &mut Tree, from: &str, to: &str) -> Result<()> {
    anyhow::ensure!(MANIFEST.contains(from), "{from:?} is not in the manifest");
    text(tree, "manifest.yaml", &MANIFEST.replacen(from, to, 1))
}

/// The spec with one thing replaced, which must be there.
fn spec(tree: &mut Tree, from: &str, to: &str) -> Result<()> {
    anyhow::ensure!(SERVICE.contains(from), "{from:?} is not in the spec");
    text(tree, SPEC, &SERVICE.replacen(from, to, 1))
}

fn with_mode(tree: &mut Tree, path: &str, mode: u32, content: Vec<u8>) -> Result<()> {
    put(tree, path, Entry::file(mode, content))
}

const fn planted(
    name: &'static str,
    file: &'static str,
    rule: Rule,
    official: bool,
    plant: fn(&mut Tree) -> Result<()>,
) -> Planted {
    Planted { name, file, rule, official, plant }
}

/// All faults, for an extension for amd64.
pub fn all() -> Vec<Planted> {
    [structure(), manifests(), contents(), specs(), dependencies(), containers()]
        .into_iter()
        .flatten()
        .collect()
}

fn structure() -> Vec<Planted> {
    vec![
        planted("a licence at the top", "LICENSE", Rule::TopLevel, true, |tree| text(tree, "LICENSE", "")),
        planted("no manifest", "manifest.yaml", Rule::MissingFile, true, |tree| {
            tree.remove("manifest.yaml");
            Ok(())
        }),
        planted("an empty manifest", "manifest.yaml", Rule::Yaml, true, |tree| {
            text(tree, "manifest.yaml", "")
        }),
        planted("no rootfs", "rootfs", Rule::MissingFile, true, |tree| {
            tree.remove("rootfs");
            Ok(())
        }),
    ]
}

fn manifests() -> Vec<Planted> {
    const FILE: &str = "manifest.yaml";
    vec![
        planted("an unknown format", FILE, Rule::ManifestVersion, true, |tree| {
            manifest(tree, "v1alpha1", "v1alpha2")
        }),
        planted("a misspelt key", FILE, Rule::UnknownKey, false, |tree| manifest(tree, "author:", "auhtor:")),
        planted("a key twice", FILE, Rule::DuplicateKey, true, |tree| {
            manifest(tree, "  name: ichor\n", "  name: ichor\n  name: ichor\n")
        }),
        planted("build metadata in the version", FILE, Rule::VersionForm, false, |tree| {
            manifest(tree, "version: 0.1.0", "version: 0.1.0+abc")
        }),
        planted("a name that is no label", FILE, Rule::Name, false, |tree| {
            manifest(tree, "name: ichor", "name: i c")
        }),
        planted("a range that cannot be read", FILE, Rule::TalosRange, true, |tree| {
            manifest(tree, ">= v1.11.0", "~1.11.0")
        }),
        planted("a range above all lines", FILE, Rule::TalosRange, true, |tree| {
            manifest(tree, ">= v1.11.0", ">= v1.99.0")
        }),
        planted("an upper bound", FILE, Rule::TalosRange, false, |tree| {
            manifest(tree, ">= v1.11.0", ">= v1.11.0 < v2.0.0")
        }),
        planted("two documents", FILE, Rule::Yaml, false, |tree| {
            text(tree, FILE, &format!("{MANIFEST}---\nversion: v1alpha1\n"))
        }),
        planted("an anchor", FILE, Rule::Yaml, false, |tree| {
            manifest(tree, "name: ichor", "name: &name ichor")
        }),
        planted("a list for a text", FILE, Rule::WrongType, true, |tree| {
            manifest(tree, "author: The Ichor developers", "author: [a, b]")
        }),
        planted("no author", FILE, Rule::MissingKey, false, |tree| {
            manifest(tree, "  author: The Ichor developers\n", "")
        }),
        planted("another name than the service", FILE, Rule::NamesAgree, false, |tree| {
            manifest(tree, "name: ichor", "name: icor")
        }),
    ]
}

fn contents() -> Vec<Planted> {
    vec![
        planted("a file over the system's", "rootfs/usr/bin/ichord", Rule::PathNotAllowed, true, |tree| {
            text(tree, "rootfs/usr/bin/ichord", "")
        }),
        planted("a file in /lib", "rootfs/lib/x.so", Rule::PathNotAllowed, true, |tree| {
            text(tree, "rootfs/lib/x.so", "")
        }),
        planted("a namesake of /usr/local", "rootfs/usr/localhost", Rule::PathNotAllowed, false, |tree| {
            text(tree, "rootfs/usr/localhost", "")
        }),
        planted("a pipe", "rootfs/usr/local/pipe", Rule::FileType, true, |tree| {
            put(
                tree,
                "rootfs/usr/local/pipe",
                Entry { kind: Kind::Special("a pipe"), ..Entry::file(0o644, vec![]) },
            )
        }),
        planted("a file that everybody may write", "rootfs/usr/local/x", Rule::Mode, false, |tree| {
            with_mode(tree, "rootfs/usr/local/x", 0o666, vec![])
        }),
        planted("a set-uid program", BINARY, Rule::Mode, false, |tree| {
            with_mode(tree, BINARY, 0o4755, program(Machine::Amd64))
        }),
        planted("a file of a user", "rootfs/usr/local/x", Rule::Owner, false, |tree| {
            put(tree, "rootfs/usr/local/x", Entry { uid: 1000, ..Entry::file(0o644, vec![]) })
        }),
        planted("file capabilities", BINARY, Rule::Xattr, false, |tree| {
            put(tree, BINARY, Entry { has_xattrs: true, ..Entry::file(0o755, program(Machine::Amd64)) })
        }),
        planted("a link above the root", "rootfs/usr/local/link", Rule::Symlink, false, |tree| {
            let kind = Kind::Symlink("../../../etc/shadow".to_owned());
            put(tree, "rootfs/usr/local/link", Entry { kind, ..Entry::file(0o777, vec![]) })
        }),
        planted("a bill of materials of another kind", SBOM, Rule::Sbom, false, |tree| {
            text(tree, SBOM, "{}")
        }),
    ]
}

fn specs() -> Vec<Planted> {
    vec![
        planted("a service name with capitals", SPEC, Rule::Name, true, |tree| {
            spec(tree, "name: ichor", "name: Ichor")
        }),
        planted("no entrypoint", SPEC, Rule::MissingKey, true, |tree| {
            spec(tree, "  entrypoint: /usr/local/bin/ichord\n", "")
        }),
        planted("a misspelt key of the container", SPEC, Rule::UnknownKey, false, |tree| {
            spec(tree, "  mounts:", "  mount:")
        }),
        planted("a key that older lines pass over", SPEC, Rule::UnknownKey, false, |tree| {
            spec(tree, "restart: always", "restart: always\nrunnerMode: container")
        }),
        planted("no restart", SPEC, Rule::MissingKey, true, |tree| spec(tree, "restart: always\n", "")),
        planted("an unknown restart", SPEC, Rule::Restart, true, |tree| {
            spec(tree, "restart: always", "restart: sometimes")
        }),
        planted("a service that stays away", SPEC, Rule::Restart, false, |tree| {
            spec(tree, "restart: always", "restart: never")
        }),
        planted("a mount of tmpfs", SPEC, Rule::MountType, false, |tree| {
            spec(tree, "type: bind", "type: tmpfs")
        }),
        planted("a source on the read-only root", SPEC, Rule::MountSource, false, |tree| {
            spec(tree, "source: /etc/ssl/certs", "source: /etc/ichor")
        }),
        planted("a relative destination", SPEC, Rule::MountDestination, false, |tree| {
            spec(tree, "destination: /dev/net/tun", "destination: dev/net/tun")
        }),
        planted("two mounts at one place", SPEC, Rule::MountDestination, false, |tree| {
            spec(tree, "destination: /var/lib/ichor", "destination: /dev/net/tun")
        }),
        planted("a mount both ro and rw", SPEC, Rule::MountOptions, false, |tree| {
            spec(tree, "options: [rbind, ro]", "options: [rbind, ro, rw]")
        }),
        planted("an environment without a value", SPEC, Rule::Environment, false, |tree| {
            spec(tree, "  mounts:", "  environment: [PATH]\n  mounts:")
        }),
        planted("a variable that is for users", SPEC, Rule::Environment, false, |tree| {
            spec(tree, "  mounts:", "  environment: [ICHOR_LOG=debug]\n  mounts:")
        }),
        planted("an environment file", SPEC, Rule::Environment, false, |tree| {
            spec(tree, "  mounts:", "  environmentFile: /var/ichor.env\n  mounts:")
        }),
        planted("an unknown propagation", SPEC, Rule::Propagation, false, |tree| {
            spec(tree, "  mounts:", "  security: {rootfsPropagation: everywhere}\n  mounts:")
        }),
    ]
}

fn dependencies() -> Vec<Planted> {
    vec![
        planted("two things in one dependency", SPEC, Rule::Depends, true, |tree| {
            spec(tree, "- service: cri", "- service: cri\n    time: true")
        }),
        planted("a dependency on nothing", SPEC, Rule::Depends, true, |tree| {
            spec(tree, "- service: cri", "- {}")
        }),
        planted("a dependency on a relative path", SPEC, Rule::Depends, true, |tree| {
            spec(tree, "- service: cri", "- path: var/lib")
        }),
        planted("a dependency on an unknown state", SPEC, Rule::Depends, true, |tree| {
            spec(tree, "- service: cri", "- network: [internet]")
        }),
        planted("a dependency that may never be met", SPEC, Rule::DependsOnCri, false, |tree| {
            spec(tree, "- service: cri", "- service: cri\n  - network: [connectivity]")
        }),
        planted("a wait for the configuration", SPEC, Rule::DependsOnCri, false, |tree| {
            spec(tree, "- service: cri", "- configuration: true")
        }),
    ]
}

fn containers() -> Vec<Planted> {
    vec![
        planted("no binary", BINARY, Rule::Entrypoint, false, |tree| {
            tree.remove(BINARY);
            Ok(())
        }),
        planted("a binary that nobody may execute", BINARY, Rule::Entrypoint, false, |tree| {
            with_mode(tree, BINARY, 0o644, program(Machine::Amd64))
        }),
        planted("a binary for another machine", BINARY, Rule::Binary, false, |tree| {
            with_mode(tree, BINARY, 0o755, program(Machine::Arm64))
        }),
        planted("a binary that asks for a loader", BINARY, Rule::Binary, false, |tree| {
            let mut bytes = program(Machine::Amd64);
            bytes[64] = 3;
            with_mode(tree, BINARY, 0o755, bytes)
        }),
        planted("a script", BINARY, Rule::Binary, false, |tree| {
            with_mode(tree, BINARY, 0o755, b"#!/bin/sh\n".into())
        }),
        planted("a binary that is too large", BINARY, Rule::BinarySize, false, |tree| {
            let mut bytes = program(Machine::Amd64);
            bytes.resize(usize::try_from(MAX_BINARY_BYTES)? + 1, 0);
            with_mode(tree, BINARY, 0o755, bytes)
        }),
        planted(
            "a spec that Talos passes over",
            "rootfs/usr/local/etc/containers/ichor.yml",
            Rule::SpecFile,
            false,
            |tree| text(tree, "rootfs/usr/local/etc/containers/ichor.yml", SERVICE),
        ),
        planted(
            "a service twice",
            "rootfs/usr/local/etc/containers/ichor2.yaml",
            Rule::DuplicateService,
            false,
            |tree| text(tree, "rootfs/usr/local/etc/containers/ichor2.yaml", SERVICE),
        ),
        planted(
            "a container that nobody starts",
            "rootfs/usr/local/lib/containers/other",
            Rule::NamesAgree,
            false,
            |tree| text(tree, "rootfs/usr/local/lib/containers/other/x", ""),
        ),
    ]
}
