//! How fast two halves of a network agree that used one single-use token both.

use std::time::Duration;

use ichor_mesh::membership::Membership;
use ichor_mesh::record::IdentityKey;

use super::network::{Network, WARM_UP};
use super::spread::until;
use super::world::Faults;

/// Cuts a network of `members` in halves, lets one machine in on each side with the same token, leaves the halves apart for
/// `length` more, and tells how long after that all have one of the two as a peer, and the same.
pub fn twice(members: usize, length: Duration, seed: u64, faults: Faults) -> Duration {
    let mut network = Network::new(members, seed, faults);
    network.world.run(WARM_UP);
    let old = network.members();
    network.world.split(|node| node.0 % 2);
    let both = network.join_in_both_halves().map(|node| network.identity(node));
    let of_each = |network: &Network| -> Vec<Vec<IdentityKey>> {
        let rosters = old.iter().filter_map(|node| network.world.membership(*node)).map(Membership::roster);
        rosters.map(|it| both.into_iter().filter(|identity| it.is_member(identity)).collect()).collect()
    };
    until(&mut network, |network| of_each(network).iter().all(|known| known.len() == 1));
    network.world.run(length);
    network.world.split(|_| 0);
    until(&mut network, |network| {
        let known = of_each(network);
        known.iter().all(|known| known.len() == 1) && known.windows(2).all(|two| two[0] == two[1])
    })
}
