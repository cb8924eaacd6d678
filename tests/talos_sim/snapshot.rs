//! Snapshots of etcd: what is in them, and the way back to a cluster after a disaster.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use ichor_lab::talos::model::{Line, Reset};
use ichor_tests::go::GoProgram;
use ichorctl::snapshot::{HashCheck, verify};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::world::World;

const NODES: &str = "10.5.0.1,10.5.0.2,10.5.0.3";

/// A cluster with two keys, of which the snapshot `db` in the world's directory has the first.
fn with_snapshot() -> World {
    let world = World::new(Line::V1_14);
    world
        .simulation
        .change(|cluster, _| cluster.etcd_mut().put("/registry/secrets/a", "secret"))
        .expect("written");
    let shown = world.run(&["-n", "10.5.0.2", "etcd", "snapshot", "db"]);
    assert!(
        shown.contains("hash ") && shown.contains("cp-3") && shown.contains("https://10.5.0.3:2380"),
        "{shown}"
    );
    world
        .simulation
        .change(|cluster, _| cluster.etcd_mut().put("/registry/secrets/b", "too late"))
        .expect("written");
    world
}

fn wipe(world: &World, node: &str) {
    let reset = Reset { graceful: false, reboot: true, partitions: vec!["EPHEMERAL".to_owned()] };
    let boots = world.simulation.look(|cluster| cluster.node(node).expect("a node").boots());
    world.simulation.change(|cluster, now| cluster.reset(node, &reset, now)).expect("taken");
    world.until(|cluster| cluster.node(node).is_ok_and(|node| node.boots() > boots));
}

fn key(world: &World, key: &str) -> Option<String> {
    world.simulation.look(|cluster| cluster.etcd().get(key).map(str::to_owned))
}

/// Waits until all three are members and run.
fn until_whole(world: &World) {
    world.until(|cluster| {
        let members = cluster.etcd().members();
        members.len() == 3 && members.iter().all(|member| member.up) && cluster.etcd().has_quorum()
    });
}

#[test]
fn a_cluster_that_lost_its_etcd_comes_back_from_a_snapshot() {
    let world = with_snapshot();
    wipe(&world, "cp-1");
    until_whole(&world);
    // Two at once: what is left has no quorum.
    let reset = Reset { graceful: false, reboot: true, partitions: vec!["EPHEMERAL".to_owned()] };
    for node in ["cp-1", "cp-2"] {
        world.simulation.change(|cluster, now| cluster.reset(node, &reset, now)).unwrap();
    }
    world.until(|cluster| !cluster.etcd().has_quorum());
    let booted = |cluster: &ichor_lab::talos::model::Cluster| {
        ["cp-1", "cp-2"].iter().all(|name| {
            let services = cluster.node(name).map(|node| node.service_list()).unwrap_or_default();
            services.iter().any(|service| service.id == "etcd" && service.state == "Preparing")
        })
    };
    world.until(booted);
    let restore = ["-n", NODES, "etcd", "restore", "db", "--node", "10.5.0.1"];
    let (code, error) = world.refuse(&restore);
    assert_eq!(code, Some(3), "{error}");
    assert!(
        error.contains("10.5.0.3 still has data of etcd") && error.contains("it has data and no leader"),
        "{error}"
    );
    let wiping = [&restore[..], &["--wipe"]].concat();
    let (code, error) = world.refuse(&wiping);
    assert_eq!(code, Some(3), "{error}");
    let steps = ["1. wipe EPHEMERAL of 10.5.0.3", "2. upload db to 10.5.0.1", "--yes --confirm 10.5.0.1"];
    assert!(steps.iter().all(|step| error.contains(step)), "{error}");
    let (code, error) = world.refuse(&[&wiping[..], &["--yes", "--confirm", "10.5.0.2"]].concat());
    assert_eq!(code, Some(3), "{error}");
    assert_eq!(
        world.simulation.look(|cluster| cluster.node("cp-3").unwrap().boots()),
        1,
        "nothing was done so far"
    );

    let done = world.run(&[&wiping[..], &["--yes", "--confirm", "10.5.0.1"]].concat());
    assert!(done.contains("etcd runs on 10.5.0.1"), "{done}");
    until_whole(&world);
    assert_eq!(key(&world, "/registry/secrets/a").as_deref(), Some("secret"));
    assert_eq!(key(&world, "/registry/secrets/b"), None, "it was written after the snapshot");
    assert_eq!(world.simulation.look(|cluster| cluster.etcd().splits()), 0);
}

