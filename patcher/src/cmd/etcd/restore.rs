//! `etcd restore`: the way back after a disaster.
//!
//! Nothing is changed before the snapshot was opened, every control plane node was looked at, and somebody said that
//! they mean it.

use std::fs::File;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use futures_util::future::{join_all, try_join_all};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::verify::describe;
use crate::api::{ApiError, Bootstrap, Cause, EPHEMERAL, NodeClient, Reset, Wipe};
use crate::cmd::connection::{Connection, Session};
use crate::duration;
use crate::exit::{Exit, Refusal, Unproven};
use crate::output::{self, Format, Output, Table, note};
use crate::snapshot::restore::{Claims, EtcdState, Objection, View, judge};
use crate::snapshot::{HashCheck, Verified, verify};

/// How long one node may take to say how it is.
const LOOK_DEADLINE: Duration = Duration::from_secs(10);
/// How often nodes are wiped that have data again.
const WIPES: usize = 3;
/// How often a node is asked whether it is that far.
const POLL: Duration = Duration::from_secs(1);

/// Flags of `etcd restore`.
#[derive(Args, Debug)]
pub(super) struct Restore {
    /// The snapshot
    snapshot: PathBuf,
    /// The control plane node that takes the snapshot and becomes the first member
    #[arg(long, value_name = "NODE")]
    node: String,
    /// Control plane nodes that are dead or wiped and never come back with their data
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    lost: Vec<String>,
    /// Wipe the data of etcd, and all else on the partition EPHEMERAL, of nodes that still have some: they reboot
    #[arg(long)]
    wipe: bool,
    /// Replace a cluster that is alive: its name
    #[arg(long, value_name = "CLUSTER")]
    replace_living_cluster: Option<String>,
    /// Take a copy of etcd's database, which has no hash
    #[arg(long)]
    skip_hash_check: bool,
    /// Go on without a question; with --confirm
    #[arg(long, requires = "confirm")]
    yes: bool,
    /// The name of the node once more
    #[arg(long, value_name = "NODE", requires = "yes")]
    confirm: Option<String>,
    /// How long a node may take to reboot, and etcd to start
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "15m")]
    timeout: Duration,
    /// How to print what was done
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
struct Restored {
    node: String,
    members: Vec<String>,
    #[serde(flatten)]
    verified: Verified,
}

impl Restore {
    pub(super) async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let hash = if self.skip_hash_check { HashCheck::Skipped } else { HashCheck::Required };
        let path = self.snapshot.clone();
        let verified = tokio::task::spawn_blocking(move || verify(&path, hash)).await??;
        note(&format!(
            "{}: {} bytes\n{}",
            self.snapshot.display(),
            verified.bytes,
            describe(&verified).trim_end()
        ));

        let session = connection.session()?;
        let nodes = session.fleet()?.nodes().to_vec();
        let views = join_all(nodes.iter().map(look)).await;
        note(&table(&views));
        let claims = Claims {
            lost: self.lost.clone(),
            wipe: self.wipe,
            replaces_living: self.means_the_living(&session).await?,
        };
        let wipe = judge(&views, &verified.contents.members, &self.node, &claims).map_err(|objection| {
            Refusal { advice: Some(objection.advice()), reason: objection.to_string() }
        })?;
        note(&self.plan(&verified, &wipe));
        self.confirm()?;

