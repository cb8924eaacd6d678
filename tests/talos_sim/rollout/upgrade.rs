//! Versions: from line to line, in clusters of one and of several, and what is refused.

use ichor_lab::talos::model::Line;

use super::{is_whole, lines, roll, upgrade, world};

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
    let (code, said) = world.refuse(&["upgrade", "--to", to, "--no-lock", "--yes", "--max-unavailable", "0"]);
    assert_eq!(code, Some(2), "{said}");
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
