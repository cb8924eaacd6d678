//! How fast two halves of a network that went on without each other come together.

use std::time::Duration;

use super::network::{Network, WARM_UP};
use super::spread::{AROUND, until};
use super::world::Faults;

/// What happens in each half meanwhile.
const JOINS: usize = 3;
const CHANGES: usize = 5;
const REVOCATIONS: usize = 2;

/// How it went.
#[derive(Debug, Clone, Copy)]
pub struct Healing {
    /// From the moment when the first packet could pass until all rosters were the same.
    pub healed: Duration,
    /// Records that one half did not know, and the other neither of that one.
    pub news: usize,
    /// Members at the end.
    pub members: usize,
    /// Members that still have a revoked one in their peer table.
    pub bad_peers: usize,
    /// Bits of control messages per member and second, with all headers, in the second half of the cut.
    pub gossip: f64,
}

/// Cuts a network of `members` in halves for `length`, with joins, changes of endpoints and revocations on both sides.
pub fn partition(members: usize, length: Duration, seed: u64, faults: Faults) -> Healing {
    let mut network = Network::new(members, seed, faults);
    network.world.run(WARM_UP);
    network.world.split(|node| node.0 % 2);
    let events = (JOINS + CHANGES + REVOCATIONS) as u32;
    let mut half_way = 0;
    for event in 0..events as usize {
        if event == events as usize / 2 {
            half_way = on_the_wire(&network);
        }
        for half in 0..2 {
            match event {
                0..JOINS => {
                    network.join(half);
                }
                n if n < JOINS + CHANGES => {
                    network.change(half);
                }
                _ => {
                    network.revoke(half);
                }
            }
        }
        network.world.run(length / events);
    }
    let said = (on_the_wire(&network) - half_way) as f64 * 8.0;
    let gossip = said / (length / 2).as_secs_f64() / network.members().len() as f64;
    network.world.split(|_| 0);
    let healed = until(&mut network, Network::agrees);
    let bad_peers = network.members().into_iter().filter(|node| network.has_revoked_peer(*node)).count();
    let news = 2 * events as usize + 2 * JOINS;
    Healing { healed, news, members: network.members().len(), bad_peers, gossip }
}

/// Bytes of all control messages until now, with all headers.
fn on_the_wire(network: &Network) -> u64 {
    network.world.control_bytes + network.world.control_messages * AROUND
}
