//! `--simulate`: the plan on clusters that are only thought of.

use std::collections::BTreeMap;

use ichor_rollout::model::{self, Case, Machine, Slot};
use ichor_rollout::view::{Digest, View};

use super::rolling::Prepared;
use crate::exit::Refusal;
use crate::output;

/// Tries a plan with faults. Refuses to go on when something happened that must not.
///
/// # Errors
///
/// A refusal that names the seeds.
pub(super) fn simulate(prepared: &Prepared, count: u64) -> anyhow::Result<()> {
    let view = prepared.view.as_ref();
    let case = case(prepared, view);
    let voters = prepared.plan.nodes.iter().filter(|node| node.votes).count();
    let (mut finished, mut bad) = (0_u64, BTreeMap::new());
    for seed in 0..count {
        let faults = if seed == 0 { Vec::new() } else { model::faults(&case, seed) };
        let report = model::run(&case, &faults, false);
        finished += u64::from(report.is_finished);
        if !report.violations.is_empty() {
            bad.insert(seed, report.violations);
        }
    }
    output::note(&format!(
        "simulated: {count} runs of this plan on {voters} voters and {} other nodes, {finished} came to an end, in {} \
         something happened that must not",
        prepared.plan.nodes.len() - voters,
        bad.len()
    ));
    match bad.iter().next() {
        None => Ok(()),
        Some((seed, violations)) => Err(Refusal {
            reason: format!("the simulated run {seed} came to {violations:?}"),
            advice: Some("this is a fault of this program: please report it with the plan".to_owned()),
        }
        .into()),
    }
}

/// The cluster as it was seen.
fn case(prepared: &Prepared, view: Option<&View>) -> Case {
    let machine = |(index, node): (usize, &ichor_rollout::plan::Node)| {
        let seen = view.and_then(|view| view.nodes.get(index));
        let slot = Slot {
            version: seen.and_then(|seen| seen.version.clone()).unwrap_or_else(|| "unknown".into()),
            extensions: seen.and_then(|seen| seen.extensions.clone()).unwrap_or_default(),
        };
        let config = seen.and_then(|seen| seen.active).unwrap_or(Digest(0));
        Machine::new(&node.name, node.votes, slot, config)
    };
    Case {
        machines: prepared.plan.nodes.iter().enumerate().map(machine).collect(),
        plan: prepared.plan.clone(),
        start: crate::roll::now(),
    }
}
