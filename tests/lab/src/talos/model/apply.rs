//! What a node does with a config that is sent to it.
//!
//! Talos: internal/app/machined/internal/server/v1alpha1/v1alpha1_server.go, and internal/app/maintenance up to 1.12.

use std::time::Duration;

use ichor_proto::talos::machine::apply_configuration_request::Mode;
use tonic::Code;

use super::config::{Config, ConfigRules};
use super::node::{Node, Revert, Stage};
use super::refusal::Refusal;

/// When a try is reverted, if it does not say.
const TRY_TIMEOUT: Duration = Duration::from_secs(60);

/// A config that is sent to a node.
#[derive(Debug, Clone)]
pub struct Apply {
    /// The config.
    pub data: Vec<u8>,
    /// What happens with it.
    pub mode: Mode,
    /// Only say what would happen.
    pub dry_run: bool,
    /// When a try is reverted.
    pub try_timeout: Option<Duration>,
}

/// What a node says to a config that it has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// What it really did.
    pub mode: Mode,
    /// In words.
    pub details: String,
    /// What it does not like.
    pub warnings: Vec<String>,
}

const NO_REBOOT: &str = "Applied configuration without a reboot";
const STAGED: &str = "Staged configuration to be applied after the next reboot";
const REBOOT: &str = "Applied configuration with a reboot";

impl Node {
    pub(crate) fn apply(
        &mut self,
        apply: Apply,
        rules: &dyn ConfigRules,
        now: Duration,
    ) -> Result<Applied, Refusal> {
        let line = self.line();
        let maintenance = self.is_in_maintenance();
        if maintenance && line.has_small_maintenance_server() {
            return self.apply_in_small_maintenance(apply, rules, now);
        }
        if self.reboots_by_apply && line.locks_applies() {
            let text = "another apply configuration is already in progress";
            return Err(Refusal::new(Code::FailedPrecondition, text));
        }
        // Before anything is looked at: even a call that fails ends a try, and keeps what was tried.
        if apply.mode != Mode::Try {
            self.revert = None;
        }
        let config = Config::read(&apply.data, line, rules).map_err(Refusal::invalid)?;
        if !maintenance && config.legacy().is_none() {
            return Err(Refusal::invalid(
                "the applied machine configuration doesn't contain v1alpha1 config, did you mean to patch the \
                 machine config instead?",
            ));
        }
        let mut mode = apply.mode;
        if mode == Mode::Reboot && maintenance {
            mode = Mode::NoReboot;
        } else if mode == Mode::Reboot && !line.judges_changes() {
            let text = "the REBOOT mode is not supported, please use AUTO or NO_REBOOT modes instead";
            return Err(Refusal::new(Code::Unimplemented, text));
        }
        config.validate().map_err(Refusal::invalid)?;
        let (mode, summary, why) = self.judge(mode, &config, maintenance)?;
        if apply.dry_run {
            let diff = Config::diff(self.active.as_ref(), &config);
            let details =
                format!("Dry run summary:\n{summary} (skipped in dry-run).\nConfig diff:\n\n{diff}");
            return Ok(Applied { mode, details, warnings: Vec::new() });
        }
        let mut details = summary.to_owned();
        details.extend(why.map(|why| format!(": {why}")));
        match mode {
            Mode::Try => {
                let timeout = apply.try_timeout.unwrap_or(TRY_TIMEOUT);
                details += &format!(
                    "\nThe config is applied in 'try' mode and will be automatically reverted back in {}",
                    go_duration(timeout)
                );
                // A second try reverts to what the first one tried.
                if let Some(to) = self.active.clone() {
                    self.revert = Some(Revert { at: now + timeout, to });
                }
                self.take(config, maintenance, now);
            }
            Mode::Staged => self.persistent = Some(config),
            Mode::Reboot => {
                self.persistent = Some(config);
                self.reboots_by_apply = true;
                self.leave("reboot", "", true, now);
            }
            Mode::Auto | Mode::NoReboot => {
                self.persistent = Some(config.clone());
                self.take(config, maintenance, now);
            }
        }
        Ok(Applied { mode, details, warnings: Vec::new() })
    }

    /// What a mode comes to for this config, how Talos puts it, and why if it is not what was asked for.
    fn judge(
        &self,
        mode: Mode,
        config: &Config,
        maintenance: bool,
    ) -> Result<(Mode, &'static str, Option<String>), Refusal> {
        let judges = self.line().judges_changes() && !maintenance;
        let needs_reboot =
            judges && self.active.as_ref().is_some_and(|active| config.needs_reboot_after(active));
        let why = || {
            let diff = Config::diff(self.active.as_ref(), config);
            format!("this config change can't be applied in immediate mode\ndiff:\n{diff}")
        };
        match mode {
            Mode::Staged => Ok((mode, STAGED, None)),
            Mode::Reboot => Ok((mode, REBOOT, None)),
            Mode::Auto if needs_reboot => Ok((Mode::Reboot, REBOOT, Some(why()))),
            Mode::Auto => Ok((Mode::NoReboot, NO_REBOOT, None)),
            Mode::Try | Mode::NoReboot if needs_reboot => Err(Refusal::invalid(why())),
            Mode::Try | Mode::NoReboot => Ok((mode, NO_REBOOT, None)),
        }
    }

    /// Up to 1.12 maintenance mode is a server of its own, which knows three modes.
    fn apply_in_small_maintenance(
        &mut self,
        apply: Apply,
        rules: &dyn ConfigRules,
        now: Duration,
    ) -> Result<Applied, Refusal> {
        if !matches!(apply.mode, Mode::Try | Mode::Reboot | Mode::Auto) {
            let mode = apply.mode.as_str_name().to_lowercase().replace('_', "-");
            let text = format!("apply configuration --mode='{mode}' is not supported in maintenance mode");
            return Err(Refusal::new(Code::Unimplemented, text));
        }
        let config = Config::read(&apply.data, self.line(), rules);
        let config = config.map_err(|text| Refusal::plain(format!("failed to parse config: {text}")))?;
        let validated = config.validate();
        validated.map_err(|text| Refusal::invalid(format!("configuration validation failed: {text}")))?;
        // The reply says nothing about the mode, so it has the zero value.
        let mut applied = Applied { mode: Mode::Reboot, details: String::new(), warnings: Vec::new() };
        if apply.dry_run {
            applied.details =
                "Dry run summary:\nNode is running in maintenance mode and does not have a config yet."
                    .to_owned();
        } else {
            self.persistent = Some(config.clone());
            self.take(config, true, now);
        }
        Ok(applied)
    }

    /// Runs with `config`. In maintenance mode a config that is complete makes the node install itself and boot.
    fn take(&mut self, config: Config, maintenance: bool, now: Duration) {
        if !maintenance {
            self.activate(config, now);
        } else if config.is_complete() {
            self.enter(Stage::Installing, now);
            self.disk.install();
            self.leave("install", "", true, now);
        } else {
            self.active = Some(config);
        }
    }
}

/// A duration as Go prints it.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = (duration - Duration::from_secs(seconds / 60 * 60)).as_secs_f64();
    match (hours, minutes) {
        (0, 0) if duration.as_secs_f64() < 1.0 => format!("{}ms", duration.as_secs_f64() * 1000.0),
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_does() {
        for (milliseconds, text) in
            [(60_000, "1m0s"), (90_500, "1m30.5s"), (3_600_000, "1h0m0s"), (5_000, "5s"), (300, "300ms")]
        {
            assert_eq!(go_duration(Duration::from_millis(milliseconds)), text);
        }
    }
}