#[test]
fn a_living_etcd_is_not_replaced_by_mistake() {
    let world = with_snapshot();
    let restore = [
        "-n",
        NODES,
        "etcd",
        "restore",
        "db",
        "--node",
        "10.5.0.1",
        "--wipe",
        "--yes",
        "--confirm",
        "10.5.0.1",
    ];
    let (code, error) = world.refuse(&restore);
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("etcd is alive: 10.5.0.1, 10.5.0.2, 10.5.0.3 has a leader"), "{error}");
    let (code, error) = world.refuse(&[&restore[..], &["--replace-living-cluster", "home"]].concat());
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains(r#"the cluster is called "lab", not "home""#), "{error}");
    // Not all nodes were looked at: the other two are a quorum.
    let one = [&["-n", "10.5.0.1"], &restore[2..], &["--replace-living-cluster", "lab"]].concat();
    let (code, error) = world.refuse(&one);
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("members that were not looked at: cp-2, cp-3"), "{error}");
    assert_eq!(key(&world, "/registry/secrets/b").as_deref(), Some("too late"));

    world.run(&[&restore[..], &["--replace-living-cluster", "lab"]].concat());
    until_whole(&world);
    assert_eq!(key(&world, "/registry/secrets/a").as_deref(), Some("secret"));
    assert_eq!(key(&world, "/registry/secrets/b"), None);
    assert_eq!(world.simulation.look(|cluster| cluster.etcd().splits()), 0);
}

#[test]
fn nodes_that_do_not_answer_may_be_a_quorum_until_somebody_says_that_they_are_lost() {
    let world = with_snapshot();
    for node in ["cp-2", "cp-3"] {
        world.simulation.change(|cluster, now| cluster.leave(node, false, now)).unwrap();
    }
    world.until(|cluster| !cluster.etcd().has_quorum());
    let restore = [
        "-n",
        NODES,
        "etcd",
        "restore",
        "db",
        "--node",
        "10.5.0.1",
        "--wipe",
        "--yes",
        "--confirm",
        "10.5.0.1",
    ];
    let (code, error) = world.refuse(&restore);
    assert_eq!(code, Some(3), "{error}");
    assert!(
        error.contains("10.5.0.2, 10.5.0.3 may be alive") && error.contains("--lost 10.5.0.2,10.5.0.3"),
        "{error}"
    );
    let done = world.run(&[&restore[..], &["--lost", "10.5.0.2,10.5.0.3"]].concat());
    assert!(done.contains("members: cp-1\n") && done.contains("their data has to be wiped"), "{done}");
    assert_eq!(key(&world, "/registry/secrets/a").as_deref(), Some("secret"));
}

#[test]
fn a_damaged_snapshot_is_found_before_anything_is_asked() {
    let world = with_snapshot();
    let whole = fs::read(world.path("db")).unwrap();
    let shown: serde_json::Value =
        serde_json::from_str(&world.run(&["etcd", "verify", "db", "-o", "json"])).unwrap();
    assert_eq!(shown["bytes"], whole.len());
    assert_eq!(shown["members"].as_array().map(Vec::len), Some(3));
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for index in 0..24 {
        let mut damaged = whole.clone();
        let place = random.next_u32() as usize % whole.len();
        if index % 3 == 0 {
            damaged.truncate(place);
        } else {
            damaged[place] ^= 1 << (index % 8);
        }
        fs::write(world.path("damaged"), damaged).unwrap();
        let (code, error) = world.refuse(&["etcd", "verify", "damaged"]);
        assert_eq!(code, Some(1), "{error}");
        assert!(error.starts_with("error: the snapshot"), "{error}");
    }
    let restore = ["-n", NODES, "-e", "127.0.0.1:1", "etcd", "restore", "damaged", "--node", "10.5.0.1"];
    let (code, error) = world.refuse(&restore);
    assert!(code == Some(1) && error.starts_with("error: the snapshot"), "nobody was asked: {error}");
}

