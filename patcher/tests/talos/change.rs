//! `patch` and `apply-config`: changes of machine configs.

use ichor_proto::talos::machine::apply_configuration_request::Mode;
use tonic::Status;

use crate::cluster::{Cluster, ichorctl};
use crate::node::{Node, Script};
use crate::pki::{self, Pki};
use crate::server::Server;

/// A config with comments, which must survive, and a secret, which must not be shown.
pub(crate) const CONFIG: &str = "version: v1alpha1 # kept\nmachine:\n  type: worker\n  token: abcdef.0123456789abcdef\n  \
                                 certSANs:\n    - a.example.com\ncluster:\n  controlPlane:\n    \
                                 endpoint: https://10.0.0.2:6443\n";

const PATCH: &str = "machine: {certSANs: [b.example.com]}";

pub(crate) async fn cluster(names: &[&str]) -> Cluster {
    let cluster = Cluster::new(names).await;
    for node in &cluster.nodes {
        node.set_config("v1alpha1", CONFIG);
        node.set_config("persistent", CONFIG);
    }
    cluster
}

fn san_count(node: &Node, id: &str) -> usize {
    node.config(id).matches(".example.com").count()
}

#[tokio::test]
async fn a_dry_run_prints_a_diff_without_secrets_and_changes_nothing() {
    let cluster = cluster(&["10.0.0.2"]).await;
    let secret = "machine: {certSANs: [b.example.com], token: new111.0123456789abcdef}";
    let run = cluster.run(&["patch", "mc", "-p", secret, "--dry-run"]).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.starts_with("--- 10.0.0.2/current\n+++ 10.0.0.2/new\n@@ "), "{}", run.stdout);
    assert!(run.stdout.contains("+    - b.example.com\n") && run.stdout.contains("-  token: ***"));
    assert!(!run.stdout.contains("0123456789abcdef") && !run.stderr.contains("0123456789abcdef"), "{run:?}");
    assert!(run.stderr.contains("10.0.0.2: dry run, nothing was changed (mode auto)"), "{}", run.stderr);
    assert!(cluster.nodes[0].applied().is_empty());
    assert_eq!(cluster.nodes[0].config("v1alpha1"), CONFIG);
}

#[tokio::test]
async fn patches_of_all_kinds_are_applied_and_the_result_is_proven() {
    let cluster = cluster(&["10.0.0.2"]).await;
    std::fs::write(cluster.path("a.yaml"), PATCH).unwrap();
    let json = r#"[{"op": "add", "path": "/machine/nodeLabels", "value": {"site": "home"}}]"#;
    let args = ["patch", "MachineConfig", "-p", "@a.yaml", "--patch", json, "--patch-file", "a.yaml"];
    let run = cluster.run(&[&args[..], &["--mode", "no-reboot"]].concat()).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(
        run.stderr,
        "10.0.0.2: warning: a field is deprecated\n10.0.0.2: applied (mode no-reboot)\n\
         10.0.0.2: Applied configuration without a reboot\n"
    );
    let sent = cluster.nodes[0].applied();
    assert_eq!((sent.len(), sent[0].mode()), (1, Mode::NoReboot));
    let config = cluster.nodes[0].config("persistent");
    assert!(config.contains("# kept") && config.contains("site: home"), "{config}");
    assert_eq!(san_count(&cluster.nodes[0], "v1alpha1"), 3, "lists are appended to, as talosctl does it");
    let json = cluster.run(&["patch", "mc", "-p", "machine: {type: worker}", "-o", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&json["node"], &json["changed"]), (&"10.0.0.2".into(), &false.into()));
    assert_eq!(cluster.nodes[0].applied().len(), 1, "what changes nothing is not sent");
}

#[tokio::test]
async fn a_trial_is_kept_by_the_same_command_in_another_mode() {
    let cluster = cluster(&["10.0.0.2"]).await;
    let run = cluster.run(&["patch", "mc", "-p", PATCH, "--mode", "try", "--timeout", "90s"]).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("on trial for 1m30s; keep it with the same command"), "{}", run.stderr);
    let sent = cluster.nodes[0].applied();
    assert_eq!(sent[0].try_mode_timeout.map(|timeout| timeout.seconds), Some(90));
    assert_eq!(cluster.nodes[0].config("persistent"), CONFIG);

    let other = cluster.run(&["patch", "mc", "-p", "machine: {certSANs: [c.example.com]}"]).await;
    assert_eq!(other.code, Some(3), "{other:?}");
    assert!(other.stderr.contains("10.0.0.2 has a config on trial"), "{}", other.stderr);
    assert!(other.stderr.contains("  next: wait for its end, or go over it"), "{}", other.stderr);
    assert_eq!(cluster.nodes[0].applied().len(), 1);

    let kept = cluster.run(&["patch", "mc", "-p", PATCH, "--mode", "no-reboot"]).await;
    assert_eq!(kept.code, Some(0), "{kept:?}");
    let node = &cluster.nodes[0];
    assert_eq!((san_count(node, "v1alpha1"), san_count(node, "persistent")), (2, 2));
}

