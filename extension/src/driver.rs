//! The data plane's thread: it owns the node, the TUN queue and the UDP sockets, and moves batches between
//! them.
//!
//! One tick waits until something is ready, then takes all that is ready as one batch: datagrams are opened
//! into an arena, joined, and written to the device; packets are read, cut, and sealed straight into the send
//! queue, which leaves in few system calls. Nothing on this path allocates. Everything else that wants to see
//! or change the node sends a command, which runs between two ticks.
//!
//! One thread owns all of it, so there are no locks. More cores would each run a driver with a queue of the
//! device and a socket of its own, and share what a session needs; nothing outside this file would change.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ichor_mesh::key::SecretKey;
use ichor_mesh::node::{Event, Inbound, Node};
use ichor_mesh::packet::IpHeader;
use quinn_udp::RecvMeta;
use rustix::event::{EventfdFlags, epoll, eventfd};
use tokio::sync::oneshot;

use crate::clock;
use crate::io::offload::coalesce::{Coalescer, MAX_JOINED, Transport, Write};
use crate::io::offload::segment::Segments;
use crate::io::offload::{VNET_HDR_LEN, VnetHeader};
use crate::io::tun::Tun;
use crate::io::udp::{SendQueue, UdpEndpoint, arrival};
use crate::noise::BoringNoise;

/// Datagram buffers of one receive. Each holds up to 64 datagrams that the kernel joined.
const RECEIVE_BUFFERS: usize = 4;
/// Longest content of one receive buffer.
const BUFFER_LEN: usize = 65_536;
/// Receives of one socket in one tick, so that a busy peer does not starve the device.
const RECEIVES_PER_TICK: usize = 4;
/// Packets read from the device in one tick.
const READS_PER_TICK: usize = 256;
/// Refused super-packets of one transport after which we stop making them: a broken range of kernels answers
/// EINVAL (tailscale/wireguard-go#33).
const MAX_REFUSED: u32 = 8;

const WAKE: u64 = 0;
const TUN: u64 = 1;
const UDP4: u64 = 2;
const UDP6: u64 = 3;

/// Runs on the driver's thread between two ticks.
type Command = Box<dyn FnOnce(&mut Driver) + Send>;

/// The data plane of one interface.
pub struct Driver {
    node: Node<BoringNoise>,
    tun: Option<Tun>,
    v4: Option<UdpEndpoint>,
    v6: Option<UdpEndpoint>,
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    queue: SendQueue,
    /// The kernel had no room: packets wait in the device until there is.
    blocked: bool,
    inbox: Inbox,
    packet: Box<[u8]>,
    events: tokio::sync::mpsc::Sender<Event>,
    secret: Option<SecretKey>,
    mark: u32,
    stats: DriverStats,
    stop: Option<Stopped>,
}

/// Why a driver stopped.
#[derive(Debug)]
pub enum Stopped {
    /// It was told to.
    Asked,
    /// The TUN device is gone.
    DeviceGone(io::Error),
}

/// Drops outside the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DriverStats {
    /// Packets that the device did not take, for example because it is down.
    pub tun_write_failed: u64,
    /// Packets of the device that could not be read as IP, or cut.
    pub tun_read_malformed: u64,
    /// Datagrams that the kernel refused to send.
    pub udp_send_failed: u64,
}

/// What was received in one go, on its way to the device.
struct Inbox {
    buffers: Vec<Box<[u8]>>,
    meta: [RecvMeta; RECEIVE_BUFFERS],
    /// Opened packets, one after the other.
    arena: Box<[u8]>,
    coalescer: Coalescer,
    refused_tcp: u32,
    refused_udp: u32,
}

/// Talks to a driver from another thread.
#[derive(Clone)]
pub struct DriverHandle {
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
}

/// The driver has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data plane has stopped")]
pub struct Gone;

impl DriverHandle {
    /// Runs `f` on the driver's thread and returns its result.
    ///
    /// # Errors
    /// [`Gone`] if the driver has ended.
    pub async fn call<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Driver) -> R + Send + 'static,
    ) -> Result<R, Gone> {
        let (reply, result) = oneshot::channel();
        let command: Command = Box::new(move |driver| {
            // Who asked may have gone away.
            let _ = reply.send(f(driver));
        });
        self.commands.send(command).map_err(|_gone| Gone)?;
        self.wake();
        result.await.map_err(|_gone| Gone)
    }

    /// Asks the driver to stop after the tick it is in.
    pub fn stop(&self) {
        if self.commands.send(Box::new(|driver| driver.stop = Some(Stopped::Asked))).is_ok() {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Err(error) = rustix::io::write(&self.wake, &1u64.to_ne_bytes()) {
            tracing::debug!(%error, "waking the driver");
        }
    }
}

