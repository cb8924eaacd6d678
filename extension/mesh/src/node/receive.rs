//! From the network to the host: which peer a datagram belongs to, and whether what is in it may pass.

use std::time::Instant;

use super::identity::Which;
use super::{Arrival, Event, Inbound, MAX_EVENTS, Node, PeerId};
use crate::gate::Verdict;
use crate::packet::{Ecn, IpHeader, set_ecn};
use crate::status::Drop;
use crate::transmit::{CandidatePair, DatagramSink};
use crate::tunnel::{IndexBase, Noise, SessionIndex};
use crate::wire::{COOKIE_REPLY_LEN, Datagram};

impl<N: Noise> Node<N> {
    /// Takes one datagram. `out` must be as long as the datagram; a packet for the host is left there.
    #[inline]
    pub fn handle_datagram<S: DatagramSink>(
        &mut self,
        arrival: &Arrival,
        datagram: &[u8],
        now: Instant,
        out: &mut [u8],
        sink: &mut S,
    ) -> Inbound {
        match Datagram::classify(datagram) {
            Datagram::Data { receiver, counter } => {
                return self.handle_data(arrival, datagram, SessionIndex(receiver), counter, now, out, sink);
            }
            Datagram::Initiation { .. } => self.handle_initiation(arrival, datagram, now, sink),
            Datagram::Response { receiver, .. } => {
                if let Some(id) = self.peer_of(SessionIndex(receiver))
                    && self.admit(arrival, datagram, now, sink).is_some()
                {
                    self.handle_reply(id, arrival, datagram, now, sink);
                }
            }
            Datagram::CookieReply { receiver } => {
                if let Some(id) = self.peer_of(SessionIndex(receiver)) {
                    self.handle_reply(id, arrival, datagram, now, sink);
                }
            }
            Datagram::Ichor if self.control.is_some() => return Inbound::Hello,
            Datagram::Ichor | Datagram::Unknown => self.counters.note(Drop::Malformed),
        }
        Inbound::Nothing
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one datagram, already parsed")]
    #[inline]
    fn handle_data<S: DatagramSink>(
        &mut self,
        arrival: &Arrival,
        datagram: &[u8],
        session: SessionIndex,
        counter: u64,
        now: Instant,
        out: &mut [u8],
        sink: &mut S,
    ) -> Inbound {
        let Some(id) = self.peer_of(session) else { return Inbound::Nothing };
        let mut path_changed = false;
        let mut confirmed = false;
        let len = self.with_peer(id, now, |peer, cx| {
            let (len, heard) = peer.open(session, counter, datagram, out, cx)?;
            path_changed = heard.newest && peer.paths.heard(&arrival.pair);
            confirmed = heard.confirmed;
            if confirmed {
                peer.flush(cx, sink);
            }
            peer.rekey_if_late(cx, sink);
            Some(len)
        });
        self.note_changes(id, confirmed, path_changed, &arrival.pair);
        match len.flatten() {
            None | Some(0) => Inbound::Nothing,
            Some(len) => self.judge(id, arrival.ecn, len, out),
        }
    }

    /// Whether an opened packet may reach the host, and what it is.
    #[inline]
    fn judge(&mut self, id: PeerId, outer: Ecn, len: usize, out: &mut [u8]) -> Inbound {
        let packet = &mut out[..len];
        let Ok(header) = IpHeader::parse(packet) else {
            self.counters.note(Drop::Malformed);
            return Inbound::Nothing;
        };
        if self.routes.owner(header.src) != Some(id) {
            self.counters.note(Drop::Source);
            return Inbound::Nothing;
        }
        if let Some(control) = &self.control {
            if control.payload(&header, packet).is_some() {
                return Inbound::Control { peer: id, len };
            }
            if control.reserves(header.src) || control.reserves(header.dst) {
                self.counters.note(Drop::ControlAddress);
                return Inbound::Nothing;
            }
        }
        match Ecn::decapsulated(header.ecn, outer) {
            None => {
                self.counters.note(Drop::Ecn);
                return Inbound::Nothing;
            }
            Some(ecn) if ecn != header.ecn => set_ecn(packet, ecn),
            Some(_) => {}
        }
        Inbound::Packet { peer: id, len }
    }

    fn handle_initiation<S: DatagramSink>(
        &mut self,
        arrival: &Arrival,
        message: &[u8],
        now: Instant,
        sink: &mut S,
    ) {
        let Some(which) = self.admit(arrival, message, now, sink) else { return };
        let Some(identity) = self.identity_of(which) else { return };
        let id = match identity.noise.identify(message) {
            Ok(key) => self.by_key.get(&key).copied(),
            Err(error) => return self.counters.note(Drop::from(error)),
        };
        let Some(id) = id else { return self.counters.note(Drop::UnknownPeer) };
        if !self.is_called(id, which, now) {
            return self.counters.note(Drop::Stranger);
        }
        self.with_peer(id, now, |peer, cx| peer.handle_initiation(message, &arrival.pair, cx, sink));
    }

    fn handle_reply<S: DatagramSink>(
        &mut self,
        id: PeerId,
        arrival: &Arrival,
        message: &[u8],
        now: Instant,
        sink: &mut S,
    ) {
        let mut path_changed = false;
        let completed = self
            .with_peer(id, now, |peer, cx| {
                let completed = peer.handle_reply(message, &arrival.pair, cx, sink);
                if completed {
                    path_changed = peer.paths.heard(&arrival.pair);
                    peer.flush(cx, sink);
                }
                completed
            })
            .unwrap_or(false);
        self.note_changes(id, completed, path_changed, &arrival.pair);
    }

    /// Whether a handshake message passes a gate, and of which of our keys; answers with a cookie where one is due.
    fn admit<S: DatagramSink>(
        &mut self,
        arrival: &Arrival,
        message: &[u8],
        now: Instant,
        sink: &mut S,
    ) -> Option<Which> {
        let ours = [(Which::Present, &mut self.identity), (Which::Previous, &mut self.previous)];
        for (which, identity) in ours {
            let Some(identity) = identity else { continue };
            let mut reply = [0; COOKIE_REPLY_LEN];
            match identity.gate.check(arrival.pair.remote, message, now, &mut self.rng, &mut reply) {
                Verdict::Process => return Some(which),
                Verdict::Cookie => {
                    self.counters.note(Drop::HandshakeLimited);
                    sink.push_bytes(&arrival.pair, &reply);
                    return None;
                }
                Verdict::Limited => {
                    self.counters.note(Drop::HandshakeLimited);
                    return None;
                }
                // It may be for the other key.
                Verdict::Stranger => {}
            }
        }
        self.counters.note(Drop::Stranger);
        None
    }

    fn note_changes(&mut self, id: PeerId, completed: bool, path_changed: bool, pair: &CandidatePair) {
        if !completed && !path_changed {
            return;
        }
        let Some(key) = self.peer_mut(id).map(|peer| peer.key) else { return };
        if completed {
            self.events.push_back(Event::HandshakeCompleted { peer: key });
        }
        if path_changed {
            self.events.push_back(Event::PathChanged { peer: key, pair: *pair });
        }
        while self.events.len() > MAX_EVENTS {
            self.events.pop_front();
        }
    }

    #[inline]
    fn peer_of(&mut self, session: SessionIndex) -> Option<PeerId> {
        let base = IndexBase::of(session).get();
        if let Some((last, id)) = self.last_base
            && last == base
        {
            return Some(id);
        }
        let id = self.by_base.get(&base).copied();
        match id {
            Some(id) => self.last_base = Some((base, id)),
            None => self.counters.note(Drop::UnknownSession),
        }
        id
    }
}
