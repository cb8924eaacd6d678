//! A node of a lab, seen from the program that uses it.

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ichord::status::Status;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::net::unix::pipe;

use crate::error::{Attempt as _, LabError};
use crate::lab::{Asked, STEP_TIMEOUT, ask, unexpected, within};
use crate::protocol::{
    Answer, Daemon, DaemonAction, Exit, Kill, LinkEvent, LinkEventKind, NodeView, Program, Request, SELF,
};
use crate::sandbox::Sandbox;
use crate::wire;

/// Most output of a program that is kept.
const MAX_OUTPUT: u64 = 64 << 20;

/// A node of a lab.
#[derive(Debug, Clone)]
pub struct Node {
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) name: String,
}

impl Node {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is now.
    ///
    /// # Errors
    /// [`LabError::Unknown`] if there is no such node.
    pub async fn view(&self) -> Result<NodeView, LabError> {
        let Answer::View(view) = ask(&self.sandbox, Request::View).await? else {
            return Err(LabError::Gone("it gave an unexpected answer".to_owned()));
        };
        let names: Vec<_> = view.nodes.iter().map(|node| node.name.clone()).collect();
        let found = view.nodes.into_iter().find(|node| node.name == self.name);
        found.ok_or_else(|| LabError::unknown("node", &self.name, names.iter().map(String::as_str)))
    }

