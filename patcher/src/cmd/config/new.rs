//! `config new`: another client certificate.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use zeroize::Zeroizing;

use crate::cmd::connection::Connection;
use crate::duration;
use crate::exit::{Exit, Refusal, UsageError};
use crate::talosconfig::TalosConfig;

/// Roles that Talos knows. It ignores others without a word.
const ROLES: &[&str] = &[
    "os:admin",
    "os:operator",
    "os:reader",
    "os:etcd:backup",
    "os:meta:writer",
    "os:image:verifier",
    "os:impersonator",
];

/// Flags of `config new`.
#[derive(Args, Debug)]
pub(super) struct New {
    /// The file to write
    #[arg(default_value = "talosconfig")]
    path: PathBuf,
    /// Roles of the new certificate
    #[arg(long, value_delimiter = ',', default_value = "os:admin")]
    roles: Vec<String>,
    /// How long it is valid
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = duration::parse)]
    crt_ttl: Duration,
}

impl New {
    pub(super) async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        if let Some(unknown) = self.roles.iter().find(|role| !ROLES.contains(&role.as_str())) {
            return Err(
                UsageError(format!("{unknown:?} is not a role; there are {}", ROLES.join(", "))).into()
            );
        }
        if self.crt_ttl.is_zero() {
            return Err(UsageError("--crt-ttl must be more than zero".to_owned()).into());
        }
        if self.path.exists() {
            let reason = format!("{} is there already", self.path.display());
            return Err(Refusal { reason, advice: Some("name another file".to_owned()) }.into());
        }
        let session = connection.session()?;
        let node = session.single("config new")?;
        let reply = node.generate_client_configuration(&self.roles, self.crt_ttl).await?;
        let bytes = Zeroizing::new(reply.talosconfig);
        let text = std::str::from_utf8(&bytes);
        let text = text.with_context(|| format!("{} sent a talosconfig that is no text", node.name()))?;
        let mut config = TalosConfig::parse(text)?;
        // The node does not know how it is reached.
        config.set_endpoints(None, session.endpoints())?;
        let text = config.expose_text()?;
        crate::files::write_private(&self.path, text.as_bytes())
            .with_context(|| format!("failed to write {}", self.path.display()))?;
        Ok(Exit::Done)
    }
}
