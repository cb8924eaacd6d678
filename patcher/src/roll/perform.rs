//! One call, made.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ichor_proto::talos::machine::apply_configuration_request::Mode;
use ichor_proto::talos::machine::reboot_request::Mode as RebootMode;
use ichor_rollout::action::{Action, Call, Outcome};
use ichor_rollout::plan::{Flow, Task, Work};
use ichor_rollout::view::Digest;
use tokio::sync::mpsc::UnboundedSender;
use zeroize::Zeroizing;

use super::target::Target;
use crate::api::{ApiError, ApplyOptions, Capabilities, Cause, InstallerError};
use crate::cmd::plan::service;
use crate::config_update::{self, NodeConfig, UpdateError};
use crate::kubernetes::Kubernetes;
use crate::kubernetes::drain::{Patience, Remaining};
use crate::kubernetes::nodes::Scheduling;
use crate::snapshot;

/// What calls are made with.
#[derive(Debug, Clone)]
pub(crate) struct Hands {
    pub(crate) targets: Arc<[Target]>,
    pub(crate) kubernetes: Option<Kubernetes>,
    /// Who does it, as the mark on cordoned nodes has it.
    pub(crate) me: String,
    /// The texts of configs by their digests.
    pub(crate) texts: Arc<BTreeMap<Digest, Zeroizing<String>>>,
    /// Where snapshots go.
    pub(crate) snapshots: PathBuf,
    /// The digests of images that the operator trusts.
    pub(crate) trusted: Option<Arc<str>>,
    /// How long a try lasts, by the clock of the node: [`ichor_rollout::plan::Policy::trial`].
    pub(crate) trial: Duration,
    /// How long a node may take to be drained.
    pub(crate) patience: Patience,
    /// Where to tell about a call that is under way.
    pub(crate) news: UnboundedSender<News>,
}

/// Something to tell about a call that is under way.
#[derive(Debug)]
pub(crate) struct News {
    /// The node.
    pub(crate) node: usize,
    /// What there is to tell.
    pub(crate) text: String,
}

/// Makes a call; how it ended, and what there is to tell about it.
pub(crate) async fn perform(hands: Hands, action: Action, task: Option<Task>) -> (Outcome, Option<String>) {
    let result = hands.make(&action, task.as_ref()).await;
    match result {
        Ok(told) => (Outcome::Done, told),
        Err(error) => {
            let text = format!("{error:#}").into();
            (if is_certain(&error) { Outcome::Refused(text) } else { Outcome::Unknown(text) }, None)
        }
    }
}

impl Hands {
    async fn make(&self, action: &Action, task: Option<&Task>) -> anyhow::Result<Option<String>> {
        let target = &self.targets[action.node];
        let node = &target.client;
        let work = task.map(|task| &task.work);
        let image = match work {
            Some(Work::Pull { image } | Work::Upgrade { image, .. }) => &**image,
            _ => "",
        };
        match &action.call {
            Call::Conclude => Ok(None),
            Call::Pull => self.pull(target, image).await,
            Call::Snapshot { from } => self.snapshot(&self.targets[*from]).await.map(Some),
            Call::HandOver => {
                let to = node.etcd_forfeit_leadership().await?;
                Ok(to.map(|to| format!("the lead of etcd went to {to}")))
            }
            Call::Apply | Call::Keep => self.apply(target, work, Mode::NoReboot).await,
            Call::Stage => self.apply(target, work, Mode::Staged).await,
            Call::Try => self.apply(target, work, Mode::Try).await,
            Call::CheckWays => self.check_ways(target).await,
            Call::Install => {
                node.lifecycle_upgrade(image).await?.finish().await?;
                Ok(None)
            }
            Call::Upgrade => {
                node.upgrade_legacy(image).await?;
                Ok(None)
            }
            Call::Drain => self.drain(action.node).await,
            Call::Reboot => node.reboot(RebootMode::Default).await.map(|_| None).map_err(Into::into),
            Call::RollBack => node.rollback().await.map(|()| None).map_err(Into::into),
            Call::Uncordon => self.uncordon(target).await,
        }
    }

    async fn pull(&self, target: &Target, image: &str) -> anyhow::Result<Option<String>> {
        let node = &target.client;
        if !Capabilities::of(node.talos_version().await?).lifecycle_service {
            node.image_pull_legacy(image).await?;
            return Ok(None);
        }
        let name = node.image_pull(image).await?.finish().await?;
        if let Some(trusted) = &self.trusted
            && !name.ends_with(&**trusted)
        {
            anyhow::bail!(Certain(format!("{name} is not the image that is trusted, {trusted}")));
        }
        Ok(None)
    }

    async fn snapshot(&self, from: &Target) -> anyhow::Result<String> {
        let stamp = super::now().as_secs();
        std::fs::create_dir_all(&self.snapshots)?;
        let path = self.snapshots.join(format!("etcd-{}-{stamp}.snapshot", from.name));
        let verified = snapshot::take_verified(&from.client, &path).await?;
        let keys = verified.contents.total_keys;
        Ok(format!("snapshot of etcd, verified, {keys} keys: {}", path.display()))
    }