    /// A program to run in it, with arguments.
    pub fn command<S: Into<String>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        Command {
            sandbox: Arc::clone(&self.sandbox),
            program: Program {
                node: self.name.clone(),
                arguments: arguments.into_iter().map(Into::into).collect(),
                environment: Vec::new(),
                directory: None,
            },
            input: Vec::new(),
            limit: STEP_TIMEOUT,
        }
    }

    /// The program that carries the lab, to run in it with hidden arguments.
    pub fn own_command<S: Into<String>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command([SELF]);
        command.program.arguments.extend(arguments.into_iter().map(Into::into));
        command
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// Those of [`Command::output`], and [`LabError::Failed`] if it does not end with success.
    pub async fn run<S: Into<String>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Output, LabError> {
        self.command(arguments).success().await
    }

    /// Starts its ichord.
    ///
    /// # Errors
    /// [`LabError::Failed`].
    pub async fn start(&self) -> Result<(), LabError> {
        self.daemon(DaemonAction::Start).await
    }

    /// Stops its ichord with SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// [`LabError::TimedOut`], or [`LabError::Failed`] if it does not run.
    pub async fn stop(&self) -> Result<(), LabError> {
        self.daemon(DaemonAction::Stop).await
    }

    /// Kills its ichord, of which the parent keeps the worker, and waits for its end.
    ///
    /// # Errors
    /// [`LabError::Failed`] if it does not run.
    pub async fn kill(&self) -> Result<(), LabError> {
        self.daemon(DaemonAction::Kill).await
    }

    /// Kills the worker of its ichord.
    ///
    /// # Errors
    /// [`LabError::Failed`] if it does not run.
    pub async fn kill_worker(&self) -> Result<(), LabError> {
        self.daemon(DaemonAction::KillWorker).await
    }

    /// Takes its power: its ichord is gone without a word, and nothing reaches it.
    ///
    /// # Errors
    /// [`LabError::Unknown`].
    pub async fn power_off(&self) -> Result<(), LabError> {
        ask(&self.sandbox, Request::Power { node: self.name.clone(), on: false }).await.map(drop)
    }

    /// Gives its power back: it can be reached, and starts its ichord.
    ///
    /// # Errors
    /// [`LabError::Unknown`], and those of [`Self::start`].
    pub async fn power_on(&self) -> Result<(), LabError> {
        ask(&self.sandbox, Request::Power { node: self.name.clone(), on: true }).await.map(drop)
    }

    /// Makes its ichord read its configuration again, with SIGHUP.
    ///
    /// # Errors
    /// [`LabError::Failed`] if it does not run.
    pub async fn reload(&self) -> Result<(), LabError> {
        self.daemon(DaemonAction::Reload).await
    }

    async fn daemon(&self, action: DaemonAction) -> Result<(), LabError> {
        ask(&self.sandbox, Request::Daemon { node: self.name.clone(), action }).await.map(drop)
    }

    /// Starts its ichord in this way from its next start on.
    ///
    /// # Errors
    /// [`LabError::Unknown`].
    pub async fn set_daemon(&self, daemon: Daemon) -> Result<(), LabError> {
        ask(&self.sandbox, Request::DaemonIs { node: self.name.clone(), daemon }).await.map(drop)
    }

    /// Moves it to the LAN of another site; in the same site, to its other address.
    ///
    /// # Errors
    /// [`LabError::Unknown`], and those of netlink.
    pub async fn roam(&self, site: &str) -> Result<(), LabError> {
        let request = Request::Move { node: self.name.clone(), site: site.to_owned() };
        ask(&self.sandbox, request).await.map(drop)
    }

    /// Reads one of its files.
    ///
    /// # Errors
    /// [`LabError::Failed`].
    pub async fn read(&self, path: impl Into<PathBuf>) -> Result<String, LabError> {
        match ask(&self.sandbox, Request::Read { node: self.name.clone(), path: path.into() }).await? {
            Answer::Text(text) => Ok(text),
            other => Err(unexpected(&other)),
        }
    }

    /// Writes one of its files, which must lie below `/run`, `/etc` or `/var/lib`: those are its own. Whoever
    /// reads it sees the old or the new content.
    ///
    /// # Errors
    /// [`LabError::Failed`].
    pub async fn write(&self, path: impl Into<PathBuf>, content: &str) -> Result<(), LabError> {
        let path = path.into();
        let own = ["/run", "/etc", "/var/lib"].iter().any(|own| path.starts_with(own));
        if !own {
            let what = format!("write {}", path.display());
            let cause = "it is not a file of the node but of the machine".to_owned();
            return Err(LabError::Failed { what, cause });
        }
        let (node, content) = (self.name.clone(), content.to_owned());
        ask(&self.sandbox, Request::Write { node, path, mode: 0o600, content }).await.map(drop)
    }

    /// The configuration file of its ichord.
    ///
    /// # Errors
    /// [`LabError::Failed`].
    pub async fn config(&self) -> Result<String, LabError> {
        self.read(ichord::config::LINUX_PATH).await
    }

    /// Makes the daemon, which does not run, believe that its WireGuard key was made so long ago.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub async fn age(&self, time: Duration) -> Result<(), LabError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let made = now.saturating_sub(time).as_secs().to_string();
        let file = String::from_utf8(ichord::state_file(made.as_bytes())).unwrap_or_default();
        self.write(Path::new(ichord::config::STATE_DIRECTORY).join(ichord::PRIVATE_KEY_MADE), &file).await
    }

    /// Replaces the configuration file of its ichord.
    ///
    /// # Errors
    /// [`LabError::Failed`].
    pub async fn write_config(&self, text: &str) -> Result<(), LabError> {
        self.write(ichord::config::LINUX_PATH, text).await
    }

    /// Replaces the configuration file of its ichord, which runs, and waits until it is in effect: until then a status
    /// may tell of peers that only the configuration before had.
    ///
    /// # Errors
    /// [`LabError::Failed`] if it does not run, [`LabError::TimedOut`] if it does not take this one.
    pub async fn configure(&self, text: &str) -> Result<(), LabError> {
        self.write_config(text).await?;
        self.reload().await?;
        let digest = ichord::status::sha256(text.as_bytes());
        let is_right = |status: &Status| status.config_sha256.as_ref() == Some(&digest);
        self.until_status("the configuration to be in effect", is_right).await.map(drop)
    }

    /// What its ichord said so far.
    ///
    /// # Errors
    /// [`LabError::Failed`] if it never ran.
    pub async fn log(&self) -> Result<String, LabError> {
        self.read(crate::supervisor::root::LOG).await
    }

    /// The current status file of its ichord.
    ///
    /// # Errors
    /// [`LabError::Failed`] if there is none.
    pub async fn status(&self) -> Result<Status, LabError> {
        let file = ichord::status::file(Path::new(ichord::status::RUNTIME_DIRECTORY));
        parse_status(&self.read(file).await?)
    }

    /// Watches the status file of its ichord.
    ///
    /// # Errors
    /// [`LabError::Unknown`].
    pub async fn watch_status(&self) -> Result<StatusWatch, LabError> {
        let request = Request::WatchStatus { node: self.name.clone() };
        Ok(StatusWatch { asked: Asked::start(&self.sandbox, request, &[]).await? })
    }

    /// Waits for a status that `is_right` for `awaited`.
    ///
    /// # Errors
    /// [`LabError::TimedOut`] with the last status.
    pub async fn until_status(
        &self,
        awaited: &str,
        mut is_right: impl FnMut(&Status) -> bool,
    ) -> Result<Status, LabError> {
        let mut watch = self.watch_status().await?;
        let mut last = None;
        let found = within(STEP_TIMEOUT, awaited, async {
            loop {
                let status = watch.next().await?;
                if is_right(&status) {
                    return Ok(status);
                }
                last = Some(status);
            }
        })
        .await;
        match found {
            Err(LabError::TimedOut { after, .. }) => {
                let last = last.map_or_else(|| "there is none".to_owned(), |status| status.to_json());
                let awaited = format!("{awaited} on {}; its last status: {last}", self.name);
                Err(LabError::TimedOut { awaited, after })
            }
            found => found,
        }
    }

    /// Waits until its ichord has agreed on keys with those of `others`.
    ///
    /// # Errors
    /// [`LabError::TimedOut`].
    pub async fn until_connected(&self, others: &[&str]) -> Result<Status, LabError> {
        self.until_status("all peers to be connected", |status| {
            others.iter().all(|other| status.peers.iter().any(|peer| peer.name == *other && peer.connected))
        })
        .await
    }

    /// Watches what the kernel tells about one of its links. The watch has begun when this returns.
    ///
    /// # Errors
    /// [`LabError::Failed`] if there is no such link.
    pub async fn watch_link(&self, link: &str) -> Result<LinkWatch, LabError> {
        let request = Request::WatchLink { node: self.name.clone(), link: link.to_owned() };
        let mut asked = Asked::start(&self.sandbox, request, &[]).await?;
        let first = within(STEP_TIMEOUT, "the first word about a link", asked.next()).await?;
        let Answer::Link(begin @ LinkEvent { kind: LinkEventKind::Watching, .. }) = first else {
            return Err(unexpected(&first));
        };
        Ok(LinkWatch { asked, begin })
    }
}

