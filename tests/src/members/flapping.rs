//! What members whose links go up and down cost everybody else.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Times that a member among the others asked its driver to look at another one of them again.
    pub changes: u64,
    /// Times that the list of peers of one of them was another one, or the list of those that it wants sessions with.
    pub other_peers: usize,
    /// Times that what one of them knows of another one was something else.
    pub other_records: usize,
    /// Sessions between two of them that ended.
    pub ended: usize,
    /// Times that those whose links go up and down said anew where they are, and all others were told. Nothing follows
    /// from it.
    pub announced: u64,
}

/// What there is to compare of one member.
type View = (Vec<IdentityKey>, BTreeSet<IdentityKey>, BTreeMap<IdentityKey, u64>);

/// Lets the links of the first `flapping` of `members` go up and down every second for `length`.
pub fn flapping(members: usize, flapping: usize, length: Duration, seed: u64, faults: Faults) -> Flapping {
    let mut network = Network::new(members, seed, faults);
    network.world.run(WARM_UP);
    let others: Vec<NodeId> = network.world.nodes().filter(|node| node.0 >= flapping).collect();
    let before: Vec<View> = others.iter().map(|node| view(&mut network, *node)).collect();
    let about: BTreeSet<IdentityKey> =
        others.iter().filter_map(|node| network.world.identity(*node)).collect();
    let changes = |network: &Network| {
        let among =
            network.world.changes().filter(|(node, who, _)| others.contains(node) && about.contains(who));
        among.map(|(_, _, times)| times).sum::<u64>()
    };
    let sessions = |network: &Network| network.world.sessions_among(&others);
    let (changes_before, mut known) = (changes(&network), sessions(&network));
    let mut result = Flapping { changes: 0, other_peers: 0, other_records: 0, ended: 0, announced: 0 };
    let said = |view: &View, flapping: bool| -> BTreeMap<IdentityKey, u64> {
        let all = view.2.iter().filter(|(who, _)| about.contains(*who) != flapping);
        all.map(|(who, sequence)| (*who, *sequence)).collect()
    };
    for half in 0..(length.as_millis() / HALF.as_millis()) as usize {
        // Not all in step.
        network
            .world
            .split(|node| if node.0 < flapping && (half + node.0) % 2 == 0 { node.0 + 1 } else { 0 });
        network.world.run(HALF);
        for (node, before) in others.iter().zip(&before) {
            let now = view(&mut network, *node);
            result.other_peers += usize::from((&now.0, &now.1) != (&before.0, &before.1));
            result.other_records += usize::from(said(&now, false) != said(before, false));
        }
        let now = sessions(&network);
        result.ended += known.difference(&now).count();
        known = now;
    }
    result.changes = changes(&network) - changes_before;
    let total = |view: &View| said(view, true).values().sum::<u64>();
    result.announced = total(&view(&mut network, others[0])) - total(&before[0]);
    result
}

fn view(network: &mut Network, node: NodeId) -> View {
    let view = network.world.with(node, |membership: &mut Membership, _| {
        let peers = membership.peers().map(|peer| peer.settled.identity()).collect();
        let roster = membership.roster();
        let said = |who| Some((who, roster.announcement(&who)?.announcement.sequence));
        let said = roster.members().filter_map(|member| said(member.identity())).collect();
        (peers, membership.wanted(), said)
    });
    view.expect("it runs")
}
