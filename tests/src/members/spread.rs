//! How fast news reaches everybody, and how much is said while there is none.

use std::time::Duration;

use ichor_mesh::membership::Membership;

use super::network::{Network, WARM_UP, announced};
use super::world::{Faults, NodeId};

/// How finely times are measured.
const STEP: Duration = Duration::from_millis(10);
/// Longest wait for one piece of news.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two pieces of news.
const PAUSE: Duration = Duration::from_secs(2);
/// What surrounds a control message: headers of IPv6 inside the session, WireGuard, UDP and IPv4.
pub(super) const AROUND: u64 = 40 + 32 + 28;

/// Times until everybody knew, shortest first.
#[derive(Debug, Clone, Default)]
pub struct Spread {
    /// From the first request of a newcomer until all, itself included, have installed it.
    pub join: Vec<Duration>,
    /// From the same until the newcomer knows all records, too.
    pub caught_up: Vec<Duration>,
    /// From the change of an endpoint.
    pub change: Vec<Duration>,
    /// From the moment when the owner's operation came in.
    pub revocation: Vec<Duration>,
    /// Bits of gossip per member and second while nothing happened.
    pub idle: f64,
    /// The same with all headers.
    pub idle_on_the_wire: f64,
}

/// The least of `times`, shortest first, that `percent` of them do not exceed (the nearest rank).
pub fn percentile(times: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied()
}

/// Measures `rounds` of each kind of news among `members`.
pub fn spread(members: usize, rounds: usize, seed: u64, faults: Faults) -> Spread {
    let mut network = Network::new(members, seed, faults);
    network.world.run(WARM_UP);
    let (messages, bytes) = (network.world.control_messages, network.world.control_bytes);
    network.world.run(WARM_UP);
    let (messages, bytes) = (network.world.control_messages - messages, network.world.control_bytes - bytes);
    let bits = |bytes: u64| bytes as f64 * 8.0 / WARM_UP.as_secs_f64() / members as f64;

    let mut result =
        Spread { idle: bits(bytes), idle_on_the_wire: bits(bytes + messages * AROUND), ..Spread::default() };
    for _ in 0..rounds {
        let (installed, caught_up) = join(&mut network);
        result.join.push(installed);
        result.caught_up.push(caught_up);
        network.world.run(PAUSE);
        let (who, sequence) = network.change(0);
        result.change.push(until_all(&mut network, |membership| announced(membership, &who) >= sequence));
        network.world.run(PAUSE);
        let who = network.revoke(0);
        result.revocation.push(until_all(&mut network, |membership| !membership.roster().is_member(&who)));
        network.world.run(PAUSE);
    }
    for times in [&mut result.join, &mut result.caught_up, &mut result.change, &mut result.revocation] {
        times.sort_unstable();
    }
    result
}

fn join(network: &mut Network) -> (Duration, Duration) {
    let start = network.world.elapsed();
    let node = network.join(0);
    let newcomer = network.identity(node);
    let installed = until_all(network, |membership| membership.roster().is_member(&newcomer));
    until(network, |network| knows_all(network, node));
    (installed, network.world.elapsed() - start)
}

/// Whether a newcomer has installed everybody, and knows where they are.
fn knows_all(network: &Network, node: NodeId) -> bool {
    let others = network.members().len() - 1;
    network.world.membership(node).is_some_and(|membership| membership.peers().count() == others)
}

fn until_all(network: &mut Network, knows: impl Fn(&Membership) -> bool) -> Duration {
    until(network, |network| {
        let members = network.members();
        members.iter().all(|node| network.world.membership(*node).is_some_and(&knows))
    })
}

pub(super) fn until(network: &mut Network, done: impl Fn(&Network) -> bool) -> Duration {
    let start = network.world.elapsed();
    while network.world.elapsed() - start < PATIENCE {
        network.world.run(STEP);
        if done(network) {
            break;
        }
    }
    network.world.elapsed() - start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let times: Vec<_> = (1..=100).map(Duration::from_secs).collect();
        let seconds = |times: &[Duration], percent| percentile(times, percent).map(|time| time.as_secs());
        assert_eq!([0, 50, 99, 100].map(|percent| seconds(&times, percent)), [1, 50, 99, 100].map(Some));
        assert_eq!([50, 99].map(|percent| seconds(&times[..3], percent)), [2, 3].map(Some));
        assert_eq!(seconds(&[], 99), None);
    }
}
