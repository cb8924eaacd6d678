//! Machine configs as a node sees them: documents, what it reads from them, and what a change needs.

use std::fmt;

use similar::TextDiff;
use yaml_serde::Value;

use super::line::Line;

/// The strict reader of a node: whether it takes a config at all.
///
/// The lab has a small one of its own, [`PlainRules`]; a program that knows the types of Talos brings a better one.
pub trait ConfigRules: Send + Sync + fmt::Debug {
    /// Checks a whole config.
    ///
    /// # Errors
    ///
    /// The text with which Talos of that line refuses it.
    fn check(&self, config: &str, line: Line) -> Result<(), String>;
}

/// Rules that know the documents' frame and the documents that the lab itself uses.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainRules;

/// Keys of the document without a kind.
const LEGACY_KEYS: &[&str] = &["version", "debug", "persist", "machine", "cluster"];
/// Keys of `machine` in it.
const MACHINE_KEYS: &[&str] = &[
    "type",
    "token",
    "ca",
    "acceptedCAs",
    "certSANs",
    "controlPlane",
    "kubelet",
    "pods",
    "network",
    "disks",
    "install",
    "files",
    "env",
    "time",
    "sysctls",
    "sysfs",
    "registries",
    "systemDiskEncryption",
    "features",
    "udev",
    "logging",
    "kernel",
    "seccompProfiles",
    "baseRuntimeSpecOverrides",
    "nodeLabels",
    "nodeAnnotations",
    "nodeTaints",
];
const EXTENSION_KEYS: &[&str] = &["apiVersion", "kind", "name", "configFiles", "environment"];

impl ConfigRules for PlainRules {
    fn check(&self, config: &str, _line: Line) -> Result<(), String> {
        for document in documents(config)? {
            let (kind, name) = (text(&document, "kind"), text(&document, "name").unwrap_or_default());
            let version = text(&document, "apiVersion");
            let shown = format!("{}/{}/{name}", version.unwrap_or_default(), kind.unwrap_or("v1alpha1"));
            let unknown = match kind {
                None if version.is_some() => {
                    return Err(format!("error decoding document {shown}: missing kind"));
                }
                None => unknown_keys(&document, LEGACY_KEYS)
                    .or_else(|| document.get("machine").and_then(|it| unknown_keys(it, MACHINE_KEYS))),
                Some(_) if version.is_none() => {
                    return Err(format!("error decoding document {shown}: missing apiVersion"));
                }
                Some("ExtensionServiceConfig") => unknown_keys(&document, EXTENSION_KEYS),
                Some(_) => None,
            };
            if let Some(unknown) = unknown {
                return Err(format!(
                    "error decoding document {shown}: unknown keys found during decoding:\n{unknown}"
                ));
            }
        }
        Ok(())
    }
}

fn unknown_keys(value: &Value, known: &[&str]) -> Option<String> {
    let mapping = value.as_mapping()?;
    let unknown = mapping.iter().filter(|(key, _)| !key.as_str().is_some_and(|key| known.contains(&key)));
    let unknown: yaml_serde::Mapping = unknown.map(|(key, value)| (key.clone(), value.clone())).collect();
    if unknown.is_empty() {
        return None;
    }
    Some(yaml_serde::to_string(&unknown).unwrap_or_default())
}

/// The documents of `config`, which are mappings; empty ones are left out.
fn documents(config: &str) -> Result<Vec<Value>, String> {
    use serde::Deserialize as _;
    let mut documents: Vec<Value> = Vec::new();
    for document in yaml_serde::Deserializer::from_str(config) {
        let value = Value::deserialize(document).map_err(|error| format!("decode error: {error}"))?;
        match value {
            Value::Null => continue,
            Value::Mapping(_) => {}
            _ => return Err("expected a YAML document".to_owned()),
        }
        let id = |value: &Value| {
            let of = |key| text(value, key).unwrap_or_default().to_owned();
            (of("apiVersion"), of("kind"), of("name"))
        };
        if documents.iter().any(|other| id(other) == id(&value)) {
            let (version, kind, name) = id(&value);
            let kind = if kind.is_empty() { "v1alpha1" } else { &kind };
            return Err(format!("duplicate document {version}/{kind}/{name} is not allowed"));
        }
        documents.push(value);
    }
    Ok(documents)
}

fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key)?.as_str()
}

/// What kind of node a config makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineType {
    /// It runs etcd and the Kubernetes API.
    ControlPlane,
    /// It does not.
    Worker,
}

impl MachineType {
    /// As configs and resources write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ControlPlane => "controlplane",
            Self::Worker => "worker",
        }
    }
}

/// What an extension service gets from the config.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtensionConfig {
    /// Where and what.
    pub files: Vec<(String, String)>,
    /// `K=V`.
    pub environment: Vec<String>,
}

