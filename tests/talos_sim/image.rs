//! `image`, as an operator types it: built, looked at, pushed, and refused.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use ichor_lab::talos::model::Line;
use ichor_tests::extension::program;
use ichor_tests::extension::registry::TestRegistry;
use ichorctl::extension::Machine;

use crate::world::World;

/// A world with programs in it that are as good as the daemon for a check.
fn world() -> World {
    let world = World::new(Line::V1_14);
    fs::write(world.path("amd64"), program(Machine::Amd64)).expect("written");
    fs::write(world.path("arm64"), program(Machine::Arm64)).expect("written");
    world
}

/// A registry that answers as long as the runtime is there.
pub(crate) fn registry() -> (tokio::runtime::Runtime, TestRegistry) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("made");
    let registry = runtime.block_on(TestRegistry::start(false)).expect("it starts");
    (runtime, registry)
}

const BUILD: [&str; 6] = ["image", "build", "--amd64", "amd64", "--arm64", "arm64"];

#[test]
fn an_image_is_built_the_same_twice_inspected_and_pushed() {
    let world = world();
    let build = |output: &str| {
        let mut command = world.command(&[&BUILD[..], &["-o", output]].concat());
        let built = command.env("SOURCE_DATE_EPOCH", "1700000000").output().expect("it runs");
        assert!(built.status.success(), "{built:?}");
        String::from_utf8(built.stdout).expect("text").trim().to_owned()
    };
    let digest = build("dist/one.tar");
    assert_eq!(digest, build("two.tar"));
    assert_eq!(
        fs::read(world.path("dist/one.tar")).expect("read"),
        fs::read(world.path("two.tar")).expect("read")
    );
    let mode = fs::metadata(world.path("two.tar")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "others have to read it");

    assert!(world.run(&["image", "inspect", "two.tar"]).contains("ext-ichor"));
    let json = world.run(&["image", "inspect", "two.tar", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["digest"], &json["faults"]), (&digest.clone().into(), &serde_json::json!([])));

    let (_runtime, registry) = registry();
    let reference = format!("{}/you/ichor:0.1.0", registry.address);
    let pushed = world.run(&["image", "push", "--plain-http", "two.tar", &reference]);
    assert_eq!(pushed.trim(), format!("{reference}@{digest}"));
    let pulled = world.run(&["image", "inspect", "--plain-http", &reference, "-o", "json"]);
    let pulled: serde_json::Value = serde_json::from_str(&pulled).expect("JSON");
    assert_eq!(pulled["platforms"], json["platforms"]);
}

#[test]
fn what_is_wrong_with_an_image_is_said_and_nothing_is_written() {
    let world = world();
    let refused = |arguments: &[&str], code: i32, says: &[&str]| {
        let (found, error) = world.refuse(arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {error}");
        assert!(says.iter().all(|word| error.contains(word)), "{arguments:?}: {error}");
    };
    let swapped = ["image", "build", "--amd64", "arm64", "--arm64", "amd64", "-o", "x.tar"];
    refused(&swapped, 1, &["rootfs/usr/local/lib/containers/ichor/usr/local/bin/ichord", "binary"]);
    refused(&["image", "build", "--amd64", "absent", "--arm64", "arm64", "-o", "x.tar"], 1, &["absent"]);
    assert!(!world.path("x.tar").exists());
    refused(&["image", "build", "--amd64", "amd64"], 2, &["--arm64"]);

    world.run(&[&BUILD[..], &["-o", "good.tar"]].concat());
    let good = fs::read(world.path("good.tar")).expect("read");
    fs::write(world.path("short.tar"), &good[..good.len() / 2]).expect("written");
    refused(&["image", "inspect", "short.tar"], 1, &["short.tar"]);
    refused(&["image", "push", "short.tar", "127.0.0.1:1/x:y"], 1, &["short.tar"]);
    refused(&["image", "inspect", "UPPER/case"], 2, &["UPPER/case"]);
    refused(&["image", "push", "--plain-http", "good.tar", "127.0.0.1:1/x:y"], 1, &["127.0.0.1:1"]);
    let by_digest = format!("127.0.0.1:1/x@sha256:{}", "0".repeat(64));
    refused(&["image", "push", "good.tar", &by_digest], 2, &["push to a tag"]);
}
