//! `reboot`, `rollback` and `reset`: what takes a node down, behind the same guard as every rollout.

use std::path::PathBuf;

use clap::Args;
use ichor_rollout::guard::{EtcdView, Verdict, guard};
use ichor_rollout::plan::{Expect, Node, Plan, Stage, Task, Work};
use ichor_rollout::view::{Lock, View};

use super::cluster_file;
use super::connection::Connection;
use super::plan::nodes::Nodes;
use super::rolling::{Prepared, Reached, Rolling};
use crate::api::{EPHEMERAL, Reset, Wipe};
use crate::exit::{Exit, Refusal, UsageError};
use crate::output;
use crate::roll::target::{self, Target};
use crate::roll::{digest_of, observe, show};
use crate::snapshot;

/// Which nodes.
#[derive(Args, Debug)]
struct Which {
    /// The names of the nodes, as Kubernetes has them
    #[arg(required = true, value_name = "NODE")]
    names: Vec<String>,
    /// The cluster file; without it the nodes are those that the cluster knows itself
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Flags of `reboot`.
#[derive(Args, Debug)]
pub struct RebootArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    rolling: Rolling,
}

/// Flags of `rollback`.
#[derive(Args, Debug)]
pub struct RollbackArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    rolling: Rolling,
}

/// Flags of `reset`.
#[derive(Args, Debug)]
pub struct ResetArgs {
    /// The name of the node, as Kubernetes has it
    #[arg(value_name = "NODE")]
    name: String,
    /// Its name again: what is wiped does not come back
    #[arg(long, value_name = "NODE")]
    confirm: Option<String>,
    /// Partitions to wipe, such as EPHEMERAL or STATE; without it the whole system disk
    #[arg(long, value_name = "LABEL", value_delimiter = ',')]
    system_labels_to_wipe: Vec<String>,
    /// Come back afterwards, in place of switching off
    #[arg(long)]
    reboot: bool,
    /// Do not drain the node, nor take its member out of etcd: for nodes whose etcd does not work
    #[arg(long)]
    no_graceful: bool,
    /// The cluster file; without it the nodes are those that the cluster knows itself
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    rolling: Rolling,
}

impl RebootArgs {
    /// Runs `reboot`.
    ///
    /// # Errors
    ///
    /// When a node cannot be read, or a guard refuses.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let done = through(connection, &self.which, &self.rolling, &Work::Reboot, "reboot").await;
        show::error_ending(self.rolling.output, done)
    }
}

impl RollbackArgs {
    /// Runs `rollback`.
    ///
    /// # Errors
    ///
    /// When a node cannot be read, or a guard refuses.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let done = through(connection, &self.which, &self.rolling, &Work::RollBack, "rollback").await;
        show::error_ending(self.rolling.output, done)
    }
}

/// The nodes of the cluster, and its name.
async fn nodes(connection: &Connection, file: Option<&PathBuf>) -> anyhow::Result<(Vec<Target>, String)> {
    let Some(path) = file else {
        let name = connection.context.clone().unwrap_or_else(|| "cluster".to_owned());
        return Ok((target::discovered(connection).await?, name));
    };
    let cluster = cluster_file::load(path)?;
    let clients = Nodes::connect(&cluster, connection, &connection.talosconfig()?, |_| None)?;
    Ok((target::of_cluster(&cluster, &clients)?, cluster.mesh.name.clone()))
}

fn find(targets: &[Target], name: &str) -> anyhow::Result<usize> {
    let found = targets.iter().position(|target| target.name == name);
    found.ok_or_else(|| {
        let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
        UsageError(format!("there is no node {name}; there are {}", names.join(", "))).into()
    })
}

/// Takes nodes through a boot, one at a time, and proves each.
async fn through(
    connection: &Connection,
    which: &Which,
    rolling: &Rolling,
    work: &Work,
    verb: &str,
) -> anyhow::Result<Exit> {
    let (targets, name) = nodes(connection, which.file.as_ref()).await?;
    let reached = rolling.reach(&targets, connection).await?;
    let kubernetes = reached.kubernetes();
    let view = observe::look(&targets, kubernetes.as_ref(), Lock::Waived).await;
    let policy = rolling.policy(&targets, kubernetes.is_some())?;
    let mut stages = Vec::new();
    for name in &which.names {
        let node = find(&targets, name)?;
        let seen = &view.nodes[node];
        let expect = Expect {
            // What another image has is not known.
            extensions: if *work == Work::Reboot {
                seen.extensions.clone().unwrap_or_default()
            } else {
                Default::default()
            },
            kubernetes: seen.kubernetes.is_some(),
            ..Expect::default()
        };
        let task = Task { node, work: work.clone(), expect };
        stages.push(Stage { name: verb.into(), tasks: vec![task], at_once: 1 });
    }
    let nodes = targets.iter().map(|it| Node { name: it.name.as_str().into(), votes: it.votes }).collect();
    let goal =
        digest_of(format!("{verb} {} {}", which.names.join(" "), crate::roll::now().as_secs()).as_bytes());
    let prepared = Prepared {
        plan: Plan { goal, nodes, stages, policy },
        texts: crate::roll::config_plan::Texts::new(),
        targets,
        reached,
        trusted: None,
        purpose: format!("{verb} {}", which.names.join(" ")),
        folder: rolling.folder(&name)?,
        view: Some(view),
    };
    prepared.go(rolling).await
}

