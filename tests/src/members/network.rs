//! A network that has been there for long, to measure what happens in it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ichor_mesh::crypto::{Crypto as _, ModelCrypto};
use ichor_mesh::hello::HelloKey;
use ichor_mesh::join_string::JoinString;
use ichor_mesh::key::PublicKey;
use ichor_mesh::membership::{Membership, Saved};
use ichor_mesh::record::IdentityKey;
use ichor_mesh::record::announcement::Announcement;
use ichor_mesh::record::member::Member;
use ichor_mesh::record::receipt::Receipt;
use ichor_mesh::roster::Settled;

use super::owner::{Owner, Wish, draw_secret, draw_seed};
use super::world::{Faults, NodeId, World};
use crate::random::Random;

/// First address of the members that were there from the beginning, and of those that came later.
const ADDRESSES: u32 = 0x0ad5_0001;
const LATER_ADDRESSES: u32 = 0x0ad5_4000;
/// How long everybody is left alone after the start: all have announced themselves by then.
pub(super) const WARM_UP: Duration = Duration::from_secs(60);
/// Members that a join string names.
const SEEDS: usize = 3;

/// Members that all know each other, and their owner.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) world: World,
    owner: Owner,
    random: Random,
    joined: u32,
    revoked: BTreeSet<IdentityKey>,
}

impl Network {
    /// `members` that have the records of all on their disks and start within a second. They are far from each other.
    pub(super) fn new(members: usize, seed: u64, faults: Faults) -> Self {
        let mut random = Random::new(seed);
        let mut owner = Owner::new(&mut random);
        let mut world = World::distant(seed, faults);
        for saved in established(members, &world, &mut owner, &mut random) {
            let node = world.add_machine();
            world.resume(node, saved);
        }
        Self { world, owner, random, joined: 0, revoked: BTreeSet::new() }
    }

    /// A member in one part of a split network.
    pub(super) fn any(&mut self, part: usize) -> NodeId {
        *self.random.pick(&self.members_of(part))
    }

    fn members_of(&self, part: usize) -> Vec<NodeId> {
        let mut members = self.members();
        members.retain(|node| self.world.machines[node.0].part == part);
        members
    }

    /// Those that take themselves for members, and are.
    pub(super) fn members(&self) -> Vec<NodeId> {
        let mut members = self.world.members();
        members.retain(|node| !self.revoked.contains(&self.identity(*node)));
        members
    }

    /// Switches on a newcomer that knows some members of a part of the network.
    pub(super) fn join(&mut self, part: usize) -> NodeId {
        let seeds = (0..SEEDS).map(|_| World::address(self.any(part))).collect();
        let join = self.token(seeds, part);
        self.start(join, part)
    }

    /// Switches on two newcomers with the same token, one in each half of the network.
    pub(super) fn join_in_both_halves(&mut self) -> [NodeId; 2] {
        let seeds = [0, 1].map(|part| World::address(self.any(part))).to_vec();
        let join = self.token(seeds, 0);
        [0, 1].map(|part| self.start(join.clone(), part))
    }

    /// A token for one more member, with the hello key that one in `part` knows.
    fn token(&mut self, seeds: Vec<SocketAddr>, part: usize) -> JoinString {
        let told_by = self.any(part);
        let hello = self.world.hello(told_by);
        let address = LATER_ADDRESSES + self.joined;
        let wish = wish(format!("late{}", self.joined), address, self.world.clock());
        self.joined += 1;
        self.owner.mint(&wish, hello, seeds, self.world.clock(), &mut self.random)
    }

    fn start(&mut self, join: JoinString, part: usize) -> NodeId {
        let node = self.world.add_machine();
        self.world.machines[node.0].part = part;
        self.world.start_joining(node, join, None);
        node
    }

    /// A member of a part of the network changes its endpoint; who, and its announcement since.
    pub(super) fn change(&mut self, part: usize) -> (IdentityKey, Option<u64>) {
        let node = self.any(part);
        let candidates = vec![World::address(node)];
        self.world.with(node, |membership, now| membership.set_candidates(candidates, now));
        let identity = self.identity(node);
        (identity, self.world.membership(node).and_then(|membership| announced(membership, &identity)))
    }

