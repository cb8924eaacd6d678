//! Changing the machine config of a node without losing anybody's change.
//!
//! The API has no compare-and-swap. So the config is read with its version, read again right before the new one is
//! sent, and read once more afterwards, until the node shows what it was sent. A node has two configs: the active
//! one, and the one on its disk. They differ while a staged config waits for a reboot, and while a tried one waits to
//! be confirmed or reverted; whoever applies something then throws that away, and is told so first.

use std::fmt;
use std::time::Duration;

use ichor_proto::talos::machine::apply_configuration_request::Mode;
use prost_types::Timestamp;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use crate::api::{ApiError, ApplyOptions, Cause, ConfigId, NodeClient, Resource, SpecError};
use crate::exit::Exit;

/// How long a node may take to show a config that it accepted.
const SETTLE: Duration = Duration::from_secs(15);

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_millis(250);

/// A config of a node and which version of it this is.
#[derive(Clone)]
pub struct VersionedConfig {
    /// All documents, byte for byte.
    pub text: Zeroizing<String>,
    version: String,
    updated: Option<Timestamp>,
}

/// Both configs of a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// What it runs with.
    pub active: VersionedConfig,
    /// What is on its disk. None where it cannot be told.
    pub persistent: Option<VersionedConfig>,
}

/// Why active and persistent config differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// A config is being tried, and reverted unless it is applied again.
    Try,
    /// A config waits for a reboot.
    Staged,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The mode that the node really used.
    pub mode: Mode,
    /// What the node warns of.
    pub warnings: Vec<String>,
    /// What it says about the mode.
    pub details: String,
}

/// Where a change stopped because of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Reading what the change starts from.
    Read,
    /// Reading it again right before sending. Nothing was sent.
    Recheck,
    /// Sending the new config.
    Apply,
    /// Reading back what the node accepted.
    Verify,
}

/// A config that was not changed, or of which that is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// A call failed.
    #[error("{}", step.describe(node))]
    Api {
        /// When.
        step: Step,
        /// The node.
        node: String,
        /// Why.
        source: ApiError,
    },
    /// The node's config cannot be decoded.
    #[error("the machine config of {node} is not understood")]
    Spec {
        /// The node.
        node: String,
        /// Why.
        source: SpecError,
    },
    /// Somebody else changed the config meanwhile.
    #[error("the machine config of {node} was changed by somebody else meanwhile: nothing was sent")]
    Changed {
        /// The node.
        node: String,
    },
    /// Something is pending that would be lost.
    #[error("{node} has {}", pending.describe())]
    Pending {
        /// The node.
        node: String,
        /// What is pending.
        pending: Pending,
    },
    /// The node accepted the config but does not show it.
    #[error("{node} accepted the machine config, but its {which} config is another one")]
    Unproven {
        /// The node.
        node: String,
        /// `active` or `persistent`.
        which: &'static str,
    },
}

impl UpdateError {
    /// How a command ends because of it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Api { step: Step::Read | Step::Recheck, .. } | Self::Spec { .. } => Exit::Failed,
            // A call that went out and did not come back may have been executed.
            Self::Api { step: Step::Apply, source, .. } => {
                let is_open = source.cause.is_transient() && !source.cause.was_not_sent();
                if is_open { Exit::Stopped } else { Exit::Failed }
            }
            Self::Changed { .. } | Self::Pending { .. } => Exit::Refused,
            Self::Api { step: Step::Verify, .. } | Self::Unproven { .. } => Exit::Stopped,
        }
    }

    /// What to do about it, where the call itself does not say.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Api { .. } if self.exit() == Exit::Stopped => Some(COMPARE),
            Self::Api { .. } | Self::Spec { .. } => None,
            Self::Changed { .. } => Some("look at the config again, and repeat the command"),
            Self::Pending { .. } => Some(
                "wait for its end, or go over it with --force-pending; a trial is confirmed by the same command \
                 with --mode no-reboot",
            ),
            Self::Unproven { .. } => Some(COMPARE),
        }
    }
}

/// How to find out what a node has.
const COMPARE: &str = "see what the node has now with `ichorctl get mc v1alpha1 -o yaml` (active) and \
                       `ichorctl get mc persistent -o yaml` (on its disk)";

impl Step {
    fn describe(self, node: &str) -> String {
        match self {
            Self::Read => format!("failed to read the machine config of {node}"),
            Self::Recheck => format!(
                "failed to read the machine config of {node} again before changing it; nothing was sent"
            ),
            Self::Apply => format!("failed to apply the machine config of {node}"),
            Self::Verify => format!("{node} accepted the machine config, but reading it back failed"),
        }
    }
}

impl Pending {
    const fn describe(self) -> &'static str {
        match self {
            Self::Try => {
                "a config on trial, which is reverted by itself; applying anything else now, even as a dry run, \
                 would end the trial without saving it"
            }
            Self::Staged => {
                "a staged config that waits for a reboot; a change of the active one would drop it"
            }
        }
    }
}

