//! What all commands that carry out a rollout share: their flags, the lock, and how they begin.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use ichor_rollout::journal::Journal;
use ichor_rollout::plan::{Plan, Policy, Work};
use ichor_rollout::view::View;

use super::connection::Connection;
use crate::duration;
use crate::exit::{Exit, Refusal, UsageError};
use crate::kubernetes::drain::Patience;
use crate::kubernetes::lease::{self, Lock, LockError};
use crate::kubernetes::{API_SERVER_PORT, Access, Kubernetes};
use crate::output::{self, Format};
use crate::roll::config_plan::Texts;
use crate::roll::drive::Rollout;
use crate::roll::perform::Hands;
use crate::roll::record::{self, Record, folder};
use crate::roll::show::Show;
use crate::roll::target::Target;
use crate::transport::{Endpoint, EndpointError};

/// Flags of commands that change a cluster node by node.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Rollout")]
pub(crate) struct Rolling {
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do it, reboots and all, without asking
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Do without the lock in Kubernetes, and without draining: for clusters whose Kubernetes API does not answer
    #[arg(long)]
    pub(crate) no_lock: bool,
    /// Do not move pods away before a node reboots
    #[arg(long)]
    pub(crate) no_drain: bool,
    /// Most workers that are away at a time
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) max_unavailable: usize,
    /// Control planes that may be touched although etcd has no quorum without them (clusters of one or two)
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    pub(crate) accept_outage: Vec<String>,
    /// Wait this long between two nodes
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "0s")]
    pub(crate) pause_between: Duration,
    /// For how long a node has to be seen well before it counts as proven
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "10s")]
    pub(crate) soak: Duration,
    /// How long a node may take to come back from a reboot
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "15m")]
    pub(crate) boot_timeout: Duration,
    /// How long writing an image may take: when it is not known whether it still is being written, so long is waited for it
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "20m")]
    pub(crate) install_timeout: Duration,
    /// How long is waited for etcd before a control plane is touched
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "5m")]
    pub(crate) gate_timeout: Duration,
    /// How long pods may take to leave a node; after that the run stops, as a budget of theirs does not let them go
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "5m")]
    pub(crate) drain_timeout: Duration,
    /// How long a config that may lock us out is tried: unless it is kept by then the node takes it back by itself
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "1m")]
    pub(crate) trial: Duration,
    /// Try the plan on so many simulated clusters with faults, before or in place of the real one
    #[arg(long, value_name = "N")]
    pub(crate) simulate: Option<u64>,
    /// Where the journal, the snapshots and the report go [default: $XDG_STATE_HOME/ichor/NAME]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Address of the Kubernetes API [default: port 6443 of the control planes, then that of the kubeconfig]
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) kubernetes: Option<String>,
    /// How to print what happens
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// Kubernetes, if it answers, or why it does not.
pub(crate) enum Reached {
    Yes(Kubernetes),
    No(String),
}

impl Reached {
    /// The client, if it answers.
    pub(crate) fn kubernetes(&self) -> Option<Kubernetes> {
        match self {
            Self::Yes(kubernetes) => Some(kubernetes.clone()),
            Self::No(_) => None,
        }
    }
}

impl Rolling {
    /// How carefully.
    pub(crate) fn policy(&self, targets: &[Target], has_kubernetes: bool) -> anyhow::Result<Policy> {
        let mut accept_outage = BTreeSet::new();
        for name in &self.accept_outage {
            let found = targets.iter().position(|target| target.name == *name && target.votes);
            accept_outage.insert(
                found.ok_or_else(|| UsageError(format!("--accept-outage: {name} is no control plane")))?,
            );
        }
        if self.max_unavailable == 0 {
            return Err(UsageError("--max-unavailable 0 leaves nothing to do".to_owned()).into());
        }
        Ok(Policy {
            max_unavailable: self.max_unavailable,
            accept_outage,
            drain: has_kubernetes && !self.no_drain,
            soak: self.soak,
            boot: self.boot_timeout,
            install: self.install_timeout,
            gate: self.gate_timeout,
            trial: self.trial,
            pause: self.pause_between,
            ..Policy::default()
        })
    }

