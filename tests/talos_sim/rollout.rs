//! Rollouts by the operator's tool against simulated nodes.

use std::process::Stdio;
use std::time::Duration;

use ichor_lab::talos::model::{Cluster, Image, Line, NodeSpec};
use ichor_tests::random::Random;

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
    let world = World::of(lines.into_iter().enumerate().map(node).collect());
    world.simulation.change(|cluster, _| {
        for line in Line::ALL {
            cluster.add_image(image(line));
        }
    });
    world
}

const FLAGS: [&str; 7] =
    ["--yes", "--no-lock", "--soak", "300ms", "--boot-timeout", "20s", "--gate-timeout=15s"];

fn upgrade(line: Line) -> Vec<String> {
    let mut arguments = vec!["upgrade".to_owned(), "--to".to_owned(), line.tag().to_owned()];
    arguments.extend(FLAGS.map(str::to_owned));
    arguments
}

fn strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// Runs a rollout; its exit code and what it said.
fn roll(world: &World, arguments: &[String]) -> (Option<i32>, String) {
    let output = world.output(&strs(arguments));
    (output.status.code(), String::from_utf8(output.stderr).expect("text"))
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

#[test]
fn nodes_go_from_1_12_to_1_13_by_the_one_call_and_to_1_14_by_three() {
    let world = world([Line::V1_12; 5]);
    let (code, said) = roll(&world, &upgrade(Line::V1_13));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(lines(&world), [Line::V1_13; 5]);
    assert!(said.contains("upgrading: it drains, installs and reboots by itself"), "{said}");
    let (code, said) = roll(&world, &upgrade(Line::V1_14));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(lines(&world), [Line::V1_14; 5]);
    assert!(said.contains("writing the image"), "{said}");
    assert!(is_whole(&world));
    // The leader comes last, after it has handed over.
    let at = |text: &str| said.find(text).unwrap_or_else(|| panic!("{text} is missing: {said}"));
    let first = ["cp-1", "cp-2", "cp-3"].map(|name| at(&format!("{name}: writing the image")));
    assert!(first.iter().all(|at_control_plane| at("w-1: proven") < *at_control_plane), "{said}");
    assert!(first.iter().all(|at_control_plane| at("handing over the lead") > *at_control_plane), "{said}");
    assert_eq!(said.matches("snapshot of etcd, verified").count(), 3, "{said}");
    let (code, said) = roll(&world, &upgrade(Line::V1_14));
    assert_eq!((code, said.contains("rebooting")), (Some(0), false), "{said}");
}

#[test]
fn each_node_of_a_mixed_cluster_is_upgraded_its_own_way() {
    let world = world([Line::V1_12, Line::V1_13, Line::V1_12, Line::V1_13, Line::V1_12]);
    let (code, said) = roll(&world, &upgrade(Line::V1_13));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(lines(&world), [Line::V1_13; 5]);
    assert_eq!(said.matches("upgrading: it drains").count(), 3, "{said}");
}

#[test]
fn nothing_is_touched_without_a_word_of_the_operator() {
    let world = world([Line::V1_13; 5]);
    let to = Line::V1_14.tag();
    let (code, said) = world.refuse(&["upgrade", "--to", to, "--no-lock"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("the same command with --yes does it"), "{said}");
    let (code, said) = world.refuse(&["upgrade", "--to", to, "--yes"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("say --no-lock"), "{said}");
    let (code, said) = world.refuse(&["upgrade", "--to", "v1.15.0", "--no-lock", "--yes"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("go to v1.14 first"), "{said}");
    let bare = "registry.example/installer:v1.14.2";
    let (code, said) = world.refuse(&["upgrade", "--to", to, "--image", bare, "--no-lock", "--yes"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("--trust-image"), "{said}");
    let shown = world.output(&["upgrade", "--to", to, "--no-lock", "--dry-run", "--simulate", "500"]);
    let said = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert!(shown.status.success() && said.contains("500 came to an end"), "{said}");
    assert_eq!(lines(&world), [Line::V1_13; 5]);
}

/// The story that this program exists for: the second control plane comes up without its extension, the tool is
/// killed, and nobody goes on to the third.
#[test]
fn the_first_story_ends_well() {
    let world = world([Line::V1_13; 5]);
    let bad = Image { schematic: Some(schematic()), ..image(Line::V1_14).without_extensions() };
    // The canary and the other worker are fine, then the image changes under its name.
    let mut slowly = upgrade(Line::V1_14);
    slowly.extend(["--pause-between", "10s"].map(str::to_owned));
    let mut child = world.command(&strs(&slowly)).stderr(Stdio::piped()).spawn().expect("it runs");
    world.until(|cluster| {
        let node = |name: &str| cluster.node(name).expect("a node").line();
        node("w-1") == Line::V1_14 && node("w-2") == Line::V1_14
    });
    world.simulation.change(|cluster, _| cluster.add_image(bad));
    child.kill().expect("killed");
    child.wait().expect("it ends");
    let (code, said) = roll(&world, &upgrade(Line::V1_14));
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("its image lacks ichor"), "{said}");
    assert!(said.contains("what can be done, the mildest first"), "{said}");
    assert!(said.contains("ichorctl rollback"), "{said}");
    let upgraded = lines(&world)[..3].iter().filter(|line| **line == Line::V1_14).count();
    assert_eq!(upgraded, 1, "no other control plane was touched");
    assert!(world.simulation.look(|cluster| cluster.etcd().has_quorum()));
    // Again with the image still bad: still nobody else.
    let (code, said) = roll(&world, &upgrade(Line::V1_14));
    assert_eq!(code, Some(4), "{said}");
    let upgraded = lines(&world)[..3].iter().filter(|line| **line == Line::V1_14).count();
    assert_eq!(upgraded, 1, "{said}");
    // The image is mended: the same command goes on, and ends well.
    world.simulation.change(|cluster, _| cluster.add_image(image(Line::V1_14)));
    let (code, said) = roll(&world, &upgrade(Line::V1_14));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(lines(&world), [Line::V1_14; 5]);
    assert!(is_whole(&world));
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
    arguments.extend(FLAGS.iter().chain(more).map(|it| (*it).to_owned()));
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

#[test]
fn a_live_cluster_moves_to_the_mesh_and_back() {
    let world = world([Line::V1_12, Line::V1_12, Line::V1_13, Line::V1_13, Line::V1_14]);
    let before: Vec<_> = ["cp-1", "cp-2", "cp-3", "w-1", "w-2"].map(|node| world.configs(node)).into();
    std::fs::write(world.path("ichor.yaml"), cluster_file("beside")).expect("written");
    let (code, said) = roll(&world, &apply(&[]));
    assert_eq!(code, Some(0), "{said}");
    raise_interfaces(&world);
    assert_eq!(peer_urls(&world), LAN, "the pins hold");
    // Node addresses first, then etcd too.
    std::fs::write(world.path("ichor.yaml"), cluster_file("nodes")).expect("written");
    let (code, said) = roll(&world, &apply(&[]));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(peer_urls(&world), LAN);
    std::fs::write(world.path("ichor.yaml"), cluster_file("stretched")).expect("written");
    let (code, said) = roll(&world, &apply(&[]));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(peer_urls(&world), MESH);
    assert!(is_whole(&world));
    // One node of the last run back, the rest of that run, then all runs.
    let (code, said) = roll(&world, &apply(&["--undo", "--only", "cp-2"]));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(peer_urls(&world), [MESH[0], MESH[2], LAN[1]]);
    let (code, said) = roll(&world, &apply(&["--undo"]));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(peer_urls(&world), LAN);
    let (code, said) = roll(&world, &apply(&["--undo", "--all"]));
    assert_eq!(code, Some(0), "{said}");
    let after: Vec<_> = ["cp-1", "cp-2", "cp-3", "w-1", "w-2"].map(|node| world.configs(node)).into();
    assert_eq!(after, before, "nothing of ours is in any config");
    assert!(is_whole(&world));
}

/// The tool is killed at any moment, over and over, and run again. `ROLLOUT_KILLS` says how often; 12 without it.
#[test]
fn a_tool_that_is_killed_at_any_moment_goes_on_where_it_was() {
    let kills = std::env::var("ROLLOUT_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let mut random = Random::new(1);
    let (mut killed, mut rounds) = (0, 0);
    while killed < kills {
        let world = world([Line::V1_13; 5]);
        let goal = upgrade(Line::V1_14);
        loop {
            let mut child = world.command(&strs(&goal)).stderr(Stdio::piped()).spawn().expect("it runs");
            let wait = Duration::from_millis(random.below(6000) as u64);
            std::thread::sleep(wait);
            if child.try_wait().expect("a process").is_some() || killed >= kills {
                let output = child.wait_with_output().expect("it ends");
                let said = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(0), "after {killed} kills: {said}");
                break;
            }
            child.kill().expect("killed");
            child.wait().expect("it ends");
            killed += 1;
            assert!(world.simulation.look(|cluster| cluster.etcd().has_quorum()), "after {killed} kills");
        }
        rounds += 1;
        assert_eq!(lines(&world), [Line::V1_14; 5], "round {rounds}");
        assert!(is_whole(&world), "round {rounds}");
    }
}

#[test]
fn a_control_plane_goes_down_only_where_the_others_stay_a_quorum() {
    let world = world([Line::V1_14; 5]);
    let flags = ["--no-lock", "--yes", "--soak", "300ms", "--gate-timeout", "2s"];
    let with = |first: [&'static str; 2]| [&first[..], &flags].concat();
    let output = world.output(&with(["reboot", "cp-2"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    world.simulation.change(|cluster, now| cluster.leave("cp-3", false, now).map(drop)).expect("it goes");
    world.until(|cluster| cluster.etcd().members().iter().any(|member| !member.up));
    let (code, said) = world.refuse(&with(["reboot", "cp-1"]));
    assert_eq!(code, Some(3), "{said}");
    let (code, said) = world.refuse(&["reset", "cp-1", "--confirm", "cp-1", "--no-lock"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("the etcd member of cp-3 does not answer"), "{said}");
    let (code, said) = world.refuse(&["reset", "w-1", "--no-lock"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("--confirm w-1"), "{said}");
    assert!(world.simulation.look(|cluster| cluster.etcd().has_quorum()));
}

/// Three rounds over all nodes: who is there, what each has in the mesh, and all that a rollout wants to know of each.
#[test]
fn fifty_nodes_are_looked_at_side_by_side_and_a_dead_one_costs_its_own_time_only() {
    let node = |index: usize| NodeSpec {
        name: format!("n-{index}"),
        line: Line::V1_13,
        addresses: vec![("eth0".to_owned(), format!("10.5.9.{}/24", index + 1).parse().expect("a prefix"))],
        config: Some(machine_config(if index < 3 { "controlplane" } else { "worker" }, "")),
        extensions: vec!["ichor".to_owned()],
        schematic: Some(schematic()),
        boot_time: BOOT,
    };
    let world = World::of((0..50).map(node).collect());
    world.simulation.change(|cluster, _| cluster.add_image(image(Line::V1_14)));
    let arguments = ["upgrade", "--to", Line::V1_14.tag(), "--no-lock", "--dry-run"];
    let began = std::time::Instant::now();
    let output = world.output(&arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    eprintln!("50 nodes, three rounds: {:.2} s", began.elapsed().as_secs_f64());
    assert!(said.contains("n-49"), "{said}");
    world.simulation.change(|cluster, _| cluster.faults_mut("n-7").expect("a node").dead = true);
    let (code, said) = world.refuse(&arguments);
    assert!(code != Some(0) && said.contains("10.5.9.8"), "{said}");
    eprintln!("with a dead one: {:.2} s in all", began.elapsed().as_secs_f64());
}