#[tokio::test]
async fn staged_changes_add_up_and_are_not_dropped_unasked() {
    let cluster = cluster(&["10.0.0.2"]).await;
    for patch in [PATCH, "machine: {certSANs: [c.example.com]}"] {
        assert_eq!(cluster.run(&["patch", "mc", "-p", patch, "--mode", "staged"]).await.code, Some(0));
    }
    let node = &cluster.nodes[0];
    assert_eq!((san_count(node, "v1alpha1"), san_count(node, "persistent")), (1, 3));
    let refused = cluster.run(&["patch", "mc", "-p", PATCH]).await;
    assert_eq!(refused.code, Some(3));
    assert!(refused.stderr.contains("10.0.0.2 has a staged config"), "{}", refused.stderr);
    let forced = cluster.run(&["patch", "mc", "-p", PATCH, "--force-pending"]).await;
    assert_eq!(forced.code, Some(0), "{forced:?}");
    assert_eq!(san_count(node, "persistent"), 2);
}

#[tokio::test]
async fn a_config_that_somebody_else_changes_meanwhile_is_left_alone() {
    let cluster = cluster(&["10.0.0.2"]).await;
    let theirs = CONFIG.replace("a.example.com", "theirs.example.com");
    cluster.nodes[0].script.lock().unwrap().config_after_dry_run = Some(theirs.clone());
    let run = cluster.run(&["patch", "mc", "-p", PATCH]).await;
    assert_eq!(run.code, Some(3));
    assert_eq!(
        run.stderr,
        "error: 10.0.0.2: the machine config of 10.0.0.2 was changed by somebody else meanwhile: nothing was sent\n  \
         next: look at the config again, and repeat the command\n"
    );
    assert_eq!(cluster.nodes[0].config("persistent"), theirs);
}

#[tokio::test]
async fn a_node_that_dies_before_during_or_after_the_change_is_told_apart() {
    let away = Status::unavailable("dial tcp 10.0.0.2:50000: i/o timeout");
    // Version, two configs, and the same two again; then the call that changes; then both configs.
    let run_until = async |calls, status| {
        let cluster = cluster(&["10.0.0.2"]).await;
        cluster.nodes[0].script.lock().unwrap().dies_after = Some((calls, status));
        let run = cluster.run(&["patch", "mc", "-p", PATCH, "--mode", "no-reboot"]).await;
        (run, cluster.nodes[0].applied().len())
    };
    let (run, sent) = run_until(3, away.clone()).await;
    assert_eq!((run.code, sent), (Some(1), 0), "{run:?}");
    assert!(run.stderr.contains("again before changing it; nothing was sent: Get on 10.0.0.2 failed: "));
    assert!(run.stderr.contains("  next: check that the node is up"), "{}", run.stderr);

    let (run, _) = run_until(5, away).await;
    assert_eq!(run.code, Some(4), "{run:?}");
    assert!(run.stderr.contains("failed to apply the machine config of 10.0.0.2: ApplyConfiguration on"));
    assert!(run.stderr.contains("  next: see what the node has now"), "{}", run.stderr);

    let (run, _) = run_until(6, Status::permission_denied("not authorized")).await;
    assert_eq!(run.code, Some(4), "{run:?}");
    assert!(run.stderr.contains("10.0.0.2 accepted the machine config, but reading it back failed"));

    let (run, sent) = run_until(5, Status::invalid_argument("unknown keys found")).await;
    assert_eq!((run.code, sent), (Some(1), 0), "{run:?}");
    assert!(run.stderr.contains("refused as invalid: unknown keys found"), "{}", run.stderr);
}

#[tokio::test]
async fn what_fails_on_one_node_does_not_reach_the_next() {
    let cluster = cluster(&["10.0.0.2", "10.0.0.3", "10.0.0.4"]).await;
    cluster.nodes[1].script.lock().unwrap().failure = Some(Status::permission_denied("not authorized"));
    let run = cluster.run(&["patch", "mc", "-p", PATCH]).await;
    assert_eq!(run.code, Some(5));
    assert!(run.stderr.ends_with("not tried after this failure: 10.0.0.4\n"), "{}", run.stderr);
    assert_eq!((cluster.nodes[0].applied().len(), cluster.nodes[2].calls().len()), (1, 0));
}

