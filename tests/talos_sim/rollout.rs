//! Rollouts by the operator's tool against simulated nodes.

use std::process::Stdio;
use std::time::Duration;

use ichor_lab::talos::model::{Image, Line, NodeSpec};

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

/// Three control planes and two workers, each of its line.
fn world(lines: [Line; 5]) -> World {
    let node = |(index, line): (usize, Line)| {
        let (name, kind, host) = match index {
            0..3 => (format!("cp-{}", index + 1), "controlplane", index + 1),
            _ => (format!("w-{}", index - 2), "worker", index + 8),
        };
        NodeSpec {
            name,
            line,
            addresses: vec![("eth0".to_owned(), format!("10.5.0.{host}/24").parse().expect("a prefix"))],
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
