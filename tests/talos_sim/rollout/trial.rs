//! Configs that may lock us out are tried first.

use ichor_lab::talos::model::Line;
use serde_json::json;

use super::{NODES, apply, cluster_file, raise_interfaces, roll, roll_json, strs, world};
use crate::world::World;

/// A cluster with the mesh, and a file that wants its firewall closed.
fn about_to_close() -> World {
    let world = world([Line::V1_13; 5]);
    std::fs::write(world.path("ichor.yaml"), cluster_file("beside")).expect("written");
    let (code, said) = roll(&world, &apply(&[]));
    assert_eq!(code, Some(0), "{said}");
    raise_interfaces(&world);
    let closed = cluster_file("beside").replacen("profile:", "firewall: true, profile:", 1);
    std::fs::write(world.path("ichor.yaml"), closed).expect("written");
    world
}

/// Whether the active config of a node, and the one on its disk, close its firewall.
fn is_closed(world: &World, node: &str) -> (bool, bool) {
    let (active, persistent) = world.configs(node);
    let is_closed = |text: &str| text.contains("NetworkDefaultActionConfig");
    (is_closed(&active), is_closed(&persistent))
}

/// The configs that were sent to a node: of each, whether another one was being tried there.
fn applied(world: &World, node: &str) -> Vec<bool> {
    let calls = world.simulation.calls();
    let to = calls.iter().filter(|call| call.node == node && call.method == "ApplyConfiguration");
    to.map(|call| call.on_trial).collect()
}

fn set_shut_out(world: &World, node: &str, shut_out: bool) {
    world.simulation.change(|cluster, _| cluster.faults_mut(node).expect("a node").shut_out = shut_out);
}

#[test]
fn a_firewall_is_tried_and_kept_where_the_node_answers_both_ways() {
    let world = about_to_close();
    let before: Vec<usize> = NODES.map(|(node, _)| applied(&world, node).len()).into();
    let (code, said) = roll(&world, &apply(&["--trial", "20s"]));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("looking whether it answers over the old and the new way"), "{said}");
    for ((node, _), before) in NODES.iter().zip(before) {
        assert_eq!(is_closed(&world, node), (true, true), "{node}");
        assert_eq!(applied(&world, node)[before..], [false, true], "{node}: tried, then kept");
    }
    // Nothing takes it back later.
    assert!(
        NODES
            .iter()
            .all(|(node, _)| world.simulation.look(|it| !it.node(node).expect("a node").is_on_trial()))
    );
    let (code, end) = roll_json(&world, &apply(&[]));
    assert_eq!((code, &end["result"]), (Some(0), &json!("nothing to do")), "{end}");
}

#[test]
fn a_firewall_that_locks_us_out_is_taken_back_by_the_node_and_ends_the_run() {
    let world = about_to_close();
    let before: Vec<_> = NODES.map(|(node, _)| world.configs(node)).into();
    let sent = applied(&world, "cp-2").len();
    set_shut_out(&world, "cp-2", true);
    let (code, said) = roll(&world, &apply(&["--trial", "6s"]));
    assert_eq!(code, Some(4), "{said}");
    assert!(
        said.contains("the config that was tried has gone away by itself, and the one before is back"),
        "{said}"
    );
    assert_eq!(applied(&world, "cp-2")[sent..], [false], "sent once, and not once more: {said}");
    let after: Vec<_> = NODES.map(|(node, _)| world.configs(node)).into();
    let changed = NODES.iter().zip(before.iter().zip(&after)).filter(|(_, (before, after))| before != after);
    let changed: Vec<&str> = changed.map(|((node, _), _)| *node).collect();
    assert!(!changed.contains(&"cp-2") && !changed.contains(&"w-1"), "{changed:?}: {said}");
    // The rules are mended: the same command goes on.
    set_shut_out(&world, "cp-2", false);
    let (code, end) = roll_json(&world, &apply(&["--trial", "20s"]));
    assert_eq!((code, &end["result"]), (Some(0), &json!("done")), "{end}");
    assert!(NODES.iter().all(|(node, _)| is_closed(&world, node) == (true, true)), "{end}");
}

#[test]
fn a_node_that_does_not_answer_over_the_mesh_takes_its_firewall_back() {
    let world = about_to_close();
    // Others look for it at an address where nobody is.
    world.simulation.add_to_directory("10.213.1.11", "127.0.0.1:1".parse().expect("an address"));
    let (code, end) = roll_json(&world, &apply(&["--trial", "6s"]));
    assert_eq!((code, &end["result"]), (Some(4), &json!("stopped")), "{end}");
    let why = end["why"].as_str().expect("a reason");
    assert!(why.contains("w-1: the config that was tried has gone away by itself"), "{why}");
    assert!(why.contains("it does not answer over the mesh"), "{why}");
    assert_eq!(end["nodes"], json!(["cp-1", "cp-2", "cp-3"]), "what was closed before stays so: {end}");
    assert_eq!(is_closed(&world, "w-1"), (false, false));
}

#[test]
fn nothing_is_sent_to_a_node_on_which_a_killed_run_left_a_config_on_trial() {
    let world = about_to_close();
    let sent = applied(&world, "cp-2").len();
    set_shut_out(&world, "cp-2", true);
    let command = apply(&["--trial", "10s"]);
    let first = world.listen(&strs(&command));
    world.until(|cluster| cluster.node("cp-2").expect("a node").is_on_trial());
    first.kill();
    // It answers again, with the config that is not kept.
    set_shut_out(&world, "cp-2", false);
    let (code, said) = roll(&world, &command);
    assert_eq!(code, Some(0), "{said}");
    // Tried by the first run; tried by the second when that had gone away, and kept.
    assert_eq!(applied(&world, "cp-2")[sent..], [false, false, true], "{said}");
    assert!(NODES.iter().all(|(node, _)| is_closed(&world, node) == (true, true)), "{said}");
}
