//! `version`: of this program and of the nodes.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use super::connection::{Connection, Insecure};
use crate::exit::Exit;
use crate::output::{Format, Output, escape};

/// Flags of `version`.
#[derive(Args, Debug)]
pub struct Version {
    /// Print the version of ichorctl only
    #[arg(long)]
    client: bool,
    /// Print tags only
    #[arg(long)]
    short: bool,
    #[command(flatten)]
    insecure: Insecure,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// The version of this program.
pub const CLIENT: &str = env!("CARGO_PKG_VERSION");

#[derive(Serialize)]
struct Server {
    node: String,
    tag: String,
    sha: String,
    built: String,
    go_version: String,
    os: String,
    arch: String,
    platform: String,
    mode: String,
    rbac: bool,
}

#[derive(Serialize)]
struct Versions {
    client: &'static str,
    servers: Vec<Server>,
}

impl Version {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When there is nobody to ask, or nowhere to print.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let output = Output::new(self.output);
        if !output.is_json() {
            output.raw(format!("Client:\n\tTag:         v{CLIENT}\n").as_bytes())?;
        }
        if self.client {
            if output.is_json() {
                output.json(&Versions { client: CLIENT, servers: Vec::new() })?;
            }
            return Ok(Exit::Done);
        }
        let fleet = connection.session_or_insecure(&self.insecure)?.fleet()?;
        let call = |node: crate::api::NodeClient| async move { Ok(node.version().await?) };
        if output.is_json() {
            let (replies, failures) = fleet.gather(call).await?;
            let servers = replies.into_iter().map(|(node, version)| Server::new(node, version)).collect();
            output.json(&Versions { client: CLIENT, servers })?;
            return Ok(failures.finish());
        }
        output.raw(b"Server:\n")?;
        let print = |_, node: &str, version| {
            let server = Server::new(node.to_owned(), version);
            Ok(output.raw(server.text(self.short).as_bytes())?)
        };
        Ok(fleet.call(call, print, || Ok(())).await?.finish())
    }
}

impl Server {
    fn new(node: String, version: ichor_proto::talos::machine::Version) -> Self {
        let info = version.version.unwrap_or_default();
        let platform = version.platform.unwrap_or_default();
        Self {
            node,
            tag: info.tag,
            sha: info.sha,
            built: info.built,
            go_version: info.go_version,
            os: info.os,
            arch: info.arch,
            platform: platform.name,
            mode: platform.mode,
            rbac: version.features.is_some_and(|features| features.rbac),
        }
    }

    fn text(&self, short: bool) -> String {
        let platform = format!("{}/{}", self.os, self.arch);
        let enabled = if self.rbac { "RBAC" } else { "" };
        let mut lines = vec![("NODE", self.node.as_str()), ("Tag", &self.tag)];
        if !short {
            lines.extend([
                ("SHA", self.sha.as_str()),
                ("Built", &self.built),
                ("Go version", &self.go_version),
                ("OS/Arch", &platform),
                ("Enabled", enabled),
            ]);
        }
        let mut text = String::new();
        for (label, value) in lines {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\t{:<13}{}", format!("{label}:"), escape(value));
        }
        text
    }
}
