//! Commands that look at nodes, and those that act on services and etcd.

use std::path::Path;

use ichor_lab::talos::Role;
use ichor_lab::talos::model::{Api, Cluster, Line, Stage};

use crate::world::World;

#[test]
fn every_line_tells_its_version_through_any_control_plane_node() {
    for line in Line::ALL {
        let world = World::new(line);
        let shown = world.run(&["-n", "10.5.0.1,10.5.0.3,10.5.0.11", "version"]);
        assert_eq!(shown.matches(line.tag()).count(), 3, "{shown}");
    }
}

#[test]
fn resources_are_shown_as_table_yaml_and_json() {
    let world = World::new(Line::V1_14);
    let table = world.run(&["get", "members"]);
    let header: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(&header[..5], ["NODE", "NAMESPACE", "TYPE", "ID", "VERSION"], "{table}");
    for row in ["cp-1", "cp-2", "cp-3", "w-1"] {
        assert!(table.contains(row), "{table}");
    }
    let yaml = world.run(&["get", "machinestatus", "-o", "yaml"]);
    assert!(yaml.contains("stage: running") && yaml.contains("node: 10.5.0.1"), "{yaml}");
    let json = world.run(&["-n", "w-1", "get", "nodeaddresses", "current", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("one document");
    assert_eq!(json["spec"]["addresses"][0], "10.5.0.11/24");
    let config = world.run(&["get", "mc", "v1alpha1", "-o", "yaml"]);
    assert!(config.contains("clusterName: lab"), "{config}");
}

#[test]
fn a_type_that_this_talos_does_not_have_is_named() {
    let world = World::new(Line::V1_13);
    let error = world.fail(&["get", "bootids"]);
    assert!(error.contains("bootids"), "{error}");
}

#[test]
fn a_watch_goes_on_with_what_changes() {
    let world = World::new(Line::V1_14);
    let watch = world.follow(&["get", "machinestatus", "--watch"]);
    watch.until(|line| line.contains("running"));
    world.run(&["service", "kubelet", "stop"]);
    watch.until(|line| line.contains("false"));
    world.run(&["service", "kubelet", "start"]);
    watch.until(|line| line.contains("running") && line.contains("true"));
}

#[test]
fn services_are_listed_and_only_some_can_be_restarted() {
    let world = World::new(Line::V1_12);
    let shown = world.run(&["services"]);
    for service in ["apid", "etcd", "ext-ichor", "kubelet"] {
        assert!(shown.contains(service), "{shown}");
    }
    assert!(!world.run(&["-n", "10.5.0.11", "services"]).contains("etcd"));
    world.run(&["service", "ext-ichor", "restart"]);
    assert!(
        world.fail(&["service", "etcd", "restart"]).contains("doesn't support restart operation via API")
    );
}

#[test]
fn logs_are_followed() {
    let world = World::new(Line::V1_14);
    let logs = world.follow(&["logs", "kubelet", "-f"]);
    logs.until(|line| line.contains("kubelet: started"));
    world
        .simulation
        .change(|cluster, _| cluster.write_log("cp-1", "kubelet", "a line that is new"))
        .expect("a log");
    logs.until(|line| line.contains("a line that is new"));
    assert!(world.fail(&["logs", "nobody"]).contains("log \"nobody\" was not registered"));
}

#[test]
fn the_kernel_log_files_and_events_can_be_read() {
    let world = World::new(Line::V1_13);
    assert!(world.run(&["dmesg"]).contains("booting cp-1"));
    let boot_id = world.run(&["read", "/proc/sys/kernel/random/boot_id"]);
    assert_eq!(boot_id.trim().len(), 36, "{boot_id}");
    assert!(world.fail(&["read", "/nothing"]).contains("no such file or directory"));
    let events = world.follow(&["events", "--tail", "-1"]);
    events.until(|line| line.contains("MachineStatusEvent") && line.to_lowercase().contains("running"));
}

#[test]
fn etcd_shows_its_members_and_gives_a_snapshot_that_proves_itself() {
    let world = World::new(Line::V1_14);
    let members = world.run(&["etcd", "members"]);
    assert_eq!(members.lines().filter(|line| line.contains(":2380")).count(), 3, "{members}");
    world.run(&["-n", "10.5.0.1,10.5.0.2,10.5.0.3", "etcd", "status"]);
    world.run(&["etcd", "snapshot", "db.snapshot"]);
    let file = std::fs::read(world.path("db.snapshot")).expect("it is there");
    // The database and the checksum behind it, as etcd writes both.
    assert_eq!(file.len() % 512, 32);
    let (database, trailer) = file.split_at(file.len() - 32);
    assert_eq!(ring::digest::digest(&ring::digest::SHA256, database).as_ref(), trailer);
    // On a worker there is none.
    let error = world.fail(&["-n", "10.5.0.11", "etcd", "members"]);
    assert!(error.contains("is only available on control plane nodes"), "{error}");
}

#[test]
fn alarms_are_listed_and_disarmed() {
    let world = World::new(Line::V1_14);
    world.simulation.change(|cluster, _| cluster.etcd_mut().set_alarm("cp-2", Some(1)));
    assert!(world.run(&["etcd", "alarm", "list"]).contains("NOSPACE"));
    world.run(&["etcd", "alarm", "disarm"]);
    assert!(!world.run(&["etcd", "alarm", "list"]).contains("NOSPACE"));
}

#[test]
fn the_kubeconfig_of_the_cluster_is_written() {
    let world = World::new(Line::V1_14);
    world.run(&["kubeconfig", "--merge=false", "./kubeconfig"]);
    let text = std::fs::read_to_string(world.path("kubeconfig")).expect("it is there");
    assert!(text.contains("https://10.5.0.1:6443"), "{text}");
}

#[test]
fn a_healthy_cluster_is_healthy_from_either_side() {
    let world = World::new(Line::V1_14);
    world.run(&["health", "--wait-timeout", "30s"]);
    world.run(&["health", "--server=false", "--wait-timeout", "30s"]);
}

#[test]
fn a_worker_forwards_nothing() {
    let world = World::new(Line::V1_14);
    let worker = world.endpoint("w-1");
    let error = world.fail(&["-e", &worker, "-n", "10.5.0.2", "version"]);
    assert!(error.contains("no request forwarding"), "{error}");
    world.run(&["-e", &worker, "-n", "10.5.0.11", "version"]);
}

#[test]
fn a_node_that_nobody_reaches_is_named_with_what_happened() {
    let world = World::new(Line::V1_14);
    let error = world.fail(&["-n", "10.5.0.1,10.5.0.99", "version"]);
    assert!(error.contains("10.5.0.99") && error.contains("connection refused"), "{error}");
}

#[test]
fn a_reader_may_look_and_may_not_touch() {
    let world = World::new(Line::V1_14);
    let reader = world.write_talosconfig("reader", Role::Reader, "cp-1");
    let reader = reader.to_str().expect("text");
    world.run(&["--talosconfig", reader, "-n", "10.5.0.2", "services"]);
    for arguments in [
        &["read", "/etc/hostname"][..],
        &["get", "mc"],
        &["service", "kubelet", "restart"],
        &["etcd", "snapshot", "x"],
    ] {
        let arguments: Vec<&str> = ["--talosconfig", reader, "-n", "10.5.0.2"]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        let error = world.fail(&arguments);
        assert!(error.contains("not authorized"), "{arguments:?}: {error}");
    }
    assert!(!Path::new(&world.path("x")).exists());
}

#[test]
fn somebody_of_another_cluster_is_not_let_in() {
    let (world, other) = (World::new(Line::V1_14), World::new(Line::V1_14));
    let endpoint = world.endpoint("cp-1");
    let error = other.fail(&["-e", &endpoint, "version"]);
    assert!(error.contains("not signed by the CA"), "{error}");
}

#[test]
fn a_reboot_takes_the_api_away_and_brings_it_back() {
    let world = World::new(Line::V1_14);
    let read = ["-n", "10.5.0.11", "read", "/proc/sys/kernel/random/boot_id"];
    let before = world.run(&read);
    world.simulation.change(|cluster, now| cluster.leave("w-1", true, now)).expect("a node");
    let state = |api: Api| move |cluster: &Cluster| cluster.node("w-1").is_ok_and(|node| node.api() == api);
    world.until(state(Api::Down));
    world.until(|cluster| {
        cluster.node("w-1").is_ok_and(|node| node.stage() == Stage::Running && node.boots() == 2)
    });
    assert_ne!(world.run(&read), before);
}

#[test]
fn anybody_may_read_from_a_node_in_maintenance_and_pin_its_certificate() {
    let world = World::new(Line::V1_14);
    let new = world.endpoint("new");
    let get = ["-n", &new, "get", "--insecure", "machinestatus"];
    assert!(world.run(&get).contains("maintenance"));
    let fingerprint = world.simulation.fingerprint("new").expect("it showed one");
    let pinned = ["-n", &new, "get", "--insecure", "machinestatus", "--cert-fingerprint", &fingerprint];
    assert!(world.run(&pinned).contains("maintenance"));
    let wrong = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let error = world.fail(&["-n", &new, "get", "--insecure", "machinestatus", "--cert-fingerprint", wrong]);
    assert!(error.contains(&fingerprint), "{error}");
}