/// A machine config that was taken.
#[derive(Clone, PartialEq)]
pub struct Config {
    text: String,
    documents: Vec<Value>,
}

impl fmt::Debug for Config {
    /// It holds keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Config({} bytes)", self.text.len())
    }
}

impl Config {
    /// Reads a config.
    ///
    /// # Errors
    ///
    /// The text with which Talos refuses it.
    pub fn read(bytes: &[u8], line: Line, rules: &dyn ConfigRules) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| format!("decode error: {error}"))?;
        rules.check(text, line)?;
        Ok(Self { documents: documents(text)?, text: text.to_owned() })
    }

    /// What was sent, byte for byte.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The document without a kind.
    pub(crate) fn legacy(&self) -> Option<&Value> {
        self.documents.iter().find(|document| document.get("kind").is_none())
    }

    /// Whether a node can run with it: it has the document that makes it a machine of a cluster.
    pub(crate) fn is_complete(&self) -> bool {
        self.machine_type().is_some()
    }

    /// What kind of node it makes.
    pub(crate) fn machine_type(&self) -> Option<MachineType> {
        match text(self.legacy()?.get("machine")?, "type")? {
            "controlplane" | "init" => Some(MachineType::ControlPlane),
            "worker" => Some(MachineType::Worker),
            _ => None,
        }
    }

    /// The host name that it asks for.
    pub(crate) fn hostname(&self) -> Option<&str> {
        let document = self.document("HostnameConfig").find_map(|document| text(document, "hostname"));
        document.or_else(|| text(self.legacy()?.get("machine")?.get("network")?, "hostname"))
    }

    /// Names and addresses that the certificate of the API must have.
    pub(crate) fn cert_sans(&self) -> impl Iterator<Item = &str> {
        let list = self.legacy().and_then(|legacy| legacy.get("machine")?.get("certSANs")?.as_sequence());
        list.into_iter().flatten().filter_map(Value::as_str)
    }

    /// A list of texts in the document without a kind.
    pub(crate) fn list(&self, path: &[&str]) -> Vec<&str> {
        let found = path.iter().try_fold(self.legacy(), |value, key| Some(value?.get(key)));
        let list = found.flatten().and_then(Value::as_sequence);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The configs of extension services, by their names.
    pub(crate) fn extensions(&self) -> impl Iterator<Item = (&str, ExtensionConfig)> {
        self.document("ExtensionServiceConfig").filter_map(|document| {
            let items = |key| document.get(key).and_then(Value::as_sequence).into_iter().flatten();
            let owned = |value: &Value, key| text(value, key).unwrap_or_default().to_owned();
            let config = ExtensionConfig {
                files: items("configFiles")
                    .map(|file| (owned(file, "mountPath"), owned(file, "content")))
                    .collect(),
                environment: items("environment").filter_map(Value::as_str).map(str::to_owned).collect(),
            };
            Some((text(document, "name")?, config))
        })
    }

    /// The file that an extension service finds at `path`.
    pub fn file(&self, path: &str) -> Option<String> {
        let mut files = self.extensions().flat_map(|(_, extension)| extension.files);
        files.find(|(mount, _)| mount == path).map(|(_, content)| content)
    }

    /// The documents of a kind.
    pub(crate) fn document(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.documents.iter().filter(move |document| text(document, "kind") == Some(kind))
    }

    /// Whether what no rule of its firewall allows is dropped.
    pub(crate) fn blocks(&self) -> bool {
        self.document("NetworkDefaultActionConfig").any(|document| text(document, "ingress") == Some("block"))
    }

    /// What Talos finds wrong with what the config says, all of it in one text.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let mut errors = Vec::new();
        if let Some(legacy) = self.legacy() {
            let machine_type = legacy.get("machine").and_then(|machine| text(machine, "type"));
            match machine_type {
                Some("controlplane" | "init" | "worker") => {}
                Some(other) => errors.push(format!("v1alpha1.Config: unknown machine type {other:?}")),
                None => errors.push("v1alpha1.Config: machine instructions are required".to_owned()),
            }
            if machine_type == Some("worker")
                && legacy.get("cluster").is_some_and(|it| it.get("etcd").is_some())
            {
                errors.push(
                    "v1alpha1.Config: etcd config is only allowed on control plane machines".to_owned(),
                );
            }
        }
        for document in self.document("ExtensionServiceConfig") {
            if document.get("configFiles").is_none() && document.get("environment").is_none() {
                let name = text(document, "name").unwrap_or_default();
                errors
                    .push(format!("ExtensionServiceConfig/{name}: no config files or environment variables"));
            }
        }
        if errors.is_empty() {
            return Ok(());
        }
        let count = errors.len();
        let items: String = errors.iter().map(|error| format!("\t* {error}\n")).collect();
        Err(format!("{count} error{} occurred:\n{items}\n", if count == 1 { "" } else { "s" }))
    }

    /// Whether Talos up to 1.13 must reboot to run with `self` instead of `before`. Documents with a kind never
    /// need that (Talos: `CanApplyImmediate`).
    pub(crate) fn needs_reboot_after(&self, before: &Self) -> bool {
        rest(self.legacy()) != rest(before.legacy())
    }

    /// The difference to `before`, as Talos shows it: with every secret.
    pub(crate) fn diff(before: Option<&Self>, after: &Self) -> String {
        let before = before.map_or("", Self::text);
        if before == after.text {
            return "No changes.".to_owned();
        }
        TextDiff::from_lines(before, &after.text).unified_diff().header("a", "b").to_string()
    }
}

