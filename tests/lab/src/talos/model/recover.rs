//! The first member of etcd, new or from a snapshot.
//!
//! Talos: internal/app/machined/internal/server/v1alpha1 (Bootstrap, EtcdRecover).

use std::time::Duration;

use tonic::Code;

use super::cluster::Cluster;
use super::config::MachineType;
use super::line::Line;
use super::refusal::Refusal;

/// A file that was uploaded for recovery: what of it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upload {
    /// The SHA-256 of everything but the last 32 bytes.
    pub body: [u8; 32],
    /// The SHA-256 of everything.
    pub whole: [u8; 32],
    /// The last 32 bytes.
    pub trailer: [u8; 32],
}

/// What a first member starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bootstrap {
    /// Nothing.
    New,
    /// What was uploaded.
    Snapshot,
    /// What was uploaded, a database without its hash.
    DatabaseFile,
}

impl Cluster {
    /// Keeps an uploaded snapshot for a bootstrap.
    ///
    /// # Errors
    ///
    /// Those of Talos.
    pub fn recover(&mut self, node: &str, upload: Upload) -> Result<(), Refusal> {
        self.require_control_plane(node, "etcd recover")?;
        self.node_mut(node)?.uploaded = Some(upload);
        Ok(())
    }

    /// Starts the first member of etcd. A snapshot that is of no use is only seen by an etcd that does not run.
    ///
    /// # Errors
    ///
    /// Those of Talos.
    pub fn bootstrap(&mut self, node: &str, from: Bootstrap, now: Duration) -> Result<(), Refusal> {
        let found = self.node(node)?;
        if found.machine_type() != Some(MachineType::ControlPlane) {
            let code =
                if found.line() < Line::V1_13 { Code::FailedPrecondition } else { Code::Unimplemented };
            return Err(Refusal::new(code, "bootstrap is only available on control plane nodes"));
        }
        if !found.runs_etcd(now) {
            return Err(Refusal::new(Code::FailedPrecondition, "bootstrap is not available yet"));
        }
        if self.etcd().has_data(node) {
            return Err(Refusal::new(Code::AlreadyExists, "etcd data directory is not empty"));
        }
        let (uploaded, advertised) = (found.uploaded, found.advertised().unwrap_or_default());
        let saved = match from {
            Bootstrap::New => Ok(None),
            Bootstrap::Snapshot => match uploaded {
                None => Err("no snapshot was uploaded"),
                Some(upload) if upload.body != upload.trailer => {
                    Err("snapshot file integrity check failed: SHA-256 hash differs")
                }
                Some(upload) => self.etcd().saved(&upload.body).cloned().map(Some).ok_or("invalid database"),
            },
            Bootstrap::DatabaseFile => {
                let saved = uploaded.and_then(|upload| self.etcd().saved(&upload.whole).cloned());
                saved.map(Some).ok_or("invalid database")
            }
        };
        match saved {
            Ok(saved) => self.etcd_mut().bootstrap(node, advertised, saved),
            Err(text) => {
                self.write_log(node, "etcd", &format!("failed to recover from the snapshot: {text}"))?
            }
        }
        self.settle(now);
        Ok(())
    }
}
