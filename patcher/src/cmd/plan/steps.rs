//! A plan with all its refusals, and the harmless part of it done.

use std::collections::BTreeSet;

use anyhow::Context as _;
use ichor_proto::talos::machine::apply_configuration_request::Mode;

use super::nodes::Nodes;
use super::service;
use crate::api::ApplyOptions;
use crate::cluster::Cluster;
use crate::config_update::{self, NodeConfig, UpdateError};
use crate::plan::observe::Observation;
use crate::plan::{self, Options, Plan};

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Done {
    /// How many nodes were changed.
    pub(crate) nodes: usize,
    /// How many steps were applied and verified.
    pub(crate) steps: usize,
}

/// Makes a plan, and judges what it would lead to.
pub(crate) fn make(cluster: &Cluster, observed: &[Observation], options: Options) -> anyhow::Result<Plan> {
    let mut plan = plan::plan(cluster, observed, options)?;
    if plan.refusals.is_empty() {
        plan.refusals = plan::contradictions(&plan)?;
    }
    Ok(plan)
}

/// Applies the steps of a plan that need neither a reboot nor a restart of etcd nor an image, one node after the other,
/// no further after a failure. `tell` hears of each.
pub(crate) async fn apply(plan: &Plan, nodes: &Nodes, tell: &dyn Fn(&str)) -> anyhow::Result<Done> {
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