#[tokio::test]
async fn versions_that_are_not_known_are_not_changed() {
    let cluster = cluster(&["10.0.0.2"]).await;
    for (tag, says) in [("v1.15.2", "--allow-unknown-talos"), ("v1.9.0", "whose rules are not known")] {
        cluster.nodes[0].script.lock().unwrap().tag = tag.into();
        let run = cluster.run(&["patch", "mc", "-p", PATCH]).await;
        assert_eq!(run.code, Some(3), "{run:?}");
        assert!(run.stderr.contains(says), "{}", run.stderr);
    }
    assert!(cluster.nodes[0].applied().is_empty());
    cluster.nodes[0].script.lock().unwrap().tag = "v1.15.2".into();
    assert_eq!(cluster.run(&["patch", "mc", "-p", PATCH, "--allow-unknown-talos"]).await.code, Some(0));
}

#[tokio::test]
async fn a_bad_patch_is_refused_before_anything_is_sent() {
    let cluster = cluster(&["10.0.0.2"]).await;
    let run = cluster.run(&["patch", "mc", "-p", "machine: {nonsense: 1}"]).await;
    assert_eq!(run.code, Some(1));
    assert!(
        run.stderr.contains("failed to load patch 1 of the command line: ")
            && run.stderr.contains("nonsense"),
        "{run:?}"
    );
    let run = cluster.run(&["patch", "mc", "-p", "@gone.yaml"]).await;
    assert!(run.code == Some(1) && run.stderr.contains("gone.yaml"), "{run:?}");
    let run = cluster.run(&["patch", "mc"]).await;
    assert_eq!(run.code, Some(2));
    assert!(cluster.nodes[0].applied().is_empty());
}

#[tokio::test]
async fn a_config_from_a_file_is_patched_and_goes_to_all_nodes() {
    let cluster = cluster(&["10.0.0.2", "10.0.0.3"]).await;
    std::fs::write(cluster.path("worker.yaml"), CONFIG).unwrap();
    let run = cluster.run(&["apply-config", "-f", "worker.yaml", "-p", PATCH, "-m", "staged"]).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    for node in &cluster.nodes {
        assert_eq!((san_count(node, "persistent"), node.applied()[0].mode()), (2, Mode::Staged));
    }
    std::fs::write(cluster.path("empty.yaml"), "\n").unwrap();
    assert_eq!(cluster.run(&["apply-config", "-f", "empty.yaml"]).await.code, Some(2));
    assert_eq!(cluster.run(&["apply-config", "-f", "gone.yaml"]).await.code, Some(1));
}

#[tokio::test]
async fn a_node_in_maintenance_mode_gets_its_first_config_and_nothing_of_ours() {
    let pki = Pki::new();
    let identity = pki.server(&["maintenance-service.talos.dev"]);
    let node = Node::new(Script::default());
    let server = Server::start(pki::maintenance(&identity), node.clone()).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("worker.yaml"), CONFIG).unwrap();
    let endpoint = server.endpoint();
    let run = async |fingerprint: &str, more: &[&str]| {
        let args = ["-n", &endpoint, "apply-config", "-f", "worker.yaml", "--insecure"];
        let mut command = ichorctl(dir.path());
        command.args(args).args(["--cert-fingerprint", fingerprint]).args(more);
        crate::cluster::Run::from(command.output().await.unwrap())
    };
    let refused = run(&pki.server(&["x"]).fingerprint(), &[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("fingerprint") && node.calls().is_empty(), "{refused:?}");

    let applied = run(&identity.fingerprint(), &[]).await;
    assert_eq!(applied.code, Some(0), "{applied:?}");
    assert_eq!((node.config("persistent").as_str(), node.calls().len()), (CONFIG, 2));

    let silent = Status::unimplemented("Version is not implemented in maintenance mode");
    node.script.lock().unwrap().failures.insert("Version", silent);
    let unknown = run(&identity.fingerprint(), &["-p", PATCH]).await;
    assert!(unknown.code == Some(1) && unknown.stderr.contains("--talos-version"), "{unknown:?}");
    let known = run(&identity.fingerprint(), &["-p", PATCH, "--talos-version", "v1.12.1"]).await;
    assert_eq!(known.code, Some(0), "{known:?}");
    assert_eq!(san_count(&node, "persistent"), 2);
}
