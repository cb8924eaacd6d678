//! What members whose links go up and down cost everybody else.

use std::collections::BTreeSet;
use std::time::Duration;

use ichor_mesh::membership::Membership;
use ichor_mesh::record::IdentityKey;

use super::network::{Network, WARM_UP};
use super::world::{Faults, NodeId};

/// A link is up for so long, then down for so long.
const HALF: Duration = Duration::from_millis(500);

/// What the others noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flapping {
    /// Times that a member among the others asked its driver to look at a peer again.
    pub changes: u64,
    /// Times that the list of peers of one of them was another one, or the list of those that it wants sessions with.
    pub other_peers: usize,
    /// Times that the records of one of them were others.
    pub other_records: usize,
    /// Sessions between two of them that ended.
    pub ended: usize,
}

/// What there is to compare of one member.
type View = (Vec<IdentityKey>, BTreeSet<IdentityKey>, [u64; 64]);

/// Lets the links of the first `flapping` of `members` go up and down every second for `length`.
pub fn flapping(members: usize, flapping: usize, length: Duration, seed: u64, faults: Faults) -> Flapping {
    let mut network = Network::new(members, seed, faults);
    network.world.run(WARM_UP);
    let others: Vec<NodeId> = network.world.nodes().filter(|node| node.0 >= flapping).collect();
    let before: Vec<View> = others.iter().map(|node| view(&mut network, *node)).collect();
    let changes = |network: &Network| others.iter().map(|node| network.world.changes(*node)).sum::<u64>();
    let sessions = |network: &Network| network.world.sessions_among(&others);
    let (changes_before, mut known) = (changes(&network), sessions(&network));
    let mut result = Flapping { changes: 0, other_peers: 0, other_records: 0, ended: 0 };
    for half in 0..(length.as_millis() / HALF.as_millis()) as usize {
        // Not all in step.
        network
            .world
            .split(|node| if node.0 < flapping && (half + node.0) % 2 == 0 { node.0 + 1 } else { 0 });
        network.world.run(HALF);
        for (node, before) in others.iter().zip(&before) {
            let now = view(&mut network, *node);
            result.other_peers += usize::from((&now.0, &now.1) != (&before.0, &before.1));
            result.other_records += usize::from(now.2 != before.2);
        }
        let now = sessions(&network);
        result.ended += known.difference(&now).count();
        known = now;
    }
    result.changes = changes(&network) - changes_before;
    result
}

fn view(network: &mut Network, node: NodeId) -> View {
    let view = network.world.with(node, |membership: &mut Membership, _| {
        let peers = membership.peers().map(|peer| peer.settled.identity()).collect();
        (peers, membership.wanted(), *membership.roster().digest_sums())
    });
    view.expect("it runs")
}
