//! The UDP sockets of the underlay: one for IPv4, one for IPv6, both on the one port.

use std::collections::BTreeSet;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use ichor_mesh::packet::Ecn;
use ichor_mesh::transmit::{CandidatePair, DatagramSink};
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::net::sockopt;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

/// Socket buffers asked for. The default of 212 KB drops bursts of 64 segments.
const SOCKET_BUFFER: usize = 7 << 20;
/// Segments in one send (`UDP_MAX_SEGMENTS` in `linux/udp.h`, its smaller, older value).
const MAX_SEGMENTS: usize = 64;
/// Bytes in one send: the longest UDP payload over IPv6, whose header takes more room than IPv4's.
const MAX_BATCH: usize = 65_535 - 40 - 8;
/// Batches gathered before they are sent whatever else is waiting: bounds memory and delay.
const MAX_QUEUED: usize = 16;
/// Pairs remembered as not taking segmentation offload; the set is cleared when it is full, and each pair is
/// then tried again.
const MAX_PLAIN_PAIRS: usize = 1024;

/// Ports tried when the kernel's choice for one family is taken in the other.
const FREE_PORT_TRIES: usize = 16;

/// One socket and what its kernel can do.
#[derive(Debug)]
pub(crate) struct UdpEndpoint {
    socket: UdpSocket,
    state: UdpSocketState,
    is_v6: bool,
}

impl UdpEndpoint {
    /// Opens a socket of one family on `port` (0: the kernel chooses).
    pub(crate) fn bind(is_v6: bool, port: u16, mark: u32) -> io::Result<Self> {
        let domain = if is_v6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        let address: IpAddr = if is_v6 {
            socket.set_only_v6(true)?;
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        set_mark(&socket, mark)?;
        socket.bind(&SocketAddr::new(address, port).into())?;
        Self::adopt(socket.into())
    }

    /// Takes over a socket that is bound already.
    pub(crate) fn adopt(socket: UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let is_v6 = socket.local_addr()?.is_ipv6();
        set_buffers(&socket);
        let state = socket_state(&socket, is_v6)?;
        Ok(Self { socket, state, is_v6 })
    }

    pub(crate) fn port(&self) -> io::Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    /// Receives what is sent to `group` on the interface with this index. To listen twice is no failure.
    pub(crate) fn join_group(&self, group: IpAddr, interface: u32) -> io::Result<()> {
        let socket = Socket::from(self.socket.try_clone()?);
        let joined = match group {
            IpAddr::V4(group) => {
                socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(interface))
            }
            IpAddr::V6(group) => socket.join_multicast_v6(&group, interface),
        };
        joined.or_else(|error| match error.raw_os_error() {
            Some(libc::EADDRINUSE) => Ok(()),
            _ => Err(error),
        })
    }

    pub(crate) fn set_mark(&self, mark: u32) -> io::Result<()> {
        set_mark(&Socket::from(self.socket.try_clone()?), mark)
    }

    /// Receives into `buffers`, each of which may be filled with several datagrams of `meta.stride` bytes.
    /// `None` when nothing waits.
    pub(crate) fn receive(
        &self,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> io::Result<Option<usize>> {
        match self.state.recv(UdpSockRef::from(&self.socket), buffers, meta) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends in one piece if `whole`: routers that cannot pass it on drop it, and what this host cannot send at once
    /// fails with `EMSGSIZE`.
    fn send(&mut self, transmit: &Transmit<'_>, whole: bool) -> io::Result<()> {
        if whole {
            forbid_fragments(self.as_fd(), self.is_v6)?;
        }
        let result = self.state.try_send(UdpSockRef::from(&self.socket), transmit);
        if whole {
            allow_fragments(self.as_fd(), self.is_v6)?;
        }
        if let Err(error) = &result
            && matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL))
        {
            // The state now avoids offload and control messages for every peer of this socket. One bad path
            // must not do that, so start afresh; the bad path is remembered by the queue.
            self.state = socket_state(&self.socket, self.is_v6)?;
        }
        result
    }
}

