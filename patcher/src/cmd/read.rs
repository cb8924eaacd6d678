//! `read`: one file of one node.

use clap::Args;

use super::connection::Connection;
use crate::exit::Exit;
use crate::output::{Format, Output};

/// Flags of `read`.
#[derive(Args, Debug)]
pub struct Read {
    /// The file, absolute
    path: String,
}

impl Read {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or there is nowhere to print.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let output = Output::new(Format::Text);
        let node = connection.session()?.single("read")?;
        let mut stream = node.read(&self.path).await?;
        while let Some(data) = stream.next().await? {
            stream.check(&data)?;
            output.foreign(&data.bytes)?;
        }
        Ok(Exit::Done)
    }
}
