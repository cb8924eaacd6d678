//! Addresses: a cluster moves to the mesh, and back.

use ichor_lab::talos::model::Line;

use super::{LAN, MESH, apply, cluster_file, is_whole, peer_urls, raise_interfaces, roll, watch, world};

#[test]
fn a_live_cluster_moves_to_the_mesh_and_back() {
    let world = world([Line::V1_12, Line::V1_12, Line::V1_13, Line::V1_13, Line::V1_14]);
    let before: Vec<_> = ["cp-1", "cp-2", "cp-3", "w-1", "w-2"].map(|node| world.configs(node)).into();
    std::fs::write(world.path("ichor.yaml"), cluster_file("beside")).expect("written");
    let (code, said) = roll(&world, &apply(&[]));
    assert_eq!(code, Some(0), "{said}");
    raise_interfaces(&world);
    let worst = watch(&world);
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
    let worst = worst.lock().expect("it did not fail");
    // A worker and a control plane are never away at the same time either.
    assert!(worst.degraded.len() <= 1 && !worst.had_no_quorum, "{worst:?}");
}
