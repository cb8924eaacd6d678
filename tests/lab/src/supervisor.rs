//! Process 1 of a lab: it builds the world, runs what is to run in it, and answers requests.

mod host;
mod processes;
mod requests;
pub(crate) mod root;
mod talos;
mod watch;
mod world;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use rustix::process::Signal;
use tokio::io::Interest;
use tokio::signal::unix::{SignalKind, signal};

use self::processes::Processes;
use self::requests::Server;
use crate::error::{Attempt as _, LabError};
use crate::talos::model::ConfigRules;
use crate::{sandbox, wire};

/// Runs the lab that is asked for on the socket that is our stdin.
pub(crate) fn main(rules: Arc<dyn ConfigRules>) -> ExitCode {
    match run(rules) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            sandbox::leave(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(rules: Arc<dyn ConfigRules>) -> Result<(), LabError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .attempt(|| "be told of the stage's death".to_owned())?;
    root::isolate()?;
    let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
        .attempt(|| "keep the control socket".to_owned())?;
    let null = std::fs::File::open("/dev/null").attempt(|| "open /dev/null".to_owned())?;
    rustix::stdio::dup2_stdin(&null).attempt(|| "close stdin".to_owned())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .attempt(|| "make a runtime".to_owned())?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, serve(control, rules)).attempt(|| "serve the control socket".to_owned())
}

/// Serves until the owner is gone, or wants the end. What runs in the lab ends with us.
async fn serve(control: OwnedFd, rules: Arc<dyn ConfigRules>) -> io::Result<()> {
    let processes = Processes::default();
    let mut child = signal(SignalKind::child())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let server = Rc::new(Server::new(processes.clone(), rules));
    let listens = rustix::net::sockopt::socket_acceptconn(&control)?;
    let mut streams = if listens { Streams::listening(control)? } else { Streams::owned(control)? };
    loop {
        tokio::select! {
            _ = child.recv() => processes.collect(),
            _ = terminate.recv() => return Ok(()),
            () = server.shutdown() => return Ok(()),
            stream = streams.next() => match stream? {
                Some(stream) => {
                    let server = Rc::clone(&server);
                    tokio::task::spawn_local(async move { server.serve(stream).await });
                }
                None => return Ok(()),
            },
        }
    }
}

/// Where streams for requests come from.
enum Streams {
    /// From a listener: a lab in the background.
    Listening(tokio::net::UnixListener),
    /// Through the socket of the owner, whose end is ours.
    Owned(tokio::net::UnixStream),
}

impl Streams {
    fn listening(control: OwnedFd) -> io::Result<Self> {
        let listener = UnixListener::from(control);
        listener.set_nonblocking(true)?;
        Ok(Self::Listening(tokio::net::UnixListener::from_std(listener)?))
    }

    fn owned(control: OwnedFd) -> io::Result<Self> {
        let stream = UnixStream::from(control);
        stream.set_nonblocking(true)?;
        Ok(Self::Owned(tokio::net::UnixStream::from_std(stream)?))
    }

    /// The next stream; `None` when the owner is gone.
    async fn next(&mut self) -> io::Result<Option<tokio::net::UnixStream>> {
        match self {
            Self::Listening(listener) => Ok(Some(listener.accept().await?.0)),
            Self::Owned(control) => {
                let Some(fds) = receive_opening(control).await? else { return Ok(None) };
                let fd = fds.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
                let stream = UnixStream::from(fd);
                stream.set_nonblocking(true)?;
                Ok(Some(tokio::net::UnixStream::from_std(stream)?))
            }
        }
    }
}

/// Waits for an opening byte and its descriptors; `None` at the end of the stream.
async fn receive_opening(stream: &tokio::net::UnixStream) -> io::Result<Option<Vec<OwnedFd>>> {
    stream.async_io(Interest::READABLE, || wire::receive_opening(stream.as_fd())).await
}
