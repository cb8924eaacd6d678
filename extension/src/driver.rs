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

mod inbox;
mod mail;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ichor_mesh::key::{PublicKey, SecretKey};
use ichor_mesh::node::{Event, Node};
use ichor_mesh::packet::IpHeader;
use ichor_mesh::transmit::{CandidatePair, DatagramSink as _};
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use tokio::sync::oneshot;

use self::inbox::{BUFFER_LEN, Inbox, RECEIVE_BUFFERS};
use crate::clock;
use crate::io::offload::segment::Segments;
use crate::io::offload::{VNET_HDR_LEN, VnetHeader};
use crate::io::slice;
use crate::io::tun::Tun;
use crate::io::udp::{SendQueue, UdpEndpoint, bind_both};
use crate::noise::BoringNoise;

pub(crate) use self::mail::Mail;
use self::mail::Mailbox;

/// Receives of one socket in one tick, so that a busy peer does not starve the device.
const RECEIVES_PER_TICK: usize = 4;
/// Packets read from the device in one tick.
const READS_PER_TICK: usize = 256;
/// How long to ask for events before going to sleep. To be woken costs tens of microseconds on a virtual machine,
/// which every packet of a conversation would pay on both ends.
const POLL_TIME: Duration = Duration::from_micros(50);
/// Asking first is worthwhile while something comes about as fast as that; a driver with less to do sleeps at once
/// and uses no processor time at all.
const POLL_WORTHWHILE: Duration = Duration::from_micros(100);

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
    /// Whether the last wait was so short that asking would have been faster than sleeping.
    poll_first: bool,
    inbox: Inbox,
    packet: Box<[u8]>,
    events: tokio::sync::mpsc::Sender<Event>,
    mailbox: Mailbox,
    secret: Option<SecretKey>,
    mark: u32,
    stats: DriverStats,
    stop: Option<Stopped>,
}