#[derive(Serialize, Default)]
struct Question {
    path: String,
    make: usize,
    free_list: bool,
}

#[derive(Deserialize)]
struct Answer {
    error: String,
    crc: u32,
    revision: u64,
    keys: u64,
    bytes: u64,
}

/// bbolt and ours on the same file. Whatever bbolt refuses is refused; what we take, both read alike. Returns whether
/// each took it.
fn compare(program: &mut GoProgram, path: &Path) -> (bool, bool) {
    let shown = path.display().to_string();
    let question = Question { path: shown.clone(), ..Question::default() };
    let answer = program.ask_all::<_, Answer>(&[question]).expect("an answer").remove(0);
    let ours = verify(path, HashCheck::Skipped);
    if let Ok(ours) = &ours {
        let contents = &ours.contents;
        assert_eq!(answer.error, "", "{shown}: bbolt refuses what we take: {ours:?}");
        let read = (contents.crc32c, contents.revision, contents.total_keys, contents.database_bytes);
        assert_eq!(read, (answer.crc, answer.revision, answer.keys, answer.bytes), "{shown}");
    }
    (answer.error.is_empty(), ours.is_ok())
}

#[test]
fn databases_are_read_as_bbolt_reads_them() {
    let Some(mut program) = GoProgram::start("bolt").expect("it builds") else { return };
    let directory = tempfile::tempdir().unwrap();
    for (make, free_list) in [(1, true), (40, false), (700, true), (5000, true), (20_000, false)] {
        let path = directory.path().join(format!("{make}.db"));
        let question = Question { path: path.display().to_string(), make, free_list };
        let made = program.ask_all::<_, Answer>(&[question]).expect("an answer").remove(0);
        assert_eq!(made.error, "");
        assert_eq!(compare(&mut program, &path), (true, true), "{make} keys");
    }
    // The one that etcd made, and the one that the simulation makes.
    let world = with_snapshot();
    let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("../patcher/tests/fixtures/etcd-3.4.snapshot");
    for (name, snapshot) in [("real", real), ("simulated", world.path("db"))] {
        let whole = fs::read(snapshot).unwrap();
        let path = directory.path().join(name);
        fs::write(&path, &whole[..whole.len() - 32]).unwrap();
        assert_eq!(compare(&mut program, &path), (true, true), "{name}");
    }
}

#[test]
fn damage_that_bbolt_finds_is_found() {
    let Some(mut program) = GoProgram::start("bolt").expect("it builds") else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let (mut by_bbolt, mut by_us) = (0, 0);
    for (make, free_list) in [(40, true), (700, true), (700, false)] {
        let path = directory.path().join(format!("{make}-{free_list}.db"));
        let question = Question { path: path.display().to_string(), make, free_list };
        program.ask_all::<_, Answer>(&[question]).expect("an answer");
        let mut file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let pages = file.metadata().unwrap().len() / 4096;
        for _ in 0..80 {
            // Where the structure is: the headers of pages, and their first elements.
            let place = random.next_u64() % pages * 4096 + u64::from(random.next_u32() % 96);
            let mut byte = [0];
            file.seek(SeekFrom::Start(place)).unwrap();
            file.read_exact(&mut byte).unwrap();
            let mut write = |value: u8| {
                file.seek(SeekFrom::Start(place)).unwrap();
                file.write_all(&[value]).unwrap();
            };
            write(byte[0] ^ (1 << (random.next_u32() % 8)));
            let (bbolt, ours) = compare(&mut program, &path);
            by_bbolt += u32::from(!bbolt);
            by_us += u32::from(!ours);
            write(byte[0]);
        }
    }
    assert!(by_bbolt > 20 && by_us >= by_bbolt, "bbolt refused {by_bbolt} of 240, we {by_us}");
}
