//! What members say to each other on its way: late, in another order, or lost.

use std::time::Duration;

use ichor_mesh::join::{Destination, Via};
use ichor_mesh::record::IdentityKey;

use super::{Happening, NodeId, World};

impl World {
    pub(super) fn send_control(&mut self, from: NodeId, to: IdentityKey, payload: Vec<u8>) {
        self.control_messages += 1;
        self.control_bytes += payload.len() as u64;
        let sessions = &self.machines[from.0].sessions;
        let Some(to) = sessions.iter().find(|(_, session)| session.with == to).map(|(place, _)| *place)
        else {
            return;
        };
        if self.is_lost() {
            return;
        }
        let (sender, receiver) = (self.machines[from.0].incarnation, self.machines[to.0].incarnation);
        let at = self.now + self.delay();
        self.at(at, Happening::Control { from, sender, to, receiver, payload });
    }

    pub(super) fn send_to(&mut self, from: NodeId, destination: Destination, datagram: &[u8]) {
        match destination {
            Destination::Address(address) => {
                let at = |node: &NodeId| Self::address(*node) == address;
                if let Some(to) = Self::node_at(address).filter(at).filter(|to| to.0 < self.machines.len()) {
                    self.send_hello(from, to, datagram.to_vec(), Via::Unicast);
                }
            }
            Destination::Lan if self.is_distant => {}
            Destination::Lan => {
                for to in self.nodes().filter(|to| *to != from) {
                    self.send_hello(from, to, datagram.to_vec(), Via::Lan);
                }
            }
        }
    }

    pub(super) fn send_hello(&mut self, from: NodeId, to: NodeId, datagram: Vec<u8>, via: Via) {
        if self.is_lost() {
            return;
        }
        let receiver = self.machines[to.0].incarnation;
        let at = self.now + self.delay();
        self.at(at, Happening::Hello { from, to, receiver, datagram, via });
    }

    pub(super) fn is_lost(&mut self) -> bool {
        self.random.chance(self.faults.loss, 1000)
    }

    pub(super) fn delay(&mut self) -> Duration {
        let jitter = self.faults.jitter.as_micros() as usize + 1;
        self.faults.delay + Duration::from_micros(self.random.below(jitter) as u64)
    }
}
