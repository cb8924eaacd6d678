//! `upgrade`: another version of Talos on all nodes, without ever losing the quorum of etcd.

use std::path::PathBuf;

use clap::Args;
use futures_util::future::join_all;
use ichor_rollout::view::Lock;

use super::cluster_file;
use super::connection::Connection;
use super::plan::nodes::Nodes;
use super::rolling::{Prepared, Rolling};
use crate::api::{Capabilities, Support, TalosVersion};
use crate::config_update::NodeConfig;
use crate::exit::{Exit, Refusal, UsageError};
use crate::plan::observe::installer_of;
use crate::roll::image_check::{self, No, Today, Wanted};
use crate::roll::image_look::Looks;
use crate::roll::target::{self, Target};
use crate::roll::{now, observe, record, upgrade_plan};

/// Flags of `upgrade`.
#[derive(Args, Debug)]
pub struct UpgradeArgs {
    /// The version of Talos to go to
    #[arg(long, value_name = "VERSION")]
    to: TalosVersion,
    /// The cluster file; without it the nodes are those that the cluster knows itself
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The installer image for all nodes [default: that of each node's own schematic]
    #[arg(long, value_name = "REFERENCE", conflicts_with_all = ["schematic", "factory"])]
    image: Option<String>,
    /// Another schematic: a file, or the id of one
    #[arg(long, value_name = "FILE|ID")]
    schematic: Option<String>,
    /// The image factory [default: where the node's installer is from, else factory.talos.dev]
    #[arg(long, value_name = "HOST")]
    factory: Option<String>,
    /// The digest of an image whose extensions cannot be read from here, and that has them nevertheless
    #[arg(long, value_name = "DIGEST")]
    trust_image: Option<String>,
    /// Upgrade nodes by the legacy call even where they have the new ones
    #[arg(long)]
    legacy: bool,
    #[command(flatten)]
    rolling: Rolling,
}

impl UpgradeArgs {
    /// Runs `upgrade`.
    ///
    /// # Errors
    ///
    /// When a node cannot be read, or a guard refuses.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let talosconfig = connection.talosconfig()?;
        let session = connection.session_of(&talosconfig)?;
        let (targets, name, range) = match &self.file {
            Some(path) => {
                let cluster = cluster_file::load(path)?;
                let nodes = Nodes::connect(&cluster, connection, &talosconfig, |_| None)?;
                let targets = target::of_cluster(&cluster, &nodes)?;
                (targets, cluster.mesh.name.clone(), cluster.mesh.ranges().collect())
            }
            None => {
                let targets = target::discovered(connection).await?;
                let name = connection.context.clone().unwrap_or_else(|| "cluster".to_owned());
                (targets, name, Vec::new())
            }
        };
        target::refuse_over_mesh(&targets, session.endpoints(), |address| {
            let is_member = targets.iter().any(|target| target.mesh == Some(address));
            is_member || range.iter().any(|net: &ipnet::IpNet| net.contains(&address))
        })?;
        let wanted = self.wanted()?;
        let reached = self.rolling.reach(&targets, connection).await?;
        let kubernetes = reached.kubernetes();
        let folder = self.rolling.folder(&name)?;
        let journal = record::peek(&folder)?;
        let (began, mut told) = (now(), false);
        let read = loop {
            match join_all(targets.iter().map(read)).await.into_iter().collect::<anyhow::Result<Vec<_>>>() {
                Ok(read) => break read,
                Err(error) if !self.rolling.waits_for(&journal, began, &mut told).await => return Err(error),
                Err(_) => {}
            }
        };
        let view = observe::look(&targets, kubernetes.as_ref(), Lock::Waived).await;
        let versions: Vec<TalosVersion> = read.iter().map(|(version, _)| version.clone()).collect();
        let mut refusals = Vec::new();
        let mut images = Vec::new();
        let mut looks = Looks::new(&self.rolling.state()?);
        let has_ours = |today: &Today| today.extensions.has(upgrade_plan::EXTENSION);
        let is_mesh = read.iter().any(|(_, today)| has_ours(today));
        for (version, today) in &read {
            if *version == self.to && (!is_mesh || has_ours(today)) {
                images.push(String::new());
                continue;
            }
            if Capabilities::of(version.clone()).support == Support::Unknown {
                refusals.push(format!(
                    "{} runs {version}, which is newer than what this program knows",
                    today.node
                ));
            }
            refusals.extend(image_check::skew(&today.node, version, &self.to).err());
            if self.to.minor >= 14 && today.pins_old_etcd {
                refusals.push(format!(
                    "the config of {} names an etcd 3.5, which {} does not run: take cluster.etcd.image out of it first",
                    today.node, self.to
                ));
            }
            // One that has lost it gets what the others of its kind have.
            let lender =
                read.iter().map(|(_, it)| it).find(|it| has_ours(it) && it.platform == today.platform);
            let lent = lender
                .filter(|_| is_mesh && !has_ours(today))
                .map(|lender| Today { extensions: lender.extensions.clone(), ..today.clone() });
            let today = lent.as_ref().unwrap_or(today);
            match image_check::reference(today, &wanted, &self.to) {
                Ok(image) => images.push(image),
                Err(No::Refused(why)) => refusals.push(why),
                Err(No::Unknown(image)) => {
                    let mut has = today.extensions.names();
                    has.extend(is_mesh.then_some(upgrade_plan::EXTENSION));
                    match looks.judge(&image, &today.node, &today.machine, &has, &self.to).await {
                        Ok(pinned) => images.push(pinned),
                        Err(why) => refusals.push(why),
                    }
                }
            }
        }
        if let Some(first) = refusals.first() {
            refusals.iter().skip(1).for_each(|more| crate::output::note(&format!("refused: {more}")));
            return Err(Refusal { reason: first.clone(), advice: None }.into());
        }
        let policy = self.rolling.policy(&targets, kubernetes.is_some())?;
        let legacy: Vec<bool> = read.iter().map(|(_, today)| self.legacy || today.needs_legacy).collect();
        for (_, today) in read.iter().filter(|(_, today)| today.needs_legacy) {
            crate::output::note(&format!(
                "note: {} has extraKernelArgs, which only the legacy call passes on: it is upgraded by that",
                today.node
            ));
        }
        let source = upgrade_plan::Source {
            targets: &targets,
            view: &view,
            versions: &versions,
            to: &self.to,
            images: &images,
            has_kubernetes: kubernetes.is_some(),
            legacy: &legacy,
        };
        let plan = upgrade_plan::make(&source, policy);
        let prepared = Prepared {
            plan,
            texts: crate::roll::config_plan::Texts::new(),
            targets,
            reached,
            trusted: wanted.trusted,
            purpose: format!("upgrade to {}", self.to),
            folder,
            view: Some(view),
        };
        prepared.go(&self.rolling).await
    }

