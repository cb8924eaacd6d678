//! `apply`: what `plan` shows, done in the order in which each state in between has a quorum.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use ichor_proto::talos::machine::apply_configuration_request::Mode;
use ichor_rollout::view::{Lock, View};

use super::cluster_file;
use super::connection::Connection;
use super::plan::nodes::Nodes;
use super::plan::{make, tell_refusals};
use super::rolling::{Prepared, Rolling};
use crate::api::Capabilities;
use crate::cluster::Cluster;
use crate::config_update::NodeConfig;
use crate::exit::{Exit, Refusal, UsageError};
use crate::output;
use crate::plan::Options;
use crate::roll::config_plan::{self, STAGES};
use crate::roll::image_look::{Fit, Looks};
use crate::roll::perform::flow_of;
use crate::roll::record;
use crate::roll::target::Target;
use crate::roll::undo::{Extent, Undo};
use crate::roll::upgrade_plan::EXTENSION;
use crate::roll::{now, observe, show, target};

/// Flags of `apply`.
#[derive(Args, Debug)]
pub struct ApplyArgs {
    /// The cluster file
    #[arg(short, long, value_name = "FILE", default_value = "ichor.yaml")]
    file: PathBuf,
    /// Plan for nodes whose Talos is newer than what this program knows
    #[arg(long)]
    allow_unknown_talos: bool,
    /// Stop after this stage: pin, mesh, image, prove, switch or firewall
    #[arg(long, value_name = "STAGE", default_value = "firewall")]
    until: String,
    /// An installer image that has the ichor extension, for nodes that lack it, and all others that they have
    #[arg(long, value_name = "REFERENCE")]
    image: Option<String>,
    /// The digest of that image, if its extensions cannot be read from here, and it has them nevertheless
    #[arg(long, value_name = "DIGEST", requires = "image")]
    trust_image: Option<String>,
    /// Walk back: undo what the last run that changed anything did
    #[arg(long, conflicts_with = "image")]
    undo: bool,
    /// With --undo: undo everything that was ever applied from this folder, until nothing of the mesh is in any config
    #[arg(long, requires = "undo")]
    all: bool,
    /// With --undo: walk back this node only
    #[arg(long, requires = "undo", value_name = "NODE")]
    only: Option<String>,
    #[command(flatten)]
    rolling: Rolling,
}