/// The multicast groups of a network segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LanGroups {
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
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
    /// Control packets and hellos that came faster than they were taken.
    pub mail_lost: u64,
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
            poll_first: false,
            inbox: Inbox::new(),
            packet: vec![0; VNET_HDR_LEN + BUFFER_LEN].into_boxed_slice(),
            events,
            mailbox: Mailbox::default(),
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
            if let Err(error) = slice::shorten() {
                tracing::debug!(%error, "the data plane computes in slices of usual length");
            }
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
        DriverStats { udp_send_failed: self.queue.failed(), mail_lost: self.mailbox.lost(), ..self.stats }
    }

    /// Has what members say to each other delivered to `receiver`. What it does not take in time is lost, and said again.
    pub(crate) fn set_mail_receiver(&mut self, receiver: tokio::sync::mpsc::Sender<Mail>) {
        self.mailbox = Mailbox::to(receiver);
    }

    /// Attaches the device.
    ///
    /// # Errors
    /// Those of `epoll_ctl`.
    pub fn set_tun(&mut self, tun: Tun) -> io::Result<()> {
        epoll::add(&self.epoll, &tun, epoll::EventData::new_u64(TUN), epoll::EventFlags::IN)?;
        self.inbox.set_udp_offload(tun.udp_offload());
        self.tun = Some(tun);
        Ok(())
    }

    /// The device.
    pub fn tun(&self) -> Option<&Tun> {
        self.tun.as_ref()
    }

    /// Sets or removes the private key.
    pub fn set_private_key(&mut self, secret: Option<SecretKey>) {
        // `wg syncconf` sets the key that is set already, and must not cost a session.
        if secret.as_ref().map(SecretKey::public) == self.secret.as_ref().map(SecretKey::public) {
            return;
        }
        self.node.set_identity(secret.as_ref().map(BoringNoise::new), clock::now());
        self.secret = secret;
    }

    /// Puts another private key in place of ours, and keeps all sessions.
    pub fn rotate_private_key(&mut self, secret: SecretKey) {
        self.node.rotate_identity(BoringNoise::new(&secret), clock::now());
        self.secret = Some(secret);
    }

    /// Sets the private key that was ours before, which peers may still call; `None` ends that.
    pub fn set_previous_key(&mut self, secret: Option<&SecretKey>) {
        self.node.set_previous_identity(secret.map(BoringNoise::new), clock::now());
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

    /// Sends one datagram on `pair`, outside sessions.
    pub(crate) fn send_datagram(&mut self, pair: &CandidatePair, datagram: &[u8]) {
        self.queue.push_bytes(pair, datagram);
        self.flush();
    }

    /// Sends a control packet to a peer in one piece and in a session that is there, or not at all.
    pub(crate) fn send_whole(&mut self, to: &PublicKey, address: Ipv6Addr, payload: &[u8]) {
        let Some(peer) = self.node.peer(to) else { return };
        self.node.send_probe(peer, address, payload, clock::now(), &mut self.queue.whole());
        self.flush();
    }

    /// Listens to `group` on the interfaces with these indices. An interface that is gone, or has no addresses of that
    /// family, is no failure: it is not listened to.
    pub(crate) fn join_groups(&self, groups: &LanGroups, interfaces: &BTreeSet<u32>) {
        for (endpoint, group) in [(&self.v4, IpAddr::from(groups.v4)), (&self.v6, groups.v6.into())] {
            let Some(endpoint) = endpoint else { continue };
            for interface in interfaces {
                if let Err(error) = endpoint.join_group(group, *interface) {
                    tracing::debug!(%error, %group, interface, "not listening on the segment");
                }
            }
        }
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
    fn wait(&mut self, ready: &mut Vec<u64>) {
        let started = clock::now();
        let due = self.node.deadline().map(|deadline| {
            // A due deadline must not spin on a clock that is a little behind.
            deadline.saturating_duration_since(started).max(Duration::from_micros(50))
        });
        if self.poll_first && self.poll(started, due.unwrap_or(POLL_TIME).min(POLL_TIME), ready) {
            return;
        }
        let timeout = due.map(|due| Timespec::try_from(due).unwrap_or_default());
        if let Err(error) = self.collect(timeout.as_ref(), ready) {
            // Only a bug can cause this; do not turn it into a busy loop.
            tracing::error!(%error, "waiting for events failed");
            std::thread::sleep(Duration::from_millis(100));
        }
        self.poll_first = clock::now().saturating_duration_since(started) < POLL_WORTHWHILE;
    }

    /// Asks again and again for a short while; whether something became ready.
    fn poll(&self, started: Instant, time: Duration, ready: &mut Vec<u64>) -> bool {
        while clock::now().saturating_duration_since(started) < time {
            if self.collect(Some(&Timespec::default()), ready).is_ok() && !ready.is_empty() {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    fn collect(&self, timeout: Option<&Timespec>, ready: &mut Vec<u64>) -> io::Result<()> {
        let nothing = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut buffer = [nothing; 8];
        match epoll::wait(&self.epoll, &mut buffer, timeout) {
            Ok(count) => {
                ready.extend(buffer[..count].iter().map(|event| event.data.u64()));
                Ok(())
            }
            Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
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
            self.inbox.open(received, &mut self.node, now, &mut self.queue, &mut self.mailbox);
            if let Some(tun) = &self.tun {
                self.stats.tun_write_failed += self.inbox.write(tun);
            }
            self.inbox.clear();
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

/// Where commands put what the node sends.
#[derive(Debug)]
pub struct Sink<'a>(&'a mut SendQueue);

impl ichor_mesh::transmit::DatagramSink for Sink<'_> {
    fn push(
        &mut self,
        pair: &CandidatePair,
        ecn: ichor_mesh::packet::Ecn,
        room: usize,
        fill: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) {
        self.0.push(pair, ecn, room, fill);
    }
}
