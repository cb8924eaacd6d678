//! What people see of a rollout: one line per node that stays where it is on a terminal, plain lines elsewhere, and a
//! report at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use ichor_rollout::action::{Action, Call, Outcome};
use ichor_rollout::guard::{EtcdView, Verdict, guard};
use ichor_rollout::journal::Journal;
use ichor_rollout::ladder::Rung;
use ichor_rollout::next::{Next, Pending, Stop, Why};
use ichor_rollout::plan::{Plan, Work};
use ichor_rollout::view::{NodeView, Stage, View};
use serde::Serialize;

use super::drive::End;
use super::now;
use crate::exit::{Exit, advice, exit_of};
use crate::output::{self, escape};

/// How it is shown.
#[derive(Debug)]
pub(crate) struct Show {
    is_live: bool,
    is_json: bool,
    began: Duration,
    /// Lines that are on the terminal and go with the next picture.
    shown: usize,
    /// What each node does, and since when.
    doing: BTreeMap<usize, (String, Duration)>,
    last: BTreeMap<usize, String>,
    report: Vec<Line>,
    file: Option<PathBuf>,
}

/// A line of the report.
#[derive(Debug, Clone, Serialize)]
struct Line {
    /// Seconds since the run began.
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    text: String,
}

/// How it ended, for programs.
#[derive(Debug, Serialize)]
struct Ending<'a> {
    result: &'static str,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    nodes: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<String>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl Show {
    /// `file`: where the report goes at the end.
    pub(crate) fn new(is_json: bool, file: Option<PathBuf>) -> Self {
        let is_live = !is_json && std::io::stderr().is_terminal();
        Self {
            is_live,
            is_json,
            began: now(),
            shown: 0,
            doing: BTreeMap::new(),
            last: BTreeMap::new(),
            report: Vec::new(),
            file,
        }
    }

    /// A line that stays.
    pub(crate) fn say(&mut self, text: &str) {
        self.line(None, text.to_owned());
    }

    /// A call begins.
    pub(crate) fn begin(&mut self, plan: &Plan, action: &Action) {
        self.doing.insert(action.node, (action.call.to_string(), now()));
        if action.call != Call::Conclude {
            self.line(Some(&plan.nodes[action.node].name), described(&action.call).to_owned());
        }
    }

    /// There is something to tell about a call that is under way.
    pub(crate) fn told(&mut self, plan: &Plan, node: usize, text: &str) {
        self.line(Some(&plan.nodes[node].name), text.to_owned());
    }

    /// A call has ended.
    pub(crate) fn landed(&mut self, plan: &Plan, action: &Action, outcome: &Outcome, told: Option<&str>) {
        let name = plan.nodes[action.node].name.clone();
        if let Some(told) = told {
            self.line(Some(&name), told.to_owned());
        }
        match outcome {
            Outcome::Done if action.call == Call::Conclude => {
                let is_loaded = plan
                    .tasks_of(action.node)
                    .any(|it| it.work.digest() == action.work && matches!(it.work, Work::Pull { .. }));
                let text = if is_loaded { "the image is there" } else { "proven" };
                self.line(Some(&name), text.to_owned());
            }
            Outcome::Done => {}
            Outcome::Refused(why) => self.line(Some(&name), format!("{} failed: {why}", action.call)),
            Outcome::Unknown(why) => {
                self.line(Some(&name), format!("nobody knows how {} ended: {why}", action.call));
            }
        }
    }

    /// What was seen, and what is waited for.
    pub(crate) fn view(&mut self, plan: &Plan, journal: &Journal, view: &View, next: &Next) {
        if let Next::Wait(pending) = next {
            for it in pending {
                self.waits(plan, it);
            }
        }
        if self.is_live {
            self.picture(plan, journal, view, next);
        }
    }

    /// Says once what is waited for.
    fn waits(&mut self, plan: &Plan, pending: &Pending) {
        let Some(node) = pending.node else { return };
        let text = waiting(plan, &pending.why);
        if matches!(pending.why, Why::Look | Why::Call(_)) {
            return;
        }
        if self.last.get(&node) != Some(&text) {
            self.last.insert(node, text.clone());
            self.doing.insert(node, (text.clone(), now()));
            self.line(Some(&plan.nodes[node].name), text);
        }
    }

    fn line(&mut self, node: Option<&str>, text: String) {
        let seconds = now().saturating_sub(self.began).as_secs_f64();
        let line = Line { seconds, node: node.map(str::to_owned), text };
        self.clear();
        if self.is_json {
            // A reader that left ends the program with the next write of its own.
            let _ = output::Output::new(output::Format::Json).json_line(&line);
        } else {
            let node = line.node.as_deref().map(|node| format!("{node}: ")).unwrap_or_default();
            output::note(&format!("{} {node}{}", clock(seconds), escape(&line.text)));
        }
        self.report.push(line);
    }

    /// Takes the picture off the terminal.
    fn clear(&mut self) {
        if self.shown > 0 {
            let mut text = String::new();
            // To the first line of it, and everything below goes (ECMA-48: CPL, ED).
            let _infallible = write!(text, "\x1b[{}F\x1b[J", self.shown);
            let _ = std::io::stderr().write_all(text.as_bytes());
            self.shown = 0;
        }
    }

    /// One line for each node: what it is, what is done to it, for how long; then what the gate says.
    fn picture(&mut self, plan: &Plan, journal: &Journal, view: &View, next: &Next) {
        self.clear();
        let width = plan.nodes.iter().map(|node| node.name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (index, (node, seen)) in plan.nodes.iter().zip(&view.nodes).enumerate() {
            let state = if journal.is_open(&node.name) || journal.is_flying(&node.name) {
                let (what, since) = self.doing.get(&index).cloned().unwrap_or_default();
                format!("{what} ({})", clock(now().saturating_sub(since).as_secs_f64()).trim_start())
            } else if is_proven(plan, journal, index) {
                "proven".to_owned()
            } else {
                String::new()
            };
            let version = seen.version.as_deref().unwrap_or("-");
            let _infallible = writeln!(
                text,
                "  {:width$}  {:<10} {:<9} {}",
                node.name,
                version,
                stage(seen),
                escape(&state)
            );
        }
        let _infallible = writeln!(text, "  {}", facts(plan, view));
        if let Next::Wait(_) = next {
            let seconds = now().saturating_sub(self.began).as_secs_f64();
            let _infallible = writeln!(text, "  {}", clock(seconds).trim_start());
        }
        self.shown = text.lines().count();
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    /// What can be done about a node, mildest first.
    pub(crate) fn ladder(&mut self, node: &str, rungs: &[Rung]) {
        self.line(Some(node), "what can be done, the mildest first:".to_owned());
        for (number, rung) in rungs.iter().enumerate() {
            let text = format!(
                "  {}. {} ({}): {}",
                number + 1,
                rung.remedy.describe(),
                rung.effect,
                rung.remedy.command(node)
            );
            self.line(Some(node), text);
        }
    }

    /// The end, and the report.
    pub(crate) fn end(&mut self, plan: &Plan, journal: &Journal, end: &End) {
        self.clear();
        let (result, why) = match end {
            End::Done if !journal.has_begun() => ("nothing to do", None),
            End::Done => ("done", None),
            End::Stopped(stop) => ("stopped", Some(stopped(plan, stop))),
            End::Interrupted => ("interrupted", Some("run the same command again to go on".to_owned())),
        };
        let seconds = now().saturating_sub(self.began).as_secs_f64();
        let report = self.file.as_ref().map(|path| path.display().to_string());
        let nodes = plan.nodes.iter().enumerate();
        let proven = nodes.filter(|(index, _)| is_proven(plan, journal, *index));
        let proven = proven.map(|(_, node)| &*node.name).collect();
        let ending = Ending { result, seconds, why: why.clone(), nodes: proven, report, next: None };
        if self.is_json {
            let _ = output::Output::new(output::Format::Json).json_line(&ending);
        } else {
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            output::note(&format!("{} {result}{why}", clock(seconds)));
        }
        if let Some(path) = &self.file {
            let report = serde_json::json!({ "ending": ending, "lines": self.report });
            let text = serde_json::to_string_pretty(&report).unwrap_or_default();
            match crate::files::write_private(path, text.as_bytes()) {
                Ok(()) => output::note(&format!("report: {}", path.display())),
                Err(error) => output::note(&format!("warning: the report was not written: {error}")),
            }
        }
    }
}

/// The end of a run that was never under way: because there was nothing to do, or because one call was all.
pub(crate) fn short_ending(format: output::Format, result: &'static str, why: String) {
    let output = output::Output::new(format);
    if !output.is_json() {
        return output::note(&why);
    }
    let ending = Ending { result, seconds: 0.0, why: Some(why), nodes: Vec::new(), report: None, next: None };
    // A reader that left ends the program with the next write of its own.
    let _ = output.json_line(&ending);
}

/// The end of a run that an error was: who reads JSON is told there, too.
pub(crate) fn error_ending(format: output::Format, result: anyhow::Result<Exit>) -> anyhow::Result<Exit> {
    let output = output::Output::new(format);
    if let Err(error) = &result
        && output.is_json()
    {
        let result = match exit_of(error) {
            Exit::Refused => "refused",
            Exit::Stopped => "stopped",
            _ => "failed",
        };
        let (why, next) = (Some(format!("{error:#}")), advice(error));
        let ending = Ending { result, seconds: 0.0, why, nodes: Vec::new(), report: None, next };
        let _ = output.json_line(&ending);
    }
    result
}

/// Whether all that was planned for a node is proven.
fn is_proven(plan: &Plan, journal: &Journal, node: usize) -> bool {
    let name = &plan.nodes[node].name;
    let mut tasks = plan.tasks_of(node).peekable();
    tasks.peek().is_some() && tasks.all(|task| journal.is_concluded(name, task.work.digest()))
}

/// Minutes and seconds.
fn clock(seconds: f64) -> String {
    let seconds = seconds as u64;
    format!("{:>3}:{:02}", seconds / 60, seconds % 60)
}

fn stage(seen: &NodeView) -> &'static str {
    match (seen.answers, seen.stage, seen.ready) {
        (false, ..) => "silent",
        (true, Some(Stage::Running), true) => "ready",
        (true, Some(Stage::Running), false) => "not ready",
        (true, Some(Stage::Booting), _) => "booting",
        (true, ..) => "busy",
    }
}

