//! What `patch`, `apply-config` and `edit` share: how a config is applied to a node, and what is told about it.

use std::time::Duration;

use clap::{Args, ValueEnum};
use ichor_proto::talos::machine::apply_configuration_request::Mode;
use serde::Serialize;

use crate::api::{ApplyOptions, Capabilities, NodeClient, Support};
use crate::config_update::{self, Applied, NodeConfig, Pending};
use crate::duration;
use crate::exit::Refusal;
use crate::output::{self, Format, Output};
use crate::patch::{TalosLine, diff};

/// How a changed config is applied.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct ApplyFlags {
    /// How to apply it
    #[arg(short, long, value_enum, default_value_t = ApplyMode::Auto)]
    mode: ApplyMode,
    /// Show what would change, secrets covered, and have the node check it; nothing is changed
    #[arg(long)]
    dry_run: bool,
    /// With --mode try: when the node goes back by itself
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration::parse)]
    timeout: Duration,
    /// Go over a staged config or one on trial, which is lost then
    #[arg(long)]
    force_pending: bool,
    /// Change nodes whose Talos is newer than what this program knows
    #[arg(long)]
    allow_unknown_talos: bool,
    /// How to print the outcome
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// The modes of talosctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ApplyMode {
    /// At once if possible; up to Talos 1.13 the node reboots where it is not
    Auto,
    /// At once, or not at all
    NoReboot,
    /// On the disk, and then a reboot; up to Talos 1.13
    Reboot,
    /// On the disk, for the next reboot
    Staged,
    /// At once, and back again after --timeout
    Try,
}

impl ApplyMode {
    const fn wire(self) -> Mode {
        match self {
            Self::Auto => Mode::Auto,
            Self::NoReboot => Mode::NoReboot,
            Self::Reboot => Mode::Reboot,
            Self::Staged => Mode::Staged,
            Self::Try => Mode::Try,
        }
    }
}

/// What `patch` and `edit` work on. There is nothing else, but talosctl wants it said.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Subject {
    /// What to change
    #[arg(value_enum, ignore_case = true, hide_possible_values = true, value_name = "machineconfig")]
    kind: Kind,
    /// Which one: v1alpha1 is the only one that can be changed
    #[arg(value_enum, hide = true)]
    id: Option<Id>,
    /// The namespace of machine configs
    #[arg(long, value_enum, hide = true)]
    namespace: Option<Namespace>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    #[value(name = "machineconfig", aliases = ["mc", "machineconfigs", "machineconfigs.config.talos.dev"])]
    MachineConfig,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Id {
    #[value(name = "v1alpha1")]
    Active,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Namespace {
    #[value(name = "config")]
    Config,
}

/// How it went on one node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome<'a> {
    node: &'a str,
    changed: bool,
    dry_run: bool,
    /// The mode that the node used, or would use.
    mode: Option<&'static str>,
    warnings: &'a [String],
    details: &'a str,
    /// Dry runs only.
    diff: Option<&'a str>,
}

/// What a node is, as far as it matters for a change.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) line: TalosLine,
    capabilities: Capabilities,
}

impl Target {
    /// Asks the node for its version, and refuses one that is not known well enough.
    pub(super) async fn of(node: &NodeClient, flags: ApplyFlags) -> anyhow::Result<Self> {
        let capabilities = node.capabilities().await?;
        let version = &capabilities.version;
        let refuse = |reason: String, advice: &str| Refusal { reason, advice: Some(advice.to_owned()) };
        let line = TalosLine::of_version(&version.to_string());
        match (capabilities.support, line) {
            (Support::TooOld, _) | (_, None) => Err(refuse(
                format!("{} has Talos {version}, whose rules are not known", node.name()),
                "upgrade it to Talos 1.11 or newer, or use a talosctl of its version",
            )
            .into()),
            (Support::Unknown, Some(_)) if !flags.allow_unknown_talos => Err(refuse(
                format!("{} has Talos {version}, which is newer than this program", node.name()),
                "get a newer ichorctl, or use --allow-unknown-talos to treat it like Talos 1.14",
            )
            .into()),
            (_, Some(line)) => Ok(Self { line, capabilities }),
        }
    }
}