    /// The owner tells one member of a part of the network that another is revoked; who.
    pub(super) fn revoke(&mut self, part: usize) -> IdentityKey {
        let victim = self.any(part);
        let mut others = self.members_of(part);
        others.retain(|node| *node != victim);
        let identity = self.identity(victim);
        self.revoked.insert(identity);
        self.world.act(*self.random.pick(&others), self.owner.revoke(identity));
        identity
    }

    pub(super) fn identity(&self, node: NodeId) -> IdentityKey {
        self.world.identity(node).expect("it runs")
    }

    /// Whether all members have the same records.
    pub(super) fn agrees(&self) -> bool {
        let members = self.members();
        let mut rosters =
            members.iter().filter_map(|node| self.world.membership(*node)).map(Membership::roster);
        let Some(first) = rosters.next() else { return true };
        rosters.all(|roster| {
            roster.digest_sums() == first.digest_sums() && roster.item_count() == first.item_count()
        })
    }

    /// Whether a member would accept data of somebody who is revoked.
    pub(super) fn has_revoked_peer(&self, node: NodeId) -> bool {
        let mut peers = self.world.membership(node).into_iter().flat_map(Membership::peers);
        peers.any(|peer| self.revoked.contains(&peer.settled.identity()))
    }
}

/// The sequence of the last announcement of `identity`.
pub(super) fn announced(membership: &Membership, identity: &IdentityKey) -> Option<u64> {
    membership.roster().announcement(identity).map(|known| known.announcement.sequence)
}

fn wish(names: String, address: u32, clock: u64) -> Wish {
    let address = Ipv4Addr::from(address);
    Wish { names, address, uses: 1, ephemeral: None, replaces: None, force: false, not_after: clock + 3600 }
}

/// What is on the disks of `members`, which were all let in by the first.
fn established(members: usize, world: &World, owner: &mut Owner, random: &mut Random) -> Vec<Saved> {
    let network = owner.network();
    let secrets: Vec<_> = (0..members).map(|_| draw_secret(random)).collect();
    let installed: Vec<_> =
        secrets.iter().map(|secret| IdentityKey(ModelCrypto.signing_public(secret))).collect();
    let mut items: Vec<Arc<[u8]>> = Vec::new();
    let mut saved = Vec::new();
    for (n, secret) in secrets.iter().enumerate() {
        let wish = wish(format!("n{n}"), ADDRESSES + n as u32, world.clock());
        let join = owner.mint(&wish, None, vec![], world.clock(), random);
        let name = wish.names.parse().expect("a name");
        let member = Member { grant: join.grant.id, name, address: wish.address, routes: vec![] };
        let member = member.seal(&network, &join.token, secret, &ModelCrypto).expect("a valid member");
        let receipt = Receipt { member: member.id, nonce: [0; 16], time: 0, reach: 1 };
        let receipt = receipt.seal(&network, &secrets[0], &ModelCrypto).expect("a valid receipt");
        let settled = Settled { grant: join.grant.clone(), member, receipt };
        let announcement = Announcement {
            sequence: 1,
            wireguard: PublicKey::new(draw_seed(random)),
            candidates: vec![World::address(NodeId(n))],
            version: "sim".into(),
            capabilities: 0,
            instance: [0; 8],
            boot: 0,
        };
        let signed = announcement.seal(&network, secret, &ModelCrypto).expect("a valid announcement");
        items.push(settled.to_bytes().into());
        items.push(Arc::clone(signed.envelope.bytes()));
        let first = join.first_hello.clone().expect("minted before there was a network");
        saved.push(Saved {
            genesis: join.genesis.clone(),
            identity: secret.clone(),
            settled,
            announcement,
            items: Vec::new(),
            installed: installed.clone(),
            keys: vec![HelloKey { epoch: 0, secret: first }],
            seeds: vec![],
        });
    }
    saved.into_iter().map(|saved| Saved { items: items.clone(), ..saved }).collect()
}
