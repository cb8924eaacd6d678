//! `etcd`, and above all its snapshots.

use ichor_proto::talos::machine::{EtcdMember, EtcdMemberAlarm, EtcdMemberStatus};
use tonic::Status;

use crate::cluster::Cluster;

/// The size of a large snapshot.
const LARGE_MIB: usize = 160;

#[tokio::test]
async fn members_and_status_are_printed_with_hexadecimal_ids() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    {
        let mut script = cluster.nodes[0].script.lock().unwrap();
        script.etcd_members = vec![EtcdMember {
            id: 0xdead_beef,
            hostname: "cp-1".into(),
            peer_urls: vec!["https://10.0.0.2:2380".into()],
            client_urls: vec!["https://10.0.0.2:2379".into()],
            is_learner: false,
        }];
        script.etcd_status = EtcdMemberStatus {
            member_id: 0xdead_beef,
            leader: 1,
            db_size: 20_000_000,
            db_size_in_use: 5_000_000,
            raft_index: 10,
            raft_term: 2,
            raft_applied_index: 9,
            protocol_version: "3.6.5".into(),
            storage_version: "3.6.0".into(),
            errors: vec!["memberID:1 alarm:NOSPACE".into()],
            is_learner: false,
        };
    }
    assert_eq!(
        cluster.run(&["etcd", "members"]).await.stdout,
        "NODE       ID                 HOSTNAME   PEER URLS               CLIENT URLS             LEARNER\n\
         10.0.0.2   00000000deadbeef   cp-1       https://10.0.0.2:2380   https://10.0.0.2:2379   false\n"
    );
    let status = cluster.run(&["etcd", "status"]).await.stdout;
    assert!(status.lines().nth(1).unwrap().starts_with(
        "10.0.0.2   00000000deadbeef   20 MB     5.0 MB (25.00%)   0000000000000001   10           2           9"
    ));
    let json = cluster.run(&["etcd", "status", "-o", "json"]).await.stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json[0]["leader"], &json[0]["db_size"]), (&"0000000000000001".into(), &20_000_000.into()));
}

#[tokio::test]
async fn alarms_are_listed_and_disarmed() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    cluster.nodes[0].script.lock().unwrap().etcd_alarms = vec![EtcdMemberAlarm { member_id: 7, alarm: 1 }];
    let table = "NODE       MEMBER             ALARM\n10.0.0.2   0000000000000007   NOSPACE\n";
    assert_eq!(cluster.run(&["etcd", "alarm", "list"]).await.stdout, table);
    assert_eq!(cluster.run(&["etcd", "alarm", "disarm"]).await.stdout, table);
    assert_eq!(cluster.run(&["etcd", "alarm", "list"]).await.stdout, "NODE   MEMBER   ALARM\n");
}

#[tokio::test]
async fn members_are_changed_through_one_node_at_a_time() {
    let cluster = Cluster::new(&["10.0.0.2", "10.0.0.3"]).await;
    for command in [&["defrag"][..], &["leave"], &["remove-member", "01"], &["snapshot", "x"]] {
        let args: Vec<&str> = std::iter::once("etcd").chain(command.iter().copied()).collect();
        assert_eq!(cluster.run(&args).await.code, Some(2), "{command:?}");
    }
    assert!(cluster.nodes[0].calls().is_empty());

    cluster.nodes[0].script.lock().unwrap().etcd_members = vec![EtcdMember { id: 1, ..Default::default() }];
    assert_eq!(cluster.run(&["-n", "10.0.0.2", "etcd", "remove-member", "01"]).await.code, Some(0));
    let gone = cluster.run(&["-n", "10.0.0.2", "etcd", "remove-member", "01"]).await;
    assert_eq!(
        gone.stderr,
        "error: EtcdRemoveMemberByID on 10.0.0.2 failed: not found: etcdserver: member not found\n"
    );
    assert_eq!(cluster.run(&["-n", "10.0.0.2", "etcd", "defrag"]).await.code, Some(0));
    assert_eq!(cluster.run(&["-n", "10.0.0.2", "etcd", "leave"]).await.code, Some(0));
    let lead = cluster.run(&["-n", "10.0.0.2", "etcd", "forfeit-leadership"]).await;
    assert_eq!(lead.stdout, "NODE       NEW LEADER\n10.0.0.2   cp-2\n");
}

