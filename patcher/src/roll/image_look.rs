//! What an installer image has in it: as its registry shows, or as somebody wrote down who could look.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{image_check, sealed};
use crate::api::TalosVersion;
use crate::image::{InstallerContents, Reference, Registry};

/// The record of images that were looked at, in the folder that is named.
pub(crate) fn record_path(folder: &Path) -> PathBuf {
    folder.join("installers.json")
}

/// An image that was looked at.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    reference: String,
    contents: InstallerContents,
}

/// Writes down what an image had in it when it was looked at, in place of what was known of it for the same machines.
///
/// # Errors
///
/// When the record is damaged or cannot be written.
pub(crate) fn write_down(path: &Path, reference: &str, contents: &InstallerContents) -> anyhow::Result<()> {
    let mut entries: Vec<Entry> = sealed::read(path)?;
    entries.retain(|it| it.reference != reference || it.contents.architecture != contents.architecture);
    entries.push(Entry { reference: reference.to_owned(), contents: contents.clone() });
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("failed to make the directory {}", folder.display()))?;
    }
    sealed::write(path, &entries)
}

/// Reads an image in its registry. Only registries on this machine are talked to without TLS, unless that is asked for.
///
/// # Errors
///
/// When the reference is none, or the image cannot be read or is no installer.
pub(crate) async fn inspect(
    reference: &Reference,
    machine: &str,
    plain_http: bool,
) -> anyhow::Result<InstallerContents> {
    let host = reference.host.rsplit_once(':').map_or(reference.host.as_str(), |(host, _)| host);
    let is_here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|it| it.is_loopback());
    let mut registry = Registry::open(reference, plain_http || is_here)?;
    registry.installer(reference, machine).await.with_context(|| format!("failed to look into {reference}"))
}

/// Images that were looked at in this run, and the record.
#[derive(Debug)]
pub(crate) struct Looks {
    record: PathBuf,
    seen: BTreeMap<(String, String), Result<InstallerContents, String>>,
}

impl Looks {
    /// `folder`: where the record is.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { record: record_path(folder), seen: BTreeMap::new() }
    }

    /// What an image has in it for machines of this kind, by its registry, or else by the record.
    ///
    /// # Errors
    ///
    /// Why neither tells.
    pub(crate) async fn at(&mut self, image: &str, machine: &str) -> Result<InstallerContents, String> {
        let key = (image.to_owned(), machine.to_owned());
        if let Some(seen) = self.seen.get(&key) {
            return seen.clone();
        }
        let found = match image.parse::<Reference>() {
            Ok(reference) => inspect(&reference, machine, false).await.map_err(|error| format!("{error:#}")),
            Err(error) => Err(error.to_string()),
        };
        let found = match found {
            Err(why) => self.recorded(image, machine).ok_or(why),
            found => found,
        };
        self.seen.insert(key, found.clone());
        found
    }

    /// The reference to use for an image that a node gets.
    ///
    /// # Errors
    ///
    /// Why it must not be used.
    pub(crate) async fn judge(&mut self, image: &str, fit: &Fit<'_>) -> Result<String, String> {
        match self.at(image, fit.machine).await {
            Ok(contents) => judge(image, &contents, fit),
            Err(why) => Err(image_check::unknown(fit.node, &fit.needs, image, &why)),
        }
    }

    fn recorded(&self, image: &str, machine: &str) -> Option<InstallerContents> {
        let entries: Vec<Entry> = sealed::read(&self.record).ok()?;
        let is_it = |it: &Entry| it.reference == image && it.contents.architecture == machine;
        entries.into_iter().find(is_it).map(|entry| entry.contents)
    }
}

/// What an image has to be.
#[derive(Debug)]
pub(crate) struct Fit<'a> {
    /// The node that it is for.
    pub(crate) node: &'a str,
    /// What kind of machine that is, as OCI calls it.
    pub(crate) machine: &'a str,
    /// Extensions that it must have.
    pub(crate) needs: BTreeSet<&'a str>,
    /// Extensions that it must not have.
    pub(crate) without: &'a [String],
    /// The version of Talos that it must be of.
    pub(crate) version: &'a TalosVersion,
}

/// The reference to use for an image: by its digest, so that what was looked at is what comes.
fn judge(image: &str, contents: &InstallerContents, fit: &Fit<'_>) -> Result<String, String> {
    if contents.version.parse::<TalosVersion>().ok().as_ref() != Some(fit.version) {
        return Err(format!("{image} is of Talos {}, and not of {}", contents.version, fit.version));
    }
    let has = |name: &str| contents.extensions.contains_key(name);
    let lacks: Vec<&str> = fit.needs.iter().copied().filter(|name| !has(name)).collect();
    if !lacks.is_empty() {
        return Err(format!("{image} lacks {}, for {}", lacks.join(", "), fit.node));
    }
    if let Some(name) = fit.without.iter().find(|name| has(name)) {
        return Err(format!("{image} still has {name}"));
    }
    let mut reference: Reference = image.parse().map_err(|error| format!("{error}"))?;
    reference.tag = None;
    reference.digest = Some(contents.digest);
    Ok(reference.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    fn contents(extensions: &[&str]) -> InstallerContents {
        InstallerContents {
            digest: Digest::of(b"an image"),
            architecture: "amd64".to_owned(),
            version: "v1.14.1".to_owned(),
            extensions: extensions.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect(),
            schematic: None,
        }
    }

    #[test]
    fn an_image_is_taken_by_its_digest_and_one_that_lacks_something_is_not() {
        let (version, image) = ("v1.14.1".parse().unwrap(), "registry.example/installer:v1.14.1");
        let needs = BTreeSet::from(["ichor", "iscsi-tools"]);
        let fit = Fit { node: "cp-1", machine: "amd64", needs, without: &[], version: &version };
        let whole = contents(&["ichor", "iscsi-tools", "more"]);
        let pinned = judge(image, &whole, &fit).unwrap();
        assert_eq!(pinned, format!("registry.example/installer@{}", whole.digest));
        let lacking = judge(image, &contents(&["ichor"]), &fit).unwrap_err();
        assert_eq!(lacking, "registry.example/installer:v1.14.1 lacks iscsi-tools, for cp-1");
        let without = Fit { without: &["more".to_owned()], needs: fit.needs.clone(), ..fit };
        assert!(judge(image, &whole, &without).unwrap_err().contains("still has more"));
        let other = Fit { version: &"v1.14.2".parse().unwrap(), ..fit };
        assert!(judge(image, &whole, &other).unwrap_err().contains("is of Talos v1.14.1"));
    }

    #[tokio::test]
    async fn what_was_written_down_is_believed_where_the_registry_does_not_answer() {
        let folder = tempfile::tempdir().unwrap();
        // Nothing listens there.
        let image = "localhost:1/installer:v1.14.1";
        let mut looks = Looks::new(folder.path());
        assert!(looks.at(image, "amd64").await.unwrap_err().contains("failed to look into"));
        for extensions in [&["old"][..], &["ichor"]] {
            write_down(&record_path(folder.path()), image, &contents(extensions)).unwrap();
        }
        let mut looks = Looks::new(folder.path());
        assert_eq!(looks.at(image, "amd64").await.unwrap(), contents(&["ichor"]));
        assert!(looks.at(image, "arm64").await.is_err());
    }
}
