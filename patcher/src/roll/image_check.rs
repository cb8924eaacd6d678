//! Whether an image may replace the one that a node runs.

use std::collections::BTreeSet;

use serde::Deserialize as _;
use yaml_serde::Value;

use crate::api::{Extensions, TalosVersion};
use crate::schematic::{Installer, PUBLIC_FACTORY, Schematic};

/// What the operator asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// An installer image for all nodes.
    pub(crate) image: Option<String>,
    /// The digest of an image whose content nobody here can see.
    pub(crate) trusted: Option<String>,
    /// The schematic of the image, whose extensions can be read.
    pub(crate) schematic: Option<Schematic>,
    /// Its id, when only that was given.
    pub(crate) schematic_id: Option<String>,
    /// Where images come from, if not from where the node's own did.
    pub(crate) factory: Option<String>,
}

/// Why an image is not to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum No {
    /// It must not be.
    Refused(String),
    /// Its name does not tell what it has. Somebody has to look into it.
    Unknown(String),
}

impl From<String> for No {
    fn from(text: String) -> Self {
        Self::Refused(text)
    }
}

/// What is known of a node's image today.
#[derive(Debug, Clone)]
pub(crate) struct Today {
    /// The node.
    pub(crate) node: String,
    /// The extensions of its image.
    pub(crate) extensions: Extensions,
    /// The installer that its config names, if it is one of a factory.
    pub(crate) installer: Option<Installer>,
    /// Its platform, such as `metal`.
    pub(crate) platform: String,
    /// What kind of machine it is, as OCI calls it: `amd64` or `arm64`.
    pub(crate) machine: String,
    /// Whether only the legacy call keeps what it boots with.
    pub(crate) needs_legacy: bool,
    /// Whether its config names an etcd that Talos 1.14 does not run.
    pub(crate) pins_old_etcd: bool,
}

/// The reference of the image for one node.
///
/// # Errors
///
/// Why there is none, or it must not be used: it lacks what the node has, or nobody knows what it has.
pub(crate) fn reference(today: &Today, wanted: &Wanted, to: &TalosVersion) -> Result<String, No> {
    let has = today.extensions.names();
    if let Some(image) = &wanted.image {
        if wanted.trusted.is_some() {
            return Ok(image.clone());
        }
        let Ok(named) = image.parse::<Installer>() else { return Err(No::Unknown(image.clone())) };
        if today.extensions.schematic.as_ref() != Some(&named.schematic) {
            return Err(No::Unknown(image.clone()));
        }
        if named.version != to.to_string() {
            return Err(format!("{image} is not of {to}").into());
        }
        return Ok(image.clone());
    }
    let id = match (&wanted.schematic, &wanted.schematic_id) {
        (Some(schematic), _) => {
            lacks_nothing(today, &has, schematic)?;
            crate::schematic::id(schematic).map_err(|error| error.to_string())?
        }
        (None, Some(id)) => id.clone(),
        (None, None) => match &today.extensions.schematic {
            Some(own) => own.clone(),
            None if has.is_empty() => empty_schematic(),
            None => {
                return Err(format!(
                    "the image of {} was not made by an image factory: it tells its extensions ({}) but not its \
                     schematic; say --image, or --schematic with a file",
                    today.node,
                    list(&has)
                )
                .into());
            }
        },
    };
    let own = today.installer.as_ref();
    let factory = wanted.factory.as_deref().or(own.map(|it| it.factory.as_str())).unwrap_or(PUBLIC_FACTORY);
    let platform = own.map_or(today.platform.as_str(), |it| it.platform.as_str());
    let secureboot = own.is_some_and(|it| it.secureboot);
    let installer = Installer::new(factory, platform, secureboot, &id, &to.to_string());
    let image = installer.map_err(|error| error.to_string())?.to_string();
    let is_known = wanted.schematic.is_some()
        || wanted.trusted.is_some()
        || wanted.schematic_id.as_ref().is_none_or(|id| today.extensions.schematic.as_ref() == Some(id));
    if is_known { Ok(image) } else { Err(No::Unknown(image)) }
}

/// Why an image that could not be looked into is refused.
pub(crate) fn unknown(node: &str, has: &BTreeSet<&str>, image: &str, why: &str) -> String {
    format!(
        "nobody here knows whether {image} has the extensions that {node} needs ({}): {why}; where its registry can be \
         read, `ichorctl image installer {image} --record` writes down what it has; or look yourself, and say \
         --trust-image sha256:...",
        list(has)
    )
}

/// Extensions are named `owner/name` in schematics, and by their last part on nodes.
fn lacks_nothing(today: &Today, has: &BTreeSet<&str>, schematic: &Schematic) -> Result<(), String> {
    let named: BTreeSet<&str> =
        schematic.extensions.iter().map(|name| name.rsplit('/').next().unwrap_or(name)).collect();
    let lacks: BTreeSet<&str> = has.difference(&named).copied().collect();
    match lacks.is_empty() {
        true => Ok(()),
        false => Err(format!("the schematic lacks {}, which {} has", list(&lacks), today.node)),
    }
}

fn list(names: &BTreeSet<&str>) -> String {
    names.iter().copied().collect::<Vec<_>>().join(", ")
}

/// The id of a schematic that asks for nothing.
fn empty_schematic() -> String {
    crate::schematic::id(&Schematic::default()).unwrap_or_default()
}

/// Whether a config has kernel arguments that the new calls would lose: those of nodes whose boot loader takes them from the
/// installer and not from the image (Talos: `machine.install.extraKernelArgs` without `grubUseUKICmdline`).
pub(crate) fn needs_legacy(config: &str) -> bool {
    let install = value(config, &["machine", "install"]).unwrap_or_default();
    let has_arguments =
        install.get("extraKernelArgs").and_then(Value::as_sequence).is_some_and(|it| !it.is_empty());
    has_arguments && install.get("grubUseUKICmdline").and_then(Value::as_bool) != Some(true)
}