    /// Sends the config of a task, if the node still has what it is made from.
    async fn apply(
        &self,
        target: &Target,
        work: Option<&Work>,
        mode: Mode,
    ) -> anyhow::Result<Option<String>> {
        let Some(Work::Configure { to, .. }) = work else { anyhow::bail!(Certain("no config".to_owned())) };
        let Some(text) = self.texts.get(to) else { anyhow::bail!(Certain("an unknown config".to_owned())) };
        let now = NodeConfig::read(&target.client).await?;
        now.guard(&target.client, text, mode)?;
        let try_timeout = (mode == Mode::Try).then_some(self.trial);
        let options = ApplyOptions { mode, dry_run: false, try_timeout };
        let applied = config_update::apply(&target.client, &now, text, options).await?;
        let mut told: Vec<String> = applied.warnings.iter().map(|it| format!("warning: {it}")).collect();
        if mode == Mode::NoReboot
            && let Some(text) = service::follow(&target.client, &now.active.text, text).await?
        {
            told.push(text.to_owned());
        }
        Ok((!told.is_empty()).then(|| told.join("; ")))
    }

    /// The node answers the way that it is reached today, and over the mesh.
    async fn check_ways(&self, target: &Target) -> anyhow::Result<Option<String>> {
        target.client.talos_version().await?;
        let Some(mesh) = target.mesh else {
            anyhow::bail!(Certain("its mesh address is not known".to_owned()))
        };
        // Another node dials it there: from here the mesh need not be reachable.
        let own: Vec<String> = target.addresses.iter().map(ToString::to_string).collect();
        let over = target.client.elsewhere(&mesh.to_string())?.avoiding(&own);
        match over.talos_version().await {
            Ok(_) => Ok(None),
            Err(error) => anyhow::bail!(Certain(format!("it does not answer over the mesh: {error:#}"))),
        }
    }

    async fn drain(&self, node: usize) -> anyhow::Result<Option<String>> {
        let Some(kubernetes) = &self.kubernetes else { return Ok(None) };
        let name = self.in_kubernetes(kubernetes, &self.targets[node]).await?;
        kubernetes.cordon(&name, &self.me).await?;
        let mut told = String::new();
        let tell = |left: &[Remaining]| {
            let blocked: Vec<String> =
                left.iter().filter(|pod| pod.blocked.is_some()).map(ToString::to_string).collect();
            let text = format!("waiting for pods that may not go yet: {}", blocked.join(", "));
            if !blocked.is_empty() && text != told {
                told.clone_from(&text);
                // Nobody listens any more: then nobody wants to know.
                let _ = self.news.send(News { node, text });
            }
        };
        let drained = kubernetes.drain(&name, self.patience, tell).await?;
        Ok(Some(format!("drained: {} pods evicted, {} stay", drained.evicted.len(), drained.stayed.len())))
    }

    async fn uncordon(&self, target: &Target) -> anyhow::Result<Option<String>> {
        let Some(kubernetes) = &self.kubernetes else { return Ok(None) };
        let name = self.in_kubernetes(kubernetes, target).await?;
        Ok(match kubernetes.uncordon(&name).await? {
            Scheduling::NotOurs => Some("it stays cordoned: somebody else did that".to_owned()),
            _ => None,
        })
    }

    async fn in_kubernetes(&self, kubernetes: &Kubernetes, target: &Target) -> anyhow::Result<String> {
        let nodes = kubernetes.nodes().await?;
        let is_it = |name: &str| nodes.iter().find(|node| node.is_called(name));
        let by_address = || target.addresses.iter().find_map(|address| is_it(&address.to_string()));
        match is_it(&target.name).or_else(by_address) {
            Some(node) => Ok(node.name.clone()),
            None => anyhow::bail!(Certain(format!("Kubernetes has no node {}", target.name))),
        }
    }
}

/// A failure before anything was done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Certain(String);

/// Whether a call that failed has certainly changed nothing.
fn is_certain(error: &anyhow::Error) -> bool {
    // What was accepted is there, whatever came of reading it back.
    let is_accepted = |update: &UpdateError| {
        matches!(
            update,
            UpdateError::Api { step: config_update::Step::Verify, .. } | UpdateError::Unproven { .. }
        )
    };
    if error.chain().filter_map(|cause| cause.downcast_ref()).any(is_accepted) {
        return false;
    }
    error.chain().any(|cause| {
        let by_call = cause.downcast_ref::<ApiError>().is_some_and(|error| refuses(&error.cause));
        let by_update = cause
            .downcast_ref::<UpdateError>()
            .is_some_and(|error| matches!(error, UpdateError::Pending { .. } | UpdateError::Changed { .. }));
        let by_installer = cause
            .downcast_ref::<InstallerError>()
            .is_some_and(|error| matches!(error, InstallerError::Failed { .. }));
        by_call || by_update || by_installer || cause.is::<Certain>()
    })
}

/// Whether a node that says this has not done it.
const fn refuses(cause: &Cause) -> bool {
    matches!(
        cause,
        Cause::Denied(_)
            | Cause::Unauthenticated(_)
            | Cause::Unimplemented(_)
            | Cause::NotFound(_)
            | Cause::Invalid(_)
            | Cause::Precondition(_)
            | Cause::NotForwarding(_)
            | Cause::Unreachable(_)
    )
}

/// Which calls upgrade a node of this version.
pub(crate) fn flow_of(capabilities: &Capabilities) -> Flow {
    if capabilities.lifecycle_service { Flow::Lifecycle } else { Flow::Legacy }
}