impl AsFd for UdpEndpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn socket_state(socket: &UdpSocket, is_v6: bool) -> io::Result<UdpSocketState> {
    let state = UdpSocketState::new(UdpSockRef::from(socket))?;
    allow_fragments(socket.as_fd(), is_v6)?;
    Ok(state)
}

/// Takes what the kernel gives: `SO_RCVBUFFORCE` needs a capability, the plain option is capped.
fn set_buffers(socket: &UdpSocket) {
    let received = sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BUFFER)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, SOCKET_BUFFER));
    let sent = sockopt::set_socket_send_buffer_size_force(socket, SOCKET_BUFFER)
        .or_else(|_| sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER));
    if let Err(error) = received.and(sent) {
        tracing::debug!(%error, "socket buffers stay small");
    }
}

/// Lets datagrams be fragmented, as WireGuard in the kernel does: on an underlay with a smaller MTU than the
/// tunnel expects, slow is better than silent. Undoes what quinn-udp sets for QUIC.
fn allow_fragments(fd: BorrowedFd<'_>, is_v6: bool) -> io::Result<()> {
    if is_v6 {
        nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::Ipv6DontFrag, &false)?;
        sockopt::set_ipv6_mtu_discover(fd, sockopt::Ipv6PathMtuDiscovery::DONT)?;
    } else {
        sockopt::set_ip_mtu_discover(fd, sockopt::Ipv4PathMtuDiscovery::DONT)?;
    }
    Ok(())
}

/// The path is asked each time: what was once said of its MTU (`IP_PMTUDISC_DO`) may not be so any more.
fn forbid_fragments(fd: BorrowedFd<'_>, is_v6: bool) -> io::Result<()> {
    if is_v6 {
        nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::Ipv6DontFrag, &true)?;
        sockopt::set_ipv6_mtu_discover(fd, sockopt::Ipv6PathMtuDiscovery::PROBE)?;
    } else {
        sockopt::set_ip_mtu_discover(fd, sockopt::Ipv4PathMtuDiscovery::PROBE)?;
    }
    Ok(())
}

fn set_mark(socket: &Socket, mark: u32) -> io::Result<()> {
    // Setting the mark needs a capability; not having one must not matter to those who want none.
    if mark == 0 && socket.mark().unwrap_or(0) == 0 {
        return Ok(());
    }
    socket.set_mark(mark)
}

/// Opens a socket of each family on `port`, or on a free one for 0. A host without one of the families gets one
/// socket.
pub(crate) fn bind_both(port: u16, mark: u32) -> io::Result<(Option<UdpEndpoint>, Option<UdpEndpoint>)> {
    let mut result = Err(io::ErrorKind::AddrInUse.into());
    for _ in 0..if port == 0 { FREE_PORT_TRIES } else { 1 } {
        result = try_bind_both(port, mark);
        match &result {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Ok(_) | Err(_) => break,
        }
    }
    result
}

fn try_bind_both(port: u16, mark: u32) -> io::Result<(Option<UdpEndpoint>, Option<UdpEndpoint>)> {
    let v4 = optional(UdpEndpoint::bind(false, port, mark))?;
    let port = match &v4 {
        Some(v4) => v4.port()?,
        None => port,
    };
    let v6 = optional(UdpEndpoint::bind(true, port, mark))?;
    if v4.is_none() && v6.is_none() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok((v4, v6))
}