impl fmt::Debug for VersionedConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VersionedConfig")
            .field("bytes", &self.text.len())
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl NodeConfig {
    /// Reads both configs of a node.
    ///
    /// # Errors
    ///
    /// Those of the calls, and when a config cannot be decoded.
    pub async fn read(node: &NodeClient) -> Result<Self, UpdateError> {
        Self::read_at(node, Step::Read).await
    }

    async fn read_at(node: &NodeClient, step: Step) -> Result<Self, UpdateError> {
        let failed = |source| UpdateError::Api { step, node: node.name().to_owned(), source };
        let active = node.machine_config(ConfigId::Active).await.map_err(failed)?;
        let persistent = match node.machine_config(ConfigId::Persistent).await {
            Ok(resource) => Some(resource),
            Err(ApiError { cause: Cause::NotFound(_), .. }) => None,
            Err(error) => return Err(failed(error)),
        };
        let spec = |source| UpdateError::Spec { node: node.name().to_owned(), source };
        Ok(Self {
            active: VersionedConfig::new(active).map_err(spec)?,
            persistent: persistent.map(VersionedConfig::new).transpose().map_err(spec)?,
        })
    }

    /// What would be lost by applying another config.
    pub fn pending(&self) -> Option<Pending> {
        let persistent = self.persistent.as_ref()?;
        if is_same(&self.active.text, &persistent.text) {
            return None;
        }
        let moment = |config: &VersionedConfig| config.updated.map(|moment| (moment.seconds, moment.nanos));
        // A trial changes the active config, staging the other one.
        Some(if moment(&self.active) > moment(persistent) { Pending::Try } else { Pending::Staged })
    }

    /// The config that a change in `mode` starts from.
    ///
    /// That is the active one, but the one on the disk for a staged change, which must not drop what is staged
    /// already, and during a trial, so that the same change in another mode confirms what is being tried.
    pub fn base(&self, mode: Mode) -> &VersionedConfig {
        let is_trial = self.pending() == Some(Pending::Try);
        let starts_from_disk = mode == Mode::Staged || (is_trial && mode != Mode::Try);
        self.persistent.as_ref().filter(|_| starts_from_disk).unwrap_or(&self.active)
    }

    /// Refuses to go over something that is pending, unless `text` is the very config that is being tried: applying
    /// it again is how a trial is confirmed.
    ///
    /// # Errors
    ///
    /// [`UpdateError::Pending`].
    pub fn guard(&self, node: &NodeClient, text: &str, mode: Mode) -> Result<(), UpdateError> {
        let Some(pending) = self.pending() else { return Ok(()) };
        let confirms = pending == Pending::Try
            && matches!(mode, Mode::NoReboot | Mode::Auto)
            && is_same(text, &self.active.text);
        let adds = pending == Pending::Staged && mode == Mode::Staged;
        match confirms || adds {
            true => Ok(()),
            false => Err(UpdateError::Pending { node: node.name().to_owned(), pending }),
        }
    }

    fn persistent_text(&self) -> Option<&str> {
        self.persistent.as_ref().map(|config| config.text.as_str())
    }

    fn is_same_version(&self, other: &Self) -> bool {
        let version = |config: &Option<VersionedConfig>| config.as_ref().map(|config| config.version.clone());
        self.active.version == other.active.version && version(&self.persistent) == version(&other.persistent)
    }
}

impl VersionedConfig {
    fn new(resource: Resource) -> Result<Self, SpecError> {
        let text = resource.machine_config()?;
        Ok(Self { text, version: resource.metadata.version, updated: resource.metadata.updated })
    }
}

/// Sends `text` to a node whose configs are still those of `before`, and waits until both its configs are what the
/// mode makes of them. After a reboot that the node does by itself, the caller looks: the reply says so in
/// [`Applied::mode`].
///
/// # Errors
///
/// [`UpdateError::Changed`] when they are not, those of the calls, and [`UpdateError::Unproven`] when the node shows
/// something else in the end. [`UpdateError::exit`] tells what was not sent from what may have been done.
pub async fn apply(
    node: &NodeClient,
    before: &NodeConfig,
    text: &str,
    options: ApplyOptions,
) -> Result<Applied, UpdateError> {
    if !NodeConfig::read_at(node, Step::Recheck).await?.is_same_version(before) {
        return Err(UpdateError::Changed { node: node.name().to_owned() });
    }
    let applied = send(node, text, options).await?;
    if !options.dry_run {
        // After its trial a config is not shown any more.
        let patience = options.try_timeout.map_or(SETTLE, |trial| trial.min(SETTLE));
        prove(node, before, text, applied.mode, patience).await?;
    }
    Ok(applied)
}