/// Whether a config names an etcd of a line that Talos 1.14 does not support any more.
pub(crate) fn pins_old_etcd(config: &str) -> bool {
    let image = value(config, &["cluster", "etcd", "image"]);
    image
        .as_ref()
        .and_then(Value::as_str)
        .is_some_and(|image| image.contains(":v3.5") || image.contains(":v3.4"))
}

/// A value of the legacy document.
fn value(config: &str, path: &[&str]) -> Option<Value> {
    let documents = yaml_serde::Deserializer::from_str(config).filter_map(|it| Value::deserialize(it).ok());
    let legacy = documents.into_iter().find(|document| document.get("kind").is_none())?;
    path.iter().try_fold(legacy, |value, key| value.get(*key).cloned())
}

/// Whether Talos supports the way from one version to another: one minor release at a time, and no way back but by the
/// other slot (Talos: upgrading, "from the latest patch release of each minor").
///
/// # Errors
///
/// Why not, and what to do first.
pub(crate) fn skew(node: &str, from: &TalosVersion, to: &TalosVersion) -> Result<(), String> {
    let (old, new) = ((from.major, from.minor), (to.major, to.minor));
    if new < old || (new == old && to.patch < from.patch) {
        return Err(format!(
            "{node} runs {from}, which is newer than {to}: `ichorctl rollback {node}` boots the image that it had before"
        ));
    }
    if new.0 != old.0 || new.1 > old.1 + 1 {
        let step = format!("v{}.{}", old.0, old.1 + 1);
        return Err(format!(
            "{node} runs {from}: {to} is more than one minor release away; go to {step} first"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn today(extensions: &[&str], schematic: Option<&str>) -> Today {
        Today {
            node: "cp-1".to_owned(),
            extensions: Extensions {
                extensions: extensions.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect(),
                schematic: schematic.map(str::to_owned),
            },
            installer: None,
            platform: "metal".to_owned(),
            machine: "amd64".to_owned(),
            needs_legacy: false,
            pins_old_etcd: false,
        }
    }

    fn version(text: &str) -> TalosVersion {
        text.parse().unwrap()
    }

    const ID: &str = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba";

    #[test]
    fn the_schematic_of_the_node_is_kept() {
        let image = reference(&today(&["ichor"], Some(ID)), &Wanted::default(), &version("v1.14.1")).unwrap();
        assert_eq!(image, format!("factory.talos.dev/metal-installer/{ID}:v1.14.1"));
        assert_eq!(empty_schematic(), ID);
    }

    #[test]
    fn an_image_that_lacks_an_extension_is_refused_and_an_unknown_one_has_to_be_looked_at() {
        let to = version("v1.14.1");
        let node = today(&["ichor", "iscsi-tools"], Some(ID));
        let lacking = Schematic { extensions: vec!["ichor-mesh/ichor".to_owned()], ..Schematic::default() };
        let wanted = Wanted { schematic: Some(lacking), ..Wanted::default() };
        let lacks = No::Refused("the schematic lacks iscsi-tools, which cp-1 has".to_owned());
        assert_eq!(reference(&node, &wanted, &to), Err(lacks));
        let image = "registry.example/installer:v1.14.1".to_owned();
        let wanted = Wanted { image: Some(image.clone()), ..Wanted::default() };
        assert_eq!(reference(&node, &wanted, &to), Err(No::Unknown(image.clone())));
        let wanted =
            Wanted { image: Some(image.clone()), trusted: Some("sha256:ab".to_owned()), ..Wanted::default() };
        assert_eq!(reference(&node, &wanted, &to).unwrap(), image);
        let homemade = reference(&today(&["ichor"], None), &Wanted::default(), &to).unwrap_err();
        assert!(matches!(homemade, No::Refused(text) if text.contains("not made by")));
        // Another schematic than that of the node, by its id alone.
        let other = ID.replace('3', "4");
        let wanted = Wanted { schematic_id: Some(other.clone()), ..Wanted::default() };
        let image = format!("factory.talos.dev/metal-installer/{other}:v1.14.1");
        assert_eq!(reference(&node, &wanted, &to), Err(No::Unknown(image)));
    }

    #[test]
    fn kernel_arguments_of_the_installer_and_an_old_etcd_are_found() {
        let install = |more: &str| format!("machine:\n  install: {{extraKernelArgs: [a=b]{more}}}\n");
        assert!(needs_legacy(&install("")) && needs_legacy(&install(", grubUseUKICmdline: false")));
        assert!(!needs_legacy(&install(", grubUseUKICmdline: true")));
        assert!(!needs_legacy("machine: {install: {disk: /dev/sda}}\n"));
        let etcd = |tag: &str| format!("kind: X\n---\ncluster: {{etcd: {{image: 'gcr.io/etcd:{tag}'}}}}\n");
        assert!(pins_old_etcd(&etcd("v3.5.21")) && !pins_old_etcd(&etcd("v3.6.5")) && !pins_old_etcd(""));
    }

    #[test]
    fn one_minor_release_at_a_time_and_not_back() {
        let ok = |from: &str, to: &str| skew("n", &version(from), &version(to)).is_ok();
        assert!(ok("v1.12.4", "v1.13.0") && ok("v1.13.0", "v1.13.9") && ok("v1.13.9", "v1.13.9"));
        assert!(!ok("v1.12.4", "v1.14.0") && !ok("v1.14.0", "v1.13.9") && !ok("v1.13.9", "v1.13.8"));
    }
}
