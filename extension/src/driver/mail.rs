//! What is not for the host but for the membership: control packets and hellos, on their way to its thread.

use ichor_mesh::hello::REQUEST_LEN;
use ichor_mesh::key::PublicKey;
use ichor_mesh::packet::{IPV6_HEADER_LEN, IpHeader};
use ichor_mesh::transmit::CandidatePair;
use tokio::sync::mpsc;

/// One message.
#[derive(Debug)]
pub(crate) enum Mail {
    /// A peer said this inside a session.
    Control {
        /// Its key.
        from: PublicKey,
        /// What.
        payload: Vec<u8>,
    },
    /// This came outside sessions, from anybody.
    Hello {
        /// The way that it came.
        pair: CandidatePair,
        /// What.
        datagram: Vec<u8>,
    },
}

/// Where mail goes.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    receiver: Option<mpsc::Sender<Mail>>,
    lost: u64,
}

impl Mailbox {
    pub(super) fn to(receiver: mpsc::Sender<Mail>) -> Self {
        Self { receiver: Some(receiver), lost: 0 }
    }

    /// Messages that nobody took in time.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Delivers a control packet, header included.
    pub(super) fn control(&mut self, from: Option<PublicKey>, packet: &[u8]) {
        let end = IpHeader::parse(packet).map_or(0, |header| header.total_len);
        if let (Some(from), Some(payload)) = (from, packet.get(IPV6_HEADER_LEN..end)) {
            self.deliver(|| Mail::Control { from, payload: payload.to_vec() });
        }
    }

    /// Delivers what may be a hello. None is longer than a request.
    pub(super) fn hello(&mut self, pair: CandidatePair, datagram: &[u8]) {
        if datagram.len() <= REQUEST_LEN {
            self.deliver(|| Mail::Hello { pair, datagram: datagram.to_vec() });
        }
    }

    fn deliver(&mut self, mail: impl FnOnce() -> Mail) {
        let Some(receiver) = &self.receiver else { return };
        match receiver.try_reserve() {
            Ok(permit) => permit.send(mail()),
            Err(_full) => self.lost += 1,
        }
    }
}