/// What the etcd gate goes by, in one line.
fn facts(plan: &Plan, view: &View) -> String {
    let nodes = plan.nodes.iter().zip(&view.nodes).enumerate().filter(|(_, (node, _))| node.votes);
    let voters: Vec<_> = nodes.map(|(index, (_, seen))| (index, seen.etcd.as_ref())).collect();
    let answer = voters.iter().filter(|(_, said)| said.is_some()).count();
    let leader = voters.iter().find_map(|(_, said)| said.map(|it| it.leader));
    let leader = leader.and_then(|leader| {
        let found = voters.iter().find(|(_, said)| said.is_some_and(|it| it.id == leader))?;
        Some(plan.nodes[found.0].name.clone())
    });
    let spread = |of: fn(&ichor_rollout::view::Etcd) -> u64| {
        let all = voters.iter().filter_map(|(_, said)| *said).map(of);
        all.clone().max().unwrap_or(0) - all.min().unwrap_or(0)
    };
    let lag = spread(|it| it.applied);
    let leader = leader.as_deref().unwrap_or("nobody");
    let etcd = EtcdView { voters: voters.clone(), floor: Some(0), max_lag: plan.policy.max_lag };
    let may_lose = voters.iter().filter(|(node, _)| matches!(guard(&etcd, *node, false), Verdict::Go { .. }));
    format!(
        "etcd: {answer} of {} members answer, {leader} leads, lag {lag}, {} may be lost",
        voters.len(),
        match may_lose.count() {
            0 => "none",
            _ => "one",
        }
    )
}