    /// The Kubernetes API of the cluster, if it answers.
    pub(crate) async fn reach(&self, targets: &[Target], connection: &Connection) -> anyhow::Result<Reached> {
        if self.no_lock {
            return Ok(Reached::No("it was not asked (--no-lock)".to_owned()));
        }
        let mut hosts: Vec<Endpoint> = Vec::new();
        match &self.kubernetes {
            Some(host) => hosts.push(api_server(host)?),
            None => {
                let names = targets.iter().filter(|target| target.votes).map(|target| target.client.name());
                hosts.extend(names.filter_map(|name| Endpoint::new(name, API_SERVER_PORT).ok()));
            }
        }
        let access = match Access::of_pod()? {
            Some(access) => access,
            None => {
                let mut problem = None;
                let mut access = None;
                for target in targets.iter().filter(|target| target.votes) {
                    match Access::of_talos(&target.client).await {
                        Ok(got) => {
                            access = Some(got);
                            break;
                        }
                        Err(error) => problem = Some(anyhow::Error::from(error)),
                    }
                }
                match (access, problem) {
                    (Some(access), _) => access,
                    (None, problem) => {
                        let why =
                            problem.map_or("there is no control plane".to_owned(), |it| format!("{it:#}"));
                        return Ok(Reached::No(why));
                    }
                }
            }
        };
        let kubernetes = Kubernetes::new(access, Kubernetes::route(connection.via.as_ref())?, &hosts)?;
        match kubernetes.nodes().await {
            Ok(_) => Ok(Reached::Yes(kubernetes)),
            Err(error) => Ok(Reached::No(format!("{error:#}", error = anyhow::Error::from(error)))),
        }
    }

    /// Whether to look once more: an earlier process left nodes in the middle of something, and one of all does not
    /// answer yet. Tells so once, and waits a moment.
    pub(crate) async fn waits_for(&self, journal: &Journal, began: Duration, told: &mut bool) -> bool {
        let open = journal.open_nodes().join(", ");
        if open.is_empty() || crate::roll::now() >= began + self.boot_timeout {
            return false;
        }
        if !std::mem::replace(told, true) {
            output::note(&format!(
                "waiting: an earlier run was interrupted at {open}, and not all nodes answer"
            ));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        true
    }

    /// The folder of what is remembered about images.
    pub(crate) fn state(&self) -> anyhow::Result<PathBuf> {
        self.state.clone().map_or_else(record::state, Ok)
    }

    /// The folder of the journal and the snapshots.
    pub(crate) fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        match &self.state {
            Some(folder) => Ok(folder.clone()),
            None => folder(name),
        }
    }
}

/// A plan and what it is carried out with.
pub(crate) struct Prepared {
    pub(crate) plan: Plan,
    pub(crate) texts: Texts,
    pub(crate) targets: Vec<Target>,
    pub(crate) reached: Reached,
    pub(crate) trusted: Option<String>,
    /// What it is for, in a few words.
    pub(crate) purpose: String,
    /// The folder of the journal and the snapshots.
    pub(crate) folder: PathBuf,
    /// The nodes as they were seen when the plan was made.
    pub(crate) view: Option<View>,
}

impl Prepared {
    /// Whether any node goes down, or may lock us out.
    fn is_risky(&self) -> bool {
        let tried =
            |work: &Work| matches!(work, Work::Configure { how: ichor_rollout::plan::How::Tried, .. });
        self.plan.tasks().any(|task| task.work.reboots() || tried(&task.work))
    }

