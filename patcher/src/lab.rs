//! What a lab needs from the rest of this program: the rules by which simulated Talos nodes take configs, an owner of its
//! network, and the way to join such nodes to it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ichor_lab::cli::{Guest, Joined, Network, Operator, ToJoin, Work};
use ichor_lab::talos::model::{ConfigRules, Line};
use ichor_proto::talos::machine::apply_configuration_request::Mode;
use ichor_rollout::view::{Lock, NodeView};
use zeroize::Zeroizing;

use crate::api::{ApplyOptions, NodeClient};
use crate::cluster::{Cluster, Node};
use crate::cmd::connection::Connection;
use crate::cmd::plan::nodes::Nodes;
use crate::cmd::plan::{make, service, tell_refusals};
use crate::config_update::{self, NodeConfig, UpdateError};
use crate::patch::conflict::contradictions;
use crate::patch::{self, PatchArg, TalosLine};
use crate::plan::{Options, Plan};
use crate::roll::observe;
use crate::roll::target::Target;
use crate::talosconfig::TalosConfig;

/// The strict reader of machine configs for simulated nodes: they take what the official library of their line takes,
/// and refuse the rest in its words.
#[derive(Debug, Clone, Copy, Default)]
pub struct TalosRules;

impl ConfigRules for TalosRules {
    fn check(&self, config: &str, line: Line) -> Result<(), String> {
        let line = match line {
            Line::V1_11 => TalosLine::V1_11,
            Line::V1_12 => TalosLine::V1_12,
            Line::V1_13 => TalosLine::V1_13,
            Line::V1_14 => TalosLine::V1_14,
        };
        let found = contradictions(config, line).map_err(|error| error.to_string())?;
        let errors: Vec<String> = found.iter().map(|it| format!("\t* {}\n", it.message)).collect();
        match errors.len() {
            0 => Ok(()),
            count => {
                let plural = if count == 1 { "" } else { "s" };
                Err(format!("{count} error{plural} occurred:\n{}\n", errors.concat()))
            }
        }
    }
}

/// Does for a lab what its operator would do: begins its network, mints tokens, and joins its nodes by the code of `plan`,
/// `apply` and `patch`.
#[derive(Debug, Clone, Copy, Default)]
pub struct LabOperator;

impl Operator for LabOperator {
    fn begin<'a>(&'a self, network: &'a Network) -> Work<'a, ()> {
        Box::pin(async move { Ok(begin(network).await?) })
    }

    fn token<'a>(&'a self, folder: &'a Path, guest: &'a Guest) -> Work<'a, Zeroizing<String>> {
        Box::pin(async move { Ok(token(folder, guest, Form::JoinString).await?) })
    }

    fn join<'a>(&'a self, nodes: &'a ToJoin, tell: &'a dyn Fn(&str)) -> Work<'a, Joined> {
        Box::pin(async move { Ok(join(nodes, tell).await?) })
    }
}

async fn begin(network: &Network) -> anyhow::Result<()> {
    let mut args = vec!["mesh".into(), "init".into(), network.name.clone(), "--dir".into()];
    args.push(text(&network.folder)?);
    args.extend(["--range".into(), network.range.to_string()]);
    for lan in &network.avoid {
        args.extend(["--avoid".into(), lan.to_string()]);
    }
    for seed in &network.seeds {
        args.extend(["--seed".into(), seed.to_string()]);
    }
    ichorctl(&args).await.map(drop)
}

/// What is printed of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    JoinString,
    Patch,
}

async fn token(folder: &Path, guest: &Guest, form: Form) -> anyhow::Result<Zeroizing<String>> {
    let mut args: Vec<String> = ["token", "create", "--dir"].map(str::to_owned).to_vec();
    args.push(text(folder)?);
    args.extend(["--name".into(), guest.name.clone(), "--role".into(), guest.role.to_owned()]);
    args.extend(["--site".into(), guest.site.clone()]);
    args.extend(["--address".into(), guest.address.to_string()]);
    if let Some(replaced) = &guest.replaces {
        args.extend(["--replace".into(), replaced.clone()]);
    }
    if form == Form::Patch {
        args.push("--patch".into());
    }
    ichorctl(&args).await
}

fn text(path: &Path) -> anyhow::Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{} is no text", path.display()))
}

/// What this program prints for `args`, in which there is no secret: the same words as those of any operator.
async fn ichorctl(args: &[String]) -> anyhow::Result<Zeroizing<String>> {
    let what = || format!("failed to run ichorctl {}", args.join(" "));
    let program = std::env::current_exe().with_context(what)?;
    let mut command = tokio::process::Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(what)?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{}: {}", what(), said.trim());
    Ok(Zeroizing::new(String::from_utf8(output.stdout).with_context(what)?))
}

