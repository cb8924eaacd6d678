//! Members of etcd that are lost, and what brings them back.

use ring::digest::{SHA256, digest};

use super::*;

fn wiped(graceful: bool) -> Reset {
    Reset { graceful, reboot: true, partitions: vec!["EPHEMERAL".to_owned()] }
}

fn upload(file: &[u8]) -> Upload {
    let hash = |bytes: &[u8]| digest(&SHA256, bytes).as_ref().try_into().unwrap();
    let (body, trailer) = file.split_at(file.len() - 32);
    Upload { body: hash(body), whole: hash(file), trailer: trailer.try_into().unwrap() }
}

fn voters(cluster: &Cluster) -> Vec<(&str, bool)> {
    cluster.etcd().members().iter().map(|member| (member.node.as_str(), member.up)).collect()
}

fn etcd_state(cluster: &Cluster, node: &str) -> String {
    let services = cluster.node(node).unwrap().service_list();
    services.iter().find(|service| service.id == "etcd").unwrap().state.clone()
}

/// Three control plane nodes that lost all data of etcd, the time, and a snapshot from before.
fn after_the_disaster() -> (Cluster, Duration, Vec<u8>) {
    let mut cluster = cluster(Line::V1_13);
    cluster.etcd_mut().put("/registry/secrets/a", "secret").unwrap();
    let snapshot = cluster.etcd_mut().snapshot("cp-3").unwrap();
    cluster.etcd_mut().put("/registry/secrets/b", "too late").unwrap();
    for node in ["cp-2", "cp-3", "cp-4"] {
        cluster.reset(node, &wiped(false), START).unwrap();
    }
    let now = pass(&mut cluster, START, BOOT * 3);
    (cluster, now, snapshot)
}

#[test]
fn a_wiped_node_takes_its_old_member_out_and_joins_as_another() {
    let mut cluster = cluster(Line::V1_13);
    let before: Vec<u64> = cluster.etcd().members().iter().map(|member| member.id).collect();
    cluster.reset("cp-2", &wiped(false), START).unwrap();
    assert_eq!(cluster.node("cp-2").unwrap().stage(), Stage::Resetting);
    let now = pass(&mut cluster, START, BOOT / 2);
    assert_eq!(voters(&cluster), [("cp-2", false), ("cp-3", true), ("cp-4", true)], "it still counts");
    pass(&mut cluster, now, BOOT * 3);
    assert_eq!(voters(&cluster), [("cp-3", true), ("cp-4", true), ("cp-2", true)]);
    assert!(!before.contains(&cluster.etcd().members()[2].id));
    assert_eq!(persistent(&cluster, "cp-2"), config("controlplane", ""), "its config is elsewhere");
}

#[test]
fn a_graceful_reset_leaves_etcd_first_or_fails() {
    let mut cluster = cluster(Line::V1_14);
    cluster.reset("cp-2", &wiped(true), START).unwrap();
    assert_eq!(voters(&cluster), [("cp-3", true), ("cp-4", true)]);
    let now = pass(&mut cluster, START, BOOT * 3);
    cluster.leave("cp-2", false, now).unwrap();
    cluster.leave("cp-3", false, now).unwrap();
    let now = pass(&mut cluster, now, BOOT);
    cluster.reset("cp-4", &wiped(true), now).unwrap();
    let now = pass(&mut cluster, now, BOOT * 4);
    assert!(cluster.etcd().has_data("cp-4"), "without a quorum nobody leaves, and nothing is wiped");
    assert_eq!(cluster.node("cp-4").unwrap().boots(), 2, "but it has rebooted");
    // One that does not run is wiped all the same, and stays a member.
    cluster.faults_mut("cp-4").unwrap().etcd_delay = BOOT * 9;
    cluster.leave("cp-4", true, now).unwrap();
    let now = pass(&mut cluster, now, BOOT * 2);
    cluster.reset("cp-4", &wiped(true), now).unwrap();
    let now = pass(&mut cluster, now, BOOT);
    assert!(!cluster.etcd().has_data("cp-4"));
    let unknown = Reset { partitions: vec!["HOME".to_owned()], ..wiped(false) };
    assert!(cluster.reset("cp-4", &unknown, now).is_err());
}

