//! Looking at many nodes.

use std::time::Instant;

use ichor_lab::talos::model::{Line, NodeSpec};

use super::{BOOT, image, schematic};
use crate::world::{World, machine_config};

fn fifty() -> World {
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
    world
}

fn kill(world: &World, node: &str) {
    world.simulation.change(|cluster, _| cluster.faults_mut(node).expect("a node").dead = true);
}

/// The looks are timed and not judged: this machine may be busy with other tests.
#[test]
fn fifty_nodes_are_looked_at_side_by_side_and_a_dead_one_costs_its_own_time_only() {
    let world = fifty();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let looks = |nodes: &[&str]| {
        let look = async { ichorctl::lab::look(&world.path("config"), nodes).await };
        runtime.block_on(look).expect("they are looked at")
    };
    let all: Vec<String> = (1..=50).map(|host| format!("10.5.9.{host}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    for what in ["the first look at 50 nodes", "the second"] {
        let look = looks(&all);
        assert_eq!(look.answered, 50);
        eprintln!("{what}: {:.2} s", look.time.as_secs_f64());
    }
    kill(&world, "n-7");
    let look = looks(&all);
    assert_eq!(look.answered, 49, "all others have told all that they are asked");
    eprintln!("a look with a dead one: {:.2} s", look.time.as_secs_f64());
}

#[test]
fn an_upgrade_is_refused_that_does_not_know_what_every_node_runs() {
    let world = fifty();
    let arguments = ["upgrade", "--to", Line::V1_14.tag(), "--no-lock", "--dry-run"];
    let began = Instant::now();
    let output = world.output(&arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("n-49"), "{said}");
    eprintln!("the plan for 50 nodes: {:.2} s", began.elapsed().as_secs_f64());
    kill(&world, "n-7");
    let began = Instant::now();
    let (code, said) = world.refuse(&arguments);
    eprintln!("its refusal because of a dead one: {:.2} s", began.elapsed().as_secs_f64());
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("there is no answer from n-7") && said.contains("--skip NODE"), "{said}");
}