/// Sends `text` to a node, whatever it has.
///
/// # Errors
///
/// Those of the call.
pub async fn send(node: &NodeClient, text: &str, options: ApplyOptions) -> Result<Applied, UpdateError> {
    let reply = node.apply_configuration(text.as_bytes(), options).await;
    let reply = reply.map_err(|source| UpdateError::Api {
        step: Step::Apply,
        node: node.name().to_owned(),
        source,
    })?;
    Ok(Applied { mode: reply.mode(), warnings: reply.warnings, details: reply.mode_details })
}

/// Waits until the node shows `text` where `mode` puts it, and nowhere else.
async fn prove(
    node: &NodeClient,
    before: &NodeConfig,
    text: &str,
    mode: Mode,
    patience: Duration,
) -> Result<(), UpdateError> {
    let stays = before.persistent_text();
    let (active, persistent): (&str, Option<&str>) = match mode {
        Mode::NoReboot | Mode::Auto => (text, stays.map(|_| text)),
        Mode::Staged => (&before.active.text, stays.map(|_| text)),
        Mode::Try => (text, stays),
        // The node goes away.
        Mode::Reboot => return Ok(()),
    };
    let deadline = Instant::now() + patience;
    loop {
        let problem = match NodeConfig::read_at(node, Step::Verify).await {
            Ok(now) if now.active.text.as_str() != active => unproven(node, "active"),
            Ok(now) if persistent.is_some() && now.persistent_text() != persistent => {
                unproven(node, "persistent")
            }
            Ok(_) => return Ok(()),
            // A config that changes the network can cut the connection that brought it.
            Err(error @ UpdateError::Api { .. }) => error,
            Err(error) => return Err(error),
        };
        let is_lasting = matches!(&problem, UpdateError::Api { source, .. } if !source.cause.is_transient());
        if is_lasting || Instant::now() >= deadline {
            return Err(problem);
        }
        sleep(INTERVAL).await;
    }
}

fn unproven(node: &NodeClient, which: &'static str) -> UpdateError {
    UpdateError::Unproven { node: node.name().to_owned(), which }
}

/// True for texts that say the same: byte for byte, or after parsing. Comments and layout do not count.
pub fn is_same(one: &str, other: &str) -> bool {
    one == other || matches!((documents(one), documents(other)), (Some(one), Some(other)) if one == other)
}

/// What a config says, always written the same way. None for what is no YAML.
pub(crate) fn canonical(text: &str) -> Option<Zeroizing<String>> {
    Some(Zeroizing::new(serde_json::to_string(&documents(text)?).ok()?))
}

fn documents(text: &str) -> Option<Vec<yaml_serde::Value>> {
    use serde::Deserialize as _;
    let documents = yaml_serde::Deserializer::from_str(text).map(yaml_serde::Value::deserialize);
    documents.collect::<Result<Vec<_>, _>>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_a_trial_or_a_staged_config_by_its_age() {
        let config = |active: (&str, i64), persistent: (&str, i64)| NodeConfig {
            active: versioned(active.0, active.1),
            persistent: Some(versioned(persistent.0, persistent.1)),
        };
        assert_eq!(config(("a: 1", 1), ("a: 1 # same", 2)).pending(), None);
        assert_eq!(config(("a: 2", 2), ("a: 1", 1)).pending(), Some(Pending::Try));
        assert_eq!(config(("a: 1", 1), ("a: 2", 2)).pending(), Some(Pending::Staged));
        assert_eq!(NodeConfig { active: versioned("a", 1), persistent: None }.pending(), None);
    }

    #[test]
    fn a_staged_change_starts_from_what_is_staged() {
        let config = NodeConfig { active: versioned("a: 1", 1), persistent: Some(versioned("a: 2", 2)) };
        assert_eq!(config.base(Mode::Staged).text.as_str(), "a: 2");
        assert_eq!(config.base(Mode::NoReboot).text.as_str(), "a: 1");
    }

    #[test]
    fn a_change_during_a_trial_starts_from_what_was_there_before() {
        let config = NodeConfig { active: versioned("a: tried", 2), persistent: Some(versioned("a: 1", 1)) };
        assert_eq!(config.base(Mode::NoReboot).text.as_str(), "a: 1");
        assert_eq!(config.base(Mode::Try).text.as_str(), "a: tried");
    }

    #[test]
    fn configs_are_compared_by_what_they_say() {
        assert!(is_same("a: [1, 2]\n---\nb: x\n", "a:\n- 1\n- 2\n---\n# note\nb: 'x'\n"));
        assert!(!is_same("a: 1", "a: '1'"));
        assert!(!is_same("a: 1", "a: 1\n---\nb: 1"));
        assert!(is_same("{", "{") && !is_same("{", "["));
    }

    fn versioned(text: &str, seconds: i64) -> VersionedConfig {
        VersionedConfig {
            text: Zeroizing::new(text.to_owned()),
            version: "1".into(),
            updated: Some(Timestamp { seconds, nanos: 0 }),
        }
    }
}
