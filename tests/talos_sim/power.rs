//! Nodes that go down, are wiped, or never answer.

use std::fs::File;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use ichor_lab::talos::Role;
use ichor_lab::talos::model::{Api, Line, NodeSpec};
use ichorctl::api::{Bootstrap, Cause, EPHEMERAL, Reset, Wipe};

use crate::client::Clients;
use crate::world::{World, machine_config};

fn wiped(graceful: bool) -> Reset {
    Reset { graceful, reboot: true, wipe: Wipe::Partitions(vec![EPHEMERAL.to_owned()]) }
}

#[test]
fn a_cluster_that_lost_all_data_comes_back_from_a_snapshot() {
    let world = World::new(Line::V1_14);
    let clients = Clients::new(&world, Role::Admin, "cp-1");
    world.simulation.change(|cluster, _| cluster.etcd_mut().put("/registry/a", "kept")).expect("written");
    world.run(&["-n", "10.5.0.2", "etcd", "snapshot", "db.snapshot"]);
    let nodes = ["10.5.0.1", "10.5.0.2", "10.5.0.3"].map(|address| clients.node(address));
    // The endpoint last: a moment later it answers for nobody.
    for node in nodes.iter().rev() {
        clients.run(node.reset(&wiped(false))).expect("accepted");
    }
    world.until(|cluster| {
        let is_waiting =
            |node: &str| cluster.node(node).is_ok_and(|it| it.boots() == 2 && it.api() == Api::Running);
        ["cp-1", "cp-2", "cp-3"].into_iter().all(is_waiting)
    });
    // The connections of before are gone.
    let services = clients.until(|| nodes[1].services(), |_| true);
    let etcd = services.iter().find(|service| service.id == "etcd").expect("there");
    assert_eq!(etcd.state, "Preparing");
    assert!(clients.run(nodes[1].etcd_members(false)).is_err());
    let file = File::open(world.path("db.snapshot")).expect("there");
    clients.run(nodes[1].etcd_recover(&file)).expect("uploaded");
    clients.run(nodes[1].bootstrap(Bootstrap::Snapshot)).expect("started");
    clients.until(|| nodes[0].etcd_members(false), |members| members.len() == 3);
    let kept = world.simulation.look(|cluster| cluster.etcd().get("/registry/a").map(str::to_owned));
    assert_eq!(kept.as_deref(), Some("kept"));
    let error = clients.run(nodes[0].bootstrap(Bootstrap::New)).expect_err("it has data");
    assert!(error.cause.to_string().contains("not empty"), "{error:?}");
    let worker = clients.run(clients.node("10.5.0.11").etcd_recover(&file)).expect_err("no etcd");
    assert!(format!("{:#}", anyhow::Error::from(worker)).contains("only available on control plane nodes"));
}

/// How many KiB of memory a snapshot may cost, whatever its size.
const MEMORY: u64 = 96 << 10;

#[test]
fn a_large_snapshot_is_streamed_verified_and_taken_back() {
    let world = World::new(Line::V1_14);
    let clients = Clients::new(&world, Role::Admin, "cp-1");
    let megabytes =
        std::env::var("ICHOR_SNAPSHOT_MB").ok().and_then(|text| text.parse().ok()).unwrap_or(24_u64);
    let bytes = megabytes << 20;
    world.simulation.change(|cluster, _| cluster.etcd_mut().set_database_bytes(Some(bytes)));
    world.simulation.change(|cluster, _| cluster.etcd_mut().put("/registry/a", "kept")).expect("written");
    let begun = Instant::now();
    let mut child =
        world.command(&["-n", "10.5.0.2", "etcd", "snapshot", "db.snapshot"]).spawn().expect("it runs");
    let status = format!("/proc/{}/status", child.id());
    // The most that it ever had, as of when it was last looked at.
    let mut peak = 0;
    while child.try_wait().expect("it runs").is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim_end_matches("kB").trim().parse::<u64>().ok());
        peak = kilobytes.unwrap_or(peak);
        std::thread::yield_now();
    }
    assert!(child.wait().expect("it ended").success());
    println!(
        "{megabytes} MiB are on the disk and verified after {:?}, with {} MiB of memory",
        begun.elapsed(),
        peak >> 10
    );
    assert!((1..MEMORY).contains(&peak), "{peak} KiB");
    let length = std::fs::metadata(world.path("db.snapshot")).expect("there").len();
    assert!(length.abs_diff(bytes + 32) <= 2 * 4096, "{length}");
    let said: serde_json::Value =
        serde_json::from_str(&world.run(&["etcd", "verify", "db.snapshot", "-o", "json"])).expect("JSON");
    // One of the member itself, the one that was written, and one in each MiB.
    assert_eq!(said["revision"], megabytes + 2, "{said}");
    let node = clients.node("10.5.0.2");
    let file = File::open(world.path("db.snapshot")).expect("there");
    clients.run(node.etcd_recover(&file)).expect("uploaded");
}

