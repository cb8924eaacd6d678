//! Labs that run in the background: each has a directory with a socket, by its name.
//!
//! The directory has a lock (flock(2)). Whoever makes a lab takes it and leaves it with the lab's stage, which holds it
//! until it has tidied up. So an ending lab never removes what a new one of its name has made, and who waits for the
//! lock waits for the end.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tempfile::TempDir;

use crate::error::{Attempt as _, LabError};
use crate::lab::{Lab, ask, within};
use crate::protocol::Request;
use crate::sandbox::Sandbox;
use crate::topology::{Topology, check_name};

/// How long a lab may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(15);
const SOCKET: &str = "control.sock";
/// What a lab was made of, in its directory; JSON is YAML.
const TOPOLOGY: &str = "topology.yaml";
/// The folder of the owner of a lab's network, in the directory of the lab.
pub(crate) const OWNER: &str = "owner";

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

/// A directory for a lab that ends with this process, which goes when it is dropped.
pub(crate) fn temporary() -> Result<TempDir, LabError> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
    let place = runtime.unwrap_or_else(std::env::temp_dir);
    let made = tempfile::Builder::new().prefix("ichor-lab-").tempdir_in(&place);
    made.attempt(|| format!("make a directory in {}", place.display()))
}

pub(crate) fn directory(name: &str) -> Result<PathBuf, LabError> {
    check_name("lab", name)?;
    Ok(root().join(name))
}

/// What the lab `name` was made of.
///
/// # Errors
/// [`LabError::Topology`].
pub(crate) fn topology(name: &str) -> Result<Topology, LabError> {
    Topology::load(&directory(name)?.join(TOPOLOGY))
}

/// Notes what the lab `name` was made of.
///
/// # Errors
/// [`LabError::Failed`].
pub(crate) fn note_topology(name: &str, topology: &Topology) -> Result<(), LabError> {
    let path = directory(name)?.join(TOPOLOGY);
    let text = serde_json::to_string(topology).attempt(|| "write JSON".to_owned())?;
    fs::write(&path, text).attempt(|| format!("write {}", path.display()))
}

/// Starts a lab that stays when this process ends.
pub(crate) async fn up(
    name: &str,
    topology: Topology,
    mut progress: impl FnMut(&str),
) -> Result<Lab, LabError> {
    topology.check()?;
    let directory = directory(name)?;
    let lock = claim(name, &directory, &mut progress).await?;
    let socket = directory.join(SOCKET);
    let started = async {
        let what = || format!("listen on {}", socket.display());
        let listener = UnixListener::bind(&socket).attempt(what)?;
        let program = std::env::current_exe().attempt(|| "find our own executable".to_owned())?;
        let mut said = Sandbox::start_in_background(&program, listener, &directory, &lock)?;
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

/// Makes the directory of a new lab and takes its lock. What a lab left there without being able to tidy up is removed.
async fn claim(name: &str, directory: &Path, progress: &mut impl FnMut(&str)) -> Result<File, LabError> {
    let what = || format!("make the directory {}", directory.display());
    make_root()?;
    loop {
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(LabError::failed(what(), error));
            }
            Ok(()) | Err(_) => {}
        }
        let Some(opened) = open(directory).attempt(what)? else { continue };
        let lock = match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => opened,
            Err(Errno::WOULDBLOCK) if UnixStream::connect(directory.join(SOCKET)).is_ok() => {
                let what = format!("start the lab {name:?}");
                let cause = format!("it runs already; stop it with `ichorctl lab down --name {name}`");
                return Err(LabError::Failed { what, cause });
            }
            Err(Errno::WOULDBLOCK) => {
                progress("waiting until the last lab of this name has ended");
                until_free(opened).await?
            }
            Err(error) => return Err(LabError::failed(what(), error)),
        };
        // Its last holder may have removed it.
        if is_at(&lock, directory).attempt(what)? {
            clear(directory).attempt(what)?;
            return Ok(lock);
        }
    }
}

fn make_root() -> Result<(), LabError> {
    let root = root();
    let what = || format!("make the directory {}", root.display());
    match DirBuilder::new().mode(0o700).create(&root) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let owner = fs::symlink_metadata(&root).attempt(what)?;
            if owner.is_dir() && owner.uid() == rustix::process::geteuid().as_raw() {
                return Ok(());
            }
            let cause = format!("{} belongs to somebody else", root.display());
            Err(LabError::Failed { what: what(), cause })
        }
        Err(error) => Err(LabError::failed(what(), error)),
    }
}

/// Opens a directory for its lock; `None` where there is none.
fn open(directory: &Path) -> io::Result<Option<File>> {
    match File::open(directory) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits until nobody has the lock of a directory any more, and takes it.
async fn until_free(directory: File) -> Result<File, LabError> {
    let what = || "wait for the end of a lab".to_owned();
    let (tell, told) = tokio::sync::oneshot::channel();
    // A thread of its own, which nobody waits for: the call has no time limit.
    let wait = move || {
        let locked = rustix::io::retry_on_intr(|| flock(&directory, FlockOperation::LockExclusive));
        // Whoever waited may have given up.
        let _ = tell.send(locked.map(|()| directory));
    };
    std::thread::Builder::new().spawn(wait).attempt(what)?;
    within(END_TIMEOUT, "the lab to end", async { told.await.attempt(what)?.attempt(what) }).await
}

/// Whether an open directory is the one that is there now.
fn is_at(opened: &File, directory: &Path) -> io::Result<bool> {
    let here = opened.metadata()?;
    match fs::symlink_metadata(directory) {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes everything in a directory.
fn clear(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    Ok(())
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
    let what = || format!("remove {}", directory.display());
    let Some(opened) = open(&directory).attempt(what)? else { return Ok(false) };
    let socket = directory.join(SOCKET);
    if UnixStream::connect(&socket).is_ok() {
        let sandbox = Arc::new(Sandbox::Joined { socket });
        // Held open to see the end: with the supervisor goes everything.
        let mut watch = crate::lab::Asked::start(&sandbox, Request::View, &[]).await?;
        ask(&sandbox, Request::Shutdown).await?;
        within(END_TIMEOUT, "the lab to end", async {
            while watch.next().await.is_ok() {}
            Ok(())
        })
        .await?;
    }
    // Its stage tidies up. Where it could not, the lock is free and the directory is still there.
    let lock = until_free(opened).await?;
    if is_at(&lock, &directory).attempt(what)? {
        fs::remove_dir_all(&directory).attempt(what)?;
    }
    Ok(true)
}
