//! Upgrades by the calls of both flows, and what a client sees of those that fail.

use std::time::Duration;

use ichor_lab::talos::Role;
use ichor_lab::talos::model::{Image, Line, Lost, Stage, SystemFault};
use ichorctl::api::{ApiError, Cause, Extensions, InstallerError, NodeClient, RebootMode, UPGRADE_MARKER};
use tonic::Code;

use crate::client::Clients;
use crate::world::World;

const NEW: &str = "factory.example/metal-installer/abc:v1.14.1";

fn world(line: Line, fault: Option<SystemFault>) -> (World, Clients) {
    let world = World::new(line);
    let image = Image { fault, schematic: Some("abc".to_owned()), ..Image::new(NEW, Line::V1_14) };
    world.simulation.change(|cluster, _| cluster.add_image(image));
    let clients = Clients::new(&world, Role::Admin, "cp-1");
    (world, clients)
}

async fn tag(node: &NodeClient) -> Result<String, ApiError> {
    Ok(node.talos_version().await?.to_string())
}

/// Waits for the boot after `before`, and until the node says that it is done.
fn wait_for_boot(clients: &Clients, node: &NodeClient, before: &str) {
    clients.until(|| node.boot_id(), |id| id != before);
    clients.until(|| node.machine_status(), |status| status.is_running_and_ready());
    clients.until(|| node.meta_keys(), |keys| !keys.contains(&UPGRADE_MARKER));
}

#[test]
fn the_new_flow_pulls_writes_and_reboots_in_calls_of_their_own() {
    let (_world, clients) = world(Line::V1_13, None);
    let node = clients.node("10.5.0.11");
    let before = clients.run(node.boot_id()).expect("an id");
    let pinned = clients.run(async {
        let mut pull = node.image_pull(NEW).await.expect("it starts");
        let mut bytes = 0;
        while let Some(progress) = pull.next().await.expect("it goes on") {
            bytes = progress.progress.map_or(bytes, |layer| layer.offset);
        }
        assert!(bytes > 0);
        pull.name().expect("the name").to_owned()
    });
    assert!(pinned.starts_with("factory.example/metal-installer/abc@sha256:"), "{pinned}");
    let printed = clients.run(async {
        let mut installer = node.lifecycle_upgrade(&pinned).await.expect("it starts");
        let mut printed = String::new();
        while let Some(text) = installer.next().await.expect("it ends well") {
            printed += &text;
        }
        printed
    });
    assert!(printed.contains(&pinned) && printed.contains("complete"), "{printed}");
    // Nothing has changed for the system that runs.
    assert_eq!(clients.run(node.boot_id()).expect("an id"), before);
    assert_eq!(clients.run(tag(&node)).expect("a version"), "v1.13.9");
    assert!(clients.run(node.meta_keys()).expect("keys").contains(&UPGRADE_MARKER));
    assert!(!clients.run(node.reboot(RebootMode::Default)).expect("accepted").is_empty());
    wait_for_boot(&clients, &node, &before);
    assert_eq!(clients.run(tag(&node)).expect("a version"), "v1.14.1");
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let expected =
        Extensions { extensions: vec![("ichor".to_owned(), version)], schematic: Some("abc".to_owned()) };
    assert_eq!(clients.run(node.extensions()).expect("a list"), expected);
}

#[test]
fn up_to_1_12_one_call_does_it_and_the_others_are_not_there() {
    let world = World::new(Line::V1_12);
    let image = Image::new("ghcr.example/installer:v1.13.9", Line::V1_13);
    let name = image.reference.clone();
    world.simulation.change(|cluster, _| cluster.add_image(image));
    let clients = Clients::new(&world, Role::Admin, "cp-1");
    let node = clients.node("10.5.0.2");
    let is_missing = |cause: Cause| assert!(matches!(cause, Cause::Unimplemented(_)), "{cause}");
    is_missing(clients.run(node.image_pull(&name)).expect_err("not there").cause);
    is_missing(clients.run(node.lifecycle_upgrade(&name)).expect_err("not there").cause);
    let missing = clients.run(node.image_pull_legacy("nowhere:v1")).expect_err("no such image");
    assert!(matches!(missing.cause, Cause::NotFound(_)), "{missing:?}");
    clients.run(node.image_pull_legacy(&name)).expect("pulled");
    let before = clients.run(node.boot_id()).expect("an id");
    let reply = clients.run(node.upgrade_legacy(&name)).expect("accepted");
    assert_eq!((reply.ack.as_str(), reply.actor_id.len()), ("Upgrade request received", 36));
    wait_for_boot(&clients, &node, &before);
    assert_eq!(clients.run(tag(&node)).expect("a version"), "v1.13.9");
    clients.until(|| node.etcd_status(), |status| status.leader != 0);
    // And back.
    let before = clients.run(node.boot_id()).expect("an id");
    clients.run(node.rollback()).expect("accepted");
    wait_for_boot(&clients, &node, &before);
    assert_eq!(clients.run(tag(&node)).expect("a version"), "v1.12.11");
}

