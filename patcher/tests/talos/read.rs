//! Commands that read.

use ichor_proto::talos::machine::{
    Event, PhaseEvent, ServiceEvent, ServiceEvents, ServiceHealth, ServiceInfo, TaskEvent,
};
use prost::Message as _;
use prost_types::Any;
use tonic::Status;

use crate::cluster::Cluster;

#[tokio::test]
async fn version_prints_this_program_and_every_node() {
    let cluster = Cluster::new(&["10.0.0.2", "10.0.0.3"]).await;
    let run = cluster.run(&["version"]).await;
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert!(run.stdout.starts_with("Client:\n\tTag:         v0.1.0\nServer:\n"), "{}", run.stdout);
    let node = "\tNODE:        10.0.0.3\n\tTag:         v1.13.9\n\tSHA:         0badc0de\n\tBuilt:       \n\
                \tGo version:  go1.26\n\tOS/Arch:     linux/amd64\n\tEnabled:     RBAC\n";
    assert!(run.stdout.contains(node), "{}", run.stdout);

    let run = cluster.run(&["version", "-n", "10.0.0.2", "-o", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&json["client"], &json["servers"][0]["tag"]), (&"0.1.0".into(), &"v1.13.9".into()));

    let run = cluster.run(&["version", "--client"]).await;
    assert_eq!(run.stdout, "Client:\n\tTag:         v0.1.0\n");
}

#[tokio::test]
async fn a_node_that_fails_is_named_and_the_others_are_printed() {
    let cluster = Cluster::new(&["10.0.0.2", "10.0.0.3"]).await;
    let run = cluster.run(&["-n", "10.0.0.2,10.0.0.9", "version", "--short"]).await;
    assert_eq!(run.code, Some(5));
    assert!(
        run.stdout.ends_with("Server:\n\tNODE:        10.0.0.2\n\tTag:         v1.13.9\n"),
        "{}",
        run.stdout
    );
    let error = "error: Version on 10.0.0.9 failed: the node is not available: connection error: desc = \"transport: \
                 Error while dialing: dial tcp 10.0.0.9:50000: i/o timeout\"\n  next: check that the node is up";
    assert!(run.stderr.starts_with(error), "{}", run.stderr);
}

#[tokio::test]
async fn when_all_nodes_fail_for_one_reason_it_is_said_once() {
    let cluster = Cluster::new(&["10.0.0.2", "10.0.0.3"]).await;
    for node in &cluster.nodes {
        node.script.lock().unwrap().failure = Some(Status::permission_denied("not authorized"));
    }
    let run = cluster.run(&["version"]).await;
    assert_eq!(run.code, Some(1));
    assert_eq!(
        run.stderr,
        "error: Version on 10.0.0.2, 10.0.0.3 failed: permission denied: not authorized\n  \
         next: the roles of the client certificate (`ichorctl config info`) do not allow this; \
         it needs a talosconfig with os:admin or another fitting role\n"
    );
}

#[tokio::test]
async fn services_are_listed_shown_and_restarted() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    let event = |msg: &str| ServiceEvent { msg: msg.into(), state: "Running".into(), ts: None };
    cluster.nodes[0].script.lock().unwrap().services = vec![
        ServiceInfo {
            id: "etcd".into(),
            state: "Running".into(),
            events: Some(ServiceEvents { events: vec![event("Starting"), event("Health check\x1b[0m ok")] }),
            health: Some(ServiceHealth { healthy: true, last_message: "fine".into(), ..Default::default() }),
        },
        ServiceInfo { id: "ext-ichor".into(), state: "Waiting".into(), ..Default::default() },
    ];
    let run = cluster.run(&["services"]).await;
    assert_eq!(
        run.stdout,
        "NODE       SERVICE     STATE     HEALTH   LAST CHANGE   LAST EVENT\n\
         10.0.0.2   etcd        Running   OK                     Health check\\u{1b}[0m ok\n\
         10.0.0.2   ext-ichor   Waiting   Fail                   <none>\n"
    );
    let run = cluster.run(&["service", "etcd"]).await;
    let shown = "NODE                  10.0.0.2\nID                    etcd\nSTATE                 Running\n\
                 HEALTH                OK\nLAST HEALTH MESSAGE   fine\nEVENTS                [Running]: Health check";
    assert!(run.stdout.starts_with(shown), "{}", run.stdout);
    let run = cluster.run(&["service", "nothing"]).await;
    assert_eq!(run.stderr, "error: service \"nothing\" is not registered on any of the nodes\n");

    let run = cluster.run(&["service", "ext-ichor", "restart"]).await;
    assert_eq!(run.stdout, "NODE       RESPONSE\n10.0.0.2   Service \"ext-ichor\" restarted\n");
    let run = cluster.run(&["service", "etcd", "restart"]).await;
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("doesn't support restart operation via API"), "{}", run.stderr);
}

