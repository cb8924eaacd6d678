//! Waiting for a file to disappear.

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::inotify;
use tokio::sync::oneshot;

/// A future that ends when `path` is removed or renamed. It watches the directory: the inode of a socket says
/// nothing about its name.
///
/// A thread waits in a blocking read, which costs nothing until something happens.
pub(crate) fn removed(path: &Path) -> io::Result<impl Future<Output = ()> + use<>> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    inotify::add_watch(&watch, directory, inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVED_FROM)?;
    let name = path.file_name().unwrap_or_default().to_owned();
    let (sender, receiver) = oneshot::channel::<()>();
    std::thread::Builder::new().name("socket-watch".into()).spawn(move || {
        if wait_for(&watch, &name).is_ok() {
            // Who waited may have ended for another reason.
            let _ = sender.send(());
        }
    })?;
    Ok(async move {
        if receiver.await.is_err() {
            // Without the watch the interface still ends with its device.
            std::future::pending().await
        }
    })
}

/// Reads events until one is about `name`.
fn wait_for(watch: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    loop {
        let event = reader.next()?;
        if event.file_name().is_some_and(|file| file.to_bytes() == name.as_bytes()) {
            return Ok(());
        }
    }
}
