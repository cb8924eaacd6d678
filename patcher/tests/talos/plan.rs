//! `plan` and `apply`, from files and against nodes.

use std::path::Path;

use tokio::time::timeout;
use tonic::Status;

use crate::cluster::{Cluster, PATIENCE, Run, ichorctl};

const FILE: &str = "\
mesh: {name: home, range: 10.213.0.0/16}
sites:
  - {name: rack, lans: [192.168.1.0/24]}
nodes:
  - {name: cp-1, role: controlplane, site: rack, address: 10.213.0.1, api: 192.168.1.11, publicKey: hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=}
  - {name: w-1, role: worker, site: rack, address: 10.213.0.2, api: 192.168.1.12}
";

const CONTROL_PLANE: &str = include_str!("../../../tests/fixtures/plan/v1.13-controlplane.yaml");
const WORKER: &str = include_str!("../../../tests/fixtures/plan/v1.13-worker.yaml");

/// A cluster whose nodes have their configs, an address each, and what kubelet and etcd made of it.
async fn cluster() -> Cluster {
    let cluster = Cluster::new(&["192.168.1.11", "192.168.1.12"]).await;
    std::fs::write(cluster.path("ichor.yaml"), FILE).unwrap();
    let configs = [(CONTROL_PLANE, "192.168.1.11"), (WORKER, "192.168.1.12")];
    for (node, (config, address)) in cluster.nodes.iter().zip(configs) {
        node.set_config("v1alpha1", config);
        node.set_config("persistent", config);
        let status = format!("address: {address}/24\nlinkName: eth0\nscope: global\nfamily: inet4\n");
        node.set("network", "AddressStatuses.net.talos.dev", &format!("eth0/{address}/24"), &status);
        node.set(
            "network",
            "AddressStatuses.net.talos.dev",
            "lo/127.0.0.1/8",
            "address: 127.0.0.1/8\nscope: host\n",
        );
        let list = format!("addresses: [{address}]\n");
        node.set("k8s", "NodeIPs.kubernetes.talos.dev", "kubelet", &list);
        let etcd = format!("name: cp-1\nadvertisedAddresses: [{address}]\n");
        node.set("etcd", "EtcdSpecs.etcd.talos.dev", "etcd", &etcd);
    }
    cluster
}

async fn offline(home: &Path, args: &[&str]) -> Run {
    ichorctl(home).args(args).output().await.unwrap().into()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn files_are_planned_without_any_node_and_the_result_needs_no_plan() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    std::fs::write(path("ichor.yaml"), FILE).unwrap();
    std::fs::create_dir(path("nodes")).unwrap();
    std::fs::write(path("nodes/cp-1.yaml"), CONTROL_PLANE).unwrap();
    std::fs::write(path("nodes/w-1.yaml"), WORKER).unwrap();
    let base = ["plan", "--configs", "nodes"];
    let run = offline(
        home.path(),
        &[&base[..], &["-o", "planned", "--as-patches", "patches", "--exit-code"]].concat(),
    )
    .await;
    assert_eq!(run.code, Some(10), "{run:?}");
    assert!(
        run.stdout.contains("step 1 of 4: pin on cp-1 (Talos 1.13, mode no-reboot, no reboot; etcd 1 of 1"),
        "{}",
        run.stdout
    );
    assert!(run.stdout.contains("note: w-1: no publicKey yet"), "{}", run.stdout);
    assert_eq!(names(&path("planned")), ["cp-1.yaml", "w-1.yaml"]);
    assert_eq!(names(&path("patches")), ["cp-1.1.yaml", "w-1.1.yaml"]);

    let again = offline(home.path(), &["plan", "--configs", "planned", "--exit-code"]).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stdout.contains("nothing to do"), "{}", again.stdout);

    let json = offline(home.path(), &[&base[..], &["--output", "json"]].concat()).await;
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&json["steps"][0]["node"], &json["steps"][0]["mode"]), (&"cp-1".into(), &"no-reboot".into()));
    assert_eq!((&json["changes"], &json["steps"][3]["step"]), (&true.into(), &"mesh".into()));

    // What talosctl makes of the patches is what was planned.
    let patched = offline(
        home.path(),
        &[
            "mc",
            "patch",
            "nodes/cp-1.yaml",
            "-p",
            "@patches/cp-1.1.yaml",
            "--talos-version",
            "v1.13.0",
            "-o",
            "patched/cp-1.yaml",
        ],
    )
    .await;
    assert_eq!(patched.code, Some(0), "{patched:?}");
    std::fs::copy(path("planned/w-1.yaml"), path("patched/w-1.yaml")).unwrap();
    let last = offline(home.path(), &["plan", "--configs", "patched", "--exit-code"]).await;
    assert_eq!(last.code, Some(0), "{last:?}");
}

