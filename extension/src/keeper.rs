//! How a worker leaves descriptors with its parent, to find them again after a restart.
//!
//! Both ends of a `SOCK_SEQPACKET` pair speak in packets of a name and at most one descriptor. When a worker
//! starts, its parent first sends all that it keeps, then a packet without a name. From then on the worker
//! sends what is to be kept, replacing what had that name.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Longest name.
const MAX_NAME: usize = 64;
/// Most descriptors kept: a bug must not fill the parent's table.
const MAX_KEPT: usize = 16;

/// The descriptors that a parent keeps, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<BTreeMap<String, OwnedFd>>>);

impl Kept {
    /// Sends everything to a new worker.
    pub(crate) fn hand_over(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, fd) in kept.iter() {
            send(socket, name, Some(fd.as_fd()))?;
        }
        send(socket, "", None)
    }

    /// Keeps what the worker sends until it ends.
    pub(crate) fn receive_all(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while let Some((name, fd)) = receive(socket)? {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match fd {
                Some(fd) if kept.len() < MAX_KEPT || kept.contains_key(&name) => {
                    kept.insert(name, fd);
                }
                Some(_) => tracing::error!(name, "the worker wants to keep too much"),
                None => {
                    kept.remove(&name);
                }
            }
        }
        Ok(())
    }
}

/// The worker's end.
#[derive(Debug)]
pub(crate) struct Keeper {
    socket: OwnedFd,
}

impl Keeper {
    /// Takes what the parent kept, from the socket that is our stdin.
    pub(crate) fn adopt() -> io::Result<(Self, BTreeMap<String, OwnedFd>)> {
        let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        let null = std::fs::File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        let mut kept = BTreeMap::new();
        while let Some((name, fd)) = receive(socket.as_fd())? {
            match fd {
                Some(fd) => kept.insert(name, fd),
                None => break,
            };
        }
        Ok((Self { socket }, kept))
    }

    /// Leaves `fd` with the parent under `name`.
    pub(crate) fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        send(self.socket.as_fd(), name, Some(fd))
    }

    /// A descriptor that becomes readable when the parent is gone.
    pub(crate) fn parent(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }
}

/// Blocks until the parent is gone.
pub(crate) fn wait_for_end(parent: &OwnedFd) {
    loop {
        match receive(parent.as_fd()) {
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

/// Makes the two ends: the parent's and the worker's.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn send(socket: BorrowedFd<'_>, name: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = fd.into_iter().collect::<Vec<_>>();
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // An empty packet would look like the end of the stream.
    let payload = format!("{name}\n");
    rustix::net::sendmsg(socket, &[IoSlice::new(payload.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next packet; `None` when the other end is gone.
fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(String, Option<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; MAX_NAME + 1];
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut name)];
        match rustix::net::recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received.bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if received == 0 {
        return Ok(None);
    }
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let name = String::from_utf8_lossy(&name[..received]);
    Ok(Some((name.trim_end().to_owned(), fd)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read as _, Seek as _, Write as _};

    fn file_with(text: &str) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn content(fd: OwnedFd) -> String {
        let mut file = File::from(fd);
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn what_one_worker_leaves_the_next_one_finds() {
        let kept = Kept::default();
        let (parent, worker) = pair().unwrap();
        send(worker.as_fd(), "a", Some(file_with("first").as_fd())).unwrap();
        send(worker.as_fd(), "a", Some(file_with("second").as_fd())).unwrap();
        send(worker.as_fd(), "b", Some(file_with("other").as_fd())).unwrap();
        send(worker.as_fd(), "b", None).unwrap();
        drop(worker);
        kept.receive_all(parent.as_fd()).unwrap();

        let (parent, worker) = pair().unwrap();
        kept.hand_over(parent.as_fd()).unwrap();
        let (name, fd) = receive(worker.as_fd()).unwrap().unwrap();
        assert_eq!((name.as_str(), content(fd.unwrap()).as_str()), ("a", "second"));
        assert!(matches!(receive(worker.as_fd()).unwrap(), Some((name, None)) if name.is_empty()));
    }
}