/// What of the document without a kind cannot change while the node runs, up to 1.13.
fn rest(legacy: Option<&Value>) -> Option<Value> {
    const LIVE: &[&str] = &[
        "ca",
        "acceptedCAs",
        "time",
        "certSANs",
        "install",
        "network",
        "sysfs",
        "sysctls",
        "logging",
        "controlPlane",
        "kubelet",
        "kernel",
        "registries",
        "pods",
        "seccompProfiles",
        "nodeAnnotations",
        "nodeLabels",
        "nodeTaints",
    ];
    const LIVE_FEATURES: &[&str] =
        &["kubernetesTalosAPIAccess", "kubePrism", "hostDNS", "imageCache", "nodeAddressSortAlgorithm"];
    let mut rest = legacy?.clone();
    let root = rest.as_mapping_mut()?;
    root.remove("debug");
    root.remove("cluster");
    if let Some(machine) = root.get_mut("machine").and_then(Value::as_mapping_mut) {
        LIVE.iter().for_each(|key| drop(machine.remove(*key)));
        if let Some(features) = machine.get_mut("features").and_then(Value::as_mapping_mut) {
            LIVE_FEATURES.iter().for_each(|key| drop(features.remove(*key)));
        }
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: &str = "version: v1alpha1\nmachine:\n  type: worker\n  certSANs: [a]\ncluster: {}\n";

    fn read(text: &str) -> Result<Config, String> {
        Config::read(text.as_bytes(), Line::V1_13, &PlainRules)
    }

    #[test]
    fn keys_that_nobody_knows_are_refused_with_what_they_hold() {
        let error = read("machine:\n  type: worker\n  certSan: [a]\n").unwrap_err();
        assert_eq!(
            error,
            "error decoding document /v1alpha1/: unknown keys found during decoding:\ncertSan:\n- a\n"
        );
        assert!(read("kind: X\n").unwrap_err().contains("missing apiVersion"));
        assert!(read("apiVersion: v1alpha1\n").unwrap_err().contains("missing kind"));
        assert!(read("- a\n").is_err());
        assert!(read("a: [\n").is_err());
    }

    #[test]
    fn a_document_may_be_there_once() {
        let twice = format!("{WORKER}---\n{WORKER}");
        assert!(read(&twice).unwrap_err().starts_with("duplicate document /v1alpha1/ is not allowed"));
    }

    #[test]
    fn a_change_of_the_environment_needs_a_reboot_and_one_of_the_kubelet_does_not() {
        let before = read(WORKER).unwrap();
        let with =
            |more: &str| read(&WORKER.replace("  certSANs", &format!("  {more}\n  certSANs"))).unwrap();
        assert!(with("env: {A: b}").needs_reboot_after(&before));
        assert!(with("features: {rbac: true}").needs_reboot_after(&before));
        assert!(!with("kubelet: {nodeIP: {validSubnets: [10.0.0.0/8]}}").needs_reboot_after(&before));
        let document = format!("{WORKER}---\napiVersion: v1alpha1\nkind: HostnameConfig\nhostname: x\n");
        assert!(!read(&document).unwrap().needs_reboot_after(&before));
    }

    #[test]
    fn what_a_node_reads_may_stand_in_either_dialect() {
        let document = format!("{WORKER}---\napiVersion: v1alpha1\nkind: HostnameConfig\nhostname: x\n");
        assert_eq!(read(&document).unwrap().hostname(), Some("x"));
        let legacy = WORKER.replace("certSANs", "network: {hostname: y}\n  certSANs");
        let config = read(&legacy).unwrap();
        assert_eq!(config.hostname(), Some("y"));
        assert_eq!(config.cert_sans().collect::<Vec<_>>(), ["a"]);
        assert_eq!(config.machine_type(), Some(MachineType::Worker));
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let config = "machine: {type: worker}\ncluster: {etcd: {}}\n---\napiVersion: v1alpha1\n\
                      kind: ExtensionServiceConfig\nname: ichor\n";
        let error = read(config).unwrap().validate().unwrap_err();
        assert!(error.starts_with("2 errors occurred:\n\t* v1alpha1.Config: etcd"), "{error}");
        assert!(error.contains("* ExtensionServiceConfig/ichor: no config files"), "{error}");
    }
}