/// A kernel without one of the families is no failure.
fn optional(bound: io::Result<UdpEndpoint>) -> io::Result<Option<UdpEndpoint>> {
    match bound {
        Ok(endpoint) => Ok(Some(endpoint)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Gathers datagrams by candidate pair, so that each `sendmsg` carries up to 64 of one size.
///
/// Datagrams of one pair leave in the order in which they came.
#[derive(Debug)]
pub(crate) struct SendQueue {
    /// Closed batches first, in the order of their first datagram.
    batches: Vec<Batch>,
    spare: Vec<Box<[u8]>>,
    plain: BTreeSet<CandidatePair>,
    /// Pairs whose local address turned out to be gone.
    gone: Vec<CandidatePair>,
    /// Datagrams that the kernel refused.
    failed: u64,
}

#[derive(Debug)]
struct Batch {
    pair: CandidatePair,
    ecn: Ecn,
    /// Always [`MAX_BATCH`] long: growing it per packet would zero each packet's room again.
    bytes: Box<[u8]>,
    /// What is to be sent of it.
    used: Range<usize>,
    segment: usize,
    count: usize,
    open: bool,
    /// It holds one datagram, which must not be fragmented.
    whole: bool,
}

impl SendQueue {
    pub(crate) fn new() -> Self {
        Self { batches: Vec::new(), spare: Vec::new(), plain: BTreeSet::new(), gone: Vec::new(), failed: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Whether it is time to send before gathering more.
    pub(crate) fn is_full(&self) -> bool {
        self.batches.len() >= MAX_QUEUED
    }

    /// Datagrams that the kernel refused so far.
    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    /// Pairs whose local address is gone, since the last call.
    pub(crate) fn take_gone(&mut self) -> Vec<CandidatePair> {
        std::mem::take(&mut self.gone)
    }

    /// Sends what was gathered. `false` if the kernel has no room: the rest stays, to be sent when the sockets
    /// are writable.
    pub(crate) fn flush(&mut self, v4: Option<&mut UdpEndpoint>, v6: Option<&mut UdpEndpoint>) -> bool {
        let mut endpoints = [v4, v6];
        let mut sent = 0;
        let mut blocked = false;
        for batch in &mut self.batches {
            let endpoint = &mut endpoints[usize::from(batch.pair.remote.is_ipv6())];
            let Some(endpoint) = endpoint else {
                self.failed += batch.count as u64;
                sent += 1;
                continue;
            };
            match send_batch(endpoint, batch, &mut self.plain, &mut self.gone) {
                Ok(failed) => self.failed += failed,
                Err(WouldBlock) => {
                    blocked = true;
                    break;
                }
            }
            sent += 1;
        }
        self.spare.extend(self.batches.drain(..sent).map(|batch| batch.bytes));
        self.spare.truncate(MAX_QUEUED);
        !blocked
    }

    /// A place for datagrams that must not be fragmented.
    pub(crate) fn whole(&mut self) -> Whole<'_> {
        Whole(self)
    }

    #[inline]
    fn add(
        &mut self,
        pair: &CandidatePair,
        ecn: Ecn,
        room: usize,
        whole: bool,
        fill: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) {
        let batch = self.batch_for(pair, ecn, room, whole);
        let start = batch.used.end;
        let used = batch.bytes.get_mut(start..start + room).and_then(fill).unwrap_or(0);
        if used > 0 {
            batch.used.end += used;
            batch.count += 1;
            if batch.count == 1 {
                batch.segment = used;
            }
            batch.open = used == batch.segment && batch.count < MAX_SEGMENTS && !whole;
        } else if batch.count == 0
            // A batch without datagrams was made for this one, so it is the last.
            && let Some(batch) = self.batches.pop()
        {
            self.spare.push(batch.bytes);
        }
    }

    /// The open batch that a datagram of up to `room` bytes may join, or a new one.
    #[inline]
    fn batch_for(&mut self, pair: &CandidatePair, ecn: Ecn, room: usize, whole: bool) -> &mut Batch {
        let found = self.batches.iter().rposition(|batch| batch.pair == *pair && batch.ecn == ecn);
        let joinable = found.filter(|at| {
            let batch = &self.batches[*at];
            batch.open && !whole && room <= batch.segment && batch.used.end + room <= MAX_BATCH
        });
        let at = joinable.unwrap_or_else(|| {
            // Batches of one pair leave in order of creation, so a new one may follow an open one.
            if let Some(at) = found {
                self.batches[at].open = false;
            }
            let bytes = self.spare.pop().unwrap_or_else(|| vec![0; MAX_BATCH].into_boxed_slice());
            let used = 0..0;
            let pair = *pair;
            self.batches.push(Batch { pair, ecn, bytes, used, segment: 0, count: 0, open: true, whole });
            self.batches.len() - 1
        });
        &mut self.batches[at]
    }
}

impl DatagramSink for SendQueue {
    #[inline]
    fn push(
        &mut self,
        pair: &CandidatePair,
        ecn: Ecn,
        room: usize,
        fill: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) {
        self.add(pair, ecn, room, false, fill);
    }
}

/// Takes datagrams that must not be fragmented.
#[derive(Debug)]
pub(crate) struct Whole<'q>(&'q mut SendQueue);

impl DatagramSink for Whole<'_> {
    fn push(
        &mut self,
        pair: &CandidatePair,
        ecn: Ecn,
        room: usize,
        fill: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) {
        self.0.add(pair, ecn, room, true, fill);
    }
}

/// The kernel has no room for more.
struct WouldBlock;

/// Sends one batch; returns how many datagrams the kernel refused for good.
fn send_batch(
    endpoint: &mut UdpEndpoint,
    batch: &mut Batch,
    plain: &mut BTreeSet<CandidatePair>,
    gone: &mut Vec<CandidatePair>,
) -> Result<u64, WouldBlock> {
    if batch.count > 1 && !plain.contains(&batch.pair) {
        match attempt(endpoint, batch, batch.used.clone(), Some(batch.segment)) {
            Ok(()) => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(WouldBlock),
            Err(error) => {
                tracing::debug!(%error, remote = %batch.pair.remote, "segmentation offload refused");
                if plain.len() >= MAX_PLAIN_PAIRS {
                    plain.clear();
                }
                plain.insert(batch.pair);
            }
        }
    }
    let mut failed = 0;
    while !batch.used.is_empty() {
        let next = batch.used.start..batch.used.end.min(batch.used.start + batch.segment);
        let mut result = attempt(endpoint, batch, next.clone(), None);
        if let Err(error) = &result
            && batch.pair.local.is_some()
            && matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH))
        {
            gone.push(batch.pair);
            batch.pair.local = None;
            result = attempt(endpoint, batch, next.clone(), None);
        }
        match result {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(WouldBlock),
            // That is what was asked.
            Err(error) if batch.whole && error.raw_os_error() == Some(libc::EMSGSIZE) => {}
            Err(error) => {
                tracing::debug!(%error, remote = %batch.pair.remote, "datagram not sent");
                failed += 1;
            }
        }
        // What was sent must not be sent again if the next one blocks.
        batch.used.start = next.end;
        batch.count = batch.count.saturating_sub(1);
    }
    Ok(failed)
}