    fn wanted(&self) -> anyhow::Result<Wanted> {
        let mut wanted = Wanted {
            image: self.image.clone(),
            trusted: self.trust_image.clone(),
            factory: self.factory.clone(),
            ..Wanted::default()
        };
        let Some(text) = &self.schematic else { return Ok(wanted) };
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            wanted.schematic_id = Some(text.clone());
            return Ok(wanted);
        }
        let content = crate::files::read_bounded(text.as_ref(), 1 << 20)
            .map_err(|error| UsageError(format!("--schematic {text}: {error}")))?;
        wanted.schematic = Some(crate::schematic::parse(content.as_bytes())?);
        Ok(wanted)
    }
}

/// What is known of a node's version and image.
async fn read(target: &Target) -> anyhow::Result<(TalosVersion, Today)> {
    let node = &target.client;
    let (reply, extensions, config) = tokio::join!(node.version(), node.extensions(), NodeConfig::read(node));
    let (reply, extensions, config) = (reply?, extensions?, config?);
    let told = reply.version.unwrap_or_default();
    let version: TalosVersion = told.tag.parse()?;
    let installer = installer_of(&config.active.text).and_then(|image| image.parse().ok());
    let platform = reply.platform.map_or_else(|| "metal".to_owned(), |platform| platform.name);
    let today = Today {
        node: target.name.clone(),
        extensions,
        installer,
        platform,
        machine: told.arch,
        needs_legacy: image_check::needs_legacy(&config.active.text),
        pins_old_etcd: image_check::pins_old_etcd(&config.active.text),
    };
    Ok((version, today))
}
