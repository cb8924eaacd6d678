//! A cluster of servers, and `ichorctl` run against it.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::apid::Apid;
use crate::node::{Node, Script};
use crate::pki::Pki;
use crate::server::Server;

/// After this long something hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One endpoint with the nodes behind it, and a talosconfig for them.
pub(crate) struct Cluster {
    pub(crate) server: Server,
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) dir: TempDir,
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Cluster {
    /// A cluster of nodes with these names, which are those of the talosconfig too.
    pub(crate) async fn new(names: &[&str]) -> Self {
        let pki = Pki::new();
        let nodes: Vec<_> = names.iter().map(|name| (*name, Node::new(Script::default()))).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server =
            Server::start_on(listener, pki.apid(&pki.server(&["127.0.0.1"])), Apid::of_several(&nodes));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("talosconfig"), pki.talosconfig(&[server.endpoint()], names)).unwrap();
        Self { server, nodes: nodes.into_iter().map(|(_, node)| node).collect(), dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `ichorctl` with the talosconfig of the cluster.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = ichorctl(self.dir.path());
        command.env("TALOSCONFIG", self.path("talosconfig")).args(args);
        command
    }

    pub(crate) async fn run(&self, args: &[&str]) -> Run {
        timeout(PATIENCE, self.command(args).output()).await.expect("an end in time").unwrap().into()
    }

    /// Starts a command that does not end by itself.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let mut command = self.command(args);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines }
    }
}

/// A command that is running.
pub(crate) struct Running {
    pub(crate) child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    pub(crate) async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("a line in time");
        line.unwrap().expect("a line before the end")
    }

    /// Closes the pipe that it prints to. Returns the exit code.
    pub(crate) async fn leave(mut self) -> Option<i32> {
        drop(self.lines);
        timeout(PATIENCE, self.child.wait()).await.expect("an end in time").unwrap().code()
    }

    /// Ctrl-C. Returns the exit code.
    pub(crate) async fn interrupt(mut self) -> Option<i32> {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
        timeout(PATIENCE, self.child.wait()).await.expect("an end in time").unwrap().code()
    }
}

/// `ichorctl` with nothing of this process's environment but PATH.
pub(crate) fn ichorctl(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ichorctl"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", home);
    command.current_dir(home).stdin(Stdio::null()).kill_on_drop(true);
    command
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
