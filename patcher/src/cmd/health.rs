//! `health`: is the cluster well?

use std::time::Duration;

use clap::{ArgAction, Args};
use ichor_proto::talos::cluster::ClusterInfo;
use serde::Serialize;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::connection::{Connection, Session};
use crate::api::NodeClient;
use crate::duration;
use crate::exit::Exit;
use crate::health::{Check, ClusterNodes, Member, Verdict, discover};
use crate::output::{self, Format, Output};

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_secs(5);

/// Flags of `health`.
#[derive(Args, Debug)]
pub struct Health {
    /// Control plane nodes, in place of those that are discovered
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    control_plane_nodes: Vec<String>,
    /// Workers, in place of those that are discovered
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    worker_nodes: Vec<String>,
    /// One more control plane node
    #[arg(long, value_name = "NODE")]
    init_node: Option<String>,
    /// How long to wait for a healthy cluster
    #[arg(long, value_name = "DURATION", default_value = "20m", value_parser = duration::parse)]
    wait_timeout: Duration,
    /// Kubernetes endpoint for the checks that the server makes
    #[arg(long, value_name = "URL")]
    k8s_endpoint: Option<String>,
    /// Have a control plane node make the checks, those of Kubernetes too; =false makes those of Talos from here
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, value_name = "BOOL",
          default_value_t = true, default_missing_value = "true")]
    server: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
struct Progress<'a> {
    node: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct Outcome {
    check: &'static str,
    status: &'static str,
    message: String,
}

impl Health {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When the cluster does not get healthy in time.
    pub async fn run(mut self, connection: &Connection) -> anyhow::Result<Exit> {
        let session = connection.session()?;
        let node = session.single("health")?;
        self.control_plane_nodes.extend(self.init_node.take());
        if self.server { self.on_server(&node).await } else { self.on_client(&session, &node).await }
    }

    async fn on_server(self, node: &NodeClient) -> anyhow::Result<Exit> {
        let output = Output::new(self.output);
        let cluster = ClusterInfo {
            control_plane_nodes: self.control_plane_nodes,
            worker_nodes: self.worker_nodes,
            force_endpoint: self.k8s_endpoint.unwrap_or_default(),
        };
        let mut stream = node.health_check(self.wait_timeout, cluster).await?;
        while let Some(progress) = stream.next().await? {
            match output.is_json() {
                true => output.json_line(&Progress { node: node.name(), message: &progress.message })?,
                false => output::note(&progress.message),
            }
        }
        Ok(Exit::Done)
    }

    async fn on_client(self, session: &Session, node: &NodeClient) -> anyhow::Result<Exit> {
        let output = Output::new(self.output);
        let cluster = self.cluster(session, node).await?;
        let deadline = Instant::now() + self.wait_timeout;
        let mut outcomes = Vec::new();
        let mut exit = Exit::Done;
        for check in Check::ALL {
            let outcome = wait_for(check, &cluster, deadline).await;
            let failed = outcome.status == "failed";
            outcomes.push(outcome);
            if failed {
                exit = Exit::Failed;
                break;
            }
        }
        if output.is_json() {
            output.json(&outcomes)?;
        }
        if exit == Exit::Done {
            output::note(
                "the checks of Kubernetes are made by a node: run `ichorctl health` without --server=false",
            );
        }
        Ok(exit)
    }

    async fn cluster(&self, session: &Session, node: &NodeClient) -> anyhow::Result<ClusterNodes> {
        if self.control_plane_nodes.is_empty() && self.worker_nodes.is_empty() {
            return discover(node, |address| session.node(address)).await;
        }
        let members = |names: &[String]| {
            let member = |name: &String| {
                anyhow::Ok(Member { client: session.node(name)?, addresses: vec![name.clone()] })
            };
            names.iter().map(member).collect::<anyhow::Result<Vec<_>>>()
        };
        Ok(ClusterNodes {
            control_plane: members(&self.control_plane_nodes)?,
            workers: members(&self.worker_nodes)?,
        })
    }
}

/// Looks again and again until it is true or the time is up. What is missing is told when it changes.
async fn wait_for(check: Check, cluster: &ClusterNodes, deadline: Instant) -> Outcome {
    let title = check.title();
    let tell = |text: &str| output::note(&format!("waiting for {title}: {text}"));
    let mut last = "no answer in time".to_owned();
    tell("...");
    loop {
        let status = match timeout_at(deadline, check.run(cluster)).await {
            Ok(Ok(Verdict::Passed)) => Some(("passed", "OK")),
            Ok(Ok(Verdict::Skipped)) => Some(("skipped", "SKIP")),
            Ok(Err(problem)) => {
                if problem != last {
                    tell(&problem);
                    last = problem;
                }
                None
            }
            Err(_) => None,
        };
        if let Some((status, text)) = status {
            tell(text);
            return Outcome { check: title, status, message: String::new() };
        }
        if Instant::now() >= deadline {
            output::note(&format!("error: {title}: {last}"));
            return Outcome { check: title, status: "failed", message: last };
        }
        sleep_until(deadline.min(Instant::now() + INTERVAL)).await;
    }
}