        self.wipe_all(&session, wipe).await?;
        // Somebody may have come to life meanwhile. Now nobody may have data any more.
        let views = join_all(nodes.iter().map(look)).await;
        let gone = Claims { lost: self.lost.clone(), ..Claims::default() };
        judge(&views, &verified.contents.members, &self.node, &gone).map_err(refusal)?;
        let node = session.node(&self.node)?;
        let members = self.restore(&node, &verified).await?;
        let restored = Restored { node: self.node.clone(), members, verified };
        Output::new(self.output).record(&restored, |restored| self.farewell(restored))?;
        Ok(Exit::Done)
    }

    /// Whether the user typed the name of the cluster that lives.
    async fn means_the_living(&self, session: &Session) -> anyhow::Result<bool> {
        let Some(typed) = &self.replace_living_cluster else { return Ok(false) };
        let node = session.node(&self.node)?;
        let name = cluster_name(&node).await.context("the name of the cluster cannot be checked")?;
        if *typed != name {
            let reason = format!("the cluster is called {name:?}, not {typed:?}");
            return Err(Refusal { reason, advice: None }.into());
        }
        Ok(true)
    }

    fn plan(&self, verified: &Verified, wipe: &[String]) -> String {
        let mut steps: Vec<String> =
            wipe.iter().map(|node| format!("wipe {EPHEMERAL} of {node} and reboot it")).collect();
        steps.push(format!("upload {} to {}", self.snapshot.display(), self.node));
        steps.push(format!("start etcd on {} from it, as the only member", self.node));
        let steps = steps.iter().enumerate().map(|(index, step)| format!("  {}. {step}\n", index + 1));
        let steps: String = steps.collect();
        let revision = verified.contents.revision;
        format!(
            "to do:\n{steps}lost is what was written after revision {revision}; workloads that run go on as they are, and \
             Kubernetes knows them as they were then"
        )
    }

    /// Has the name of the node typed, by a flag or on the terminal.
    fn confirm(&self) -> anyhow::Result<()> {
        let typed = match &self.confirm {
            Some(typed) => typed.clone(),
            None if io::stdin().is_terminal() && io::stderr().is_terminal() => {
                let mut stderr = io::stderr().lock();
                write!(stderr, "type the name of the node ({}) to go on: ", output::escape(&self.node))?;
                stderr.flush()?;
                let mut answer = String::new();
                io::stdin().lock().read_line(&mut answer)?;
                answer.trim().to_owned()
            }
            None => {
                let advice = format!("the same command with --yes --confirm {} does it", self.node);
                let reason = "nothing was done: this replaces etcd".to_owned();
                return Err(Refusal { reason, advice: Some(advice) }.into());
            }
        };
        if typed == self.node {
            return Ok(());
        }
        let reason = format!("nothing was done: {typed:?} is not the name of the node, {:?}", self.node);
        Err(Refusal { reason, advice: None }.into())
    }

    /// Wipes the data of nodes until none of them has any. A node that is back while the others still have a quorum
    /// joins them and has data again, so that it takes another round.
    async fn wipe_all(&self, session: &Session, mut names: Vec<String>) -> anyhow::Result<()> {
        for _ in 0..WIPES {
            if names.is_empty() {
                return Ok(());
            }
            let nodes = names.iter().map(|name| Ok(session.node(name)?.with_deadline(LOOK_DEADLINE)));
            let nodes = nodes.collect::<anyhow::Result<Vec<_>>>()?;
            // Before any of them goes down: it may be the endpoint that leads to the others.
            let boots = try_join_all(nodes.iter().map(NodeClient::boot_id)).await?;
            let pairs = || nodes.iter().zip(&boots);
            try_join_all(pairs().map(|(node, boot)| self.wipe(node, boot))).await?;
            let states = try_join_all(pairs().map(|(node, boot)| self.until_wiped(node, boot))).await?;
            let again = names.into_iter().zip(states).filter(|(_, state)| *state != EtcdState::Waits);
            names = again.map(|(name, _)| name).collect();
        }
        match names.is_empty() {
            true => Ok(()),
            false => Err(Unproven {
                what: format!("{} had data of etcd again after each wipe", names.join(", ")),
                advice: "ichorctl etcd members".to_owned(),
            }
            .into()),
        }
    }

    /// Tells a node to wipe its data, as often as it takes until it has heard.
    async fn wipe(&self, node: &NodeClient, boot: &str) -> anyhow::Result<()> {
        let partitions = Wipe::Partitions(vec![EPHEMERAL.to_owned()]);
        let reset = Reset { graceful: false, reboot: true, wipe: partitions };
        let end = Instant::now() + self.timeout;
        loop {
            match node.reset(&reset).await {
                Ok(_) => break,
                Err(error) if error.cause.is_transient() && Instant::now() < end => sleep(POLL).await,
                Err(error) => return Err(error.into()),
            }
            if node.boot_id().await.is_ok_and(|now| now != boot) {
                break;
            }
        }
        note(&format!("{}: wiping {EPHEMERAL}, and rebooting", node.name()));
        Ok(())
    }

    /// Waits until a node is back and says how its etcd is.
    async fn until_wiped(&self, node: &NodeClient, boot: &str) -> anyhow::Result<EtcdState> {
        let end = Instant::now() + self.timeout;
        loop {
            let is_new = node.boot_id().await.is_ok_and(|now| now != boot);
            let state = if is_new { Some(look(node).await.state) } else { None };
            match state {
                Some(state @ (EtcdState::Waits | EtcdState::Alone | EtcdState::Leads)) => {
                    note(&format!("{}: back; its etcd: {}", node.name(), describe_state(&state)));
                    return Ok(state);
                }
                state if Instant::now() >= end => {
                    let seen = state.map_or("it is not back".to_owned(), |state| describe_state(&state));
                    let limit = duration::show(self.timeout);
                    let what =
                        format!("{} was told to wipe its data, and after {limit}: {seen}", node.name());
                    return Err(Unproven {
                        what,
                        advice: format!("ichorctl -n {} service etcd", node.name()),
                    }
                    .into());
                }
                _ => sleep(POLL).await,
            }
        }
    }

    /// Uploads the snapshot, starts etcd from it on the same node, and waits for its first member. Returns the members.
    async fn restore(&self, node: &NodeClient, verified: &Verified) -> anyhow::Result<Vec<String>> {
        let file = File::open(&self.snapshot)
            .with_context(|| format!("failed to open {}", self.snapshot.display()))?;
        note(&format!("{}: uploading {} bytes", self.node, verified.bytes));
        node.etcd_recover(&file).await?;
        let from = if verified.sha256.is_some() { Bootstrap::Snapshot } else { Bootstrap::DatabaseFile };
        node.bootstrap(from).await?;
        note(&format!("{}: etcd starts from the snapshot", self.node));
        let patient = node.clone().with_deadline(LOOK_DEADLINE);
        let end = Instant::now() + self.timeout;
        loop {
            let state = look(&patient).await.state;
            if state == EtcdState::Leads {
                let members = patient.etcd_members(true).await?;
                return Ok(members.into_iter().map(|member| member.hostname).collect());
            }
            if Instant::now() >= end {
                let seen = describe_state(&state);
                let what = format!(
                    "etcd on {} did not start within {}: {seen}",
                    self.node,
                    duration::show(self.timeout)
                );
                return Err(Unproven { what, advice: format!("ichorctl -n {} logs etcd", self.node) }.into());
            }
            sleep(POLL).await;
        }
    }

    fn farewell(&self, restored: &Restored) -> String {
        let mut text = format!(
            "etcd runs on {} with revision {} of the snapshot; members: {}\n",
            restored.node,
            restored.verified.contents.revision,
            restored.members.join(", ")
        );
        text.push_str("the other control plane nodes join by themselves: ichorctl etcd members\n");
        if !self.lost.is_empty() {
            text.push_str(&format!(
                "before {} come back, their data has to be wiped: it belongs to the cluster that was\n",
                self.lost.join(", ")
            ));
        }
        text
    }
}

