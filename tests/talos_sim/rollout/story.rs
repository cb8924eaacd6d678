//! The story that this program exists for: the second control plane comes up without its extension, the third with a
//! config that nobody sent, the tool is killed in between, and nobody loses the quorum.

use std::process::Stdio;

use ichor_lab::talos::model::{Image, Line, NodeSpec};

use super::{
    BOOT, Worst, apply, cluster_file, image, is_whole, lines, raise_interfaces, roll, schematic, strs,
    upgrade, upgrade_with, watch, with_images, world,
};
use crate::world::{World, machine_config};

/// What the disk of a node gives back that has lost what was written last.
fn old_config() -> String {
    machine_config("controlplane", "")
}

/// Three control planes, with a line in their configs that an old config does not have.
fn three() -> World {
    let node = |index: u8| NodeSpec {
        name: format!("cp-{index}"),
        line: Line::V1_13,
        addresses: vec![("eth0".to_owned(), format!("10.5.0.{index}/24").parse().expect("a prefix"))],
        config: Some(machine_config("controlplane", "  certSANs: [cluster.example]\n")),
        extensions: vec!["ichor".to_owned()],
        schematic: Some(schematic()),
        boot_time: BOOT,
    };
    with_images(World::of((1..=3).map(node).collect()))
}

/// How many nodes run a line.
fn count(world: &World, line: Line) -> usize {
    lines(world).iter().filter(|it| **it == line).count()
}

fn assert_one_at_a_time(worst: &Worst) {
    assert!(worst.degraded.len() <= 1, "{:?} at once", worst.degraded);
    assert!(!worst.had_no_quorum);
}

#[test]
fn a_bad_image_a_corrupt_config_and_a_kill_leave_two_of_three_control_planes() {
    let world = three();
    let worst = watch(&world);
    let leader = world.simulation.look(|cluster| cluster.etcd().leader().expect("a leader").to_owned());
    let mut order: Vec<String> = ["cp-1", "cp-2", "cp-3"].map(str::to_owned).into();
    // The leader comes last.
    order.sort_by_key(|name| *name == leader);
    let boots = |name: &str| world.simulation.look(|cluster| cluster.node(name).expect("a node").boots());
    let third = order[2].clone();
    world.simulation.change(|cluster, _| cluster.tear_config(&third, &old_config())).expect("it is torn");

    // The first is fine, then the image changes under its name.
    let mut slowly = upgrade(Line::V1_14);
    slowly.extend(["--pause-between", "10s"].map(str::to_owned));
    let mut child = world.command(&strs(&slowly)).stderr(Stdio::piped()).spawn().expect("it runs");
    world.until(|cluster| cluster.node(&order[0]).expect("a node").line() == Line::V1_14);
    let bad = Image { schematic: Some(schematic()), ..image(Line::V1_14).without_extensions() };
    world.simulation.change(|cluster, _| cluster.add_image(bad));
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains(&format!("{} is not proven", order[1])), "{said}");
    assert!(said.contains("its image lacks ichor"), "{said}");
    // What would leave one voter of three is not even offered.
    assert!(said.contains("ichorctl rollback") && said.contains("2 of 3"), "{said}");
    assert_eq!((count(&world, Line::V1_14), boots(&third)), (2, 1), "the third was not touched");

    // The image is mended, and the tool killed while the second is on its way.
    world.simulation.change(|cluster, _| cluster.add_image(image(Line::V1_14)));
    let before = boots(&order[1]);
    child = world.command(&strs(&upgrade(Line::V1_14))).stderr(Stdio::piped()).spawn().expect("it runs");
    world.until(|cluster| cluster.node(&order[1]).expect("a node").boots() > before);
    child.kill().expect("killed");
    child.wait().expect("it ends");
    assert_eq!(boots(&third), 1);

    // The same command goes on, and ends at the third, which has lost its config.
    let (code, said) = roll(&world, &upgrade(Line::V1_14));
    assert_eq!(code, Some(4), "{said}");
    assert!(
        said.contains(&format!("{third} is not proven: its config is not the one that was applied")),
        "{said}"
    );
    assert!(said.contains("send it the config again that it had before"), "{said}");
    assert!(said.contains(&format!("run the upgrade again with --accept-config {third}")), "{said}");
    assert_one_at_a_time(&worst.lock().expect("it did not fail"));

    // Run again, it does not take for right what the node came up with, and does nothing to it.
    let before = boots(&third);
    let (code, said) = roll(&world, &upgrade(Line::V1_14));
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("its config is not the one that was applied"), "{said}");
    assert_eq!(boots(&third), before);

    // Its config is sent again: the same command has nothing left to do.
    let text = machine_config("controlplane", "  certSANs: [cluster.example]\n");
    std::fs::write(world.path("third.yaml"), &text).expect("written");
    let address = format!("10.5.0.{}", &third[3..]);
    world.run(&["-n", &address, "apply-config", "-f", "third.yaml", "--mode", "no-reboot"]);
    let (code, said) = roll(&world, &upgrade(Line::V1_14));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(lines(&world), [Line::V1_14; 3]);
    for name in &order {
        assert_eq!(world.configs(name), (text.clone(), text.clone()), "{name}");
    }
    assert!(is_whole(&world));
    assert_one_at_a_time(&worst.lock().expect("it did not fail"));
}

#[test]
fn a_node_that_boots_with_a_config_that_nobody_sent_ends_the_run_and_the_next_one_sends_it_again() {
    let world = world([Line::V1_13; 5]);
    std::fs::write(world.path("ichor.yaml"), cluster_file("beside")).expect("written");
    let (code, said) = roll(&world, &apply(&[]));
    assert_eq!(code, Some(0), "{said}");
    raise_interfaces(&world);
    let worst = watch(&world);
    world.simulation.change(|cluster, _| cluster.tear_config("cp-3", &old_config())).expect("it is torn");
    std::fs::write(world.path("ichor.yaml"), cluster_file("nodes")).expect("written");
    let (code, said) = roll(&world, &apply(&[]));
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("cp-3 is not proven: its config is not the one that was applied"), "{said}");
    let (code, said) = roll(&world, &apply(&[]));
    assert_eq!(code, Some(0), "{said}");
    assert!(is_whole(&world));
    let worst = worst.lock().expect("it did not fail");
    assert_one_at_a_time(&worst);
}

#[test]
fn nobody_goes_on_after_a_control_plane_that_came_up_without_its_extension() {
    let world = world([Line::V1_13; 5]);
    let worst = watch(&world);
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
    assert_one_at_a_time(&worst.lock().expect("it did not fail"));
}

#[test]
fn a_config_that_a_node_came_up_with_is_taken_only_where_that_is_asked_for() {
    let world = world([Line::V1_13; 5]);
    // What it comes up with is as good as what it had, and nobody sent it.
    let other = machine_config("worker", "  certSANs: [other.example]\n");
    world.simulation.change(|cluster, _| cluster.tear_config("w-1", &other)).expect("it is torn");
    for _ in 0..3 {
        let (code, said) = roll(&world, &upgrade(Line::V1_14));
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains("w-1 is not proven: its config is not the one that was applied"), "{said}");
    }
    let (code, said) = roll(&world, &upgrade_with(Line::V1_14, &["--accept-config", "w-1"]));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(lines(&world), [Line::V1_14; 5]);
    assert_eq!(world.configs("w-1"), (other.clone(), other));
    // It is over: nothing of it is remembered.
    let (code, said) = roll(&world, &upgrade(Line::V1_14));
    assert_eq!(code, Some(0), "{said}");
}
