//! What was received in one go, on its way to the device.

use std::io::{self, IoSlice, IoSliceMut};
use std::time::Instant;

use ichor_mesh::node::{Inbound, Node};
use quinn_udp::RecvMeta;

use super::mail::Mailbox;
use crate::io::offload::VnetHeader;
use crate::io::offload::coalesce::{Coalescer, MAX_JOINED, Transport, Write};
use crate::io::tun::Tun;
use crate::io::udp::{SendQueue, UdpEndpoint, arrival};
use crate::noise::BoringNoise;

/// Datagram buffers of one receive. Each holds up to 64 datagrams that the kernel joined.
pub(super) const RECEIVE_BUFFERS: usize = 4;
/// Longest content of one receive buffer.
pub(super) const BUFFER_LEN: usize = 65_536;
/// Refused super-packets of one transport after which we stop making them: a broken range of kernels answers
/// EINVAL (tailscale/wireguard-go#33).
const MAX_REFUSED: u32 = 8;

/// What was received in one go, on its way to the device.
pub(super) struct Inbox {
    buffers: Vec<Box<[u8]>>,
    meta: [RecvMeta; RECEIVE_BUFFERS],
    /// Opened packets, one after the other.
    arena: Box<[u8]>,
    coalescer: Coalescer,
    refused_tcp: u32,
    refused_udp: u32,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            buffers: (0..RECEIVE_BUFFERS).map(|_| vec![0; BUFFER_LEN].into_boxed_slice()).collect(),
            meta: [RecvMeta::default(); RECEIVE_BUFFERS],
            arena: vec![0; RECEIVE_BUFFERS * BUFFER_LEN].into_boxed_slice(),
            coalescer: Coalescer::new(false),
            refused_tcp: 0,
            refused_udp: 0,
        }
    }

    /// Whether the device takes UDP super-packets.
    pub(super) fn set_udp_offload(&mut self, udp: bool) {
        self.coalescer = Coalescer::new(udp);
    }

    /// Forgets what was gathered.
    pub(super) fn clear(&mut self) {
        self.coalescer.clear();
    }

    /// Fills buffers; how many.
    pub(super) fn receive(&mut self, endpoint: &UdpEndpoint) -> io::Result<Option<usize>> {
        let mut slices = [const { None }; RECEIVE_BUFFERS];
        for (slice, buffer) in slices.iter_mut().zip(&mut self.buffers) {
            *slice = Some(IoSliceMut::new(buffer));
        }
        let mut slices = slices.map(|slice| slice.unwrap_or_else(|| IoSliceMut::new(&mut [])));
        endpoint.receive(&mut slices, &mut self.meta)
    }

    /// Opens the datagrams of the first `count` buffers and gathers their packets.
    #[inline]
    pub(super) fn open(
        &mut self,
        count: usize,
        node: &mut Node<BoringNoise>,
        now: Instant,
        queue: &mut SendQueue,
        mailbox: &mut Mailbox,
    ) {
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
                    Inbound::Control { peer, len } => mailbox.control(node.key(peer), &out[..len]),
                    Inbound::Hello => mailbox.hello(arrival.pair, datagram),
                    Inbound::Nothing => {}
                }
            }
        }
    }

    /// Writes the gathered packets to the device; how many it did not take.
    pub(super) fn write(&mut self, tun: &Tun) -> u64 {
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
