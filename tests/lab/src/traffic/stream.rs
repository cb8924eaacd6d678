//! TCP streams.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};

use super::{Tcp, TcpReport};

/// Bytes of one call.
const CHUNK: usize = 128 << 10;
/// How long a stream may stand still. TCP itself would wait for a quarter of an hour.
const STALL: Duration = Duration::from_secs(20);

/// Receives one stream.
pub(super) fn receive(
    bind: SocketAddr,
    seed: Option<u64>,
    listening: impl Fn(SocketAddr) -> io::Result<()>,
) -> io::Result<TcpReport> {
    let listener = TcpListener::bind(bind)?;
    listening(listener.local_addr()?)?;
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(STALL))?;
    let mut content = seed.map(Content::new);
    let mut buffer = vec![0; CHUNK];
    let mut report = TcpReport { bytes: 0, seconds: 0.0, damaged_at: None };
    let mut first = None;
    loop {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            break;
        }
        let first = *first.get_or_insert_with(Instant::now);
        if let Some(content) = &mut content
            && report.damaged_at.is_none()
        {
            report.damaged_at = content.difference(&buffer[..len]).map(|at| report.bytes + at);
        }
        report.bytes += len as u64;
        report.seconds = first.elapsed().as_secs_f64();
    }
    // The sender ends when it knows that everything arrived.
    stream.write_all(&[1])?;
    Ok(report)
}

/// Sends one stream, and returns when its receiver has read it all.
pub(super) fn send(to: SocketAddr, tcp: Tcp) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, STALL)?;
    stream.set_write_timeout(Some(STALL))?;
    stream.set_read_timeout(Some(STALL))?;
    let mut content = tcp.seed.map(Content::new);
    let mut buffer = vec![0; CHUNK];
    let start = Instant::now();
    let mut left = tcp.bytes.unwrap_or(u64::MAX);
    while left > 0 && (tcp.bytes.is_some() || start.elapsed() < tcp.time) {
        let len = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        if let Some(content) = &mut content {
            content.fill(&mut buffer[..len]);
        }
        stream.write_all(&buffer[..len])?;
        left -= len as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_exact(&mut [0])
}

/// A stream of bytes that can be made again from its seed, in pieces of any length.
struct Content {
    source: ChaCha8Rng,
    /// Bytes that were made and not used yet.
    ready: Vec<u8>,
}

impl Content {
    fn new(seed: u64) -> Self {
        Self { source: ChaCha8Rng::seed_from_u64(seed), ready: Vec::new() }
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        while self.ready.len() < buffer.len() {
            // Always as much at once: the source leaves out the rest of a word when asked for less.
            let start = self.ready.len();
            self.ready.resize(start + CHUNK, 0);
            self.source.fill_bytes(&mut self.ready[start..]);
        }
        buffer.copy_from_slice(&self.ready[..buffer.len()]);
        self.ready.drain(..buffer.len());
    }

    /// Where `received` differs from what comes next.
    fn difference(&mut self, received: &[u8]) -> Option<u64> {
        let mut expected = vec![0; received.len()];
        self.fill(&mut expected);
        if expected == received {
            return None;
        }
        expected.iter().zip(received).position(|(a, b)| a != b).map(|at| at as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_does_not_depend_on_how_it_is_cut() {
        let mut whole = vec![0; 300_000];
        Content::new(1).fill(&mut whole);
        let mut content = Content::new(1);
        for piece in whole.chunks(777) {
            assert_eq!(content.difference(piece), None);
        }
        let mut content = Content::new(1);
        whole[1000] ^= 1;
        assert_eq!(content.difference(&whole[..2000]), Some(1000));
    }

    fn transfer(tcp: Tcp) -> TcpReport {
        let (sender, addresses) = std::sync::mpsc::channel();
        let receiver = std::thread::spawn(move || {
            receive("127.0.0.1:0".parse().unwrap(), tcp.seed, |at| sender.send(at).map_err(io::Error::other))
                .unwrap()
        });
        send(addresses.recv().unwrap(), tcp).unwrap();
        receiver.join().unwrap()
    }

    #[test]
    fn a_checked_stream_arrives_whole() {
        let report = transfer(Tcp::checked(3_000_001, 5));
        assert_eq!((report.bytes, report.damaged_at), (3_000_001, None));
    }
}