fn parse_status(text: &str) -> Result<Status, LabError> {
    serde_json::from_str(text).attempt(|| "read the status".to_owned())
}

/// The statuses of a node, as they are written.
#[derive(Debug)]
pub struct StatusWatch {
    asked: Asked,
}

impl StatusWatch {
    /// The current status at first, then each new one.
    ///
    /// # Errors
    /// [`LabError::Gone`].
    pub async fn next(&mut self) -> Result<Status, LabError> {
        match self.asked.next().await? {
            Answer::Text(text) => parse_status(&text),
            other => Err(unexpected(&other)),
        }
    }
}

/// What the kernel tells about a link.
#[derive(Debug)]
pub struct LinkWatch {
    asked: Asked,
    /// How the link was in the beginning.
    pub begin: LinkEvent,
}

impl LinkWatch {
    /// The next event.
    ///
    /// # Errors
    /// [`LabError::Gone`].
    pub async fn next(&mut self) -> Result<LinkEvent, LabError> {
        match self.asked.next().await? {
            Answer::Link(event) => Ok(event),
            other => Err(unexpected(&other)),
        }
    }

    /// All events until none has come for `quiet`.
    ///
    /// # Errors
    /// [`LabError::Gone`].
    pub async fn drain(&mut self, quiet: Duration) -> Result<Vec<LinkEvent>, LabError> {
        let mut events = Vec::new();
        while let Ok(event) = tokio::time::timeout(quiet, self.next()).await {
            events.push(event?);
        }
        Ok(events)
    }
}

/// A program to be run in a node.
#[derive(Debug, Clone)]
#[must_use]
pub struct Command {
    sandbox: Arc<Sandbox>,
    program: Program,
    input: Vec<u8>,
    limit: Duration,
}