#[tokio::test]
async fn a_whole_snapshot_is_saved_and_its_hash_printed() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    let whole = snapshot(5 << 20);
    cluster.nodes[0].script.lock().unwrap().snapshot = whole.clone();
    let run = cluster.run(&["etcd", "snapshot", "db.snapshot"]).await;
    let hash: String = whole[whole.len() - 32..].iter().map(|byte| format!("{byte:02x}")).collect();
    let shown = format!(
        "etcd snapshot saved to \"db.snapshot\" ({} bytes)\nhash       verified, sha256 {hash}\nrevision   24\n",
        whole.len()
    );
    assert_eq!((run.code, &*run.stderr), (Some(0), ""));
    assert!(run.stdout.starts_with(&shown), "{}", run.stdout);
    assert!(
        run.stdout.contains("2e1259d415f2a040   cp-1   http://127.0.0.1:23800   false"),
        "{}",
        run.stdout
    );
    assert!(std::fs::read(cluster.path("db.snapshot")).unwrap() == whole);
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(cluster.path("db.snapshot")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Far more than the program may hold: its memory is bounded by the system (RLIMIT_DATA).
#[tokio::test]
async fn a_large_snapshot_is_saved_and_verified_with_little_memory() {
    const LIMIT_KIB: usize = 40 << 10;
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    let whole = snapshot(LARGE_MIB << 20);
    cluster.nodes[0].script.lock().unwrap().snapshot = whole.clone();
    let limited = |args: &[&str]| {
        let script = format!("ulimit -d {LIMIT_KIB} && exec \"$0\" \"$@\"");
        let mut command = tokio::process::Command::new("sh");
        command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_ichorctl")).args(args);
        command.env("TALOSCONFIG", cluster.path("talosconfig")).current_dir(cluster.dir.path()).output()
    };
    for args in [&["etcd", "snapshot", "db.snapshot"][..], &["etcd", "verify", "db.snapshot"]] {
        let output = limited(args).await.unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(std::fs::read(cluster.path("db.snapshot")).unwrap() == whole);
}

#[tokio::test]
async fn a_bad_snapshot_leaves_the_old_one_alone() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    std::fs::write(cluster.path("db.snapshot"), "yesterday").unwrap();
    let whole = snapshot(4096);
    let mut damaged = whole.clone();
    damaged[7] ^= 1;
    // Its hash is right, and its last two pages are missing.
    let mut cut = whole[..16384].to_vec();
    cut.extend_from_slice(ring::digest::digest(&ring::digest::SHA256, &cut).as_ref());
    for (bytes, reason) in [
        (damaged, "the snapshot is damaged: its hash does not match"),
        (
            cut,
            "the database in the snapshot is damaged: it is cut: its 6 pages of 4096 bytes are more than its 16384 bytes",
        ),
        (
            whole[..4096].to_vec(),
            "the snapshot has no hash at its end: 4096 bytes are not a multiple of 512 and 32 more",
        ),
        (vec![], "the node sent an empty snapshot"),
    ] {
        cluster.nodes[0].script.lock().unwrap().snapshot = bytes;
        let run = cluster.run(&["etcd", "snapshot", "db.snapshot"]).await;
        assert_eq!((run.code, run.stderr), (Some(1), format!("error: {reason}\n")));
        assert_untouched(&cluster);
    }
    cluster.nodes[0]
        .script
        .lock()
        .unwrap()
        .failures
        .insert("EtcdSnapshot", Status::unknown("etcdserver: no space"));
    let run = cluster.run(&["etcd", "snapshot", "db.snapshot"]).await;
    assert_eq!(
        run.stderr,
        "error: failed to take a snapshot: EtcdSnapshot on 10.0.0.2 failed: etcdserver: no space\n"
    );
    assert_untouched(&cluster);
    let run = cluster.run(&["etcd", "snapshot", "no/such/dir/db"]).await;
    assert_eq!(run.code, Some(1));
    assert_eq!(cluster.nodes[0].calls().len(), 5, "the node is not asked when there is nowhere to write");
}

#[tokio::test]
async fn a_snapshot_that_is_interrupted_leaves_nothing() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    cluster.nodes[0].script.lock().unwrap().delay = std::time::Duration::from_secs(600);
    std::fs::write(cluster.path("db.snapshot"), "yesterday").unwrap();
    let running = cluster.start(&["etcd", "snapshot", "db.snapshot"]);
    while cluster.nodes[0].calls().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(running.interrupt().await, Some(130));
    assert_untouched(&cluster);
}

fn assert_untouched(cluster: &Cluster) {
    assert_eq!(std::fs::read(cluster.path("db.snapshot")).unwrap(), b"yesterday");
    let mut names: Vec<_> = std::fs::read_dir(cluster.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["db.snapshot", "talosconfig"]);
}

/// A snapshot that etcd made, with so many unused bytes behind its last page, and its hash.
fn snapshot(unused: usize) -> Vec<u8> {
    let real = include_bytes!("../fixtures/etcd-3.4.snapshot");
    let mut database = real[..real.len() - 32].to_vec();
    database.resize(database.len() + unused, 0);
    let hash = ring::digest::digest(&ring::digest::SHA256, &database);
    database.extend_from_slice(hash.as_ref());
    database
}
