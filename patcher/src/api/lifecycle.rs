//! Upgrades since 1.13: the new system is written while the old one runs.

use std::collections::VecDeque;
use std::time::Duration;

use ichor_proto::talos::machine::lifecycle_service_install_progress::Response;
use ichor_proto::talos::machine::{
    InstallArtifactsSource, LifecycleServiceUpgradeRequest, LifecycleServiceUpgradeResponse,
};

use super::call::lifecycle_service;
use super::image::system_images;
use super::{ApiError, NodeClient, NodeStream};

/// An installer that writes a disk says nothing for a while, but not for so long.
const SILENCE: Duration = Duration::from_secs(5 * 60);

/// What is kept of the installer's output for the error, in bytes: its end.
const MAX_TAIL: usize = 2048;

/// The new system was not written, or nobody knows. The old one runs on, and boots again: a node whose upgrade failed
/// is as it was, as long as it is not rebooted after an [`InstallerError::Unknown`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallerError {
    /// The call failed. What the installer did is not known, unless the cause is one that refuses.
    #[error("failed to write the new system")]
    Api(#[from] ApiError),
    /// The installer gave up.
    #[error("the installer on {node} ended with exit code {code} ({}): {output}", meaning(*code))]
    Failed {
        /// The node.
        node: String,
        /// Its exit code.
        code: i32,
        /// The end of what it printed.
        output: String,
    },
    /// The stream ended without an exit code.
    #[error("the installer on {node} did not say how it ended: {output}")]
    Unknown {
        /// The node.
        node: String,
        /// The end of what it printed.
        output: String,
    },
}

/// An installer that runs.
///
/// It is read to its end: on 1.13 an installer that nobody reads may block, and holds the lock of the node.
#[derive(Debug)]
pub struct Installer {
    stream: NodeStream<LifecycleServiceUpgradeResponse>,
    tail: VecDeque<u8>,
    code: Option<i32>,
}

impl NodeClient {
    /// Writes the system of an installer image, which [`NodeClient::image_pull`] has pulled, to the half of the disk
    /// that is not booted by default. The node runs on as before, and starts the new system with its next boot.
    ///
    /// Talos looks at nothing here: neither at etcd nor at other nodes, and it does not reboot. Done twice without a
    /// reboot in between it overwrites the system that runs, and nothing is left to roll back to.
    ///
    /// # Errors
    ///
    /// Those of every call; [`Cause::Unimplemented`](super::Cause::Unimplemented) up to 1.12,
    /// [`Cause::Precondition`](super::Cause::Precondition) while another installer runs.
    pub async fn lifecycle_upgrade(&self, reference: &str) -> Result<Installer, ApiError> {
        let message = LifecycleServiceUpgradeRequest {
            containerd: system_images(),
            source: Some(InstallArtifactsSource { image_name: reference.to_owned() }),
        };
        let limit = Some(SILENCE);
        let stream = self
            .stream("LifecycleService.Upgrade", message, limit, limit, |channel, request| async move {
                lifecycle_service(channel).upgrade(request).await
            })
            .await?;
        Ok(Installer { stream, tail: VecDeque::new(), code: None })
    }
}

impl Installer {
    /// What the installer prints, in pieces that need not be lines, or None when it has ended with exit code 0.
    ///
    /// # Errors
    ///
    /// Those of the call, and when it did not end so.
    pub async fn next(&mut self) -> Result<Option<String>, InstallerError> {
        loop {
            let Some(reply) = self.stream.next().await? else { return self.end().map(|()| None) };
            match reply.progress.and_then(|progress| progress.response) {
                Some(Response::Message(text)) => {
                    self.tail.extend(text.bytes());
                    let excess = self.tail.len().saturating_sub(MAX_TAIL);
                    self.tail.drain(..excess);
                    return Ok(Some(text));
                }
                Some(Response::ExitCode(code)) => self.code = Some(code),
                // A kind of message that is not known here.
                None => {}
            }
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    ///
    /// As [`Installer::next`].
    pub async fn finish(mut self) -> Result<(), InstallerError> {
        while self.next().await?.is_some() {}
        Ok(())
    }

    fn end(&self) -> Result<(), InstallerError> {
        let node = self.stream.node().name().to_owned();
        let (front, back) = self.tail.as_slices();
        let output = String::from_utf8_lossy(&[front, back].concat()).trim().to_owned();
        match self.code {
            Some(0) => Ok(()),
            Some(code) => Err(InstallerError::Failed { node, code, output }),
            None => Err(InstallerError::Unknown { node, output }),
        }
    }
}

/// What an exit code stands for (Talos: installers since 1.14; older ones know 1 only).
const fn meaning(code: i32) -> &'static str {
    match code {
        2 => "invalid input",
        3 => "not supported",
        4 => "environment, such as a version that it does not upgrade from",
        5 => "dependency",
        6 => "input or output",
        7 => "installation",
        _ => "no reason given",
    }
}
