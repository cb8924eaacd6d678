//! What a lab needs from the rest of this program: the rules by which simulated Talos nodes take configs, and the way to
//! join such nodes to a mesh.

use anyhow::Context as _;
use ichor_lab::cli::{Joined, Joining, Planner, ToJoin};
use ichor_lab::talos::model::{ConfigRules, Line};

use crate::cluster::{Cluster, Node};
use crate::cmd::connection::Connection;
use crate::cmd::plan::nodes::Nodes;
use crate::cmd::plan::{steps, tell_refusals};
use crate::patch::TalosLine;
use crate::patch::conflict::contradictions;
use crate::plan::{Options, Plan};
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

/// Joins the nodes of a lab by the code of `plan` and `apply`.
#[derive(Debug, Clone, Copy, Default)]
pub struct TalosPlanner;

impl Planner for TalosPlanner {
    fn join<'a>(&'a self, nodes: &'a ToJoin, tell: &'a dyn Fn(&str)) -> Joining<'a> {
        Box::pin(async move { Ok(join(nodes, tell).await?) })
    }
}

async fn join(nodes: &ToJoin, tell: &dyn Fn(&str)) -> anyhow::Result<Joined> {
    let cluster = Cluster::parse(&nodes.cluster).context("the cluster file of the lab cannot be used")?;
    let talosconfig = TalosConfig::parse(&nodes.talosconfig)?;
    let own = |node: &Node| nodes.endpoints.get(&node.name).map(ToString::to_string);
    let nodes = Nodes::connect(&cluster, &Connection::default(), &talosconfig, own)?;
    let first = plan(&cluster, &nodes).await?;
    let done = steps::apply(&first, &nodes, tell).await?;
    let second = plan(&cluster, &nodes).await?;
    anyhow::ensure!(second.order.is_empty(), "a second plan has {} steps", second.order.len());
    Ok(Joined { nodes: done.nodes, steps: done.steps })
}

/// A plan that may be applied.
async fn plan(cluster: &Cluster, nodes: &Nodes) -> anyhow::Result<Plan> {
    let (observed, failures) = nodes.observe(cluster).await?;
    if !failures.is_empty() {
        // Tells about each.
        failures.finish();
        anyhow::bail!("there is no plan without all nodes");
    }
    let plan = steps::make(cluster, &observed, Options::default())?;
    anyhow::ensure!(!tell_refusals(&plan), "the plan is refused");
    Ok(plan)
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
