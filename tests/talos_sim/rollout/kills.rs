//! The tool is killed at any moment, over and over, and run again.

use std::process::Stdio;
use std::time::Duration;

use ichor_lab::talos::model::Line;
use ichor_tests::random::Random;

use super::{
    MESH, apply, cluster_file, is_whole, lines, peer_urls, raise_interfaces, roll, strs, upgrade, watch,
    world,
};
use crate::world::World;

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs a command until it ends by itself, killing it before that up to `most` times. Returns how often it was killed.
fn run_to_its_end(world: &World, command: &[String], random: &mut Random, most: u64) -> u64 {
    let mut killed = 0;
    loop {
        let mut child = world.command(&strs(command)).stderr(Stdio::piped()).spawn().expect("it runs");
        if killed < most {
            // Not a wait for anything: the moment of the kill.
            std::thread::sleep(Duration::from_millis(random.below(6000) as u64));
        }
        if killed >= most || child.try_wait().expect("a process").is_some() {
            let output = child.wait_with_output().expect("it ends");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "after {killed} kills: {said}");
            return killed;
        }
        child.kill().expect("killed");
        child.wait().expect("it ends");
        killed += 1;
    }
}

/// `ROLLOUT_KILLS` says how often, 12 without it; `ROLLOUT_SEED` when.
#[test]
fn a_tool_that_is_killed_at_any_moment_goes_on_where_it_was() {
    let (kills, seed) = (number("ROLLOUT_KILLS", 12), number("ROLLOUT_SEED", 1));
    eprintln!("{kills} kills, seed {seed}");
    let mut random = Random::new(seed);
    let (mut upgrades, mut moves) = (0, 0);
    while upgrades + moves < kills {
        let round = upgrades + moves;
        // Few enough for a round to end, even where a process comes to little before it is killed.
        let most = (kills - round).min(1 + random.below(8) as u64);
        let world = world([Line::V1_13; 5]);
        if upgrades <= moves {
            let worst = watch(&world);
            upgrades += run_to_its_end(&world, &upgrade(Line::V1_14), &mut random, most);
            assert_eq!(lines(&world), [Line::V1_14; 5], "seed {seed}, after kill {round}");
            assert!(!worst.lock().expect("it did not fail").had_no_quorum);
        } else {
            std::fs::write(world.path("ichor.yaml"), cluster_file("beside")).expect("written");
            let (code, said) = roll(&world, &apply(&[]));
            assert_eq!(code, Some(0), "{said}");
            raise_interfaces(&world);
            let worst = watch(&world);
            std::fs::write(world.path("ichor.yaml"), cluster_file("stretched")).expect("written");
            moves += run_to_its_end(&world, &apply(&[]), &mut random, most);
            assert_eq!(peer_urls(&world), MESH, "seed {seed}, after kill {round}");
            let worst = worst.lock().expect("it did not fail");
            assert!(worst.degraded.len() <= 1 && !worst.had_no_quorum, "seed {seed}: {worst:?}");
        }
        assert!(is_whole(&world), "seed {seed}, after kill {round}");
        eprintln!("{} kills", upgrades + moves);
    }
    eprintln!("{upgrades} of upgrades, {moves} of address migrations: each went on");
}
