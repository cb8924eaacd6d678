//! Rollouts by the operator's tool against simulated nodes.

mod installer;
mod kills;
mod kubernetes;
mod look;
mod migrate;
mod skip;
mod story;
mod trial;
mod upgrade;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ichor_lab::talos::model::{Api, Cluster, Image, Line, MachineType, NodeSpec, Stage};
use serde_json::Value;

use crate::world::{World, machine_config};

const BOOT: Duration = Duration::from_millis(300);

/// The image of a line as the factory of the lab has it.
fn image(line: Line) -> Image {
    Image { schematic: Some(schematic()), ..Image::new(reference(line), line) }
}

fn schematic() -> String {
    "ab".repeat(32)
}

fn reference(line: Line) -> String {
    format!("factory.talos.dev/metal-installer/{}:{}", schematic(), line.tag())
}

/// The nodes, and the ends of their addresses on their LANs and in the mesh: three sites with a voter each.
const NODES: [(&str, &str); 5] =
    [("cp-1", "1.1"), ("cp-2", "2.1"), ("cp-3", "3.1"), ("w-1", "1.11"), ("w-2", "2.11")];

/// Three control planes and two workers, each of its line.
fn world(lines: [Line; 5]) -> World {
    with_images(World::of(nodes(lines)))
}

fn nodes(lines: [Line; 5]) -> Vec<NodeSpec> {
    let node = |(index, line): (usize, Line)| {
        let (name, host) = NODES[index];
        let kind = if index < 3 { "controlplane" } else { "worker" };
        NodeSpec {
            name: name.to_owned(),
            line,
            addresses: vec![("eth0".to_owned(), format!("10.5.{host}/24").parse().expect("a prefix"))],
            config: Some(machine_config(kind, "")),
            extensions: vec!["ichor".to_owned()],
            schematic: Some(schematic()),
            boot_time: BOOT,
        }
    };
    lines.into_iter().enumerate().map(node).collect()
}

/// The image of each line is where the nodes look for it.
fn with_images(world: World) -> World {
    world.simulation.change(|cluster, _| {
        for line in Line::ALL {
            cluster.add_image(image(line));
        }
    });
    world
}

/// What each rollout here is told: to go, and not to look as long as at machines. How long it waits for what comes late
/// is for machines that are busy with other tests.
const QUICK: [&str; 7] =
    ["--yes", "--soak", "300ms", "--boot-timeout", "90s", "--gate-timeout=60s", "--install-timeout=60s"];

fn upgrade(line: Line) -> Vec<String> {
    let mut arguments = vec!["upgrade".to_owned(), "--to".to_owned(), line.tag().to_owned()];
    arguments.extend(QUICK.map(str::to_owned));
    arguments.push("--no-lock".to_owned());
    arguments
}

fn upgrade_with(line: Line, more: &[&str]) -> Vec<String> {
    upgrade(line).into_iter().chain(more.iter().map(|it| (*it).to_owned())).collect()
}

fn strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// Runs a rollout; its exit code and what it said.
fn roll(world: &World, arguments: &[String]) -> (Option<i32>, String) {
    let output = world.output(&strs(arguments));
    (output.status.code(), String::from_utf8(output.stderr).expect("text"))
}

/// Runs a rollout for programs; its exit code, and what comes last.
fn roll_json(world: &World, arguments: &[String]) -> (Option<i32>, Value) {
    let output = world.output(&[&strs(arguments)[..], &["--output", "json"]].concat());
    (output.status.code(), ending(&String::from_utf8(output.stdout).expect("text")))
}

/// The end of a run as programs read it.
fn ending(stdout: &str) -> Value {
    let last = stdout.lines().last().unwrap_or_else(|| panic!("it says nothing: {stdout}"));
    serde_json::from_str(last).expect("a line of JSON")
}

/// The lines that the nodes run, in the order of their names.
fn lines(world: &World) -> Vec<Line> {
    world.simulation.look(|cluster| {
        let names: Vec<String> = cluster.names().map(str::to_owned).collect();
        names.iter().map(|name| cluster.node(name).expect("a node").line()).collect()
    })
}