/// What a program left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Command {
    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.program.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives it something to read. At most 64 KiB, what a pipe holds.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// How long it may run.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// [`LabError::Failed`] if it cannot be started, [`LabError::TimedOut`] if it was ended after its time.
    pub async fn output(self) -> Result<Output, LabError> {
        let (limit, awaited) = (self.limit, format!("the end of `{}`", self.text()));
        let child = self.spawn().await?;
        within(limit, &awaited, child.output()).await
    }

    /// Runs it to a successful end.
    ///
    /// # Errors
    /// Those of [`Self::output`], and [`LabError::Failed`] with what it said if it ends in another way.
    pub async fn success(self) -> Result<Output, LabError> {
        let what = format!("run `{}` in {}", self.text(), self.program.node);
        let output = self.output().await?;
        if output.exit.success() {
            return Ok(output);
        }
        let cause = format!("{}; {}{}", output.exit, output.stderr.trim(), output.stdout.trim());
        Err(LabError::Failed { what, cause })
    }

    /// Starts it. It is killed when the returned value is dropped.
    ///
    /// # Errors
    /// [`LabError::Failed`].
    pub async fn spawn(self) -> Result<Child, LabError> {
        let what = || "make pipes".to_owned();
        let (input, mut to_input) = std::io::pipe().attempt(what)?;
        // What a pipe holds is written without waiting for a reader.
        to_input.write_all(self.input.get(..65_536).unwrap_or(&self.input)).attempt(what)?;
        drop(to_input);
        let (stdout, to_stdout) = std::io::pipe().attempt(what)?;
        let (stderr, to_stderr) = std::io::pipe().attempt(what)?;
        let reader = |pipe: std::io::PipeReader| -> Result<pipe::Receiver, LabError> {
            rustix::io::ioctl_fionbio(&pipe, true).attempt(what)?;
            pipe::Receiver::from_owned_fd(OwnedFd::from(pipe)).attempt(what)
        };
        let (stdout, stderr) = (reader(stdout)?, reader(stderr)?);
        let running = self.spawn_with([input.into(), to_stdout.into(), to_stderr.into()]).await?;
        Ok(Child { running, stdout: BufReader::new(stdout), stderr })
    }

    /// Starts it with stdin, stdout and stderr.
    pub(crate) async fn spawn_with(self, fds: [OwnedFd; 3]) -> Result<Running, LabError> {
        let fds = [fds[0].as_fd(), fds[1].as_fd(), fds[2].as_fd()];
        let mut asked = Asked::start(&self.sandbox, Request::Run(self.program), &fds).await?;
        match within(STEP_TIMEOUT, "the start of a program", asked.next()).await? {
            Answer::Started { pid } => Ok(Running { asked, pid, ended: None }),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) fn directory(mut self, directory: PathBuf) -> Self {
        self.program.directory = Some(directory);
        self
    }

    fn text(&self) -> String {
        self.program.arguments.join(" ")
    }
}

/// A program that runs.
#[derive(Debug)]
pub(crate) struct Running {
    asked: Asked,
    pub(crate) pid: u32,
    ended: Option<Exit>,
}

impl Running {
    /// Sends a signal to it and its children.
    pub(crate) async fn signal(&mut self, signal: i32) -> Result<(), LabError> {
        let sent = wire::send(&mut self.asked.more, &Kill { signal }).await;
        sent.map_err(|error| LabError::Gone(error.to_string()))
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self) -> Result<Exit, LabError> {
        if let Some(exit) = self.ended {
            return Ok(exit);
        }
        match self.asked.next().await? {
            Answer::Ended(exit) => {
                self.ended = Some(exit);
                Ok(exit)
            }
            other => Err(unexpected(&other)),
        }
    }
}

/// A program that runs, and what it writes.
#[derive(Debug)]
pub struct Child {
    running: Running,
    stdout: BufReader<pipe::Receiver>,
    stderr: pipe::Receiver,
}

impl Child {
    /// Its process id in the lab.
    pub fn id(&self) -> u32 {
        self.running.pid
    }

    /// Sends a signal to it and its children.
    ///
    /// # Errors
    /// [`LabError::Gone`].
    pub async fn signal(&mut self, signal: i32) -> Result<(), LabError> {
        self.running.signal(signal).await
    }

    /// The next line that it writes to stdout; `None` when it writes no more.
    ///
    /// # Errors
    /// [`LabError::Failed`].
    pub async fn line(&mut self) -> Result<Option<String>, LabError> {
        let mut line = Vec::new();
        let read = (&mut self.stdout).take(MAX_OUTPUT).read_until(b'\n', &mut line).await;
        read.attempt(|| "read the output of a program".to_owned())?;
        if line.is_empty() {
            return Ok(None);
        }
        Ok(Some(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned()))
    }

    /// Waits for its end; what it wrote since is in the output.
    ///
    /// # Errors
    /// [`LabError::Gone`].
    pub async fn output(mut self) -> Result<Output, LabError> {
        let (stdout, stderr, exit) =
            tokio::join!(all(&mut self.stdout), all(&mut self.stderr), self.running.wait());
        Ok(Output { exit: exit?, stdout: stdout?, stderr: stderr? })
    }
}

async fn all(reader: &mut (impl AsyncRead + Unpin)) -> Result<String, LabError> {
    let mut bytes = Vec::new();
    let read = reader.take(MAX_OUTPUT).read_to_end(&mut bytes).await;
    read.attempt(|| "read the output of a program".to_owned())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
