//! Upgrades of a cluster in which a node is dead.

use ichor_lab::talos::model::{Image, Line};

use super::{roll, upgrade_with};
use crate::world::World;

const NEW: &str = "factory.example/metal-installer/abc:v1.13.2";

#[test]
fn a_dead_worker_is_left_out_where_that_is_asked_for() {
    let world = World::new(Line::V1_12);
    world.simulation.change(|cluster, _| {
        cluster.add_image(Image::new(NEW, Line::V1_13));
        cluster.faults_mut("w-1").expect("a node").dead = true;
    });
    let upgrade = |more: &[&str]| {
        let trusted = ["--image", NEW, "--trust-image", "sha256:any"];
        roll(&world, &upgrade_with(Line::V1_13, &[&trusted, more].concat()))
    };
    let (code, said) = upgrade(&[]);
    assert!(code != Some(0) && said.contains("--skip NODE"), "{said}");
    let (code, said) = upgrade(&["--skip", "nobody"]);
    assert_eq!(code, Some(2), "{said}");
    let (code, said) = upgrade(&["--skip", "w-1"]);
    assert_eq!(code, Some(0), "{said}");
    let line = |name: &str| world.simulation.look(|cluster| cluster.node(name).expect("a node").line());
    assert_eq!(
        ["cp-1", "cp-2", "cp-3", "w-1"].map(line),
        [Line::V1_13, Line::V1_13, Line::V1_13, Line::V1_12]
    );
}
