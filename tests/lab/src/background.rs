//! Labs that run in the background: each has a directory with a socket, by its name.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Attempt as _, LabError};
use crate::lab::{Lab, ask, within};
use crate::protocol::Request;
use crate::sandbox::Sandbox;
use crate::topology::{Topology, check_name};

/// How long a lab may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(15);
const SOCKET: &str = "control.sock";

/// Where all labs of this user have their directories.
fn root() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
    let uid = rustix::process::geteuid();
    match runtime {
        Some(runtime) => runtime.join("ichor-lab"),
        None if uid.is_root() => PathBuf::from("/run/ichor-lab"),
        None => std::env::temp_dir().join(format!("ichor-lab-{}", uid.as_raw())),
    }
}

pub(crate) fn directory(name: &str) -> Result<PathBuf, LabError> {
    check_name("lab", name)?;
    Ok(root().join(name))
}

/// Starts a lab that stays when this process ends.
pub(crate) async fn up(name: &str, topology: Topology, progress: impl FnMut(&str)) -> Result<Lab, LabError> {
    topology.check()?;
    let directory = directory(name)?;
    claim(name, &directory)?;
    let socket = directory.join(SOCKET);
    let started = async {
        let what = || format!("listen on {}", socket.display());
        let listener = UnixListener::bind(&socket).attempt(what)?;
        let program = std::env::current_exe().attempt(|| "find our own executable".to_owned())?;
        let mut said = Sandbox::start_in_background(&program, listener, &directory)?;
        let lab = Lab { sandbox: Arc::new(Sandbox::Joined { socket: socket.clone() }) };
        match lab.build(topology, progress).await {
            Err(LabError::Gone(_)) => Err(said()),
            Err(error) => {
                // Half a lab is of no use. It may have ended by itself.
                let _ = ask(&lab.sandbox, Request::Shutdown).await;
                Err(error)
            }
            Ok(()) => Ok(lab),
        }
    }
    .await;
    if started.is_err() {
        // The stage does the same; it may not have started.
        let _ = fs::remove_dir_all(&directory);
    }
    started
}

/// Makes the directory of a new lab. One that a lab left without being able to tidy up is replaced.
fn claim(name: &str, directory: &PathBuf) -> Result<(), LabError> {
    let what = || format!("make the directory {}", directory.display());
    let root = root();
    match DirBuilder::new().mode(0o700).create(&root) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let owner = fs::symlink_metadata(&root).attempt(what)?;
            if !owner.is_dir() || owner.uid() != rustix::process::geteuid().as_raw() {
                let cause = format!("{} belongs to somebody else", root.display());
                return Err(LabError::Failed { what: what(), cause });
            }
        }
        Err(error) => return Err(LabError::failed(what(), error)),
    }
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if UnixStream::connect(directory.join(SOCKET)).is_ok() {
                let what = format!("start the lab {name:?}");
                let cause = format!("it runs already; stop it with `ichorctl lab down --name {name}`");
                return Err(LabError::Failed { what, cause });
            }
            fs::remove_dir_all(directory).attempt(what)?;
            DirBuilder::new().mode(0o700).create(directory).attempt(what)
        }
        Err(error) => Err(LabError::failed(what(), error)),
    }
}

/// A lab that runs in the background.
pub(crate) fn join(name: &str) -> Result<Lab, LabError> {
    let socket = directory(name)?.join(SOCKET);
    if UnixStream::connect(&socket).is_err() {
        let others = names();
        return Err(LabError::unknown("lab", name, others.iter().map(String::as_str)));
    }
    Ok(Lab { sandbox: Arc::new(Sandbox::Joined { socket }) })
}

/// The labs that run in the background.
pub(crate) fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(root()) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            UnixStream::connect(entry.path().join(SOCKET)).ok()?;
            entry.file_name().into_string().ok()
        })
        .collect();
    names.sort();
    names
}

/// Ends a lab; whether there was one. What one left that could not tidy up is removed.
pub(crate) async fn down(name: &str) -> Result<bool, LabError> {
    let directory = directory(name)?;
    let socket = directory.join(SOCKET);
    let runs = UnixStream::connect(&socket).is_ok();
    if runs {
        let sandbox = Arc::new(Sandbox::Joined { socket: socket.clone() });
        // Held open to see the end: with the supervisor goes everything.
        let mut watch = crate::lab::Asked::start(&sandbox, Request::View, &[]).await?;
        ask(&sandbox, Request::Shutdown).await?;
        within(END_TIMEOUT, "the lab to end", async {
            while watch.next().await.is_ok() {}
            Ok(())
        })
        .await?;
    }
    match fs::remove_dir_all(&directory) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(runs),
        Err(error) => Err(LabError::failed(format!("remove {}", directory.display()), error)),
    }
}
