//! `get`.

use crate::cluster::Cluster;

const DEFINITION: &str = "\
type: MachineStatuses.runtime.talos.dev
displayType: MachineStatus
defaultNamespace: runtime
aliases: []
allAliases:
    - machinestatus
    - ms
printColumns:
    - name: Stage
      jsonPath: '{.stage}'
    - name: Ready
      jsonPath: '{.status.ready}'
";

const RUNNING: &str = "stage: running\nstatus:\n    ready: true\n    unmetConditions: []\n";
const BOOTING: &str = "stage: booting\nstatus:\n    ready: false\n    unmetConditions: []\n";

async fn cluster() -> Cluster {
    let cluster = Cluster::new(&["10.0.0.2", "10.0.0.3"]).await;
    for node in &cluster.nodes {
        node.set(
            "meta",
            "ResourceDefinitions.meta.cosi.dev",
            "machinestatuses.runtime.talos.dev",
            DEFINITION,
        );
        node.set("runtime", "MachineStatuses.runtime.talos.dev", "machine", RUNNING);
    }
    cluster
}

#[tokio::test]
async fn a_table_has_the_columns_of_the_type() {
    let run = cluster().await.run(&["get", "ms"]).await;
    assert_eq!(
        run.stdout,
        "NODE       NAMESPACE   TYPE            ID        VERSION   STAGE     READY\n\
         10.0.0.2   runtime     MachineStatus   machine   1         running   true\n\
         10.0.0.3   runtime     MachineStatus   machine   1         running   true\n"
    );
}

#[tokio::test]
async fn one_resource_is_printed_as_yaml_json_and_jsonpath() {
    let cluster = cluster().await;
    let run = cluster.run(&["get", "MachineStatus", "machine", "-o", "yaml"]).await;
    assert!(run.stdout.starts_with("node: 10.0.0.2\nmetadata:\n    namespace: runtime\n"), "{}", run.stdout);
    assert!(run.stdout.contains("\n---\nnode: 10.0.0.3\n"), "{}", run.stdout);
    assert!(
        run.stdout.contains("spec:\n    stage: running\n    status:\n        ready: true\n"),
        "{}",
        run.stdout
    );

    let run = cluster.run(&["-n", "10.0.0.2", "get", "ms", "machine", "-o", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&json["node"], &json["spec"]["stage"]), (&"10.0.0.2".into(), &"running".into()));

    let run = cluster.run(&["get", "ms", "-o", "jsonpath={.spec.stage}"]).await;
    assert_eq!(run.stdout, "running\nrunning\n");
}

#[tokio::test]
async fn what_is_not_there_is_told_apart() {
    let cluster = cluster().await;
    let run = cluster.run(&["-n", "10.0.0.2", "get", "ms", "nothing"]).await;
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.starts_with("error: Get on 10.0.0.2 failed: not found: "), "{}", run.stderr);

    let run = cluster.run(&["get", "machinestatsu"]).await;
    assert_eq!(run.code, Some(2));
    let error = "error: there is no resource type \"machinestatsu\"; did you mean \"machinestatus\"?\n";
    assert_eq!(run.stderr, error);
}

#[tokio::test]
async fn known_types_work_on_nodes_that_do_not_list_theirs() {
    let cluster = cluster().await;
    let denied = tonic::Status::permission_denied("not authorized");
    for node in &cluster.nodes {
        node.script.lock().unwrap().failures.insert("List", denied.clone());
    }
    let run = cluster.run(&["-n", "10.0.0.2", "get", "machinestatus", "machine"]).await;
    assert!(
        run.stdout.ends_with("10.0.0.2   runtime     MachineStatus   machine   1         running   true\n"),
        "{run:?}"
    );
}

#[tokio::test]
async fn a_watch_prints_what_is_there_and_what_changes() {
    let cluster = cluster().await;
    let mut running = cluster.start(&["-n", "10.0.0.2", "get", "ms", "-w"]);
    assert_eq!(
        running.line().await,
        "NODE       *   NAMESPACE   TYPE            ID        VERSION   STAGE     READY"
    );
    assert_eq!(
        running.line().await,
        "10.0.0.2   +   runtime     MachineStatus   machine   1         running   true"
    );
    cluster.nodes[0].set("runtime", "MachineStatuses.runtime.talos.dev", "machine", BOOTING);
    assert_eq!(
        running.line().await,
        "10.0.0.2       runtime     MachineStatus   machine   2         booting   false"
    );
    cluster.nodes[0].remove("machine");
    assert_eq!(
        running.line().await,
        "10.0.0.2   -   runtime     MachineStatus   machine   2         booting   false"
    );
    assert_eq!(running.interrupt().await, Some(130));
}

#[tokio::test]
async fn a_watch_of_one_resource_prints_documents_with_events() {
    let cluster = cluster().await;
    let mut running =
        cluster.start(&["-n", "10.0.0.2", "get", "ms", "machine", "-w", "-o", "jsonpath={.event}"]);
    assert_eq!(running.line().await, "created");
    cluster.nodes[0].set("runtime", "MachineStatuses.runtime.talos.dev", "machine", BOOTING);
    assert_eq!(running.line().await, "updated");
}

#[tokio::test]
async fn a_watch_that_errs_starts_again_and_prints_the_difference() {
    let cluster = cluster().await;
    // The greeting and the initial contents, then an overrun.
    cluster.nodes[0].script.lock().unwrap().watch_limit = Some(2);
    let mut running =
        cluster.start(&["-n", "10.0.0.2", "get", "ms", "-w", "-o", "jsonpath={.event} {.spec.stage}"]);
    assert_eq!([running.line().await, running.line().await], ["created", "running"]);
    while cluster.nodes[0].calls().iter().filter(|call| **call == "Watch").count() < 2 {
        tokio::task::yield_now().await;
    }
    cluster.nodes[0].set("runtime", "MachineStatuses.runtime.talos.dev", "machine", BOOTING);
    assert_eq!([running.line().await, running.line().await], ["updated", "booting"]);
}
