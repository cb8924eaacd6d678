//! `kubeconfig` and `health`.

use std::io::Write as _;

use ichor_proto::talos::machine::{EtcdMember, ServiceHealth, ServiceInfo};
use tonic::Status;

use crate::cluster::Cluster;

const KUBECONFIG: &str = "\
apiVersion: v1
kind: Config
clusters:
- name: home
  cluster:
    server: https://10.0.0.2:6443
users:
- name: admin@home
  user:
    token: secret
contexts:
- name: admin@home
  context:
    cluster: home
    user: admin@home
current-context: admin@home
";

#[tokio::test]
async fn a_kubeconfig_is_written_printed_and_merged() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    cluster.nodes[0].script.lock().unwrap().kubeconfig = archive(KUBECONFIG);

    assert_eq!(cluster.run(&["kubeconfig", "--merge=false", "-"]).await.stdout, KUBECONFIG);

    assert_eq!(cluster.run(&["kubeconfig", "--merge=false"]).await.code, Some(0));
    assert_eq!(std::fs::read_to_string(cluster.path("kubeconfig")).unwrap(), KUBECONFIG);

    let refused = cluster.run(&["kubeconfig", "--merge=false"]).await;
    assert_eq!(
        (refused.code, refused.stderr.lines().next()),
        (Some(3), Some("error: ./kubeconfig is there already"))
    );
    assert_eq!(cluster.run(&["kubeconfig", "--merge=false", "--force"]).await.code, Some(0));

    assert_eq!(cluster.run(&["kubeconfig"]).await.code, Some(0));
    let merged = std::fs::read_to_string(cluster.path(".kube/config")).unwrap();
    assert_eq!(merged, KUBECONFIG);

    let other = KUBECONFIG.replace("secret", "other");
    cluster.nodes[0].script.lock().unwrap().kubeconfig = archive(&other);
    let run = cluster.run(&["kubeconfig"]).await;
    assert_eq!(
        run.stderr,
        "renamed auth info \"admin@home\" -> \"admin@home-1\"\nrenamed context \"admin@home\" -> \"admin@home-1\"\n"
    );
    let merged = std::fs::read_to_string(cluster.path(".kube/config")).unwrap();
    assert!(merged.contains("current-context: admin@home-1") && merged.contains("token: secret"), "{merged}");
}

#[tokio::test]
async fn a_kubeconfig_that_does_not_arrive_changes_nothing() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    std::fs::write(cluster.path("kubeconfig"), "mine").unwrap();
    cluster.nodes[0].script.lock().unwrap().kubeconfig = b"garbage".to_vec();
    let run = cluster.run(&["kubeconfig", "kubeconfig"]).await;
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.starts_with("error: the archive with the kubeconfig is damaged: "), "{}", run.stderr);
    cluster.nodes[0].script.lock().unwrap().failure =
        Some(Status::unimplemented("kubeconfig is only available on control plane nodes"));
    let run = cluster.run(&["kubeconfig", "kubeconfig"]).await;
    assert!(
        run.stderr
            .starts_with("error: failed to get the kubeconfig: Kubeconfig on 10.0.0.2 failed: the node does")
    );
    assert!(run.stderr.contains("  next: check `ichorctl version`"), "{}", run.stderr);
    assert_eq!(std::fs::read_to_string(cluster.path("kubeconfig")).unwrap(), "mine");
}

#[tokio::test]
async fn the_server_checks_health_and_its_verdict_counts() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    cluster.nodes[0].script.lock().unwrap().health = vec!["waiting for etcd to be healthy: OK".into()];
    let run = cluster.run(&["health"]).await;
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), "waiting for etcd to be healthy: OK\n"));
    let failed = Status::unknown("1 error occurred: timeout");
    cluster.nodes[0].script.lock().unwrap().failures.insert("HealthCheck", failed);
    let run = cluster.run(&["health"]).await;
    assert_eq!(
        (run.code, run.stderr.as_str()),
        (Some(1), "error: HealthCheck on 10.0.0.2 failed: 1 error occurred: timeout\n")
    );
}

#[tokio::test]
async fn health_can_be_checked_from_here() {
    let cluster = healthy_cluster().await;
    let args = ["-n", "10.0.0.2", "health", "--server=false", "--wait-timeout", "1s", "-o", "json"];
    let run = cluster.run(&args).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    let outcomes: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let outcomes = outcomes.as_array().unwrap();
    assert!(
        outcomes.len() == 9 && outcomes.iter().all(|outcome| outcome["status"] == "passed"),
        "{}",
        run.stdout
    );
    assert!(
        run.stderr.contains("waiting for etcd members to be control plane nodes: OK\n"),
        "{}",
        run.stderr
    );

    cluster.nodes[1].script.lock().unwrap().memory_kib = 512 << 10;
    let run = cluster.run(&args[..6]).await;
    let error = "error: all nodes memory sizes: 10.0.0.3 has 512 MiB of memory, which is less than 874 MiB\n";
    assert!(run.code == Some(1) && run.stderr.ends_with(error), "{}", run.stderr);

    let stranger = EtcdMember {
        id: 2,
        hostname: "x".into(),
        peer_urls: vec!["https://10.9.9.9:2380".into()],
        ..Default::default()
    };
    cluster.nodes[0].script.lock().unwrap().etcd_members.push(stranger);
    let run = cluster.run(&args[..6]).await;
    assert_eq!(run.code, Some(1));
    let error =
        "error: etcd members to be control plane nodes: etcd member 10.9.9.9 is no control plane node\n";
    assert!(run.stderr.ends_with(error), "{}", run.stderr);
}

async fn healthy_cluster() -> Cluster {
    let cluster = Cluster::new(&["10.0.0.2", "10.0.0.3"]).await;
    for (node, name, kind) in [(0, "cp-1", "controlplane"), (1, "w-1", "worker")] {
        let address = ["10.0.0.2", "10.0.0.3"][node];
        let spec = format!("nodeId: x\naddresses:\n    - {address}\nhostname: {name}\nmachineType: {kind}\n");
        cluster.nodes[0].set("cluster", "Members.cluster.talos.dev", name, &spec);
        cluster.nodes[node].set(
            "runtime",
            "MachineStatuses.runtime.talos.dev",
            "machine",
            "stage: running\n",
        );
        let volume = format!("size: {}\n", 4u64 << 30);
        cluster.nodes[node].set("runtime", "VolumeStatuses.block.talos.dev", "EPHEMERAL", &volume);
    }
    let service = |id: &str| ServiceInfo {
        id: id.into(),
        state: "Running".into(),
        health: Some(ServiceHealth { healthy: true, ..Default::default() }),
        ..Default::default()
    };
    let mut script = cluster.nodes[0].script.lock().unwrap();
    script.services = vec![service("etcd"), service("kubelet")];
    script.etcd_members = vec![EtcdMember {
        id: 1,
        hostname: "cp-1".into(),
        peer_urls: vec!["https://10.0.0.2:2380".into()],
        ..Default::default()
    }];
    drop(script);
    cluster
}

fn archive(kubeconfig: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(kubeconfig.len() as u64);
    header.set_mode(0o600);
    builder.append_data(&mut header, "kubeconfig", kubeconfig.as_bytes()).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&builder.into_inner().unwrap()).unwrap();
    encoder.finish().unwrap()
}
