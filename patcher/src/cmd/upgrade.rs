//! `upgrade`: another version of Talos on all nodes, without ever losing the quorum of etcd.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use ichor_rollout::journal::Journal;
use ichor_rollout::view::{Digest, Lock};

use super::cluster_file;
use super::connection::Connection;
use super::plan::nodes::Nodes;
use super::rolling::{Prepared, Rolling};
use crate::api::{ApiError, Capabilities, Support, TalosVersion};
use crate::config_update::NodeConfig;
use crate::exit::{Exit, Refusal, UsageError};
use crate::plan::observe::installer_of;
use crate::roll::image_check::{self, No, Today, Wanted};
use crate::roll::image_look::{Fit, Looks};
use crate::roll::target::{self, Target};
use crate::roll::upgrade_plan::{self, Choice};
use crate::roll::{now, observe, record, show};

/// How long a node may take to tell what it runs.
const READ: Duration = Duration::from_secs(10);

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
    /// Extensions that are to go: the new image has not to have them, and must not
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    without: Vec<String>,
    /// Leave these nodes as they are, also if they do not answer; workers among them count as unavailable
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    skip: Vec<String>,
    /// Take the config that these nodes have, although another one was there when an upgrade that was stopped began
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    accept_config: Vec<String>,
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
        show::error_ending(self.rolling.output, self.carry_out(connection).await)
    }

    async fn carry_out(self, connection: &Connection) -> anyhow::Result<Exit> {
        let talosconfig = connection.talosconfig()?;
        let session = connection.session_of(&talosconfig)?;
        let (mut targets, name, range) = match &self.file {
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
        for (flag, names) in [("--skip", &self.skip), ("--accept-config", &self.accept_config)] {
            if let Some(name) = names.iter().find(|name| !targets.iter().any(|it| it.name == **name)) {
                return Err(UsageError(format!("{flag} {name}: there is no such node")).into());
            }
        }
        let (read, view) = loop {
            let nodes = targets.iter().map(|target| async {
                if self.skip.contains(&target.name) { Ok(None) } else { read(target).await.map(Some) }
            });
            let looking = observe::look(&targets, kubernetes.as_ref(), Lock::Waived);
            let (read, view) = tokio::join!(join_all(nodes), looking);
            let (known, unknown): (Vec<_>, Vec<_>) = read.into_iter().partition(Result::is_ok);
            if unknown.is_empty() {
                break (known.into_iter().flatten().collect::<Vec<_>>(), view);
            }
            if !self.rolling.waits_for(&journal, began, &mut told).await {
                return Err(unread(unknown.into_iter().filter_map(Result::err).collect()));
            }
        };
        // Each look would wait for it again.
        for (target, seen) in targets.iter_mut().zip(&view.nodes) {
            target.is_given_up = self.skip.contains(&target.name) && !target.votes && !seen.answers;
        }
        let choices = self.choose(&read, &wanted).await?;
        let policy = self.rolling.policy(&targets, kubernetes.is_some())?;
        let source = upgrade_plan::Source {
            targets: &targets,
            view: &view,
            configs: &targets.iter().map(|target| self.config_of(&journal, target)).collect::<Vec<_>>(),
            to: &self.to,
            choices: &choices,
            without: &self.without.iter().cloned().collect(),
            has_kubernetes: kubernetes.is_some(),
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

    /// The config that a node had when an upgrade of it began that is not over: what it has now may be what a boot left
    /// of it.
    fn config_of(&self, journal: &Journal, target: &Target) -> Option<Digest> {
        journal.config_of(&target.name).filter(|_| !self.accept_config.contains(&target.name))
    }

    /// What each node gets; none where nothing was read.
    async fn choose(
        &self,
        read: &[Option<(TalosVersion, Today)>],
        wanted: &Wanted,
    ) -> anyhow::Result<Vec<Option<Choice>>> {
        let mut looks = Looks::new(&self.rolling.state()?);
        let all: Vec<&Today> = read.iter().flatten().map(|(_, today)| today).collect();
        let (mut choices, mut refusals) = (Vec::new(), Vec::new());
        for node in read {
            let Some((version, today)) = node else {
                choices.push(None);
                continue;
            };
            if today.needs_legacy {
                crate::output::note(&format!(
                    "note: {} has extraKernelArgs, which only the legacy call passes on: it is upgraded by that",
                    today.node
                ));
            }
            let image = match self.image(version, today, &all, wanted, &mut looks).await {
                Ok(image) => image,
                Err(why) => {
                    refusals.extend(why);
                    None
                }
            };
            let is_legacy = self.legacy || today.needs_legacy;
            choices.push(Some(Choice { version: version.clone(), image, is_legacy }));
        }
        match refusals.split_first() {
            None => Ok(choices),
            Some((first, others)) => {
                others.iter().for_each(|more| crate::output::note(&format!("refused: {more}")));
                Err(Refusal { reason: first.clone(), advice: None }.into())
            }
        }
    }

    /// The image for a node, if it needs one.
    async fn image(
        &self,
        version: &TalosVersion,
        today: &Today,
        all: &[&Today],
        wanted: &Wanted,
        looks: &mut Looks,
    ) -> Result<Option<String>, Vec<String>> {
        let has_ours = |today: &Today| today.extensions.has(upgrade_plan::EXTENSION);
        let is_to_go = |name: &str| self.without.iter().any(|it| it == name);
        let is_mesh = all.iter().any(|today| has_ours(today)) && !is_to_go(upgrade_plan::EXTENSION);
        let goes = today.extensions.names().into_iter().any(is_to_go);
        if *version == self.to && (!is_mesh || has_ours(today)) && !goes {
            return Ok(None);
        }
        let mut refusals = Vec::new();
        if Capabilities::of(version.clone()).support == Support::Unknown {
            refusals
                .push(format!("{} runs {version}, which is newer than what this program knows", today.node));
        }
        refusals.extend(image_check::skew(&today.node, version, &self.to).err());
        if self.to.minor >= 14 && today.pins_old_etcd {
            refusals.push(format!(
                "the config of {} names an etcd 3.5, which {} does not run: take cluster.etcd.image out of it first",
                today.node, self.to
            ));
        }
        // One that has lost it gets what the others of its kind have.
        let lender = all.iter().find(|it| has_ours(it) && it.platform == today.platform);
        let lent = lender
            .filter(|_| is_mesh && !has_ours(today))
            .map(|lender| Today { extensions: lender.extensions.clone(), ..today.clone() });
        let mut today = lent.as_ref().unwrap_or(today).clone();
        today.extensions.extensions.retain(|(name, _)| !is_to_go(name));
        let image = match image_check::reference(&today, wanted, &self.to) {
            // Its own schematic again.
            Ok(image)
                if goes && today.extensions.schematic.as_ref().is_some_and(|own| image.contains(own)) =>
            {
                refusals.push(format!(
                    "{image} still has what is to go from {}: say --image or --schematic",
                    today.node
                ));
                None
            }
            Ok(image) => Some(image),
            Err(No::Refused(why)) => {
                refusals.push(why);
                None
            }
            Err(No::Unknown(image)) => {
                let mut needs = today.extensions.names();
                needs.extend(is_mesh.then_some(upgrade_plan::EXTENSION));
                let fit = Fit {
                    node: &today.node,
                    machine: &today.machine,
                    needs,
                    without: &self.without,
                    version: &self.to,
                };
                let judged = looks.judge(&image, &fit).await;
                judged.map_err(|why| refusals.push(why)).ok()
            }
        };
        if refusals.is_empty() { Ok(image) } else { Err(refusals) }
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
        let schematic = crate::schematic::parse(content.as_bytes())?;
        let is_to_go =
            |name: &String| self.without.iter().any(|it| name.rsplit('/').next() == Some(it.as_str()));
        if let Some(name) = schematic.extensions.iter().find(|name| is_to_go(name)) {
            return Err(UsageError(format!(
                "--schematic {text} has {name}, and --without says that it is to go"
            ))
            .into());
        }
        wanted.schematic = Some(schematic);
        Ok(wanted)
    }
}

/// Why there is no plan: of each node it has to be known what it runs.
fn unread(failed: Vec<(String, anyhow::Error)>) -> anyhow::Error {
    let is_silent = |(_, error): &(String, anyhow::Error)| {
        error.chain().filter_map(|cause| cause.downcast_ref::<ApiError>()).any(|it| it.cause.is_transient())
    };
    let (silent, mut others): (Vec<_>, Vec<_>) = failed.into_iter().partition(is_silent);
    if let Some((node, error)) = others.pop() {
        return error.context(format!("failed to read {node}"));
    }
    let said: Vec<String> = silent.iter().map(|(node, error)| format!("{node} ({error:#})")).collect();
    let advice = "bring back what does not answer; --skip NODE leaves out a worker that will not come back";
    Refusal {
        reason: format!(
            "what every node runs has to be known, and there is no answer from {}",
            said.join(", ")
        ),
        advice: Some(advice.to_owned()),
    }
    .into()
}

/// What is known of a node's version and image; or its name, and why that is not known.
async fn read(target: &Target) -> Result<(TalosVersion, Today), (String, anyhow::Error)> {
    read_one(target).await.map_err(|error| (target.name.clone(), error))
}

async fn read_one(target: &Target) -> anyhow::Result<(TalosVersion, Today)> {
    let node = &target.client.clone().with_deadline(READ);
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
