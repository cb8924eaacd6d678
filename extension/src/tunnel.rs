//! `ichord tunnel`: a plain WireGuard interface, configured by `wg(8)` alone.
//!
//! A drop-in for wireguard-go: makes the device, serves the UAPI socket, and goes to the background once both
//! are there. It ends when the device or the socket is removed.

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::str::FromStr as _;

use anyhow::Context as _;
use ichor_mesh::node::Node;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::InterfaceName;
use crate::driver::{Driver, Stopped};
use crate::io::tun::{Queues, Tun};
use crate::random;
use crate::uapi::{Access, Server, socket_path};

/// Tells a process that it is the one in the background: what it writes to stdout is for its parent.
const BACKGROUND: &str = "ICHOR_TUNNEL_BACKGROUND";
const READY: &str = "ready";

/// Runs the interface `name`, in the foreground or not.
pub(crate) fn run(name: &str, foreground: bool) -> anyhow::Result<ExitCode> {
    InterfaceName::from_str(name).with_context(|| format!("{name:?} cannot be used"))?;
    let in_background = std::env::var_os(BACKGROUND).is_some();
    if foreground || in_background {
        if in_background {
            rustix::process::setsid().context("failed to leave the session")?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(serve(name, in_background));
    }
    go_to_background(name)
}

/// Starts ourselves again and waits until that process has made the interface.
fn go_to_background(name: &str) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("failed to find our own executable")?;
    let mut child = Command::new(program)
        .args(crate::cli::reenter(["tunnel", name]))
        .env(BACKGROUND, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start in the background")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        std::io::BufReader::new(stdout).read_line(&mut line).context("failed to hear from the background")?;
    }
    if line.trim() == READY {
        return Ok(ExitCode::SUCCESS);
    }
    // It has said on stderr why.
    child.wait().context("failed to wait for the background")?;
    Ok(ExitCode::FAILURE)
}

async fn serve(name: &str, in_background: bool) -> anyhow::Result<ExitCode> {
    let tun = Tun::open(name, Queues::Single)?;
    let name = tun.name().context("failed to ask for the name of the device")?;
    let server = Server::bind(socket_path(&name), Access::Full)?;
    let socket_removed = crate::io::watch::removed(&socket_path(&name))?;

    let (events, _unused) = tokio::sync::mpsc::channel(1);
    let mut driver = Driver::new(Node::new(random::seed()), events)?;
    driver.set_tun(tun)?;
    driver.listen(0).context("failed to open UDP sockets")?;
    let (handle, end) = driver.spawn()?;

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if in_background {
        detach_output()?;
    }
    tracing::info!(interface = name, "interface is up");

    let stopped = tokio::select! {
        stopped = end => stopped,
        () = server.serve(&handle) => Ok(Stopped::Asked),
        _ = terminate.recv() => Ok(Stopped::Asked),
        _ = interrupt.recv() => Ok(Stopped::Asked),
        () = socket_removed => Ok(Stopped::Asked),
    };
    handle.stop();
    match stopped {
        Ok(Stopped::Asked) => {}
        Ok(Stopped::DeviceGone(error)) => tracing::info!(%error, "the device was removed"),
        Err(_closed) => anyhow::bail!("the data plane failed"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Says that the interface is there, and lets go of the terminal.
fn detach_output() -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{READY}")?;
    stdout.flush()?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open(Path::new("/dev/null"))?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