fn refusal(objection: Objection) -> Refusal {
    Refusal { advice: Some(objection.advice()), reason: objection.to_string() }
}

/// How etcd is on a node.
async fn look(node: &NodeClient) -> View {
    let node = node.clone().with_deadline(LOOK_DEADLINE);
    let state = match state(&node).await {
        Ok(state) => state,
        Err(error) if matches!(error.cause, Cause::Unimplemented(_)) => EtcdState::Worker,
        Err(error) => EtcdState::Silent(error.cause.to_string()),
    };
    View { node: node.name().to_owned(), state }
}

async fn state(node: &NodeClient) -> Result<EtcdState, ApiError> {
    let services = node.services().await?;
    let Some(etcd) = services.into_iter().find(|service| service.id == "etcd") else {
        return Ok(EtcdState::Worker);
    };
    match etcd.state.as_str() {
        "Running" => match node.etcd_status().await {
            Ok(status) if status.leader != 0 => Ok(EtcdState::Leads),
            // A member without a leader may refuse to answer, and is there all the same.
            Ok(_) => Ok(EtcdState::Alone),
            Err(error) if error.cause.is_transient() => Err(error),
            Err(_) => Ok(EtcdState::Alone),
        },
        "Preparing" => Ok(EtcdState::Waits),
        _ => Ok(EtcdState::Stopped(etcd.state)),
    }
}

/// What the cluster is called in its config.
async fn cluster_name(node: &NodeClient) -> anyhow::Result<String> {
    #[derive(serde::Deserialize)]
    struct Info {
        #[serde(rename = "clusterName")]
        name: String,
    }
    let resource = node.get("cluster", "Infos.cluster.talos.dev", "current").await?;
    Ok(resource.spec::<Info>()?.name)
}

fn describe_state(state: &EtcdState) -> String {
    match state {
        EtcdState::Leads => "alive: it has a leader".to_owned(),
        EtcdState::Alone => "it has data and no leader".to_owned(),
        EtcdState::Waits => "it has no data and waits".to_owned(),
        EtcdState::Stopped(state) => format!("its service is {state}"),
        EtcdState::Worker => "no control plane node".to_owned(),
        EtcdState::Silent(why) => format!("no answer: {why}"),
    }
}

fn table(views: &[View]) -> String {
    let rows = views.iter().map(|view| [view.node.clone(), describe_state(&view.state)]);
    let head = ["NODE", "ETCD"].map(str::to_owned);
    Table::default().lines(std::iter::once(head).chain(rows)).trim_end().to_owned()
}