#[test]
fn a_reset_takes_the_member_along_only_if_it_is_graceful() {
    let world = World::new(Line::V1_13);
    let clients = Clients::new(&world, Role::Admin, "cp-1");
    let node = clients.node("10.5.0.2");
    let nothing = Reset { graceful: false, reboot: false, wipe: Wipe::Partitions(Vec::new()) };
    let error = clients.run(node.reset(&nothing)).expect_err("it would be everything");
    assert!(matches!(error.cause, Cause::Invalid(_)), "{error:?}");
    assert!(clients.run(node.machine_status()).expect("it runs").is_running_and_ready(), "nothing was sent");
    let off = Reset { reboot: false, ..wiped(true) };
    assert_eq!(clients.run(node.reset(&off)).expect("accepted").len(), 36);
    let members = clients.run(clients.node("10.5.0.1").etcd_members(false)).expect("a list");
    assert_eq!(members.len(), 2);
    world.until(|cluster| cluster.node("cp-2").is_ok_and(|node| node.api() == Api::Down));
}

#[test]
fn a_shutdown_is_for_good() {
    let world = World::new(Line::V1_13);
    let clients = Clients::new(&world, Role::Operator, "cp-1");
    let node = clients.node("10.5.0.11");
    assert_eq!(clients.run(node.shutdown()).expect("accepted").len(), 36);
    world.until(|cluster| cluster.node("w-1").is_ok_and(|node| node.api() == Api::Down));
    let error = clients.run(node.rollback()).expect_err("an operator may not");
    assert!(!matches!(error.cause, Cause::Incomplete(_)), "{error:?}");
}

#[test]
fn a_node_that_never_answers_costs_its_own_deadline_only() {
    let count = 50_u8;
    let begun = Instant::now();
    let node = |n: u8| {
        let machine_type = if n <= 3 { "controlplane" } else { "worker" };
        NodeSpec {
            name: format!("n-{n}"),
            line: Line::V1_14,
            addresses: vec![("eth0".to_owned(), format!("10.5.0.{n}/24").parse().expect("a prefix"))],
            config: Some(machine_config(machine_type, "")),
            extensions: vec!["ichor".to_owned()],
            schematic: None,
            boot_time: Duration::from_millis(400),
        }
    };
    let world = World::of((1..=count).map(node).collect());
    println!("{count} nodes serve after {:?}", begun.elapsed());
    let clients = Clients::new(&world, Role::Admin, "n-1");
    world.simulation.change(|cluster, _| cluster.faults_mut("n-50").expect("a node").dead = true);
    let deadline = Duration::from_secs(3);
    let ask = async |n: u8| {
        let node = clients.node(&format!("10.5.0.{n}")).with_deadline(deadline);
        (node.machine_status().await, node.talos_version().await)
    };
    let alive = Instant::now();
    let answers = clients.run(join_all((1..count).map(ask)));
    println!("{} nodes observed in {:?}", count - 1, alive.elapsed());
    assert!(answers.iter().all(|(status, version)| status.is_ok() && version.is_ok()));
    let answers = clients.run(join_all((1..=count).map(ask)));
    let (dead, alive) = answers.split_last().expect("all of them");
    assert!(alive.iter().all(|(status, version)| status.is_ok() && version.is_ok()));
    let silent = dead.0.as_ref().expect_err("it is silent");
    assert!(matches!(silent.cause, Cause::Deadline(limit) if limit == deadline), "{silent:?}");
    // It can be woken.
    world.simulation.change(|cluster, _| cluster.faults_mut("n-50").expect("a node").dead = false);
    let late = clients.node("10.5.0.50");
    assert!(clients.until(|| late.machine_status(), |_| true).is_running_and_ready());
}
