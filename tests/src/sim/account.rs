//! What became of every packet.

use std::collections::BTreeMap;
use std::time::Instant;

use ichor_mesh::status::Drop;

/// What became of a packet, or of its last copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It waits for a session, or is under way.
    Pending,
    /// It arrived, once.
    Delivered,
    /// A link lost it.
    LostByLink,
    /// Its receiver dropped it.
    Dropped(Drop),
}

/// The packets of a world, by number.
#[derive(Debug, Default)]
pub struct Account {
    packets: BTreeMap<u64, (Instant, Fate)>,
    /// Packets that came twice: replay protection failed.
    twice: Vec<u64>,
}

impl Account {
    pub(super) fn sent(&mut self, id: u64, at: Instant) {
        self.packets.insert(id, (at, Fate::Pending));
    }

    pub(super) fn note(&mut self, id: u64, fate: Fate) {
        let Some((_, known)) = self.packets.get_mut(&id) else { return };
        match (*known, fate) {
            (Fate::Delivered, Fate::Delivered) => self.twice.push(id),
            // What happens to a duplicate does not matter.
            (Fate::Delivered, _) => {}
            (_, fate) => *known = fate,
        }
    }

    /// Forgets packets that were delivered: a day has millions.
    pub fn forget_delivered(&mut self) -> u64 {
        let before = self.packets.len();
        self.packets.retain(|_, (_, fate)| *fate != Fate::Delivered);
        (before - self.packets.len()) as u64
    }

    /// How many packets had which fate, without those forgotten.
    pub fn fates(&self) -> BTreeMap<Fate, u64> {
        let mut fates = BTreeMap::new();
        for (_, fate) in self.packets.values() {
            *fates.entry(*fate).or_default() += 1;
        }
        fates
    }

    /// When packets of this fate were sent.
    pub fn times(&self, fate: Fate) -> Vec<Instant> {
        self.packets.values().filter(|(_, known)| *known == fate).map(|(at, _)| *at).collect()
    }

    /// Packets that were delivered twice.
    pub fn delivered_twice(&self) -> &[u64] {
        &self.twice
    }
}
