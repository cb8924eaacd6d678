//! Configs that no node may get: each ends with a clear error, and the node has what it had.

use std::fs;

use ichor_lab::talos::model::Line;

use crate::world::{World, machine_config};

#[test]
fn a_bad_config_file_is_refused_with_its_reason_and_changes_nothing() {
    let world = World::new(Line::V1_14);
    let worker = machine_config("worker", "");
    let link = "---\napiVersion: v1alpha1\nkind: LinkConfig\nname: eth0\n";
    let garbage: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // As large as is asked for, but nothing of it on the disk.
    fs::File::create(world.path("huge.yaml")).and_then(|file| file.set_len(100 << 20)).expect("made");
    let cases = [
        ("garbage.yaml", garbage, "failed to read garbage.yaml"),
        ("keys.yaml", worker.replace("token: abc", "tokn: abc").into_bytes(), "tokn"),
        ("twice.yaml", format!("{worker}{link}{link}").into_bytes(), "duplicate document"),
        ("cut.yaml", b"machine:\n  type: [worker".to_vec(), "did not find expected"),
        ("role.yaml", machine_config("king", "").into_bytes(), "unknown machine type \"king\""),
    ];
    for (name, bytes, _) in &cases {
        fs::write(world.path(name), bytes).expect("written");
    }
    let huge = ("huge.yaml", "failed to read huge.yaml");
    for (name, says) in cases.iter().map(|(name, _, says)| (*name, *says)).chain([huge]) {
        let (code, error) = world.refuse(&["-n", "w-1", "apply-config", "-f", name]);
        assert_eq!(code, Some(1), "{name}: {error}");
        assert!(error.starts_with("error: ") && error.contains(says), "{name}: {error}");
        assert!(error.len() < 2000 && !error.contains("panicked"), "{name}: an error, not the file");
        assert_eq!(world.configs("w-1"), (worker.clone(), worker.clone()), "{name}");
    }
}

#[test]
fn a_bad_file_of_a_plan_is_refused_and_nothing_is_written() {
    let world = World::new(Line::V1_14);
    let cluster = "mesh: {name: home, range: 10.213.0.0/16}\nsites: [{name: a, lans: [10.5.0.0/24]}]\nnodes:\n  - {name: \
                   w-1, role: worker, site: a, address: 10.213.0.1, api: 10.5.0.11}\n";
    fs::write(world.path("ichor.yaml"), cluster).expect("written");
    fs::create_dir(world.path("nodes")).expect("made");
    let plan = ["plan", "--configs", "nodes", "-o", "out", "--as-patches", "patches"];
    let refused = |says: &str| {
        let (code, error) = world.refuse(&plan);
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains("w-1") && error.contains(says), "{error}");
        assert!(!world.path("out").exists() && !world.path("patches").exists(), "{says}");
    };
    let file = world.path("nodes/w-1.yaml");
    fs::File::create(&file).and_then(|file| file.set_len(100 << 20)).expect("made");
    refused("more than");
    fs::write(&file, [0xff, 0xfe, 0x00, 0x9c]).expect("written");
    refused("invalid utf-8");
    fs::write(&file, "machine: {type: worker").expect("written");
    refused("line 1");
}