impl std::fmt::Debug for DriverHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DriverHandle").finish_non_exhaustive()
    }
}

impl Driver {
    /// Makes the driver of `node`, without device and sockets. What happens is told on `events`; if nobody
    /// reads them, they are lost.
    ///
    /// # Errors
    /// Those of `epoll_create` and `eventfd`.
    pub fn new(node: Node<BoringNoise>, events: tokio::sync::mpsc::Sender<Event>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        Ok(Self {
            node,
            tun: None,
            v4: None,
            v6: None,
            epoll,
            wake,
            queue: SendQueue::new(),
            blocked: false,
            inbox: Inbox::new(),
            packet: vec![0; VNET_HDR_LEN + BUFFER_LEN].into_boxed_slice(),
            events,
            secret: None,
            mark: 0,
            stats: DriverStats::default(),
            stop: None,
        })
    }

    /// Starts the driver on a thread of its own. The receiver yields why it ended, or closes if it panicked.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub fn spawn(self) -> io::Result<(DriverHandle, oneshot::Receiver<Stopped>)> {
        let (sender, commands) = mpsc::channel();
        let (ended, end) = oneshot::channel();
        let handle = DriverHandle { commands: sender, wake: Arc::clone(&self.wake) };
        std::thread::Builder::new().name("data-plane".into()).spawn(move || {
            // Nobody may be waiting for the end.
            let _ = ended.send(self.run(&commands));
        })?;
        Ok((handle, end))
    }

    /// The node.
    pub fn node(&mut self) -> &mut Node<BoringNoise> {
        &mut self.node
    }

    /// Drops outside the node so far.
    pub fn stats(&self) -> DriverStats {
        DriverStats { udp_send_failed: self.queue.failed(), ..self.stats }
    }

    /// Attaches the device.
    ///
    /// # Errors
    /// Those of `epoll_ctl`.
    pub fn set_tun(&mut self, tun: Tun) -> io::Result<()> {
        epoll::add(&self.epoll, &tun, epoll::EventData::new_u64(TUN), epoll::EventFlags::IN)?;
        self.inbox.coalescer = Coalescer::new(tun.udp_offload());
        self.tun = Some(tun);
        Ok(())
    }

    /// The device.
    pub fn tun(&self) -> Option<&Tun> {
        self.tun.as_ref()
    }

    /// Sets or removes the private key.
    pub fn set_private_key(&mut self, secret: Option<SecretKey>) {
        self.node.set_identity(secret.as_ref().map(BoringNoise::new), clock::now());
        self.secret = secret;
    }

    /// The private key.
    pub fn private_key(&self) -> Option<&SecretKey> {
        self.secret.as_ref()
    }

    /// Opens sockets of both families on `port`, or on a free one for 0. A host without one of the families
    /// gets one socket. When the port cannot be had, the sockets stay as they are.
    ///
    /// # Errors
    /// Those of `bind`.
    pub fn listen(&mut self, port: u16) -> io::Result<()> {
        if port != 0 && self.port() == Some(port) {
            return Ok(());
        }
        let (v4, v6) = bind_both(port, self.mark)?;
        self.set_sockets(v4, v6)
    }

    /// Takes over sockets that are bound to `port` already, from a process before; others are closed.
    ///
    /// # Errors
    /// Those of the socket options that we need.
    pub(crate) fn adopt(&mut self, sockets: [Option<OwnedFd>; 2], port: u16) -> io::Result<()> {
        let [v4, v6] = sockets.map(|socket| {
            let endpoint = UdpEndpoint::adopt(socket?.into()).ok()?;
            (endpoint.port().ok() == Some(port)).then_some(endpoint)
        });
        if v4.is_none() && v6.is_none() {
            return Ok(());
        }
        self.set_sockets(v4, v6)
    }

    /// Descriptors of the sockets, for a parent to keep.
    ///
    /// # Errors
    /// Those of `dup`.
    pub(crate) fn duplicate_sockets(&self) -> io::Result<[Option<OwnedFd>; 2]> {
        let duplicate = |endpoint: &Option<UdpEndpoint>| {
            endpoint.as_ref().map(|endpoint| endpoint.as_fd().try_clone_to_owned()).transpose()
        };
        Ok([duplicate(&self.v4)?, duplicate(&self.v6)?])
    }

    /// The UDP port.
    pub fn port(&self) -> Option<u16> {
        self.v4.as_ref().or(self.v6.as_ref()).and_then(|endpoint| endpoint.port().ok())
    }

    /// Sets the mark of outgoing datagrams.
    ///
    /// # Errors
    /// Those of `SO_MARK`: it needs a capability.
    pub fn set_mark(&mut self, mark: u32) -> io::Result<()> {
        for endpoint in [&self.v4, &self.v6].into_iter().flatten() {
            endpoint.set_mark(mark)?;
        }
        self.mark = mark;
        Ok(())
    }

    /// The mark of outgoing datagrams.
    pub fn mark(&self) -> u32 {
        self.mark
    }

    /// Replaces the sockets; the old ones close.
    fn set_sockets(&mut self, v4: Option<UdpEndpoint>, v6: Option<UdpEndpoint>) -> io::Result<()> {
        for (endpoint, id) in [(&v4, UDP4), (&v6, UDP6)] {
            if let Some(endpoint) = endpoint {
                epoll::add(&self.epoll, endpoint, epoll::EventData::new_u64(id), epoll::EventFlags::IN)?;
            }
        }
        // Closing a socket takes it out of the epoll set.
        self.v4 = v4;
        self.v6 = v6;
        if std::mem::take(&mut self.blocked) {
            self.set_backpressure(false);
        }
        Ok(())
    }

    /// Runs `f` on the node with a place for what it sends, which leaves at once.
    pub fn with_node<R>(&mut self, f: impl FnOnce(&mut Node<BoringNoise>, &mut Sink<'_>, Instant) -> R) -> R {
        let result = f(&mut self.node, &mut Sink(&mut self.queue), clock::now());
        self.flush();
        result
    }

    fn run(mut self, commands: &mpsc::Receiver<Command>) -> Stopped {
        let mut ready = Vec::with_capacity(8);
        loop {
            ready.clear();
            self.wait(&mut ready);
            let now = clock::now();
            if ready.contains(&WAKE) {
                self.run_commands(commands);
            }
            if let Some(stopped) = self.stop.take() {
                return stopped;
            }
            if self.blocked {
                self.flush();
            }
            for (id, is_v6) in [(UDP4, false), (UDP6, true)] {
                if ready.contains(&id) {
                    self.receive(is_v6, now);
                }
            }
            if ready.contains(&TUN) && !self.blocked {
                self.read_device(now);
            }
            if self.node.deadline().is_some_and(|deadline| deadline <= now) {
                self.node.handle_timeout(now, &mut self.queue);
            }
            self.flush();
            while let Some(event) = self.node.poll_event() {
                // Nobody reads fast enough, or at all: events only describe what a snapshot shows too.
                let _ = self.events.try_send(event);
            }
        }
    }

    /// Waits until something is ready or due, and leaves the ids of what is ready in `ready`.
    fn wait(&self, ready: &mut Vec<u64>) {
        let timeout = self.node.deadline().map(|deadline| {
            let wait = deadline.saturating_duration_since(clock::now());
            // A due deadline must not spin on a clock that is a little behind.
            rustix::event::Timespec::try_from(wait.max(Duration::from_micros(50))).unwrap_or_default()
        });
        let mut buffer =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 8];
        match epoll::wait(&self.epoll, &mut buffer, timeout.as_ref()) {
            Ok(count) => ready.extend(buffer[..count].iter().map(|event| event.data.u64())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                // Only a bug can cause this; do not turn it into a busy loop.
                tracing::error!(%error, "waiting for events failed");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }

    fn run_commands(&mut self, commands: &mpsc::Receiver<Command>) {
        let mut count = [0; 8];
        // An eventfd that says nothing means that an earlier read took the wake-up.
        let _ = rustix::io::read(&self.wake, &mut count);
        while let Ok(command) = commands.try_recv() {
            command(self);
        }
    }

    fn flush(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        let was_blocked = self.blocked;
        self.blocked = !self.queue.flush(self.v4.as_mut(), self.v6.as_mut());
        for pair in self.queue.take_gone() {
            self.node.local_address_gone(&pair);
        }
        if self.blocked != was_blocked {
            self.set_backpressure(self.blocked);
        }
    }

    /// While the kernel has no room for datagrams, wait for room and leave packets in the device, whose queue
    /// pushes back on their senders.
    fn set_backpressure(&self, on: bool) {
        let sockets = if on { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        let device = if on { epoll::EventFlags::empty() } else { epoll::EventFlags::IN };
        let mut result = Ok(());
        for (endpoint, id) in [(&self.v4, UDP4), (&self.v6, UDP6)] {
            if let Some(endpoint) = endpoint {
                let data = epoll::EventData::new_u64(id);
                result = result.and(epoll::modify(&self.epoll, endpoint, data, sockets));
            }
        }
        if let Some(tun) = &self.tun {
            let data = epoll::EventData::new_u64(TUN);
            result = result.and(epoll::modify(&self.epoll, tun, data, device));
        }
        if let Err(error) = result {
            tracing::error!(%error, "changing what to wait for");
        }
    }

    /// Network to host.
    fn receive(&mut self, is_v6: bool, now: Instant) {
        for _ in 0..RECEIVES_PER_TICK {
            let Some(endpoint) = (if is_v6 { &self.v6 } else { &self.v4 }) else { return };
            let received = match self.inbox.receive(endpoint) {
                Ok(Some(received)) => received,
                Ok(None) => return,
                Err(error) => {
                    // ICMP errors of some path; the datagrams behind it are not lost.
                    tracing::debug!(%error, "receiving failed");
                    continue;
                }
            };
            self.inbox.open(received, &mut self.node, now, &mut self.queue);
            if let Some(tun) = &self.tun {
                self.stats.tun_write_failed += self.inbox.write(tun);
            }
            self.inbox.coalescer.clear();
            if received < RECEIVE_BUFFERS {
                return;
            }
            if self.queue.is_full() {
                self.flush();
            }
        }
    }

    /// Host to network.
    fn read_device(&mut self, now: Instant) {
        for _ in 0..READS_PER_TICK {
            let Some(tun) = &self.tun else { return };
            let len = match tun.read(&mut self.packet) {
                Ok(Some(len)) => len,
                Ok(None) => return,
                Err(error) => {
                    self.stop = Some(Stopped::DeviceGone(error));
                    return;
                }
            };
            if self.send(len, now).is_none() {
                self.stats.tun_read_malformed += 1;
            }
            if self.queue.is_full() {
                self.flush();
                if self.blocked {
                    return;
                }
            }
        }
    }

    /// Sends what was read from the device; `None` if it is not a packet.
    #[inline]
    fn send(&mut self, len: usize, now: Instant) -> Option<()> {
        let (vnet, packet) = self.packet.get_mut(..len)?.split_first_chunk_mut::<VNET_HDR_LEN>()?;
        // All segments go to one peer, with one congestion codepoint.
        let header = IpHeader::peek(packet)?;
        let Some(peer) = self.node.route(header.dst) else { return Some(()) };
        let mut segments = Segments::new(VnetHeader::read(vnet), packet).ok()?;
        while let Some(segment) = segments.next() {
            self.node.send(peer, segment, header.ecn, now, &mut self.queue);
        }
        Some(())
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Ports tried when the kernel's choice for one family is taken in the other.
const FREE_PORT_TRIES: usize = 16;

fn bind_both(port: u16, mark: u32) -> io::Result<(Option<UdpEndpoint>, Option<UdpEndpoint>)> {
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

/// Where commands put what the node sends.
#[derive(Debug)]
pub struct Sink<'a>(&'a mut SendQueue);

impl ichor_mesh::transmit::DatagramSink for Sink<'_> {
    fn push(
        &mut self,
        pair: &ichor_mesh::transmit::CandidatePair,
        ecn: ichor_mesh::packet::Ecn,
        room: usize,
        fill: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) {
        self.0.push(pair, ecn, room, fill);
    }
}

impl Inbox {
    fn new() -> Self {
        Self {
            buffers: (0..RECEIVE_BUFFERS).map(|_| vec![0; BUFFER_LEN].into_boxed_slice()).collect(),
            meta: [RecvMeta::default(); RECEIVE_BUFFERS],
            arena: vec![0; RECEIVE_BUFFERS * BUFFER_LEN].into_boxed_slice(),
            coalescer: Coalescer::new(false),
            refused_tcp: 0,
            refused_udp: 0,
        }
    }

    /// Fills buffers; how many.
    fn receive(&mut self, endpoint: &UdpEndpoint) -> io::Result<Option<usize>> {
        let mut slices = [const { None }; RECEIVE_BUFFERS];
        for (slice, buffer) in slices.iter_mut().zip(&mut self.buffers) {
            *slice = Some(IoSliceMut::new(buffer));
        }
        let mut slices = slices.map(|slice| slice.unwrap_or_else(|| IoSliceMut::new(&mut [])));
        endpoint.receive(&mut slices, &mut self.meta)
    }

    /// Opens the datagrams of the first `count` buffers and gathers their packets.
    #[inline]
    fn open(&mut self, count: usize, node: &mut Node<BoringNoise>, now: Instant, queue: &mut SendQueue) {
        let mut at = 0;
        for (buffer, meta) in self.buffers.iter().zip(&self.meta).take(count) {
            let arrival = arrival(meta);
            let filled = &buffer[..meta.len.min(buffer.len())];
            for datagram in filled.chunks(meta.stride.max(1)) {
                // A packet is shorter than the datagram that carried it, so the arena has room for all.
                let Some(out) = self.arena.get_mut(at..at + datagram.len()) else { return };
                match node.handle_datagram(&arrival, datagram, now, out, queue) {
                    Inbound::Packet { len, .. } => {
                        self.coalescer.add(&self.arena, at..at + len);
                        at += len;
                    }
                    Inbound::Control { .. } | Inbound::Nothing => {}
                }
            }
        }
    }

    /// Writes the gathered packets to the device; how many it did not take.
    fn write(&mut self, tun: &Tun) -> u64 {
        let mut failed = 0;
        let (mut tcp, mut udp) = (false, false);
        for write in self.coalescer.finish(&mut self.arena) {
            let Err(error) = write_joined(tun, write, &self.arena) else { continue };
            let refused = write.joined().filter(|_| error.raw_os_error() == Some(libc::EINVAL));
            let Some(transport) = refused else {
                tracing::debug!(%error, "the device did not take a packet");
                failed += write.packets.len() as u64;
                continue;
            };
            match transport {
                Transport::Tcp => tcp = true,
                Transport::Udp => udp = true,
            }
            failed += write_apart(tun, write, &self.arena);
        }
        self.note_refused(tcp, udp);
        failed
    }

    fn note_refused(&mut self, tcp: bool, udp: bool) {
        let switches = [
            (tcp, &mut self.refused_tcp, &mut self.coalescer.tcp, "TCP"),
            (udp, &mut self.refused_udp, &mut self.coalescer.udp, "UDP"),
        ];
        for (refused, count, enabled, transport) in switches {
            if !refused {
                continue;
            }
            *count += 1;
            if *count >= MAX_REFUSED && *enabled {
                *enabled = false;
                tracing::warn!(transport, "the kernel refuses joined packets: writing them one by one");
            }
        }
    }
}

fn write_joined(tun: &Tun, write: &Write, arena: &[u8]) -> io::Result<()> {
    let vnet = write.vnet.write();
    let mut parts = [IoSlice::new(&[]); 1 + MAX_JOINED];
    parts[0] = IoSlice::new(&vnet);
    let mut used = 1;
    for (n, range) in write.packets.iter().enumerate() {
        let start = if n == 0 { range.start } else { range.start + write.header_len };
        if let (Some(part), Some(bytes)) = (parts.get_mut(used), arena.get(start..range.end)) {
            *part = IoSlice::new(bytes);
            used += 1;
        }
    }
    tun.write(&parts[..used])
}

/// Writes the packets of a super-packet one by one; how many were not taken.
fn write_apart(tun: &Tun, write: &Write, arena: &[u8]) -> u64 {
    let vnet = VnetHeader::default().write();
    let mut failed = 0;
    for (n, range) in write.packets.iter().enumerate() {
        let packet = &arena[range.clone()];
        let (header, payload) = packet.split_at(write.header_len.min(packet.len()));
        let header = if n == 0 { write.original_header() } else { header };
        let parts = [IoSlice::new(&vnet), IoSlice::new(header), IoSlice::new(payload)];
        failed += u64::from(tun.write(&parts).is_err());
    }
    failed
}