#[test]
fn a_node_without_its_system_disk_waits_for_a_config_and_installs_what_it_runs() {
    let mut cluster = cluster(Line::V1_13);
    let all = Reset { partitions: Vec::new(), ..wiped(true) };
    cluster.reset("w-1", &all, START).unwrap();
    let now = pass(&mut cluster, START, BOOT * 3);
    let node = cluster.node("w-1").unwrap();
    assert_eq!((node.api(), node.systems().count()), (Api::Maintenance, 0));
    assert!(cluster.rollback("w-1", now).is_err());
    cluster.apply("w-1", sent(&config("worker", ""), Mode::Auto), now).unwrap();
    pass(&mut cluster, now, BOOT * 3);
    let node = cluster.node("w-1").unwrap();
    assert_eq!((node.stage(), node.systems().count()), (Stage::Running, 1));
}

#[test]
fn without_a_quorum_wiped_nodes_wait_and_a_snapshot_brings_the_cluster_back() {
    let (mut cluster, now, snapshot) = after_the_disaster();
    for node in ["cp-2", "cp-3", "cp-4"] {
        assert_eq!(etcd_state(&cluster, node), "Preparing");
        assert_eq!(cluster.node(node).unwrap().stage(), Stage::Booting, "booting waits for etcd");
    }
    assert!(cluster.etcd_mut().put("/x", "1").is_err());
    cluster.recover("cp-3", upload(&snapshot)).unwrap();
    cluster.bootstrap("cp-3", Bootstrap::Snapshot, now).unwrap();
    pass(&mut cluster, now, BOOT);
    assert_eq!(voters(&cluster), [("cp-3", true), ("cp-2", true), ("cp-4", true)], "the others join");
    assert_eq!(cluster.etcd().get("/registry/secrets/a"), Some("secret"));
    assert_eq!(cluster.etcd().get("/registry/secrets/b"), None, "it was written after the snapshot");
    assert_eq!(cluster.node("cp-2").unwrap().stage(), Stage::Running);
    assert_eq!(cluster.etcd().splits(), 0);
}

#[test]
fn a_damaged_or_foreign_snapshot_is_taken_and_starts_nothing() {
    let (mut cluster, now, snapshot) = after_the_disaster();
    let mut damaged = snapshot.clone();
    damaged[5000] ^= 1;
    let mut foreign = damaged[..snapshot.len() - 32].to_vec();
    foreign.extend(digest(&SHA256, &damaged[..snapshot.len() - 32]).as_ref());
    for file in [damaged, foreign, snapshot[..snapshot.len() - 512].to_vec()] {
        cluster.recover("cp-2", upload(&file)).unwrap();
        cluster.bootstrap("cp-2", Bootstrap::Snapshot, now).unwrap();
        assert_eq!((voters(&cluster).len(), etcd_state(&cluster, "cp-2").as_str()), (3, "Preparing"));
        assert!(!cluster.etcd().has_quorum());
    }
    // A copy of the database has no hash, and one can do without.
    cluster.recover("cp-2", upload(&snapshot[..snapshot.len() - 32])).unwrap();
    cluster.bootstrap("cp-2", Bootstrap::DatabaseFile, now).unwrap();
    assert_eq!(cluster.etcd().get("/registry/secrets/a"), Some("secret"));
}

#[test]
fn a_bootstrap_needs_a_control_plane_node_without_data() {
    let mut cluster = cluster(Line::V1_13);
    let refused =
        |cluster: &mut Cluster, node: &str| cluster.bootstrap(node, Bootstrap::New, START).unwrap_err().code;
    assert_eq!(refused(&mut cluster, "cp-2"), Code::AlreadyExists);
    assert_eq!(refused(&mut cluster, "w-1"), Code::Unimplemented);
    let file = upload(&[0; 64]);
    assert_eq!(cluster.recover("w-1", file).unwrap_err().code, Code::Unimplemented);
}

#[test]
fn a_first_member_beside_a_living_cluster_is_a_split_and_is_counted() {
    let mut cluster = cluster(Line::V1_13);
    // Its etcd waits, so that somebody may take it for a new one.
    cluster.faults_mut("cp-2").unwrap().etcd_delay = BOOT;
    cluster.reset("cp-2", &wiped(false), START).unwrap();
    let now = pass(&mut cluster, START, BOOT * 3);
    cluster.reset("cp-2", &wiped(false), now).unwrap();
    let now = pass(&mut cluster, now, BOOT + BOOT / 2);
    assert_eq!(cluster.bootstrap("cp-2", Bootstrap::New, now).unwrap_err().code, Code::FailedPrecondition);
    cluster.etcd_mut().bootstrap("cp-2", Vec::new(), None);
    assert_eq!(cluster.etcd().splits(), 1);
    pass(&mut cluster, now, BOOT * 3);
    assert_eq!(voters(&cluster), [("cp-2", true)], "the others have data of another cluster");
}
