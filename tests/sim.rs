//! Days of virtual time for the mesh core. A failure names its seed; the same seed fails again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ichor_mesh::status::Drop;
use ichor_tests::sim::{Fate, Link, NodeId, World};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A link across the Internet on a bad day.
const ROUGH: Link = Link {
    up: true,
    delay: Duration::from_millis(30),
    jitter: Duration::from_millis(50),
    loss_ppm: 20_000,
    duplicate_ppm: 5_000,
};

/// Seeds to run: those named in ICHOR_SIM_SEEDS (comma-separated), or these.
fn seeds() -> Vec<u64> {
    match std::env::var("ICHOR_SIM_SEEDS") {
        Ok(list) => list.split(',').map(|seed| seed.parse().expect("a seed is a number")).collect(),
        Err(_) => vec![1, 2, 3],
    }
}

/// Traffic between all pairs: each step a burst per direction, of packets of varying size that may overtake each
/// other.
fn converse(world: &mut World, ids: &[NodeId], every: Duration, until: Duration) -> u64 {
    let mut delivered = 0;
    while world.elapsed() < until {
        for from in ids {
            for to in ids.iter().filter(|to| *to != from) {
                for _ in 0..=world.random(4) {
                    let len = 28 + world.random(1392) as usize;
                    world.send(*from, *to, len);
                }
            }
        }
        world.run_for(every);
        // What is delivered later than this is not counted as lost, only remembered a little longer.
        if world.random(100) == 0 {
            delivered += world.account.forget_delivered();
        }
    }
    world.run_for(Duration::from_secs(1));
    delivered + world.account.forget_delivered()
}

/// Every two nodes once.
fn pairs(ids: &[NodeId]) -> impl Iterator<Item = (NodeId, NodeId)> {
    ids.iter().flat_map(move |a| ids.iter().filter(move |b| *b > a).map(move |b| (*a, *b)))
}

/// The losses that no link explains.
fn unexplained(world: &World) -> Vec<(Fate, u64)> {
    world.account.fates().into_iter().filter(|(fate, _)| *fate != Fate::LostByLink).collect()
}

#[test]
fn a_day_of_steady_traffic_over_rough_links_loses_only_what_the_links_lose() {
    for seed in seeds() {
        let mut world = World::new(seed, 3, ROUGH);
        let ids: Vec<_> = world.ids().collect();
        let delivered = converse(&mut world, &ids, Duration::from_millis(500), DAY);

        assert_eq!(world.account.delivered_twice(), [0_u64; 0], "seed {seed}");
        assert_eq!(unexplained(&world), [], "seed {seed}");
        let (_, sent) = world.totals();
        let lost = world.account.fates().get(&Fate::LostByLink).copied().unwrap_or(0);
        assert_eq!(delivered + lost, sent, "seed {seed}");
        for id in ids {
            // Two peers, a new session every two minutes with each.
            let handshakes = world.handshakes(id);
            assert!((2 * 600..2 * 800).contains(&handshakes), "seed {seed}: {handshakes} handshakes");
        }
    }
}

#[test]
fn on_a_perfect_link_a_day_loses_nothing_at_all() {
    let mut world = World::new(7, 2, Link::perfect(Duration::from_millis(5)));
    let ids: Vec<_> = world.ids().collect();
    let delivered = converse(&mut world, &ids, Duration::from_millis(200), DAY);
    assert_eq!(delivered, world.totals().1);
    for id in ids {
        assert_eq!(world.counters(id).total(), 0);
    }
}

#[test]
fn a_packet_after_a_long_silence_is_delivered() {
    let mut world = World::new(8, 2, Link::perfect(Duration::from_millis(5)));
    let (a, b) = (NodeId(0), NodeId(1));
    for silence in [1, 9, 11, 60, 119, 121, 165, 179, 181, 300, 539, 541, 3600, 86_400] {
        world.run_for(Duration::from_secs(silence));
        let before = world.totals().1;
        world.send(a, b, 100);
        world.run_for(Duration::from_millis(100));
        assert_eq!(world.account.forget_delivered(), world.totals().1 - before, "after {silence} s");
    }
}