#[tokio::test]
async fn logs_are_printed_by_lines_whatever_the_pieces() {
    let cluster = Cluster::new(&["10.0.0.2", "10.0.0.3"]).await;
    let pieces = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
    for node in &cluster.nodes {
        let logs = pieces(&["one\ntw", "o\n", "th", "ree"]);
        node.script.lock().unwrap().logs.insert("kubelet".into(), logs);
    }
    let run = cluster.run(&["logs", "kubelet", "-n", "10.0.0.2"]).await;
    assert_eq!(run.stdout, "10.0.0.2: one\n10.0.0.2: two\n10.0.0.2: three\n");
    let run = cluster.run(&["logs", "kubelet"]).await;
    assert_eq!(run.stdout.lines().filter(|line| line.starts_with("10.0.0.3: ")).count(), 3);
    let run = cluster.run(&["logs", "kubelet", "-n", "10.0.0.2", "--tail", "0"]).await;
    assert_eq!(run.stdout, "");
    let run = cluster.run(&["logs", "kubelet", "-n", "10.0.0.2", "-o", "json"]).await;
    assert!(run.stdout.starts_with("{\"node\":\"10.0.0.2\",\"line\":\"one\"}\n"), "{}", run.stdout);
    let run = cluster.run(&["logs", "nothing", "-n", "10.0.0.2"]).await;
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
}

#[tokio::test]
async fn following_ends_with_the_code_of_an_interrupt() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    cluster.nodes[0].script.lock().unwrap().logs.insert("etcd".into(), vec![b"up\n".to_vec()]);
    let mut running = cluster.start(&["logs", "-f", "etcd"]);
    assert_eq!(running.line().await, "10.0.0.2: up");
    assert_eq!(running.interrupt().await, Some(130));
}

#[tokio::test]
async fn a_reader_that_leaves_is_success() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    let piece = "x\n".repeat(500).into_bytes();
    cluster.nodes[0].script.lock().unwrap().logs.insert("etcd".into(), vec![piece; 1000]);
    let mut running = cluster.start(&["logs", "-f", "etcd"]);
    assert_eq!(running.line().await, "10.0.0.2: x");
    assert_eq!(running.leave().await, Some(0));
}

#[tokio::test]
async fn the_kernel_log_is_printed_record_by_record() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    cluster.nodes[0].script.lock().unwrap().dmesg = vec![b"kern: info: [x]: a\n".to_vec(), b"b\n".to_vec()];
    let run = cluster.run(&["dmesg"]).await;
    assert_eq!(run.stdout, "10.0.0.2: kern: info: [x]: a\n10.0.0.2: b\n");
}

#[tokio::test]
async fn a_file_is_printed_byte_for_byte_and_a_missing_one_is_an_error() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    let content = "line\x1b[0m\r\n".repeat(1000);
    cluster.nodes[0].script.lock().unwrap().files.insert("/etc/x".into(), content.clone().into_bytes());
    assert_eq!(cluster.run(&["read", "/etc/x"]).await.stdout, content);
    let run = cluster.run(&["read", "/etc/y"]).await;
    assert_eq!(run.code, Some(1));
    assert_eq!(run.stderr, "error: Read on 10.0.0.2 failed: not found: stat /etc/y: no such file\n");
    let run = cluster.run(&["read", "/etc/x", "-n", "a,b"]).await;
    assert_eq!((run.code, run.stderr.as_str()), (Some(2), "error: read needs exactly one node, not 2\n"));
}

#[tokio::test]
async fn events_go_on_after_the_last_one_when_the_node_cuts_them_short() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    let event = |id: &str, kind: &str, value: Vec<u8>| Event {
        id: id.into(),
        actor_id: "actor".into(),
        data: Some(Any { type_url: format!("talos/runtime/machine.{kind}"), value }),
        ..Default::default()
    };
    let phase = PhaseEvent { phase: "drain".into(), action: 0 }.encode_to_vec();
    let task = TaskEvent { task: "cordon".into(), action: 1 }.encode_to_vec();
    cluster.nodes[0].script.lock().unwrap().events =
        vec![vec![event("id1", "PhaseEvent", phase)], vec![event("id2", "TaskEvent", task)]];
    let mut running = cluster.start(&["events", "--tail", "-1"]);
    assert_eq!(running.line().await, "NODE   ID   EVENT   ACTOR   SOURCE   MESSAGE");
    let words = |line: String| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let first = words(running.line().await);
    assert_eq!(first, ["10.0.0.2", "id1", "talos/runtime/machine.PhaseEvent", "actor", "drain", "START"]);
    let second = words(running.line().await);
    assert_eq!(second, ["10.0.0.2", "id2", "talos/runtime/machine.TaskEvent", "actor", "cordon", "STOP"]);
    assert_eq!(running.interrupt().await, Some(130));
    assert_eq!(cluster.nodes[0].calls(), ["Events", "Events"]);
}
