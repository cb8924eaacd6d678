//! The bill of materials of `ichord`: SPDX 2.3 in JSON, from the lock file.
//!
//! It lists what the lock lets into the daemon on any platform. What only its tests use is left out, by the manifests
//! of our own crates.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

use super::Digest;

/// The crate that goes into the image.
const ROOT: &str = "ichord";

/// The manifests of our crates in the daemon.
const OURS: [(&str, &str); 2] = [
    ("ichord", include_str!("../../../extension/Cargo.toml")),
    ("ichor-mesh", include_str!("../../../extension/mesh/Cargo.toml")),
];

/// The longest lock file that is read, in bytes.
const MAX_LOCK: usize = 4 << 20;

/// A bill of materials that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SbomError {
    /// Not the format of Cargo.
    #[error("failed to read the lock file")]
    Lock(#[source] Box<toml::de::Error>),
    /// A manifest of ours.
    #[error("failed to read the manifest of {name}")]
    Manifest {
        /// The crate.
        name: &'static str,
        /// What the parser said.
        source: Box<toml::de::Error>,
    },
    /// Too long to be one.
    #[error("failed to read the lock file: it has more than {MAX_LOCK} bytes")]
    TooLong,
    /// The lock file is of something else.
    #[error("failed to find {name} in the lock file")]
    Missing {
        /// The crate.
        name: String,
    },
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

#[derive(Deserialize)]
struct CrateManifest {
    dependencies: BTreeMap<String, toml::Value>,
}

/// The document for a lock file; `created` is a time as RFC 3339 has it.
pub(super) fn spdx(lock: &str, created: &str) -> Result<Vec<u8>, SbomError> {
    if lock.len() > MAX_LOCK {
        return Err(SbomError::TooLong);
    }
    let lock_digest = Digest::of(lock.as_bytes());
    let lock: Lock = toml::from_str(lock).map_err(|error| SbomError::Lock(Box::new(error)))?;
    let used = closure(&lock.package)?;
    let mut packages: Vec<&Package> = used.keys().copied().map(|index| &lock.package[index]).collect();
    packages.sort_by_key(|package| (&package.name, &package.version));
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", &root_id(&lock.package, &used)?)];
    let mut edges: Vec<(String, String)> = used
        .iter()
        .flat_map(|(from, to)| to.iter().map(|to| (id(&lock.package[*from]), id(&lock.package[*to]))))
        .collect();
    edges.sort();
    relations.extend(edges.iter().map(|(from, to)| relation(from, "DEPENDS_ON", to)));
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": ROOT,
        "documentNamespace": format!("{}/spdx/{}", env!("CARGO_PKG_REPOSITORY"), lock_digest.hex()),
        "creationInfo": {
            "created": created,
            "creators": [format!("Tool: ichorctl-{}", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages.into_iter().map(package).collect::<Vec<_>>(),
        "relationships": relations,
    });
    let mut bytes = super::layout::json(&document);
    bytes.push(b'\n');
    Ok(bytes)
}

/// The packages that the daemon is made of, by index, and what each one uses.
fn closure(packages: &[Package]) -> Result<BTreeMap<usize, BTreeSet<usize>>, SbomError> {
    let mut used = BTreeMap::new();
    let mut open = vec![find(packages, ROOT)?];
    while let Some(index) = open.pop() {
        if used.contains_key(&index) {
            continue;
        }
        let package = &packages[index];
        let mut direct = BTreeSet::new();
        for dependency in &package.dependencies {
            if package.source.is_none() && !is_built(&package.name, dependency)? {
                continue;
            }
            direct.insert(find(packages, dependency)?);
        }
        open.extend(&direct);
        used.insert(index, direct);
    }
    Ok(used)
}

/// Whether a crate of ours uses this outside of its tests.
fn is_built(name: &str, dependency: &str) -> Result<bool, SbomError> {
    let Some((name, text)) = OURS.into_iter().find(|(ours, _)| *ours == name) else { return Ok(true) };
    let manifest: CrateManifest =
        toml::from_str(text).map_err(|source| SbomError::Manifest { name, source: Box::new(source) })?;
    Ok(manifest.dependencies.contains_key(dependency.split(' ').next().unwrap_or(dependency)))
}

/// The lock names a dependency by as many of name, version and source as are needed to tell it from others.
fn find(packages: &[Package], dependency: &str) -> Result<usize, SbomError> {
    let mut words = dependency.split(' ');
    let (name, version) = (words.next().unwrap_or_default(), words.next());
    let is_it = |package: &Package| package.name == name && version.is_none_or(|it| it == package.version);
    packages.iter().position(is_it).ok_or_else(|| SbomError::Missing { name: dependency.to_owned() })
}

fn root_id(packages: &[Package], used: &BTreeMap<usize, BTreeSet<usize>>) -> Result<String, SbomError> {
    let root = used.keys().map(|index| &packages[*index]).find(|package| package.name == ROOT);
    root.map(id).ok_or_else(|| SbomError::Missing { name: ROOT.to_owned() })
}

/// Identifiers have letters, digits, `.` and `-` only (SPDX 2.3, 3.2).
fn id(package: &Package) -> String {
    let name = format!("{}-{}", package.name, package.version);
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    format!("SPDXRef-{}", name.chars().map(safe).collect::<String>())
}

fn package(package: &Package) -> Value {
    let Package { name, version, .. } = package;
    let mut value = json!({
        "SPDXID": id(package),
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
    });
    if package.source.is_some() {
        value["downloadLocation"] =
            json!(format!("https://crates.io/api/v1/crates/{name}/{version}/download"));
        let locator = format!("pkg:cargo/{name}@{version}");
        let category = "PACKAGE-MANAGER";
        value["externalRefs"] = json!([
            {"referenceCategory": category, "referenceType": "purl", "referenceLocator": locator}
        ]);
    } else {
        value["licenseDeclared"] = json!("Apache-2.0");
    }
    if let Some(checksum) = &package.checksum {
        value["checksums"] = json!([{"algorithm": "SHA256", "checksumValue": checksum}]);
    }
    value
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = include_str!("../../../Cargo.lock");

    fn document() -> Value {
        serde_json::from_slice(&spdx(LOCK, "1970-01-01T00:00:00Z").unwrap()).unwrap()
    }

    #[test]
    fn it_lists_what_the_daemon_uses_and_not_what_its_tests_or_other_crates_use() {
        let document = document();
        let packages = document["packages"].as_array().unwrap();
        let has = |name: &str| packages.iter().any(|package| package["name"] == name);
        assert!(has("ichord") && has("ichor-mesh") && has("boringtun") && has("ring"));
        for other in ["tonic", "proptest", "etherparse", "tempfile", "criterion", "ichorctl"] {
            assert!(!has(other), "{other}");
        }
    }

    #[test]
    fn every_identifier_is_used_once_and_every_relation_leads_somewhere() {
        let document = document();
        let ids: Vec<&str> = document["packages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["SPDXID"].as_str().unwrap())
            .collect();
        let distinct: BTreeSet<&str> = ids.iter().copied().collect();
        assert_eq!(ids.len(), distinct.len());
        for relation in document["relationships"].as_array().unwrap() {
            assert!(distinct.contains(relation["relatedSpdxElement"].as_str().unwrap()));
        }
    }

    #[test]
    fn another_projects_lock_file_is_refused() {
        assert!(matches!(spdx("package = []", ""), Err(SbomError::Missing { .. })));
        assert!(matches!(spdx("][", ""), Err(SbomError::Lock(_))));
    }
}