fn is_whole(world: &World) -> bool {
    world.simulation.look(|cluster| cluster.unhealthy().iter().all(|(_, nodes)| nodes.is_empty()))
}

/// What was ever wrong at the same time.
#[derive(Debug, Default)]
struct Worst {
    /// The largest set of nodes that were not well.
    degraded: BTreeSet<String>,
    had_no_quorum: bool,
}

/// Watches a cluster from now on, through every change of it.
fn watch(world: &World) -> Arc<Mutex<Worst>> {
    let worst = Arc::new(Mutex::new(Worst::default()));
    let seen = worst.clone();
    world.simulation.witness(move |cluster| {
        let mut worst = seen.lock().expect("nobody fails with it");
        worst.had_no_quorum |= !cluster.etcd().has_quorum();
        let degraded = degraded(cluster);
        if degraded.len() > worst.degraded.len() {
            worst.degraded = degraded;
        }
    });
    worst
}

/// The nodes that are away, in the middle of a boot, without the mesh's daemon, or without their member of etcd.
fn degraded(cluster: &Cluster) -> BTreeSet<String> {
    let is_degraded = |name: &&str| {
        let node = cluster.node(name).expect("a node");
        let is_up = node.api() == Api::Running && node.stage() == Stage::Running && node.is_ready();
        let is_voter = node.machine_type() == Some(MachineType::ControlPlane);
        let votes = || cluster.etcd().members().iter().any(|member| member.node == **name && member.up);
        !is_up || node.is_dead() || !node.has_service("ext-ichor") || (is_voter && !votes())
    };
    cluster.names().filter(is_degraded).map(str::to_owned).collect()
}

const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

/// A cluster file for `world`, with this profile.
fn cluster_file(profile: &str) -> String {
    let mut text = format!(
        "mesh: {{name: home, range: 10.213.0.0/16, profile: {profile}, measured: {{rttMs: 2, lossPerMille: 0}}}}\n\
         sites:\n"
    );
    for site in 1..=3 {
        text += &format!("  - {{name: s{site}, lans: [10.5.{site}.0/24]}}\n");
    }
    text += "nodes:\n";
    for (index, (name, host)) in NODES.into_iter().enumerate() {
        let role = if index < 3 { "controlplane" } else { "worker" };
        // A key for each: nobody looks whether it is one of a curve.
        let key = format!("{}{}", ["h", "i", "j", "k", "l"][index], &KEY[1..]);
        let site = &host[..1];
        text += &format!(
            "  - {{name: {name}, role: {role}, site: s{site}, address: 10.213.{host}, api: 10.5.{host}, \
             endpoint: \"203.0.113.{}:51840\", publicKey: {key}}}\n",
            index + 1
        );
    }
    text
}

fn apply(more: &[&str]) -> Vec<String> {
    let mut arguments = vec!["apply".to_owned()];
    arguments.extend(QUICK.iter().chain(&["--no-lock"]).chain(more).map(|it| (*it).to_owned()));
    arguments
}

/// The peer URLs of the members of etcd.
fn peer_urls(world: &World) -> Vec<String> {
    let of =
        |cluster: &Cluster| cluster.etcd().members().iter().flat_map(|it| it.advertised.clone()).collect();
    let mut urls: Vec<String> = world.simulation.look(of);
    urls.sort();
    urls
}

/// What the mesh's daemon does on real nodes: its interface comes up.
fn raise_interfaces(world: &World) {
    for (name, host) in NODES {
        world.call(name, &format!("10.213.{host}"));
    }
    world.simulation.change(|cluster, now| {
        for (name, host) in NODES {
            let address = |link: &str, net: String| (link.to_owned(), net.parse().expect("a prefix"));
            let lan = address("eth0", format!("10.5.{host}/24"));
            let addresses = vec![lan, address("ichor0", format!("10.213.{host}/16"))];
            cluster.set_addresses(name, addresses, now).expect("a node");
        }
    });
}

const LAN: [&str; 3] = ["10.5.1.1", "10.5.2.1", "10.5.3.1"];
const MESH: [&str; 3] = ["10.213.1.1", "10.213.2.1", "10.213.3.1"];
