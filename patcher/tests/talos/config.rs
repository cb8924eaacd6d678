//! `config`, which needs no cluster but for `new`.

use crate::cluster::{Cluster, Run, ichorctl};

async fn run(dir: &tempfile::TempDir, args: &[&str]) -> Run {
    ichorctl(dir.path()).args(args).output().await.unwrap().into()
}

#[tokio::test]
async fn a_talosconfig_is_built_up_and_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.crt"), "pem").unwrap();
    assert_eq!(run(&dir, &["config", "add", "home", "--ca", "ca.crt"]).await.code, Some(0));
    assert_eq!(run(&dir, &["config", "add", "work"]).await.code, Some(0));
    assert_eq!(run(&dir, &["config", "use-context", "home"]).await.code, Some(0));
    assert_eq!(run(&dir, &["config", "endpoints", "10.0.0.2", "10.0.0.3"]).await.code, Some(0));
    assert_eq!(run(&dir, &["config", "node", "1", "2", "3", "4"]).await.code, Some(0));
    assert_eq!(run(&dir, &["config", "node", "5", "--context", "work"]).await.code, Some(0));
    assert_eq!(
        run(&dir, &["config", "contexts"]).await.stdout,
        "CURRENT   NAME   ENDPOINTS           NODES\n\
         *         home   10.0.0.2,10.0.0.3   1,2,3...\n          work                       5\n"
    );
    let shown = run(&dir, &["config", "contexts", "-o", "json"]).await.stdout;
    let json: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&json[0]["current"], &json[1]["nodes"][0]), (&true.into(), &"5".into()));

    assert_eq!(run(&dir, &["config", "proxy-url", "direct"]).await.code, Some(0));
    assert_eq!(run(&dir, &["config", "proxy-url"]).await.stdout, "direct\n");

    let removed = run(&dir, &["config", "remove", "*", "-y"]).await;
    assert!(removed.stderr.contains("\"home\" is the current context and stays"), "{}", removed.stderr);
    assert!(removed.stderr.contains("removing context \"work\""), "{}", removed.stderr);
    assert_eq!(run(&dir, &["config", "contexts"]).await.stdout.lines().count(), 2);
}

#[tokio::test]
async fn merging_says_what_it_renamed() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run(&dir, &["config", "add", "home"]).await.code, Some(0));
    std::fs::write(dir.path().join("other"), "context: home\ncontexts: {home: {endpoints: [10.0.0.9]}}")
        .unwrap();
    let merged = run(&dir, &["config", "merge", "other"]).await;
    assert_eq!(merged.stderr, "renamed talosconfig context \"home\" -> \"home-1\"\n");
    let info = run(&dir, &["config", "info"]).await.stdout;
    assert!(info.contains("home-1") && info.contains("10.0.0.9"), "{info}");
}

#[tokio::test]
async fn what_is_missing_is_said_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let missing = run(&dir, &["config", "contexts"]).await;
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.starts_with("error: there is no talosconfig in any of /"), "{}", missing.stderr);
    let missing = run(&dir, &["config", "info", "--talosconfig", "gone"]).await;
    assert_eq!(missing.stderr, "error: there is no talosconfig at gone\n");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn info_shows_roles_and_the_life_of_the_certificate() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    let info = cluster.run(&["config", "info"]).await.stdout;
    assert!(
        info.contains("Roles:               os:admin\nCertificate expires: 22 hours from now ("),
        "{info}"
    );
}

#[tokio::test]
async fn a_new_talosconfig_gets_our_endpoints_and_never_replaces_a_file() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    let made =
        cluster.run(&["config", "new", "reader.yaml", "--roles", "os:reader", "--crt-ttl", "24h"]).await;
    assert_eq!(made, Run { code: Some(0), stdout: String::new(), stderr: String::new() });
    let text = std::fs::read_to_string(cluster.path("reader.yaml")).unwrap();
    assert!(text.contains(&cluster.server.endpoint()) && text.contains("ca: eA=="), "{text}");

    let again = cluster.run(&["config", "new", "reader.yaml"]).await;
    assert_eq!(again.code, Some(3));
    assert_eq!(again.stderr, "error: reader.yaml is there already\n  next: name another file\n");
    let unknown = cluster.run(&["config", "new", "x", "--roles", "os:root"]).await;
    assert_eq!(unknown.code, Some(2));
    assert_eq!(cluster.nodes[0].calls(), ["GenerateClientConfiguration"]);
}