impl ApplyArgs {
    /// Runs `apply`.
    ///
    /// # Errors
    ///
    /// When a file or node cannot be read, a config cannot be edited, or a guard refuses.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        show::error_ending(self.rolling.output, self.carry_out(connection).await)
    }

    async fn carry_out(self, connection: &Connection) -> anyhow::Result<Exit> {
        if !STAGES.contains(&self.until.as_str()) {
            let text = format!("--until {}: the stages are {}", self.until, STAGES.join(", "));
            return Err(UsageError(text).into());
        }
        let cluster = cluster_file::load(&self.file)?;
        let talosconfig = connection.talosconfig()?;
        let nodes = Nodes::connect(&cluster, connection, &talosconfig, |_| None)?;
        if self.undo {
            return self.walk_back(connection, &cluster, &nodes).await;
        }
        let folder = self.rolling.folder(&cluster.mesh.name)?;
        let journal = record::peek(&folder)?;
        let (began, mut told) = (now(), false);
        let mut observed = loop {
            let (observed, failures) = nodes.observe(&cluster).await?;
            // A config that is only tried goes away by itself, and is no beginning for a plan.
            let is_tried = observed.iter().any(|it| it.is_pending && journal.is_trying(&it.node));
            if failures.is_empty() && !is_tried {
                break observed;
            }
            if !self.rolling.waits_for(&journal, began, &mut told).await {
                output::note("nothing was changed: there is no plan without all nodes");
                return Ok(failures.finish());
            }
        };
        // What an earlier run put on the disk for the next boot is where it goes on.
        for it in observed.iter_mut().filter(|it| journal.is_open(&it.node)) {
            it.is_pending = false;
        }
        let options = Options { allow_unknown_talos: self.allow_unknown_talos };
        let plan = make(&cluster, &observed, options)?;
        if tell_refusals(&plan) {
            return Ok(Exit::Refused);
        }
        let flows: Vec<_> = cluster
            .machines()
            .map(|node| {
                let version =
                    observed.iter().find(|it| it.node == node.name).and_then(|it| it.version.clone());
                version
                    .map_or(ichor_rollout::plan::Flow::Legacy, |version| flow_of(&Capabilities::of(version)))
            })
            .collect();
        drop(observed);
        for note in &plan.notes {
            output::note(&format!("note: {note}"));
        }
        // Also where nothing is left to do, what an earlier run left in the middle of something has to be proven.
        if plan.order.is_empty() && journal.open_nodes().is_empty() {
            let text = "nothing to do: every node is as the file says".to_owned();
            show::short_ending(self.rolling.output, "nothing to do", text);
            return Ok(Exit::Done);
        }
        let targets = target::of_cluster(&cluster, &nodes)?;
        let session = connection.session_of(&talosconfig)?;
        target::refuse_over_mesh(&targets, session.endpoints(), |address| {
            cluster.mesh.ranges().any(|range| range.contains(&address))
        })?;
        let reached = self.rolling.reach(&targets, connection).await?;
        let kubernetes = reached.kubernetes();
        let view = observe::look(&targets, kubernetes.as_ref(), Lock::Waived).await;
        let image = self.image(&targets, &view).await?;
        let source = config_plan::Source {
            cluster: &cluster,
            plan: &plan,
            targets: &targets,
            view: &view,
            image: image.as_deref(),
            flows: &flows,
            until: &self.until,
            has_kubernetes: kubernetes.is_some(),
        };
        let made = config_plan::make(&source, self.rolling.policy(&targets, kubernetes.is_some())?);
        let left = made.left;
        if !self.rolling.dry_run {
            Undo::read(&folder)?.keep(&folder, &made.rollout, &made.texts)?;
        }
        let prepared = Prepared {
            plan: made.rollout,
            texts: made.texts,
            targets,
            reached,
            trusted: self.trust_image.clone(),
            purpose: format!("apply {}", cluster.mesh.name),
            folder,
            view: Some(view),
        };
        let exit = prepared.go(&self.rolling).await?;
        for text in left {
            output::note(&format!("left: {text}"));
        }
        Ok(exit)
    }

    /// The image for nodes that lack the extension: one that has it, and all that they have.
    async fn image(&self, targets: &[Target], view: &View) -> anyhow::Result<Option<String>> {
        let Some(image) = self.image.as_ref().filter(|_| self.trust_image.is_none()) else {
            return Ok(self.image.clone());
        };
        let mut looks = Looks::new(&self.rolling.state()?);
        let mut pinned = None;
        for (target, seen) in targets.iter().zip(&view.nodes) {
            let mut needs: BTreeSet<&str> =
                seen.extensions.iter().flat_map(|it| it.iter()).map(|it| &**it).collect();
            if !needs.insert(EXTENSION) {
                continue;
            }
            let told = target.client.version().await?.version.unwrap_or_default();
            let version = told.tag.parse()?;
            let fit = Fit { node: &target.name, machine: &told.arch, needs, without: &[], version: &version };
            let judged = looks.judge(image, &fit).await;
            pinned = Some(judged.map_err(|reason| Refusal { reason, advice: None })?);
        }
        Ok(pinned.or_else(|| Some(image.clone())))
    }

    /// Runs `apply --undo`.
    async fn walk_back(
        &self,
        connection: &Connection,
        cluster: &Cluster,
        nodes: &Nodes,
    ) -> anyhow::Result<Exit> {
        let folder = self.rolling.folder(&cluster.mesh.name)?;
        let undo = Undo::read(&folder)?;
        let targets = target::of_cluster(cluster, nodes)?;
        let mut configs = Vec::new();
        for target in &targets {
            let now = NodeConfig::read(&target.client).await?;
            // One that waits for its boot is what the boot brings.
            configs.push(now.base(Mode::Staged).text.clone());
        }
        let reached = self.rolling.reach(&targets, connection).await?;
        let kubernetes = reached.kubernetes();
        let view = observe::look(&targets, kubernetes.as_ref(), Lock::Waived).await;
        let extent = if self.all { Extent::All } else { Extent::LastRun };
        let policy = self.rolling.policy(&targets, kubernetes.is_some())?;
        if let Some(only) = &self.only
            && !targets.iter().any(|target| target.name == *only)
        {
            return Err(UsageError(format!("--only {only}: {} has no such node", self.file.display())).into());
        }
        let made = undo.make(extent, self.only.as_deref(), &targets, &configs, &view, policy);
        if made.rollout.stages.is_empty() && made.left.is_empty() {
            show::short_ending(self.rolling.output, "nothing to do", "nothing to undo".to_owned());
            return Ok(Exit::Done);
        }
        let prepared = Prepared {
            plan: made.rollout,
            texts: made.texts,
            targets,
            reached,
            trusted: None,
            purpose: format!("apply --undo {}", cluster.mesh.name),
            folder,
            view: Some(view),
        };
        let exit = prepared.go(&self.rolling).await?;
        for text in made.left {
            output::note(&format!("left: {text}"));
        }
        Ok(exit)
    }
}
