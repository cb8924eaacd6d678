//! How fast news reaches everybody.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ichor_mesh::crypto::{Crypto as _, ModelCrypto};
use ichor_mesh::hello::HelloKey;
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

/// How finely times are measured.
const STEP: Duration = Duration::from_millis(10);
/// Longest wait for one piece of news.
const PATIENCE: Duration = Duration::from_secs(60);

/// Times until everybody knew, shortest first.
#[derive(Debug, Clone, Default)]
pub struct Spread {
    /// From the first request of a newcomer.
    pub join: Vec<Duration>,
    /// From the change of an endpoint.
    pub change: Vec<Duration>,
    /// From the moment when the owner's operation came in.
    pub revocation: Vec<Duration>,
    /// Bytes of control messages per member and second while nothing happened.
    pub idle: f64,
}

/// The value below which `percent` of `times` are.
pub fn percentile(times: &[Duration], percent: usize) -> Option<Duration> {
    let last = times.len().checked_sub(1)?;
    times.get((times.len() * percent / 100).min(last)).copied()
}

/// Measures `rounds` of each kind of news among `members`.
pub fn spread(members: usize, rounds: usize, seed: u64, faults: Faults) -> Spread {
    let mut random = Random::new(seed);
    let mut owner = Owner::new(&mut random);
    let mut world = established(members, &mut owner, seed, faults, &mut random);
    // Everybody has announced that it is there again.
    world.run(Duration::from_secs(60));
    let bytes = world.control_bytes;
    world.run(Duration::from_secs(60));
    let idle = (world.control_bytes - bytes) as f64 / 60.0 / members as f64;

    let mut result = Spread { idle, ..Spread::default() };
    for round in 0..rounds {
        result.join.push(join(&mut world, &mut owner, round, &mut random));
        world.run(Duration::from_secs(2));
        result.change.push(change(&mut world, &mut random));
        world.run(Duration::from_secs(2));
        result.revocation.push(revocation(&mut world, &owner, &mut random));
        world.run(Duration::from_secs(2));
    }
    for times in [&mut result.join, &mut result.change, &mut result.revocation] {
        times.sort_unstable();
    }
    result
}

fn join(world: &mut World, owner: &mut Owner, round: usize, random: &mut Random) -> Duration {
    let members = world.members();
    let seeds: Vec<SocketAddr> = (0..3).map(|_| World::address(*random.pick(&members))).collect();
    let hello = world.hello(members[0]);
    let wish = wish(format!("late{round}"), 0x0ad5_4000 + round as u32, world.clock());
    let join = owner.mint(&wish, hello, seeds, world.clock(), random);
    let node = world.add_machine();
    world.start_joining(node, join, None);
    let newcomer = world.identity(node).expect("it runs");
    until_all(world, |membership| membership.roster().is_member(&newcomer))
}

fn change(world: &mut World, random: &mut Random) -> Duration {
    let node = *random.pick(&world.members());
    let identity = world.identity(node).expect("it runs");
    world.with(node, |membership, now| membership.set_candidates(vec![World::address(node)], now));
    let sequence = |membership: &Membership| {
        let known = membership.roster().announcement(&identity);
        known.map(|known| known.announcement.sequence)
    };
    let new = world.membership(node).and_then(sequence);
    until_all(world, |membership| sequence(membership) >= new)
}

fn revocation(world: &mut World, owner: &Owner, random: &mut Random) -> Duration {
    let members = world.members();
    let victim = *random.pick(&members);
    let identity = world.identity(victim).expect("it runs");
    let others: Vec<NodeId> = members.into_iter().filter(|node| *node != victim).collect();
    world.act(*random.pick(&others), owner.revoke(identity));
    until_all(world, |membership| {
        *membership.identity() == identity || !membership.roster().is_member(&identity)
    })
}

fn until_all(world: &mut World, knows: impl Fn(&Membership) -> bool) -> Duration {
    let start = world.elapsed();
    while world.elapsed() - start < PATIENCE {
        world.run(STEP);
        let members = world.members();
        if members.iter().all(|node| world.membership(*node).is_some_and(&knows)) {
            break;
        }
    }
    world.elapsed() - start
}

fn wish(names: String, address: u32, clock: u64) -> Wish {
    let address = Ipv4Addr::from(address);
    Wish { names, address, uses: 1, ephemeral: None, replaces: None, not_after: clock + 3600 }
}

/// A network that has been there for long: everybody has the records of everybody on disk.
fn established(members: usize, owner: &mut Owner, seed: u64, faults: Faults, random: &mut Random) -> World {
    let mut world = World::new(seed, faults);
    let network = owner.network();
    let secrets: Vec<_> = (0..members).map(|_| draw_secret(random)).collect();
    let mut items: Vec<Arc<[u8]>> = Vec::new();
    let mut saved = Vec::new();
    for (n, secret) in secrets.iter().enumerate() {
        let wish = wish(format!("n{n}"), 0x0ad5_0001 + n as u32, world.clock());
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
        saved.push((secret.clone(), settled, announcement, join));
    }
    let installed: Vec<_> =
        secrets.iter().map(|secret| IdentityKey(ModelCrypto.signing_public(secret))).collect();
    for (identity, settled, announcement, join) in saved {
        let node = world.add_machine();
        let first = join.first_hello.clone().expect("minted before there was a network");
        world.resume(
            node,
            Saved {
                genesis: join.genesis.clone(),
                identity,
                settled,
                announcement,
                items: items.clone(),
                installed: installed.clone(),
                keys: vec![HelloKey { epoch: 0, secret: first }],
                seeds: vec![],
            },
        );
    }
    world
}