async fn join(nodes: &ToJoin, tell: &dyn Fn(&str)) -> anyhow::Result<Joined> {
    let cluster = Cluster::parse(&nodes.cluster).context("the cluster file of the lab cannot be used")?;
    let talosconfig = TalosConfig::parse(&nodes.talosconfig)?;
    let own = |node: &Node| nodes.endpoints.get(&node.name).map(ToString::to_string);
    let clients = Nodes::connect(&cluster, &Connection::default(), &talosconfig, own)?;
    let first = plan(&cluster, &clients).await?;
    let done = apply(&first, &clients, tell).await?;
    for guest in &nodes.guests {
        let patch = token(&nodes.folder, guest, Form::Patch).await?;
        let client = clients.client(&guest.name).context("a node to be let in has no client")?;
        let line = observed_line(&first, &guest.name)?;
        give(client, &patch, line).await.with_context(|| format!("failed to let {} in", guest.name))?;
        tell(&format!("{}: token made, its document applied, and read by the daemon", guest.name));
    }
    let second = plan(&cluster, &clients).await?;
    anyhow::ensure!(second.order.is_empty(), "a second plan has {} steps", second.order.len());
    Ok(Joined { nodes: done.nodes, steps: done.steps, tokens: nodes.guests.len() })
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Done {
    /// How many nodes were changed.
    nodes: usize,
    /// How many steps were applied and verified.
    steps: usize,
}

/// Applies the steps of a plan that need neither a reboot nor a restart of etcd nor an image, one node after the other,
/// no further after a failure. `tell` hears of each.
async fn apply(plan: &Plan, nodes: &Nodes, tell: &dyn Fn(&str)) -> anyhow::Result<Done> {
    let (mut changed, mut steps) = (BTreeSet::new(), 0);
    for turn in &plan.order {
        let node = &plan.nodes[turn.node];
        let step = &node.steps[turn.step];
        if !step.kind.is_applied_at_once() {
            continue;
        }
        let client = nodes.client(&node.name).context("a planned node has no client")?;
        let now = NodeConfig::read(client).await?;
        // The plan started from these bytes. Whoever changed them since knows something that it does not.
        if *now.active.text != *node.before_step(turn.step) {
            return Err(UpdateError::Changed { node: node.name.clone() }.into());
        }
        now.guard(client, &step.after, Mode::NoReboot)?;
        let options = ApplyOptions { mode: Mode::NoReboot, dry_run: false, try_timeout: None };
        let applied = config_update::apply(client, &now, &step.after, options).await?;
        for warning in &applied.warnings {
            tell(&format!("{}: warning: {warning}", node.name));
        }
        tell(&format!("{}: {} applied and verified", node.name, step.kind.name()));
        if let Some(told) = service::follow(client, &now.active.text, &step.after).await? {
            tell(&format!("{}: {told}", node.name));
        }
        changed.insert(turn.node);
        steps += 1;
    }
    Ok(Done { nodes: changed.len(), steps })
}

fn observed_line(plan: &Plan, name: &str) -> anyhow::Result<TalosLine> {
    let node = plan.nodes.iter().find(|node| node.name == name);
    node.map(|node| node.line).with_context(|| format!("{name} is not in the plan"))
}

/// Applies a document to a node, and sees to it that its daemon has read it.
async fn give(client: &NodeClient, document: &str, line: TalosLine) -> anyhow::Result<()> {
    let now = NodeConfig::read(client).await?;
    let patches = patch::load(&[PatchArg::Inline(document.to_owned())], line)?;
    let after = Zeroizing::new(patch::apply(&now.active.text, &patches, line)?);
    now.guard(client, &after, Mode::NoReboot)?;
    let options = ApplyOptions { mode: Mode::NoReboot, dry_run: false, try_timeout: None };
    config_update::apply(client, &now, &after, options).await?;
    service::follow(client, &now.active.text, &after).await?;
    Ok(())
}

/// A plan that may be applied.
async fn plan(cluster: &Cluster, nodes: &Nodes) -> anyhow::Result<Plan> {
    let (observed, failures) = nodes.observe(cluster).await?;
    if !failures.is_empty() {
        // Tells about each.
        failures.finish();
        anyhow::bail!("there is no plan without all nodes");
    }
    let plan = make(cluster, &observed, Options::default())?;
    anyhow::ensure!(!tell_refusals(&plan), "the plan is refused");
    Ok(plan)
}

/// A look at nodes, as rollouts look.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// How long it took.
    pub time: Duration,
    /// How many of the nodes told all that they were asked, but for what only some have.
    pub answered: usize,
}

/// Looks once at the workers or control planes `nodes`.
///
/// # Errors
///
/// When the talosconfig cannot be read.
pub async fn look(talosconfig: &Path, nodes: &[&str]) -> anyhow::Result<Look> {
    let connection = Connection { talosconfig: Some(talosconfig.to_owned()), ..Connection::default() };
    let session = connection.session()?;
    let target = |node: &&str| {
        let addresses = vec![node.parse().with_context(|| format!("{node} is no address"))?];
        let client = session.node(node)?;
        Ok(Target {
            name: (*node).to_owned(),
            client,
            votes: false,
            mesh: None,
            addresses,
            is_given_up: false,
        })
    };
    let targets: Vec<Target> = nodes.iter().map(target).collect::<anyhow::Result<_>>()?;
    let began = Instant::now();
    let view = observe::look(&targets, None, Lock::Waived).await;
    let time = began.elapsed();
    let is_told = |node: &&NodeView| {
        node.answers && node.boot.is_some() && node.active.is_some() && node.extensions.is_some()
    };
    Ok(Look { time, answered: view.nodes.iter().filter(is_told).count() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_node_refuses_keys_below_the_first_levels_and_documents_of_newer_lines() {
        let config = "version: v1alpha1\nmachine:\n  type: worker\n  kubelet:\n    nodeIp: {}\ncluster: {}\n";
        let error = TalosRules.check(config, Line::V1_13).unwrap_err();
        assert!(error.contains("nodeIp"), "{error}");
        let config = "apiVersion: v1alpha1\nkind: KubeNodeConfig\n";
        assert_eq!(TalosRules.check(config, Line::V1_14), Ok(()));
        assert!(TalosRules.check(config, Line::V1_13).unwrap_err().contains("not registered"));
    }
}
