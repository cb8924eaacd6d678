//! `logs` and `dmesg`: what services and kernel print.

use clap::Args;
use ichor_proto::talos::common::Data;
use serde::Serialize;

use super::connection::{Connection, Insecure};
use crate::api::{LogSource, NodeClient, NodeStream};
use crate::exit::Exit;
use crate::output::{Format, Output};

/// A line is printed in parts when it is longer than this.
const MAX_LINE_BYTES: usize = 1 << 20;

/// Flags of `logs`.
#[derive(Args, Debug)]
pub struct Logs {
    /// A service, or with -k a container: namespace/pod:container
    id: String,
    /// Go on with what comes after
    #[arg(short, long)]
    follow: bool,
    /// Start with the last lines only; -1 is everything
    #[arg(long, value_name = "LINES", default_value_t = -1, allow_negative_numbers = true)]
    tail: i32,
    /// Containers of Kubernetes
    #[arg(short, long)]
    kubernetes: bool,
    #[command(flatten)]
    insecure: Insecure,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Flags of `dmesg`.
#[derive(Args, Debug)]
pub struct Dmesg {
    /// Go on with what comes after
    #[arg(short, long)]
    follow: bool,
    /// With --follow: only what comes after
    #[arg(long)]
    tail: bool,
    #[command(flatten)]
    insecure: Insecure,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
struct Line<'a> {
    node: &'a str,
    line: &'a str,
}

impl Logs {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When there is nobody to ask, or nowhere to print.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let output = Output::new(self.output);
        let fleet = connection.session_or_insecure(&self.insecure)?.fleet()?;
        let source = LogSource { id: self.id, kubernetes: self.kubernetes };
        let (source, follow, tail) = (&source, self.follow, u32::try_from(self.tail).ok());
        let call = |node: NodeClient| async move {
            let stream = node.logs(source, follow, tail).await?;
            print_lines(output, node.name(), stream).await
        };
        Ok(fleet.run(call).await?.finish())
    }
}

impl Dmesg {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When there is nobody to ask, or nowhere to print.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let output = Output::new(self.output);
        let fleet = connection.session_or_insecure(&self.insecure)?.fleet()?;
        let (follow, tail) = (self.follow, self.tail);
        let call = |node: NodeClient| async move {
            let stream = node.dmesg(follow, tail).await?;
            print_lines(output, node.name(), stream).await
        };
        Ok(fleet.run(call).await?.finish())
    }
}

/// Prints a stream by lines, each after the name of its node: pieces of it are aligned to nothing.
async fn print_lines(output: Output, node: &str, mut stream: NodeStream<Data>) -> anyhow::Result<()> {
    let mut rest = Vec::new();
    while let Some(data) = stream.next().await? {
        stream.check(&data)?;
        rest.extend_from_slice(&data.bytes);
        let mut start = 0;
        while let Some(length) = rest[start..].iter().position(|byte| *byte == b'\n') {
            print_line(output, node, &rest[start..start + length])?;
            start += length + 1;
        }
        rest.drain(..start);
        if rest.len() > MAX_LINE_BYTES {
            print_line(output, node, &rest)?;
            rest.clear();
        }
    }
    if rest.is_empty() { Ok(()) } else { print_line(output, node, &rest) }
}

fn print_line(output: Output, node: &str, line: &[u8]) -> anyhow::Result<()> {
    if output.is_json() {
        let line = String::from_utf8_lossy(line);
        return Ok(output.json_line(&Line { node, line: &line })?);
    }
    let mut text = format!("{node}: ").into_bytes();
    text.extend_from_slice(line);
    text.push(b'\n');
    Ok(output.foreign(&text)?)
}