const fn described(call: &Call) -> &'static str {
    match call {
        Call::Pull => "loading the image",
        Call::Snapshot { .. } => "taking a snapshot of etcd",
        Call::HandOver => "handing over the lead of etcd",
        Call::Apply => "applying the config",
        Call::Stage => "writing the config for the next boot",
        Call::Try => "trying the config; it goes away by itself unless it is kept",
        Call::CheckWays => "looking whether it answers over the old and the new way",
        Call::Keep => "keeping the config",
        Call::Install => "writing the image",
        Call::Upgrade => "upgrading: it drains, installs and reboots by itself",
        Call::Drain => "draining",
        Call::Reboot => "rebooting",
        Call::RollBack => "booting the image that it had before",
        Call::Uncordon => "letting pods come again",
        Call::Conclude => "proven",
    }
}

/// What is waited for, in words.
fn waiting(plan: &Plan, why: &Why) -> String {
    let name = |node: usize| &*plan.nodes[node].name;
    let list = |nodes: &[usize]| nodes.iter().map(|node| name(*node)).collect::<Vec<_>>().join(", ");
    match why {
        Why::Look => "looking".to_owned(),
        Why::Lock => "waiting until the lock is renewed".to_owned(),
        Why::Call(call) => call.to_string(),
        Why::Gate(reasons) => {
            let said: Vec<String> = reasons.iter().map(|reason| reason.describe(name)).collect();
            format!("waiting for etcd: {}", said.join("; "))
        }
        Why::Other(other) => {
            format!("waiting for {}: it is not well, or in the middle of something", name(*other))
        }
        Why::Unavailable(away) => format!("waiting: {} cannot be used, and no more may", list(away)),
        Why::Proof(doubts) => {
            let said: Vec<String> = doubts.iter().map(|doubt| doubt.describe(name)).collect();
            format!("waiting: {}", said.join("; "))
        }
        Why::Soak => "seen well; looking whether it stays so".to_owned(),
        Why::Goodbye => "waiting until it goes down".to_owned(),
        Why::Install => "waiting: an image may still be being written".to_owned(),
        Why::Trial => "waiting until the config that was tried has gone away".to_owned(),
        Why::Mark => "waiting: an upgrade that this run did not begin waits for its reboot".to_owned(),
        Why::Pause => "pausing".to_owned(),
    }
}

/// Why it was stopped, in words.
fn stopped(plan: &Plan, stop: &Stop) -> String {
    let name = |node: usize| &*plan.nodes[node].name;
    match stop {
        Stop::Lock => "the lock is somebody else's".to_owned(),
        Stop::Gate { node, why } => {
            format!(
                "{} must not be touched now: {}",
                name(*node),
                waiting(plan, why).replace("waiting: ", "")
            )
        }
        Stop::Unproven { node, doubts } => {
            let said: Vec<String> = doubts.iter().map(|doubt| doubt.describe(name)).collect();
            format!("{} is not proven: {}", name(*node), said.join("; "))
        }
        Stop::Failed { node, call, why } if [Call::Try.name(), Call::CheckWays.name()].contains(&&**call) => {
            format!(
                "{}: the config that was tried has gone away by itself, and the one before is back: {why}",
                name(*node)
            )
        }
        Stop::Failed { node, call, why } => format!("{}: {call} failed: {why}", name(*node)),
        Stop::Changed { node } => {
            format!("the config of {} was changed by somebody else since the plan was made", name(*node))
        }
    }
}
