//! What a node says about itself that decides whether an upgrade has worked.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{ApiError, Cause, ListFilter, NodeClient, Resource, SpecError};

/// The META key that the installer writes and that the new system removes when it runs and is ready for the first time:
/// as long as it is there, an upgrade is not settled, and the node may go back by itself.
pub const UPGRADE_MARKER: u8 = 6;

/// The pseudo extension whose version is the id of the schematic.
const SCHEMATIC: &str = "schematic";

/// Longest boot id that is taken: it is a UUID, and a line break.
const MAX_BOOT_ID: usize = 64;

/// How far a node is, as it sees it itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MachineStatus {
    /// `booting`, `installing`, `maintenance`, `running`, `rebooting`, `shutting down`, `resetting`, `upgrading`.
    pub stage: String,
    #[serde(rename = "status")]
    readiness: Readiness,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Readiness {
    ready: bool,
    unmet_conditions: Vec<Unmet>,
}

/// Something that keeps a node from being ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Unmet {
    /// `time`, `network`, `services`, `staticPods`, `nodeReady`.
    pub name: String,
    /// In words.
    pub reason: String,
}

impl MachineStatus {
    /// Whether it runs and is ready. Ready alone says nothing: the node calls itself ready in all stages but two.
    /// Extension services do not count.
    pub fn is_running_and_ready(&self) -> bool {
        self.stage == "running" && self.readiness.ready
    }

    /// Whether the node calls itself ready, in whatever stage.
    pub const fn is_ready(&self) -> bool {
        self.readiness.ready
    }

    /// What keeps it from being ready.
    pub fn unmet(&self) -> &[Unmet] {
        &self.readiness.unmet_conditions
    }
}

/// The system extensions in the image of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// Name and version of each.
    pub extensions: Vec<(String, String)>,
    /// The id of the schematic, of images that come from an Image Factory.
    pub schematic: Option<String>,
}

impl Extensions {
    /// Whether there is one called `name`.
    pub fn has(&self, name: &str) -> bool {
        self.extensions.iter().any(|(it, _)| it == name)
    }

    /// The names of all.
    pub fn names(&self) -> BTreeSet<&str> {
        self.extensions.iter().map(|(name, _)| name.as_str()).collect()
    }
}

impl NodeClient {
    /// What is another one after each boot. From a resource since 1.14, which a reader may see; before from a file, for
    /// which it takes an admin.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn boot_id(&self) -> Result<String, ApiError> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Spec {
            #[serde(rename = "bootID")]
            boot_id: String,
        }
        match self.get("runtime", "BootIDs.runtime.talos.dev", "boot-id").await {
            Ok(resource) => {
                let spec: Spec = self.spec(&resource)?;
                if spec.boot_id.is_empty() {
                    return Err(self.error("Get", Cause::Incomplete("it has no boot id")));
                }
                Ok(spec.boot_id)
            }
            Err(ApiError { cause: Cause::UnknownResource(_) | Cause::NotFound(_), .. }) => {
                self.boot_id_by_file().await
            }
            Err(error) => Err(error),
        }
    }

    async fn boot_id_by_file(&self) -> Result<String, ApiError> {
        let mut stream = self.read("/proc/sys/kernel/random/boot_id").await?;
        let mut bytes = Vec::new();
        while let Some(data) = stream.next().await? {
            stream.check(&data)?;
            bytes.extend_from_slice(&data.bytes);
            if bytes.len() > MAX_BOOT_ID {
                return Err(self.error("Read", Cause::Incomplete("it is no boot id")));
            }
        }
        let text = String::from_utf8(bytes).unwrap_or_default().trim().to_owned();
        match text.is_empty() {
            true => Err(self.error("Read", Cause::Incomplete("it is no boot id"))),
            false => Ok(text),
        }
    }

    /// How far the node is.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn machine_status(&self) -> Result<MachineStatus, ApiError> {
        let resource = self.get("runtime", "MachineStatuses.runtime.talos.dev", "machine").await?;
        self.spec(&resource)
    }

    /// The extensions in the image that the node runs. An image without them removes them: this is what shows it.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn extensions(&self) -> Result<Extensions, ApiError> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Spec {
            metadata: Metadata,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Metadata {
            name: String,
            version: String,
        }
        let kind = "ExtensionStatuses.runtime.talos.dev";
        let mut found = Extensions::default();
        for resource in self.list("runtime", kind, ListFilter::default()).await? {
            let Metadata { name, version } = self.spec::<Spec>(&resource)?.metadata;
            match name.as_str() {
                SCHEMATIC => found.schematic = Some(version),
                _ => found.extensions.push((name, version)),
            }
        }
        Ok(found)
    }

    /// The META keys that are set. Their values can be secret, and are left where they are.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn meta_keys(&self) -> Result<BTreeSet<u8>, ApiError> {
        let resources = self.list("runtime", "MetaKeys.runtime.talos.dev", ListFilter::default()).await?;
        Ok(resources.iter().filter_map(|resource| meta_key(&resource.metadata.id)).collect())
    }

    fn spec<T: serde::de::DeserializeOwned>(&self, resource: &Resource) -> Result<T, ApiError> {
        let malformed = |error: SpecError| Cause::Malformed(format!("{:#}", anyhow::Error::from(error)));
        resource.spec().map_err(|error| self.error("Get", malformed(error)))
    }
}

/// The number in an id such as `0x06`.
fn meta_key(id: &str) -> Option<u8> {
    u8::from_str_radix(id.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_only_when_it_runs() {
        let status = |yaml: &str| yaml_serde::from_str::<MachineStatus>(yaml).unwrap();
        let running = status("stage: running\nstatus:\n    ready: true\n    unmetConditions: []\n");
        assert!(running.is_running_and_ready() && running.unmet().is_empty());
        // In these stages Talos says `ready: true`.
        for stage in ["rebooting", "upgrading", "maintenance", "shutting down"] {
            assert!(!status(&format!("stage: {stage}\nstatus: {{ready: true}}\n")).is_running_and_ready());
        }
        let booting = status(
            "stage: booting\nstatus:\n    ready: false\n    unmetConditions:\n        - name: services\n          reason: \
             etcd not running\n",
        );
        assert!(!booting.is_running_and_ready());
        let unmet = Unmet { name: "services".into(), reason: "etcd not running".into() };
        assert_eq!(booting.unmet(), [unmet]);
    }

    #[test]
    fn the_number_of_a_meta_key_is_in_its_id() {
        assert_eq!(meta_key("0x06"), Some(UPGRADE_MARKER));
        assert_eq!(meta_key("0xff"), Some(255));
        for id in ["", "6", "0x", "0x100", "x06"] {
            assert_eq!(meta_key(id), None, "{id}");
        }
    }
}