impl ResetArgs {
    /// Runs `reset`.
    ///
    /// # Errors
    ///
    /// When a node cannot be read, or a guard refuses.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        show::error_ending(self.rolling.output, self.carry_out(connection).await)
    }

    async fn carry_out(self, connection: &Connection) -> anyhow::Result<Exit> {
        let (targets, cluster) = nodes(connection, self.file.as_ref()).await?;
        let node = find(&targets, &self.name)?;
        let policy = self.rolling.policy(&targets, false)?;
        // Twice: what is older than the first look shows in the second.
        let first = observe::look(&targets, None, Lock::Waived).await;
        let floor = first.nodes.iter().filter_map(|it| it.etcd.as_ref()).map(|it| it.index).max();
        let view = observe::look(&targets, None, Lock::Waived).await;
        self.may(&targets, &view, node, floor, policy.max_lag)?;
        let wipes = match self.system_labels_to_wipe.as_slice() {
            [] => "its whole system disk".to_owned(),
            labels => labels.join(", "),
        };
        output::note(&format!("plan: reset {}, which wipes {wipes}", self.name));
        if self.rolling.dry_run {
            return Ok(Exit::Done);
        }
        if self.confirm.as_ref() != Some(&self.name) {
            let reason = format!("{} would lose {wipes}", self.name);
            let advice = Some(format!("the same command with --confirm {} does it", self.name));
            return Err(Refusal { reason, advice }.into());
        }
        let others = targets.iter().enumerate().filter(|(index, target)| target.votes && *index != node);
        let healthy = others.into_iter().find(|(index, _)| view.nodes[*index].etcd.is_some());
        if let Some((_, from)) = healthy.filter(|_| targets[node].votes) {
            let folder = self.rolling.folder(&cluster)?.join("snapshots");
            std::fs::create_dir_all(&folder)?;
            let path = folder.join(format!("etcd-{}-{}.snapshot", from.name, crate::roll::now().as_secs()));
            let verified = snapshot::take_verified(&from.client, &path).await?;
            let keys = verified.contents.total_keys;
            output::note(&format!("snapshot of etcd, verified, {keys} keys: {}", path.display()));
        }
        let lock = self.lock(&targets, connection).await?;
        let wipe = match self.system_labels_to_wipe.as_slice() {
            [] => Wipe::SystemDisk,
            labels => Wipe::Partitions(labels.to_vec()),
        };
        let is_voter = targets[node].votes;
        let reset = Reset { graceful: !self.no_graceful, reboot: self.reboot, wipe };
        let result = targets[node].client.reset(&reset).await;
        if let Some(lock) = lock {
            // It runs out by itself otherwise.
            let _ = lock.release().await;
        }
        result?;
        show::short_ending(self.rolling.output, "done", format!("{}: resetting", self.name));
        if is_voter && self.system_labels_to_wipe.iter().any(|label| label == EPHEMERAL) && self.reboot {
            output::note(&format!("next: ichorctl etcd members, until {} is one again", self.name));
        }
        Ok(Exit::Done)
    }

    /// The same guard as everywhere: the others stay a quorum, by the word of each of them.
    fn may(
        &self,
        targets: &[Target],
        view: &View,
        node: usize,
        floor: Option<u64>,
        max_lag: u64,
    ) -> anyhow::Result<()> {
        if !targets[node].votes {
            return Ok(());
        }
        let voters = targets.iter().zip(&view.nodes).enumerate().filter(|(_, (target, _))| target.votes);
        let voters = voters.map(|(index, (_, seen))| (index, seen.etcd.as_ref())).collect();
        let accept = self.rolling.accept_outage.contains(&self.name);
        match guard(&EtcdView { voters, floor, max_lag }, node, accept) {
            Verdict::Go { .. } | Verdict::Outage { .. } => Ok(()),
            Verdict::Closed(reasons) => {
                let said: Vec<String> =
                    reasons.iter().map(|reason| reason.describe(|node| &*targets[node].name)).collect();
                Err(Refusal {
                    reason: format!("{} must not go: {}", self.name, said.join("; ")),
                    advice: Some("ichorctl etcd status tells what each member sees".to_owned()),
                }
                .into())
            }
        }
    }

    async fn lock(
        &self,
        targets: &[Target],
        connection: &Connection,
    ) -> anyhow::Result<Option<crate::kubernetes::lease::Lock>> {
        match self.rolling.reach(targets, connection).await? {
            Reached::Yes(kubernetes) => {
                let me = crate::kubernetes::lease::identity();
                super::rolling::take(&kubernetes, &me, &format!("reset {}", self.name)).await.map(Some)
            }
            Reached::No(_) if self.rolling.no_lock => Ok(None),
            Reached::No(why) => Err(super::rolling::unlocked(&why).into()),
        }
    }
}
