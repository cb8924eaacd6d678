//! What is read of installer images, and what upgrades make of it.

use ichor_lab::talos::Role;
use ichor_lab::talos::model::{Image, Line};
use ichor_tests::extension::installer::{INITRAMFS, archive, initramfs, kernel, put};
use ichorctl::image::{Digest, InstallerContents, InstallerImageError, installer_contents};

use super::{roll, upgrade_with};
use crate::client::Clients;
use crate::image::registry;
use crate::world::World;

const RELEASE: &[u8] = b"NAME=\"Talos\"\nID=talos\nVERSION_ID=v1.14.1\n";

fn read(release: &[u8], initramfs: &[u8]) -> Result<InstallerContents, InstallerImageError> {
    installer_contents(Digest::of(b""), "amd64", &kernel(&[(".osrel", release), (".initrd", initramfs)]))
}

fn names(contents: &InstallerContents) -> Vec<&str> {
    contents.extensions.keys().map(String::as_str).collect()
}

#[test]
fn the_extensions_are_in_the_last_archive_of_the_initramfs() {
    let contents = read(RELEASE, INITRAMFS).expect("it can be read");
    assert_eq!(contents.version, "v1.14.1");
    assert_eq!(names(&contents), ["ichor", "iscsi-tools"]);
    assert_eq!(contents.schematic.as_ref().expect("a schematic").len(), 64);
    assert_eq!(names(&read(RELEASE, &initramfs(&["one", "two"])).expect("it can be read")), ["one", "two"]);
}

#[test]
fn an_initramfs_without_a_list_has_no_extensions() {
    let appended =
        INITRAMFS.windows(4).rposition(|it| it == [0x28, 0xb5, 0x2f, 0xfd]).expect("it can be read");
    assert!(read(RELEASE, &INITRAMFS[..appended]).expect("it can be read").extensions.is_empty());
    assert!(read(RELEASE, &archive(&[("init", b"#!")])).expect("it can be read").extensions.is_empty());
}

#[test]
fn what_cannot_be_read_to_its_end_is_refused() {
    for (release, initramfs) in [
        (RELEASE, &INITRAMFS[..INITRAMFS.len() - 20]),
        (RELEASE, &[0x1f, 0x8b, 8, 0][..]),
        (RELEASE, &archive(&[("extensions.yaml", b"layers: 5")])),
        (b"VERSION_ID=\"\x1b[2J\"\n", INITRAMFS),
    ] {
        assert!(read(release, initramfs).is_err());
    }
    assert!(installer_contents(Digest::of(b""), "amd64", b"MZ and no more").is_err());
    let bare = installer_contents(Digest::of(b""), "amd64", &kernel(&[(".initrd", INITRAMFS)]));
    assert!(bare.unwrap_err().to_string().contains("has no section .osrel"));
}

#[test]
fn no_change_of_a_byte_makes_it_panic() {
    let whole = kernel(&[(".osrel", RELEASE), (".initrd", INITRAMFS)]);
    for at in 0..whole.len() {
        let mut file = whole.clone();
        file[at] ^= if at % 2 == 0 { 0xff } else { 1 };
        // Whatever it is taken for.
        let _ = installer_contents(Digest::of(b""), "amd64", &file);
    }
}

#[test]
fn an_upgrade_looks_into_the_image_and_takes_it_by_its_digest() {
    let world = World::new(Line::V1_13);
    let (runtime, registry) = registry();
    let tag = Line::V1_14.tag();
    let image = |name: &str| format!("{}/you/{name}:{tag}", registry.address);
    let whole = put(&registry, "you/whole", tag, tag, &["ichor", "more"]).expect("packed");
    put(&registry, "you/lacking", tag, tag, &["more"]).expect("packed");
    put(&registry, "you/old", tag, Line::V1_13.tag(), &["ichor"]).expect("packed");
    let pinned = format!("{}/you/whole@{whole}", registry.address);
    world.simulation.change(|cluster, _| cluster.add_image(Image::new(pinned.clone(), Line::V1_14)));

    // The node without a config is in no cluster.
    let upgrade = |name: &str| roll(&world, &upgrade_with(Line::V1_14, &["--image", &image(name)]));
    for (name, says) in
        [("lacking", "lacks ichor"), ("old", "is of Talos v1.13"), ("missing", "nobody here knows whether")]
    {
        let (code, said) = upgrade(name);
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains(says), "{said}");
    }
    // What was written down counts where the registry has it no longer.
    let shown = world.run(&["image", "installer", &image("whole"), "--record", "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((shown["version"].as_str(), shown["digest"].as_str()), (Some(tag), Some(&*whole)));
    drop(runtime);
    let (code, said) = upgrade("whole");
    assert_eq!(code, Some(0), "{said}");
    let lines = world.simulation.look(|cluster| cluster.node("w-1").expect("a node").line());
    assert_eq!(lines, Line::V1_14);
}

#[test]
fn an_extension_goes_where_that_is_asked_for_and_is_proven_to_be_gone() {
    let world = World::new(Line::V1_13);
    let (_runtime, registry) = registry();
    let tag = Line::V1_13.tag();
    let image = |name: &str| format!("{}/you/{name}:{tag}", registry.address);
    let bare = put(&registry, "you/bare", tag, tag, &[]).expect("packed");
    put(&registry, "you/whole", tag, tag, &["ichor"]).expect("packed");
    let pinned = format!("{}/you/bare@{bare}", registry.address);
    world.simulation.change(|cluster, _| {
        cluster.add_image(Image::new(pinned.clone(), Line::V1_13).without_extensions());
    });
    let without = |name: &str| {
        roll(&world, &upgrade_with(Line::V1_13, &["--image", &image(name), "--without", "ichor"]))
    };
    let (code, said) = without("whole");
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("still has ichor"), "{said}");
    let (code, said) = without("bare");
    assert_eq!(code, Some(0), "{said}");
    let clients = Clients::new(&world, Role::Admin, "cp-1");
    for address in ["10.5.0.1", "10.5.0.2", "10.5.0.3", "10.5.0.11"] {
        let found = clients.run(clients.node(address).extensions()).expect("told");
        assert!(!found.has("ichor"), "{address}");
    }
    // Again there is nothing to do but to prove it.
    let (code, said) = without("bare");
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("reboot"), "{said}");
}
