//! Answers the requests of those who use the lab.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;

use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{Mutex, mpsc};

use super::processes::{Process, Processes};
use super::world::World;
use super::{receive_opening, root, watch};
use crate::error::{Attempt as _, LabError};
use crate::protocol::{Answer, DaemonAction, Kill, Program, Request, SELF};
use crate::talos::model::{ConfigRules, Effect};
use crate::wire::{self, Frames};

/// Answers requests, many at a time.
pub(crate) struct Server {
    processes: Processes,
    world: Mutex<Option<World>>,
    rules: Arc<dyn ConfigRules>,
    shutdown: tokio::sync::Notify,
}

impl Server {
    pub(crate) fn new(processes: Processes, rules: Arc<dyn ConfigRules>) -> Self {
        Self { processes, world: Mutex::new(None), rules, shutdown: tokio::sync::Notify::new() }
    }

    /// Waits until somebody wants the end.
    pub(crate) async fn shutdown(&self) {
        self.shutdown.notified().await;
    }

    /// Answers the request that comes on `stream`.
    pub(crate) async fn serve(self: Rc<Self>, stream: UnixStream) {
        let Ok(Some(fds)) = receive_opening(&stream).await else { return };
        let (reader, mut writer) = stream.into_split();
        let mut reader = Frames::new(reader);
        let request = match reader.next::<Request>().await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "a request cannot be read");
                return;
            }
        };
        let (sender, mut answers) = mpsc::unbounded_channel();
        let work = async move {
            if let Request::Run(program) = request {
                self.run(program, fds, &mut reader, &sender).await
            } else {
                tokio::select! {
                    result = self.answer(request, fds, &sender) => result,
                    // Who asked has closed the stream.
                    _ = reader.next::<Kill>() => return,
                }
            }
            .unwrap_or_else(|error| {
                // Nobody listens: see above.
                let _ = sender.send(Answer::Failed(error));
            });
        };
        let forward = async move {
            while let Some(answer) = answers.recv().await {
                if wire::send(&mut writer, &answer).await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(work, forward);
    }

    async fn answer(
        self: &Rc<Self>,
        request: Request,
        fds: Vec<OwnedFd>,
        answers: &mpsc::UnboundedSender<Answer>,
    ) -> Result<(), LabError> {
        let answer = match request {
            Request::Build(topology) => {
                let mut world = self.world.lock().await;
                if world.is_some() {
                    let cause = "there is one already".to_owned();
                    return Err(LabError::Failed { what: "build the lab".to_owned(), cause });
                }
                let progress = |text: String| {
                    // Who asked may not listen any more.
                    let _ = answers.send(Answer::Progress(text));
                };
                let built =
                    World::build(topology, self.processes.clone(), self.rules.clone(), &progress).await?;
                let simulates = built.simulation().is_some();
                *world = Some(built);
                if simulates {
                    tokio::task::spawn_local(self.clone().simulate());
                }
                Answer::Done
            }
            Request::Shutdown => {
                self.shutdown.notify_one();
                Answer::Done
            }
            Request::WatchStatus { node } => {
                let host = self.with_world(async |world| world.host(&node)).await?;
                let answers = answers.clone();
                return host.run(move |_| watch::status(answers)).await;
            }
            Request::WatchLink { node, link } => {
                let host = self.with_world(async |world| world.host(&node)).await?;
                let answers = answers.clone();
                return host.run(move |_| watch::link(link, answers)).await;
            }
            Request::Read { node, path } => {
                let host = self.with_world(async |world| world.host(&node)).await?;
                let read = host.run(move |_| async move {
                    std::fs::read_to_string(&path).attempt(|| format!("read {}", path.display()))
                });
                Answer::Text(read.await?)
            }
            Request::Write { node, path, mode, content } => {
                let host = self.with_world(async |world| world.host(&node)).await?;
                host.run(move |_| async move { root::write(&path, mode, &content) }).await?;
                Answer::Done
            }
            Request::Daemon { node, action } => {
                self.daemon(&node, action).await?;
                Answer::Done
            }
            Request::Power { node, on } => {
                let was_running = self.with_world(async |world| world.power(&node, on).await).await?;
                if let Some(daemon) = was_running {
                    daemon.signal(Signal::KILL);
                    daemon.wait().await;
                }
                Answer::Done
            }
            Request::DaemonIs { node, daemon } => {
                self.with_world(async |world| world.set_daemon(&node, daemon)).await?;
                Answer::Done
            }
            Request::Forward { node } => {
                let listener = fds.into_iter().next().ok_or_else(|| LabError::Failed {
                    what: format!("forward to {node}"),
                    cause: "there is no socket".to_owned(),
                })?;
                let (host, is_off) =
                    self.with_world(async |world| Ok((world.host(&node)?, world.is_off(&node)?))).await?;
                super::talos::forward(listener, host, is_off)?;
                Answer::Done
            }
            Request::Talosconfig { endpoints, nodes } => {
                let made = self.with_world(async |world| world.talosconfig(&endpoints, &nodes)).await?;
                Answer::Text(made)
            }
            Request::Fingerprint { node } => {
                let found = self.with_world(async |world| Ok(world.simulation().cloned())).await?;
                Answer::Text(found.and_then(|found| found.fingerprint(&node)).unwrap_or_default())
            }
            Request::View => Answer::View(self.with_world(async |world| Ok(world.view())).await?),
            Request::Shape { link, shape } => {
                self.with_world(async |world| world.shape(&link, shape)).await?;
                Answer::Done
            }
            Request::ShapeCounters { link } => {
                Answer::ShapeCounters(self.with_world(async |world| world.counters(&link)).await?)
            }
            Request::Cut { what, cut } => {
                self.with_world(async |world| world.cut(what, cut).await).await?;
                Answer::Done
            }
            Request::Move { node, site } => {
                self.with_world(async |world| world.relocate(&node, &site).await).await?;
                Answer::Done
            }
            Request::Run(_) => Answer::Done,
        };
        // Who asked may not listen any more.
        let _ = answers.send(answer);
        Ok(())
    }

    /// Lets time pass for simulated nodes, and does what they want of the world.
    async fn simulate(self: Rc<Self>) {
        let Ok(Some(simulation)) = self.with_world(async |world| Ok(world.simulation().cloned())).await
        else {
            return;
        };
        let work = async {
            let mut changes = simulation.changes();
            loop {
                changes.borrow_and_update();
                for effect in simulation.effects() {
                    if let Err(error) = self.work(effect).await {
                        tracing::error!(%error, "a simulated node cannot have what it wants");
                    }
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(simulation.run(), work);
    }

    async fn work(&self, effect: Effect) -> Result<(), LabError> {
        match effect {
            Effect::Run { node, config, .. } => {
                self.with_world(async |world| world.run_extension(&node, &config).await).await
            }
            Effect::Stop { node, .. } => {
                let running = self.with_world(async |world| Ok(world.daemon(&node)?.cloned())).await?;
                if let Some(daemon) = running.filter(|daemon| !daemon.has_ended()) {
                    daemon.signal(Signal::TERM);
                    daemon.wait().await;
                }
                self.with_world(async |world| world.forget_mesh(&node)).await
            }
        }
    }

    /// Runs `f` on the world, once there is one.
    async fn with_world<R>(
        &self,
        f: impl AsyncFnOnce(&mut World) -> Result<R, LabError>,
    ) -> Result<R, LabError> {
        let mut world = self.world.lock().await;
        let not_built = || LabError::Gone("it has not been built".to_owned());
        f(world.as_mut().ok_or_else(not_built)?).await
    }

    async fn daemon(&self, node: &str, action: DaemonAction) -> Result<(), LabError> {
        if action == DaemonAction::Start {
            return self.with_world(async |world| world.start_daemon(node).await).await;
        }
        // The world is not held while the daemon ends: that takes time.
        let running = self.with_world(async |world| Ok(world.daemon(node)?.cloned())).await?;
        let not_running = || LabError::Failed {
            what: format!("signal the ichord of {node}"),
            cause: "it does not run".to_owned(),
        };
        let daemon = running.filter(|daemon| !daemon.has_ended()).ok_or_else(not_running)?;
        match action {
            DaemonAction::Start => {}
            DaemonAction::Stop => {
                daemon.signal(Signal::TERM);
                daemon.wait().await;
            }
            DaemonAction::Kill => {
                daemon.signal(Signal::KILL);
                daemon.wait().await;
            }
            DaemonAction::KillWorker => {
                let killed = daemon.kill_children().attempt(|| format!("kill the worker of {node}"))?;
                if killed == 0 {
                    let what = format!("kill the worker of {node}");
                    return Err(LabError::Failed { what, cause: "there is none".to_owned() });
                }
            }
            DaemonAction::Reload => daemon.signal(Signal::HUP),
        }
        Ok(())
    }

    /// Runs a program until it ends or who asked is gone.
    async fn run(
        &self,
        program: Program,
        fds: Vec<OwnedFd>,
        reader: &mut Frames<OwnedReadHalf>,
        answers: &mpsc::UnboundedSender<Answer>,
    ) -> Result<(), LabError> {
        let host = self.with_world(async |world| world.host(&program.node)).await?;
        let processes = self.processes.clone();
        let process = host.run(move |_| async move { start(&processes, program, fds) }).await?;
        // Should nobody listen, the stream's end tells.
        let _ = answers.send(Answer::Started { pid: process.id() });
        let exit = loop {
            tokio::select! {
                exit = process.wait() => break exit,
                kill = reader.next::<Kill>() => match kill {
                    Ok(Some(Kill { signal })) => {
                        if let Some(signal) = Signal::from_named_raw(signal) {
                            process.signal_group(signal);
                        }
                    }
                    Ok(None) | Err(_) => {
                        process.signal_group(Signal::KILL);
                        break process.wait().await;
                    }
                },
            }
        };
        let _ = answers.send(Answer::Ended(exit));
        Ok(())
    }
}

/// Starts a program in the namespaces of the calling thread.
fn start(processes: &Processes, program: Program, fds: Vec<OwnedFd>) -> Result<Process, LabError> {
    let what = || format!("start {}", program.arguments.join(" "));
    let Some((name, arguments)) = program.arguments.split_first() else {
        return Err(LabError::Failed { what: what(), cause: "there is no program".to_owned() });
    };
    let mut command = if name == SELF { Command::new(root::program()) } else { Command::new(name) };
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    command
        .args(arguments)
        .env("PATH", format!("{}:{path}", root::COMMANDS))
        .envs(program.environment.iter().map(|(name, value)| (name, value)));
    if let Some(directory) = &program.directory {
        command.current_dir(directory);
    }
    let mut fds = fds.into_iter();
    let mut next = || fds.next().map_or_else(Stdio::null, Stdio::from);
    command.stdin(next()).stdout(next()).stderr(next());
    processes.spawn(&mut command).attempt(what)
}
