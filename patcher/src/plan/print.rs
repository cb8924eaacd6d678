//! A plan for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;

use super::refuse::Refusal;
use super::{Plan, Step, StepKind, Turn};
use crate::cluster::{Cluster, Role};
use crate::patch::diff::{Hunk, Sign};

/// A plan as JSON has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Json<'a> {
    mesh: &'a str,
    range: String,
    port: u16,
    profile: &'static str,
    changes: bool,
    steps: Vec<JsonStep<'a>>,
    refusals: &'a [Refusal],
    notes: &'a [String],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonStep<'a> {
    number: usize,
    node: &'a str,
    talos: String,
    step: &'static str,
    mode: &'static str,
    reboot: bool,
    /// Whether `ichorctl apply` does it.
    applied: bool,
    etcd: JsonQuorum,
    edits: Vec<JsonEdit<'a>>,
    /// Unified, secrets covered.
    diff: String,
}

#[derive(Debug, Serialize)]
struct JsonQuorum {
    voters: usize,
    up: usize,
    needed: usize,
}

#[derive(Debug, Serialize)]
struct JsonEdit<'a> {
    document: String,
    reason: &'a str,
}

/// The plan for programs.
pub fn json<'a>(cluster: &'a Cluster, plan: &'a Plan) -> Json<'a> {
    let steps = plan.order.iter().enumerate().filter_map(|(index, turn)| json_step(plan, index, *turn));
    Json {
        mesh: &cluster.mesh.name,
        range: cluster.mesh.range.to_string(),
        port: cluster.mesh.port,
        profile: cluster.mesh.profile.as_str(),
        changes: !plan.order.is_empty(),
        steps: steps.collect(),
        refusals: &plan.refusals,
        notes: &plan.notes,
    }
}

fn json_step(plan: &Plan, index: usize, turn: Turn) -> Option<JsonStep<'_>> {
    let node = plan.nodes.get(turn.node)?;
    let step = node.steps.get(turn.step)?;
    let mut diff = String::new();
    for (hunk, _) in node.diff(turn.step) {
        push_hunk(&mut diff, &hunk, &[]);
    }
    let edit = |edit: &'_ crate::patch::ensure::Edit| edit.document.to_string();
    Some(JsonStep {
        number: index + 1,
        node: &node.name,
        talos: node.line.to_string(),
        step: step.kind.name(),
        mode: step.kind.mode().name(),
        reboot: step.kind.reboots(),
        applied: step.kind.is_applied_at_once(),
        etcd: JsonQuorum { voters: turn.quorum.voters, up: turn.quorum.up, needed: turn.quorum.needed },
        edits: step.edits().map(|it| JsonEdit { document: edit(it), reason: &it.reason }).collect(),
        diff,
    })
}

impl Step {
    /// The edits that this step is made of, those that change nothing left out.
    fn edits(&self) -> impl Iterator<Item = &crate::patch::ensure::Edit> {
        let used: std::collections::BTreeSet<usize> =
            self.ensured.added.values().chain(self.ensured.removed.values()).copied().collect();
        self.edits.iter().enumerate().filter(move |(index, _)| used.contains(index)).map(|(_, edit)| edit)
    }
}

/// The plan for people: one step after the other in their order, each with its diff and reasons.
pub fn text(cluster: &Cluster, plan: &Plan) -> String {
    let mut out = String::new();
    let count = |role| cluster.nodes.iter().filter(|node| node.role == role).count();
    let mesh = &cluster.mesh;
    line(
        &mut out,
        &format!(
            "mesh {}: {}, UDP {}, profile {}; {} control planes, {} workers",
            mesh.name,
            mesh.range,
            mesh.port,
            mesh.profile,
            count(Role::ControlPlane),
            count(Role::Worker)
        ),
    );
    if plan.order.is_empty() {
        line(&mut out, "nothing to do: every node is as the file says");
    }
    for (index, turn) in plan.order.iter().enumerate() {
        let Some(node) = plan.nodes.get(turn.node) else { continue };
        let Some(step) = node.steps.get(turn.step) else { continue };
        let kind = step.kind;
        out.push('\n');
        line(
            &mut out,
            &format!(
                "step {} of {}: {} on {} (Talos {}, mode {}, {}; {})",
                index + 1,
                plan.order.len(),
                kind.name(),
                node.name,
                node.line,
                kind.mode().name(),
                if kind.reboots() { "with a reboot" } else { "no reboot" },
                quorum(*turn)
            ),
        );
        for (hunk, reasons) in node.diff(turn.step) {
            push_hunk(&mut out, &hunk, &reasons);
        }
    }
    if !plan.notes.is_empty() {
        out.push('\n');
    }
    for note in &plan.notes {
        line(&mut out, &format!("note: {note}"));
    }
    let left: Vec<StepKind> = StepKind::ALL
        .into_iter()
        .filter(|kind| !kind.is_applied_at_once())
        .filter(|kind| plan.nodes.iter().any(|node| node.steps.iter().any(|step| step.kind == *kind)))
        .collect();
    for kind in left {
        line(&mut out, &format!("note: {}", not_applied(kind)));
    }
    out
}

/// Why `apply` does not do a kind of step, and what does.
pub fn not_applied(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Firewall => {
            "firewall steps are not applied by `ichorctl apply`: a wrong rule locks everybody out. Write them with \
             --as-patches, try them with `ichorctl patch mc --mode try --timeout 5m`, and confirm with --mode no-reboot"
        }
        StepKind::Switch => {
            "switch steps are not applied by `ichorctl apply`: they need drain, reboot and proof, one node at a time"
        }
        StepKind::Mesh | StepKind::Pin => "applied by `ichorctl apply`",
    }
}

fn quorum(turn: Turn) -> String {
    let quorum = turn.quorum;
    let state = if quorum.holds() { "quorum holds" } else { "QUORUM IS LOST meanwhile" };
    format!("etcd {} of {} voters up, {} needed: {state}", quorum.up, quorum.voters, quorum.needed)
}

fn push_hunk(out: &mut String, hunk: &Hunk, reasons: &[Option<&str>]) {
    line(out, &hunk.header);
    let mut last = None;
    for (index, changed) in hunk.lines.iter().enumerate() {
        let reason = reasons.get(index).copied().flatten();
        if changed.sign != Sign::Kept && reason.is_some() && reason != last {
            line(out, &format!("  # {}", reason.unwrap_or_default()));
            last = reason;
        }
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}{}", changed.sign.mark(), changed.text);
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}