#[tokio::test]
async fn bad_files_and_dangers_have_their_own_exit_codes_and_write_nothing() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    std::fs::create_dir(path("nodes")).unwrap();
    std::fs::write(path("nodes/cp-1.yaml"), CONTROL_PLANE).unwrap();
    let args = ["plan", "--configs", "nodes", "-o", "planned"];
    let absent = offline(home.path(), &args).await;
    assert_eq!(absent.code, Some(1), "{absent:?}");
    std::fs::write(path("ichor.yaml"), FILE.replace("range:", "rnage:")).unwrap();
    let misspelt = offline(home.path(), &args).await;
    assert_eq!(misspelt.code, Some(2), "{misspelt:?}");
    assert!(
        misspelt.stderr.contains("ichor.yaml: line 1: mesh.rnage: unknown key; did you mean `range`?"),
        "{}",
        misspelt.stderr
    );
    std::fs::write(path("ichor.yaml"), FILE).unwrap();
    let refused = offline(home.path(), &args).await;
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.stderr.contains("error: refused: w-1: ichor.yaml lists w-1 on line 6, but there is no machine config of it\n  next: "), "{}", refused.stderr);
    std::fs::write(path("nodes/w-1.yaml"), "machine: [").unwrap();
    let broken = offline(home.path(), &args).await;
    assert_eq!(broken.code, Some(1), "{broken:?}");
    assert!(broken.stderr.contains("failed to read the machine config of w-1"), "{}", broken.stderr);
    assert!(!path("planned").exists());
}

#[tokio::test]
async fn the_schema_is_printed_without_a_file() {
    let home = tempfile::tempdir().unwrap();
    let run = offline(home.path(), &["plan", "--schema"]).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    let schema: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(schema["properties"]["mesh"]["properties"]["port"]["maximum"], 65535);
}

#[tokio::test]
async fn nothing_is_changed_when_a_node_is_unknown_pending_or_in_danger() {
    let cluster = cluster().await;
    cluster.nodes[1].set_config(
        "persistent",
        &format!("{WORKER}# staged\n").replace("type: worker", "type:  controlplane"),
    );
    let pending = cluster.run(&["apply", "--no-lock"]).await;
    assert_eq!(pending.code, Some(3), "{pending:?}");
    assert!(pending.stderr.contains("the config on the disk is another one"), "{}", pending.stderr);
    cluster.nodes[1].set_config("persistent", WORKER);

    let moved = "addresses: [172.16.0.9]\n";
    cluster.nodes[1].set("k8s", "NodeIPs.kubernetes.talos.dev", "kubelet", moved);
    let elsewhere = cluster.run(&["apply", "--no-lock"]).await;
    assert_eq!(elsewhere.code, Some(3), "{elsewhere:?}");
    assert!(
        elsewhere.stderr.contains("kubelet uses 172.16.0.9 today, but the LANs of rack"),
        "{}",
        elsewhere.stderr
    );

    cluster.nodes[1].script.lock().unwrap().failure = Some(Status::unavailable("gone"));
    let gone = cluster.run(&["apply", "--no-lock"]).await;
    assert_eq!(gone.code, Some(5), "{gone:?}");
    assert!(gone.stderr.contains("nothing was changed"), "{}", gone.stderr);
    for node in &cluster.nodes {
        assert!(node.applied().is_empty());
    }
}

#[tokio::test]
async fn a_plan_reads_fifty_nodes_side_by_side_while_one_holds_its_answer() {
    let names: Vec<String> = (1..=50).map(|host| format!("192.168.1.{host}")).collect();
    let cluster = Cluster::new(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut file = FILE.split_once("  - {name: cp-1").unwrap().0.to_owned();
    for (index, (name, node)) in names.iter().zip(&cluster.nodes).enumerate() {
        node.set_config("v1alpha1", WORKER);
        node.set_config("persistent", WORKER);
        let address = format!("10.213.0.{}", index + 1);
        file.push_str(&format!(
            "  - {{name: w-{index}, role: worker, site: rack, address: {address}, api: {name}}}\n"
        ));
    }
    std::fs::write(cluster.path("ichor.yaml"), file).unwrap();
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    cluster.nodes[7].script.lock().unwrap().gate = Some(gate.clone());
    let running = cluster.command(&["plan"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    // Its version, both configs, its addresses, what kubelet made of them, its links and its extensions.
    for node in cluster.nodes.iter().enumerate().filter(|(index, _)| *index != 7).map(|(_, node)| node) {
        timeout(PATIENCE, node.until_asked(7)).await.expect("the others are not delayed");
    }
    assert_eq!(cluster.nodes[7].calls(), ["Version"], "it is still held");
    gate.add_permits(100);
    let run: Run =
        timeout(PATIENCE, running.wait_with_output()).await.expect("an end in time").unwrap().into();
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains(" on w-7 ") && run.stdout.contains(" on w-49 "), "{}", run.stdout);
}
