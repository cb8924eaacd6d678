//! Bad input and nodes that misbehave: what is said, what is left behind, and with which code it ends.

use std::sync::Arc;

use time::{Duration, OffsetDateTime};
use tokio::sync::Semaphore;

use crate::cluster::{Cluster, Run};
use crate::pki::Pki;

async fn with_talosconfig(cluster: &Cluster, text: impl AsRef<[u8]>, args: &[&str]) -> Run {
    std::fs::write(cluster.path("talosconfig"), text).unwrap();
    cluster.run(args).await
}

#[tokio::test]
async fn a_damaged_talosconfig_is_named_and_stays_as_it_is() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    let whole = std::fs::read(cluster.path("talosconfig")).unwrap();
    // Cut after every eighth of it, which is inside each of its parts at least once.
    for part in 1..8 {
        let cut = &whole[..whole.len() * part / 8];
        let run = with_talosconfig(&cluster, cut, &["version"]).await;
        assert!(matches!(run.code, Some(1 | 2)), "{part}: {run:?}");
        assert!(run.stderr.starts_with("error: ") && !run.stderr.contains("panicked"), "{part}: {run:?}");
        let endpoint = with_talosconfig(&cluster, cut, &["config", "endpoint", "10.0.0.9"]).await;
        if endpoint.code != Some(0) {
            assert_eq!(std::fs::read(cluster.path("talosconfig")).unwrap(), cut, "half-written");
        }
    }
    let garbage: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let huge = vec![b'#'; 100 << 20];
    for bad in [garbage, huge, b"context: a\ncontexts: {a: {ca: '!', crt: '', key: ''}}".to_vec()] {
        let run = with_talosconfig(&cluster, &bad, &["-e", "127.0.0.1", "-n", "x", "version"]).await;
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        assert!(run.stderr.starts_with("error: ") && run.stderr.contains("talosconfig"), "{}", run.stderr);
        assert!(run.stderr.len() < 1000, "an error, not the file");
    }
    assert!(cluster.nodes[0].calls().is_empty());
}

#[tokio::test]
async fn strangers_and_expired_certificates_are_told_with_what_to_do() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    let endpoints = [cluster.server.endpoint()];
    let stranger = Pki::new().talosconfig(&endpoints, &["10.0.0.2"]);
    let run = with_talosconfig(&cluster, stranger, &["version"]).await;
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("Version on 10.0.0.2 failed: "), "{}", run.stderr);
    assert!(run.stderr.contains("  next: the talosconfig is of another cluster"), "{}", run.stderr);

    let pki = Pki::new();
    let old = pki.client_from("os:admin", OffsetDateTime::now_utc() - Duration::days(3));
    let node = crate::node::Node::new(crate::node::Script::default());
    let server = crate::server::Server::start(pki.apid(&pki.server(&["127.0.0.1"])), node).await;
    let expired = pki.talosconfig_for(&old, &[server.endpoint()], &["10.0.0.2"]);
    let run = with_talosconfig(&cluster, expired, &["version"]).await;
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("  next: the client certificate is expired"), "{}", run.stderr);
}

#[tokio::test]
async fn an_unreachable_node_is_named_with_its_call() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    let run = cluster.run(&["-n", "10.9.9.9,10.0.0.2", "services"]).await;
    assert_eq!(run.code, Some(5), "{run:?}");
    assert!(
        run.stderr.contains("error: ServiceList on 10.9.9.9 failed: the node is not available"),
        "{run:?}"
    );
    assert!(run.stderr.contains("  next: check that the node is up"), "{run:?}");

    let gone = cluster.server.endpoint();
    let Cluster { server, dir, .. } = cluster;
    server.stop().await;
    let mut command = crate::cluster::ichorctl(dir.path());
    command.env("TALOSCONFIG", dir.path().join("talosconfig")).arg("services");
    let run = Run::from(command.output().await.unwrap());
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains(&gone) && run.stderr.contains("  next: check the endpoints"), "{run:?}");
}

#[tokio::test]
async fn one_slow_node_of_fifty_does_not_hold_up_the_others() {
    let names: Vec<String> = (1..=50).map(|host| format!("10.0.0.{host}")).collect();
    let cluster = Cluster::new(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let gate = Arc::new(Semaphore::new(0));
    for (index, node) in cluster.nodes.iter().enumerate() {
        let mut script = node.script.lock().unwrap();
        script.dmesg = vec![format!("hello from {index}\n").into_bytes()];
        script.gate = (index == 7).then(|| gate.clone());
    }
    let mut running = cluster.start(&["dmesg"]);
    let mut seen = Vec::new();
    for _ in 1..50 {
        seen.push(running.line().await);
    }
    assert!(!seen.iter().any(|line| line.ends_with("hello from 7")), "it is still held");
    gate.add_permits(1);
    assert_eq!(running.line().await, "10.0.0.8: hello from 7");
    assert_eq!(running.child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn rows_of_a_table_do_not_wait_for_a_slow_node_either() {
    let names: Vec<String> = (1..=50).map(|host| format!("10.0.0.{host}")).collect();
    let cluster = Cluster::new(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let gate = Arc::new(Semaphore::new(0));
    for node in &cluster.nodes {
        let service = ichor_proto::talos::machine::ServiceInfo { id: "etcd".into(), ..Default::default() };
        node.script.lock().unwrap().services = vec![service];
    }
    cluster.nodes[0].script.lock().unwrap().gate = Some(gate.clone());
    let mut running = cluster.start(&["services"]);
    let head = running.line().await;
    assert!(head.starts_with("NODE"), "{head}");
    for _ in 1..50 {
        assert!(!running.line().await.starts_with("10.0.0.1 "));
    }
    gate.add_permits(1);
    assert!(running.line().await.starts_with("10.0.0.1 "));
}