#[test]
fn an_installer_that_fails_says_its_exit_code_and_its_last_words() {
    let (_world, clients) = world(Line::V1_13, Some(SystemFault::NotInstallable));
    let node = clients.node("10.5.0.11");
    let missing = clients.run(async { node.image_pull("nowhere:v1").await?.finish().await });
    assert!(matches!(missing.expect_err("no such image").cause, Cause::NotFound(_)));
    clients.run(async { node.image_pull(NEW).await?.finish().await }).expect("pulled");
    let failed = clients.run(async { node.lifecycle_upgrade(NEW).await.expect("it starts").finish().await });
    let error = failed.expect_err("it fails");
    assert!(matches!(error, InstallerError::Failed { code: 7, .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("10.5.0.11") && text.contains("exit code 7 (installation)"), "{text}");
    assert!(text.ends_with("failed to install bootloader"), "{text}");
    // By the other call it is only the version that says so.
    let before = clients.run(node.boot_id()).expect("an id");
    let shortened = node.clone().with_deadline(Duration::from_secs(5));
    clients.run(shortened.upgrade_legacy(NEW)).expect("accepted");
    let status = clients.run(node.machine_status()).expect("a status");
    assert_eq!(status.stage, "upgrading");
    wait_for_boot(&clients, &node, &before);
    assert_eq!(clients.run(tag(&node)).expect("a version"), "v1.13.9");
}

#[test]
fn an_upgrade_that_is_refused_is_told_apart_from_one_that_fails() {
    let (world, clients) = world(Line::V1_13, None);
    let node = clients.node("10.5.0.2");
    world.simulation.change(|cluster, now| cluster.leave("cp-3", false, now)).expect("it goes");
    world.until(|cluster| cluster.etcd().members().iter().any(|member| !member.up));
    let error = clients.run(node.upgrade_legacy(NEW)).expect_err("a member is missing");
    assert!(error.cause.to_string().contains("all members must be healthy"), "{error:?}");
    let refused = clients.run(node.lifecycle_upgrade(NEW)).expect_err("nothing was pulled");
    assert!(matches!(&refused.cause, Cause::Other { code: Code::Internal, .. }), "{refused:?}");
}

#[test]
fn a_lost_reply_is_an_error_after_which_the_node_has_done_it() {
    let (world, clients) = world(Line::V1_14, None);
    let node = clients.node("10.5.0.11");
    let lose = |after: bool| {
        let lost = Lost { method: Some("Reboot".to_owned()), after, times: 1 };
        world.simulation.change(|cluster, _| cluster.faults_mut("w-1").expect("a node").lost = Some(lost));
    };
    let before = clients.run(node.boot_id()).expect("an id");
    for after in [false, true] {
        lose(after);
        let error = clients.run(node.reboot(RebootMode::Default)).expect_err("it is lost");
        assert!(error.cause.is_transient() && !error.cause.was_not_sent(), "{error:?}");
        let runs = world.simulation.look(|cluster| {
            cluster.node("w-1").is_ok_and(|node| node.boots() == 1 && node.stage() == Stage::Running)
        });
        assert_eq!(runs, !after);
    }
    wait_for_boot(&clients, &node, &before);
}

#[test]
fn early_in_a_boot_a_node_may_refuse_what_it_allows_later() {
    let (world, clients) = world(Line::V1_14, None);
    let node = clients.node("10.5.0.11");
    let before = clients.run(node.boot_id()).expect("an id");
    let window = Duration::from_millis(700);
    world.simulation.change(|cluster, _| {
        cluster.faults_mut("w-1").expect("a node").early = Some((Code::PermissionDenied, window))
    });
    clients.run(node.reboot(RebootMode::Default)).expect("accepted");
    let mut denied = false;
    clients.run(async {
        loop {
            match node.boot_id().await {
                Ok(id) if id != before => break,
                Err(ApiError { cause: Cause::Denied(_), .. }) => denied = true,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    assert!(denied);
}

#[test]
fn a_reader_sees_boot_ids_since_1_14_only() {
    for (line, can) in [(Line::V1_13, false), (Line::V1_14, true)] {
        let world = World::new(line);
        let id = world.simulation.look(|cluster| cluster.node("w-1").expect("a node").boot_id());
        let admin = Clients::new(&world, Role::Admin, "cp-1");
        assert_eq!(admin.run(admin.node("10.5.0.11").boot_id()).expect("an id"), id);
        let reader = Clients::new(&world, Role::Reader, "cp-1");
        let seen = reader.run(reader.node("10.5.0.11").boot_id());
        match seen {
            Ok(seen) => assert!(can && seen == id),
            Err(error) => assert!(!can && matches!(error.cause, Cause::Denied(_)), "{error:?}"),
        }
    }
}
