//! How the process that uses a lab talks to the one that runs it: a Unix stream for each request.
//!
//! A stream opens with one byte, which carries file descriptors if the request has some. Then come frames, each
//! a length (4 bytes, big endian) and a JSON text. The first frame is the request, the answers follow. Closing
//! the stream takes the request back.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Most descriptors with one opening byte: stdin, stdout and stderr.
pub(crate) const MAX_FDS: usize = 3;
/// Longest frame. The longest real ones are files that a test reads.
const MAX_FRAME: usize = 64 << 20;

/// Sends the opening byte with `fds`. The socket's buffer must have room for it, as it has at the beginning.
pub(crate) fn send_opening(socket: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives an opening byte; `None` at the end of the stream.
pub(crate) fn receive_opening(socket: impl AsFd) -> io::Result<Option<Vec<OwnedFd>>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let received = rustix::net::recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let fds = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok(Some(fds.flatten().collect()))
}

/// Sends one frame.
pub(crate) async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    let len = u32::try_from(json.len()).map_err(|_too_long| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&len.to_be_bytes()[..], &json].concat()).await
}

/// Receives frames from a stream.
#[derive(Debug)]
pub(crate) struct Frames<R> {
    reader: R,
    /// What was read and not yet understood.
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new() }
    }

    /// Receives one frame; `None` at the end of the stream. Nothing is lost when this is not awaited to its
    /// end.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some((len, rest)) = self.buffer.split_first_chunk::<4>() {
                let len = usize::try_from(u32::from_be_bytes(*len)).unwrap_or(usize::MAX);
                if len > MAX_FRAME {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                if let Some(json) = rest.get(..len) {
                    let message = serde_json::from_slice(json);
                    self.buffer.drain(..4 + len);
                    return Ok(Some(message?));
                }
            }
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                let between = self.buffer.is_empty();
                return if between { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[tokio::test]
    async fn descriptors_and_frames_arrive() {
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send_opening(here.as_fd(), &[writer.as_fd()]).unwrap();
        drop(writer);
        let fds = receive_opening(&there).unwrap().unwrap();
        assert_eq!(fds.len(), 1);
        std::fs::File::from(fds.into_iter().next().unwrap()).write_all(b"hello").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");

        here.set_nonblocking(true).unwrap();
        there.set_nonblocking(true).unwrap();
        let mut here = tokio::net::UnixStream::from_std(here).unwrap();
        let mut there = Frames::new(tokio::net::UnixStream::from_std(there).unwrap());
        let long = "x".repeat(1 << 20);
        let (sent, received) = tokio::join!(
            async {
                send(&mut here, &("one", 1)).await?;
                send(&mut here, &long).await?;
                drop(here);
                io::Result::Ok(())
            },
            async {
                let first: Option<(String, u32)> = there.next().await?;
                let second: Option<String> = there.next().await?;
                let end: Option<String> = there.next().await?;
                io::Result::Ok((first, second, end))
            }
        );
        sent.unwrap();
        assert_eq!(received.unwrap(), (Some(("one".to_owned(), 1)), Some(long), None));
    }

    #[tokio::test]
    async fn a_frame_that_is_too_long_is_refused_before_it_is_read() {
        let bytes: &[u8] = &[0xff; 8];
        let error = Frames::new(bytes).next::<String>().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