/// Trouble at random: cut links, restarts, moves, silence. What is lost must be lost because of it.
#[test]
fn a_day_of_trouble_loses_only_what_the_trouble_explains() {
    for seed in seeds() {
        let mut world = World::new(seed, 4, ROUGH);
        let ids: Vec<_> = world.ids().collect();
        let mut trouble: Vec<Instant> = Vec::new();
        let mut cut: BTreeSet<(NodeId, NodeId)> = BTreeSet::new();
        // For how long two could talk since one of them moved or they were cut off.
        let mut talked: BTreeMap<(NodeId, NodeId), Duration> = BTreeMap::new();
        while world.elapsed() < DAY {
            let now = world.origin() + world.elapsed();
            let (a, b) = (ids[world.random(4) as usize], ids[world.random(4) as usize]);
            match world.random(6) {
                0 if a != b && cut.insert((a, b)) => {
                    world.set_connected(a, b, false);
                    talked.insert((a.min(b), a.max(b)), Duration::ZERO);
                }
                1 => {
                    for (a, b) in std::mem::take(&mut cut) {
                        world.set_connected(a, b, true);
                    }
                }
                2 => world.restart(a),
                3 => {
                    let lost: Vec<_> = pairs(&ids).filter(|pair| world.lost_touch(*pair)).collect();
                    world.roam(a);
                    for pair in pairs(&ids).filter(|(one, other)| *one == a || *other == a) {
                        // Two that had the time to talk since the last move know of it, and one move more is found.
                        let talked = talked.insert(pair, Duration::ZERO).unwrap_or(DAY);
                        assert!(
                            lost.contains(&pair)
                                || !world.lost_touch(pair)
                                || talked < Duration::from_secs(30),
                            "seed {seed}: {pair:?} talked for {talked:?}, then one moved and they lost each other"
                        );
                    }
                }
                _ => {}
            }
            trouble.push(now);
            let busy = Duration::from_secs(u64::from(world.random(120)));
            let until = world.elapsed() + busy;
            converse(&mut world, &ids, Duration::from_millis(500), until);
            for pair @ (a, b) in pairs(&ids) {
                if !cut.contains(&(a, b)) && !cut.contains(&(b, a)) {
                    *talked.entry(pair).or_default() += busy;
                }
            }
            let silence = Duration::from_secs(u64::from(world.random(300)));
            world.run_for(silence);
        }
        assert_eq!(world.account.delivered_twice(), [0_u64; 0], "seed {seed}");
        for (fate, count) in unexplained(&world) {
            // A node that restarted, or was cut off, has no session that its peer still uses; packets may wait
            // for a handshake in vain. Nothing else may happen.
            let explained =
                matches!(fate, Fate::Dropped(Drop::UnknownSession | Drop::Replay) | Fate::Pending);
            assert!(explained, "seed {seed}: {count} packets {fate:?}");
        }
        for at in world.account.times(Fate::Dropped(Drop::UnknownSession)) {
            let recent = trouble.iter().any(|t| at >= *t && at.duration_since(*t) < Duration::from_secs(200));
            assert!(recent, "seed {seed}: a session was lost long after any trouble");
        }

        // When the trouble is over, everybody reaches everybody again, and stays reachable.
        for (a, b) in std::mem::take(&mut cut) {
            world.set_connected(a, b, true);
        }
        // Two that both moved while they could not talk need somebody to tell one of them. All others find each other.
        for pair in pairs(&ids).filter(|pair| world.lost_touch(*pair)).collect::<Vec<_>>() {
            world.tell(pair.0, pair.1);
        }
        converse(&mut world, &ids, Duration::from_millis(500), DAY + Duration::from_secs(120));
        world.account = Default::default();
        let (_, before) = world.totals();
        let delivered = converse(&mut world, &ids, Duration::from_millis(500), DAY + HOUR);
        let lost = world.account.fates().get(&Fate::LostByLink).copied().unwrap_or(0);
        assert_eq!(delivered + lost, world.totals().1 - before, "seed {seed}");
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    let run = |seed| {
        let mut world = World::new(seed, 3, ROUGH);
        let ids: Vec<_> = world.ids().collect();
        converse(&mut world, &ids, Duration::from_millis(500), HOUR);
        (world.trace(), world.totals())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn pairs_whose_link_stays_do_not_notice_that_those_of_others_flap() {
    const ALL: usize = 100;
    const FLAPPING: usize = 10;
    let mut world = World::new(1, ALL, Link::perfect(Duration::from_millis(20)));
    let ids: Vec<_> = world.ids().collect();
    for (a, b) in pairs(&ids) {
        world.send(a, b, 100);
    }
    world.run_for(Duration::from_secs(2));
    let others = &ids[FLAPPING..];
    let handshakes = |world: &World| {
        let one_way = pairs(others).map(|(a, b)| world.handshakes_with(a, b) + world.handshakes_with(b, a));
        one_way.collect::<Vec<_>>()
    };
    let (before, total) = (handshakes(&world), ids.iter().map(|id| world.handshakes(*id)).sum::<u64>());
    assert!(before.iter().all(|count| *count > 0), "all pairs have a session");
    world.account.forget_delivered();
    // Well before keys are renewed; everybody talks to some that flap and to some that do not.
    for half in 0..80 {
        for flapping in &ids[..FLAPPING] {
            for other in ids.iter().filter(|other| *other != flapping) {
                world.set_connected(*flapping, *other, (half + flapping.0) % 2 == 0);
            }
        }
        if half % 2 == 0 {
            for from in &ids {
                for step in [1, 7, 50] {
                    world.send(*from, ids[(from.0 + step) % ALL], 100);
                }
            }
        }
        world.run_for(Duration::from_millis(500));
    }
    assert_eq!(handshakes(&world), before);
    let now: u64 = ids.iter().map(|id| world.handshakes(*id)).sum();
    assert!(now > total, "those that flap do shake hands again");
    assert_eq!(unexplained(&world).iter().filter(|(fate, _)| matches!(fate, Fate::Dropped(_))).count(), 0);
}