impl ApplyFlags {
    /// The mode on the wire.
    pub(super) const fn mode(self) -> Mode {
        self.mode.wire()
    }

    /// True when nothing is changed.
    pub(super) const fn is_dry(self) -> bool {
        self.dry_run
    }

    const fn options(self) -> ApplyOptions {
        ApplyOptions { mode: self.mode.wire(), dry_run: self.dry_run, try_timeout: Some(self.timeout) }
    }

    /// Brings `after` to a node that has `before`, and tells about it. Nothing is sent when that changes nothing.
    pub(super) async fn apply(
        self,
        node: &NodeClient,
        target: &Target,
        before: &NodeConfig,
        after: &str,
    ) -> anyhow::Result<()> {
        let base = before.base(self.mode());
        let is_trial = before.pending() == Some(Pending::Try);
        if !is_trial && base.text.as_str() == after {
            return self.tell(node, None, "");
        }
        if !self.force_pending {
            before.guard(node, after, self.mode())?;
        }
        // A rehearsal would end a trial before its time.
        let may_reboot = self.mode == ApplyMode::Auto && target.capabilities.auto_may_reboot;
        if may_reboot && !self.dry_run && !is_trial {
            let rehearsal = ApplyOptions { dry_run: true, ..self.options() };
            if config_update::apply(node, before, after, rehearsal).await?.mode == Mode::Reboot {
                output::note(&format!("{}: the node reboots to apply this", node.name()));
            }
        }
        let applied = config_update::apply(node, before, after, self.options()).await?;
        let names = (format!("{}/current", node.name()), format!("{}/new", node.name()));
        let diff = self.dry_run.then(|| diff::unified(&base.text, after, (&names.0, &names.1)));
        self.tell(node, Some(&applied), &diff.unwrap_or_default())
    }

    /// Sends a first config to a node in maintenance mode, which has nothing to compare with.
    pub(super) async fn send_first(self, node: &NodeClient, text: &str) -> anyhow::Result<()> {
        let applied = config_update::send(node, text, self.options()).await?;
        self.tell(node, Some(&applied), "")
    }

    /// Data goes to stdout, the rest to stderr, as with talosctl.
    fn tell(self, node: &NodeClient, applied: Option<&Applied>, diff: &str) -> anyhow::Result<()> {
        let output = Output::new(self.output);
        if output.is_json() {
            let outcome = Outcome {
                node: node.name(),
                changed: applied.is_some() && !self.dry_run,
                dry_run: self.dry_run,
                mode: applied.map(|applied| mode_name(applied.mode)),
                warnings: applied.map_or(&[], |applied| &applied.warnings),
                details: applied.map_or("", |applied| &applied.details),
                diff: Some(diff).filter(|_| self.dry_run),
            };
            return Ok(output.json(&outcome)?);
        }
        let Some(applied) = applied else {
            output::note(&format!("{}: nothing to do, no changes detected", node.name()));
            return Ok(());
        };
        output.raw(diff.as_bytes())?;
        for warning in &applied.warnings {
            output::note(&format!("{}: warning: {warning}", node.name()));
        }
        let what = if self.dry_run { "dry run, nothing was changed" } else { "applied" };
        output::note(&format!("{}: {what} (mode {})", node.name(), mode_name(applied.mode)));
        if !applied.details.is_empty() {
            output::note(&format!("{}: {}", node.name(), applied.details));
        }
        if !self.dry_run && applied.mode == Mode::Try {
            output::note(&format!(
                "{}: on trial for {}; keep it with the same command and --mode no-reboot",
                node.name(),
                duration::show(self.timeout)
            ));
        }
        Ok(())
    }
}

/// As it is written on the command line.
const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Auto => "auto",
        Mode::NoReboot => "no-reboot",
        Mode::Reboot => "reboot",
        Mode::Staged => "staged",
        Mode::Try => "try",
    }
}