fn attempt(
    endpoint: &mut UdpEndpoint,
    batch: &Batch,
    range: Range<usize>,
    segment_size: Option<usize>,
) -> io::Result<()> {
    let transmit = Transmit {
        destination: batch.pair.remote,
        ecn: match batch.ecn {
            Ecn::NotEct => None,
            Ecn::Ect0 => Some(EcnCodepoint::Ect0),
            Ecn::Ect1 => Some(EcnCodepoint::Ect1),
            Ecn::Ce => Some(EcnCodepoint::Ce),
        },
        contents: &batch.bytes[range],
        segment_size,
        src_ip: batch.pair.local,
    };
    endpoint.send(&transmit, batch.whole)
}

/// How one buffer of a receive came: the pair and the congestion codepoint of its datagrams.
pub(crate) fn arrival(meta: &RecvMeta) -> ichor_mesh::node::Arrival {
    ichor_mesh::node::Arrival {
        pair: CandidatePair { local: meta.dst_ip, remote: meta.addr },
        ecn: match meta.ecn {
            None => Ecn::NotEct,
            Some(EcnCodepoint::Ect0) => Ecn::Ect0,
            Some(EcnCodepoint::Ect1) => Ecn::Ect1,
            Some(EcnCodepoint::Ce) => Ecn::Ce,
        },
    }
}