    /// The plan in words, one line a stage.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for stage in &self.plan.stages {
            let names: Vec<&str> = stage.tasks.iter().map(|task| &*self.plan.nodes[task.node].name).collect();
            let what = stage.tasks.first().map_or("", |task| verb(&task.work));
            let pace = match (stage.at_once, names.len()) {
                (_, 1) => "",
                (1, _) => ", one at a time",
                _ => "",
            };
            lines.push(format!("{}: {what} {}{pace}", stage.name, names.join(", ")));
        }
        let voters = self.plan.nodes.iter().filter(|node| node.votes).count();
        let reboots = self.plan.tasks().any(|task| task.work.reboots() && self.plan.nodes[task.node].votes);
        if reboots && voters < 3 {
            lines.push(format!(
                "outage: with {voters} voter(s) etcd and the Kubernetes API are down while a control plane reboots; pods go on"
            ));
        }
        lines
    }

    /// Asks, takes the lock, and goes.
    pub(crate) async fn go(self, rolling: &Rolling) -> anyhow::Result<Exit> {
        let is_json = output::Output::new(rolling.output).is_json();
        if !is_json {
            for line in self.lines() {
                output::note(&format!("plan: {line}"));
            }
        }
        if let Some(count) = rolling.simulate {
            super::simulate::simulate(&self, count)?;
        }
        if rolling.dry_run {
            return Ok(Exit::Done);
        }
        if self.is_risky() && !rolling.yes {
            let reason = "nodes would reboot, or change how they are reached".to_owned();
            return Err(
                Refusal { reason, advice: Some("the same command with --yes does it".to_owned()) }.into()
            );
        }
        let (record, journal) = Record::open(&record::path(&self.folder))?;
        let me = lease::identity();
        let (kubernetes, lock) = match self.reached {
            Reached::Yes(kubernetes) => {
                let lock = take(&kubernetes, &me, &self.purpose).await?;
                (Some(kubernetes), Some(lock))
            }
            Reached::No(why) if rolling.no_lock => {
                output::note(&format!("note: there is no lock, and nothing is drained: {why}"));
                (None, None)
            }
            Reached::No(why) => {
                return Err(Refusal {
                    reason: format!(
                        "the Kubernetes API, which has the lock on rollouts, does not answer: {why}"
                    ),
                    advice: Some("if nobody else is changing the cluster, say --no-lock".to_owned()),
                }
                .into());
            }
        };
        let stamp = crate::roll::now().as_secs();
        let show = Show::new(is_json, Some(self.folder.join(format!("report-{stamp}.json"))));
        let (teller, news) = tokio::sync::mpsc::unbounded_channel();
        let hands = Hands {
            targets: self.targets.into(),
            kubernetes,
            me,
            texts: Arc::new(self.texts),
            snapshots: self.folder.join("snapshots"),
            trusted: self.trusted.map(Into::into),
            trial: self.plan.policy.trial,
            patience: Patience { budget: rolling.drain_timeout, ..Patience::default() },
            news: teller,
        };
        Rollout { plan: self.plan, hands, record, journal, lock, show, news }.run().await
    }
}

pub(crate) async fn take(kubernetes: &Kubernetes, me: &str, purpose: &str) -> anyhow::Result<Lock> {
    let watching = |held: &lease::Held| {
        output::note(&format!("waiting for the lock: {} has it, and may be dead", held.holder));
    };
    match Lock::acquire(kubernetes, me, purpose, lease::Times::default(), watching).await {
        Ok(lock) => Ok(lock),
        Err(error @ LockError::Held(_)) => {
            Err(Refusal { reason: error.to_string(), advice: Some("wait until it is done".to_owned()) }
                .into())
        }
        Err(error) => Err(error).context("failed to take the lock on rollouts"),
    }
}

/// A changing run without a lock that nobody asked for.
pub(crate) fn unlocked(why: &str) -> Refusal {
    Refusal {
        reason: format!("the Kubernetes API, which has the lock on rollouts, does not answer: {why}"),
        advice: Some("if nobody else is changing the cluster, say --no-lock".to_owned()),
    }
}

/// `HOST`, `HOST:PORT` or a URL, at the port of the Kubernetes API where it names none.
fn api_server(text: &str) -> Result<Endpoint, EndpointError> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    Endpoint::new(bare, API_SERVER_PORT).or_else(|_has_a_port| text.parse())
}

fn verb(work: &Work) -> &'static str {
    use ichor_rollout::plan::How;
    match work {
        Work::Pull { .. } => "load the image on",
        Work::Configure { how: How::Live, .. } => "apply the config, without a reboot, on",
        Work::Configure { how: How::Staged, .. } => "write the config and reboot",
        Work::Configure { how: How::Tried, .. } => "try the config, and keep it if both ways work, on",
        // It runs it already.
        Work::Upgrade { image, .. } if image.is_empty() => "prove",
        Work::Upgrade { .. } => "install the image on, and reboot,",
        Work::Reboot => "reboot",
        Work::RollBack => "boot the former image on",
        Work::ProveMesh => "prove the mesh between",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubernetes_api_may_be_named_with_and_without_its_port() {
        for (text, host, port) in [
            ("10.0.0.1", "10.0.0.1", 6443),
            ("kube.example", "kube.example", 6443),
            ("fd00::1", "fd00::1", 6443),
            ("[fd00::1]", "fd00::1", 6443),
            ("[fd00::1]:7443", "fd00::1", 7443),
            ("kube.example:7443", "kube.example", 7443),
            ("https://kube.example:7443", "kube.example", 7443),
        ] {
            let endpoint = api_server(text).unwrap();
            assert_eq!((endpoint.host(), endpoint.port()), (host, port), "{text}");
        }
        assert!(api_server("kube.example:port").is_err());
    }
}
