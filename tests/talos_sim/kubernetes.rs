//! The lock and the draining of nodes, against a simulated Kubernetes API.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ichor_lab::kubernetes::{Kubernetes as Api, Mode, Pod};
use ichor_lab::talos::model::Line;
use ichorctl::cmd::connection::Connection;
use ichorctl::kubernetes::drain::{DrainError, Patience, Reason};
use ichorctl::kubernetes::lease::{Lock, LockError, LockLost, LockState, NAME, NAMESPACE, Times};
use ichorctl::kubernetes::nodes::Scheduling;
use ichorctl::kubernetes::{Access, Kubernetes};
use ichorctl::transport::Endpoint;
use serde_json::json;
use tokio::net::TcpListener;

use crate::world::World;

/// How long anything may take before a test gives up.
const LIMIT: Duration = Duration::from_secs(60);

/// Short enough for a test, and in the same order as the real ones.
const TIMES: Times = Times {
    term: Duration::from_secs(2),
    safe: Duration::from_millis(500),
    renew: Duration::from_millis(100),
    retry: Duration::from_millis(50),
};

/// A cluster whose control plane nodes serve Kubernetes.
struct Cluster {
    world: World,
    api: Api,
    endpoints: Vec<Endpoint>,
    client: Kubernetes,
}

impl Cluster {
    async fn new() -> Self {
        let world = World::new(Line::V1_14);
        let api = Api::new(world.simulation.clone());
        let mut endpoints = Vec::new();
        for node in ["cp-1", "cp-2", "cp-3"] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
            let address: SocketAddr = listener.local_addr().expect("bound");
            endpoints.push(Endpoint::new(&address.ip().to_string(), address.port()).expect("an endpoint"));
            let api = api.clone();
            tokio::spawn(async move { api.serve(node, listener).await });
            // The kubeconfig leads to the first.
            if endpoints.len() == 1 {
                tokio::task::yield_now().await;
            }
        }
        let client = client(&world, &endpoints[..1]).await;
        Self { world, api, endpoints, client }
    }

    async fn lock(&self, me: &str) -> Result<Lock, LockError> {
        acquire(&self.client, me).await
    }
}

/// A client from the kubeconfig that Talos gives.
async fn client(world: &World, hosts: &[Endpoint]) -> Kubernetes {
    let connection = Connection {
        talosconfig: Some(world.path("config")),
        nodes: vec!["10.5.0.1".to_owned()],
        ..Connection::default()
    };
    let node = connection.session().and_then(|session| session.single("kubeconfig")).expect("a node");
    let access = Access::of_talos(&node).await.expect("a kubeconfig");
    Kubernetes::new(access, Kubernetes::route(None).expect("a route"), hosts).expect("a client")
}

async fn acquire(client: &Kubernetes, me: &str) -> Result<Lock, LockError> {
    let acquired = Lock::acquire(client, me, "upgrade --to v1.14.2", TIMES, |_| {});
    tokio::time::timeout(LIMIT, acquired).await.expect("it is decided")
}

async fn until(lock: &Lock, is: impl Fn(&LockState) -> bool) {
    let mut changes = lock.changes();
    let changed = tokio::time::timeout(LIMIT, changes.wait_for(|state| is(state)));
    drop(changed.await.expect("it becomes so").expect("the renewal goes on"));
}

fn pod(name: &str, controller: Option<&str>) -> Pod {
    Pod {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        node: "w-1".to_owned(),
        controller: controller.map(str::to_owned),
        ..Pod::default()
    }
}

fn patience(budget: Duration) -> Patience {
    Patience { budget, round: Duration::from_millis(20) }
}

#[tokio::test]
async fn nodes_are_seen_as_they_are() {
    let cluster = Cluster::new().await;
    let nodes = cluster.client.nodes().await.unwrap();
    let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["cp-1", "cp-2", "cp-3", "w-1"], "`new` has no config and is no node");
    assert!(nodes.iter().all(|node| node.is_ready && node.is_schedulable));
    assert!(
        nodes[3].is_called("10.5.0.11")
            && nodes[0].labels.contains_key("node-role.kubernetes.io/control-plane")
    );
    assert_eq!(cluster.client.node("w-9").await.unwrap(), None);
    let boot = nodes[3].boot_id.clone();
    cluster.world.simulation.change(|cluster, now| cluster.leave("w-1", true, now)).unwrap();
    let down = async { while cluster.client.node("w-1").await.unwrap().unwrap().is_ready {} };
    tokio::time::timeout(LIMIT, down).await.expect("it is not ready while it reboots");
    let up = async {
        while !cluster
            .client
            .node("w-1")
            .await
            .unwrap()
            .is_some_and(|node| node.is_ready && node.boot_id != boot)
        {}
    };
    tokio::time::timeout(LIMIT, up).await.expect("it comes back with another boot id");
}

#[tokio::test]
async fn a_lock_has_one_holder_and_says_who() {
    let cluster = Cluster::new().await;
    let lock = cluster.lock("alice@desk-1").await.unwrap();
    lock.check().unwrap();
    let lease = cluster.api.lease(NAMESPACE, NAME).unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "alice@desk-1");
    assert_eq!(lease["metadata"]["annotations"]["ichor/run"], "upgrade --to v1.14.2");
    let error = cluster.lock("bob@desk-2").await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("alice@desk-1 has the lock for upgrade --to v1.14.2 since 2"), "{text}");
    let LockError::Held(held) = error else { panic!("{error}") };
    assert!(held.since.is_some() && held.renewed >= held.since && held.term == TIMES.term);
    lock.release().await.unwrap();
    let watched = AtomicUsize::new(0);
    let count = |_: &_| {
        watched.fetch_add(1, Ordering::Relaxed);
    };
    let next = Lock::acquire(&cluster.client, "bob@desk-2", "apply", TIMES, count).await.unwrap();
    assert_eq!((next.holder(), watched.into_inner()), ("bob@desk-2", 0), "nobody has to be waited for");
    assert_eq!(cluster.api.lease(NAMESPACE, NAME).unwrap()["spec"]["leaseTransitions"], 2);
}

#[tokio::test]
async fn of_many_that_race_for_the_lock_one_gets_it() {
    let cluster = Cluster::new().await;
    let mut running = tokio::task::JoinSet::new();
    for index in 0..8 {
        // Each with a connection of its own, to any of the servers.
        let client = client(&cluster.world, &cluster.endpoints[index % 3..]).await;
        running.spawn(async move { acquire(&client, &format!("racer-{index}")).await });
    }
    let results = running.join_all().await;
    let locks: Vec<&Lock> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    assert_eq!(locks.len(), 1);
    locks[0].check().unwrap();
    let losers = results.iter().filter_map(|result| result.as_ref().err());
    for error in losers {
        assert!(matches!(error, LockError::Held(held) if held.holder == locks[0].holder()), "{error}");
    }
}

#[tokio::test]
async fn a_holder_that_is_gone_is_waited_for_and_then_replaced() {
    let cluster = Cluster::new().await;
    // Killed: it neither renews nor releases.
    drop(cluster.lock("alice@desk-1").await.unwrap());
    let watched = AtomicUsize::new(0);
    let count = |held: &ichorctl::kubernetes::lease::Held| {
        assert_eq!(held.holder, "alice@desk-1");
        watched.fetch_add(1, Ordering::Relaxed);
    };
    let taken = Lock::acquire(&cluster.client, "bob@desk-2", "apply", TIMES, count);
    let lock = tokio::time::timeout(LIMIT, taken).await.expect("its term ends").unwrap();
    lock.check().unwrap();
    assert_eq!(watched.into_inner(), 1);
}

#[tokio::test]
async fn a_lock_that_cannot_be_renewed_is_doubtful_until_it_can() {
    let cluster = Cluster::new().await;
    let lock = cluster.lock("alice@desk-1").await.unwrap();
    // No answer, no listener, and an answer that helps nobody: all the same.
    for mode in [Mode::Silent, Mode::Off, Mode::Unable] {
        cluster.api.switch(mode);
        until(&lock, |state| *state == LockState::Doubtful).await;
        assert!(matches!(lock.check(), Err(LockLost::Doubtful(_))), "{mode:?}");
        cluster.api.switch(Mode::Answers);
        tokio::time::timeout(LIMIT, lock.regained()).await.expect("it is renewed").unwrap();
        lock.check().unwrap();
    }
}

#[tokio::test]
async fn a_lock_that_somebody_else_took_is_lost_for_good() {
    let cluster = Cluster::new().await;
    let lock = cluster.lock("alice@desk-1").await.unwrap();
    let mut lease = cluster.api.lease(NAMESPACE, NAME).unwrap();
    lease["spec"]["holderIdentity"] = json!("bob@desk-2");
    cluster.api.set_lease(NAMESPACE, NAME, Some(lease));
    until(&lock, |state| *state != LockState::Held).await;
    assert_eq!(lock.check(), Err(LockLost::Taken("bob@desk-2".to_owned())));
    assert_eq!(lock.regained().await, Err(LockLost::Taken("bob@desk-2".to_owned())));
    // What is not ours any more is not released either.
    lock.release().await.unwrap();
    assert_eq!(cluster.api.lease(NAMESPACE, NAME).unwrap()["spec"]["holderIdentity"], "bob@desk-2");

    cluster.api.set_lease(NAMESPACE, NAME, None);
    let lock = cluster.lock("alice@desk-1").await.unwrap();
    cluster.api.set_lease(NAMESPACE, NAME, None);
    until(&lock, |state| *state != LockState::Held).await;
    assert_eq!(lock.check(), Err(LockLost::Deleted));
}

#[tokio::test]
async fn an_api_that_does_not_answer_is_an_error_of_its_own() {
    let cluster = Cluster::new().await;
    cluster.api.switch(Mode::Unable);
    let error = cluster.client.nodes().await.unwrap_err();
    assert!(
        error.is_unreachable() && error.to_string().contains("503: etcdserver: request timed out"),
        "{error}"
    );
    cluster.api.switch(Mode::Off);
    match cluster.lock("alice@desk-1").await.unwrap_err() {
        LockError::Kubernetes(error) => assert!(error.is_unreachable(), "{error}"),
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_control_plane_node_that_goes_down_takes_nobody_with_it() {
    let cluster = Cluster::new().await;
    let client = client(&cluster.world, &cluster.endpoints).await;
    let lock = acquire(&client, "alice@desk-1").await.unwrap();
    for node in ["cp-1", "cp-2"] {
        let simulation = &cluster.world.simulation;
        simulation.change(|cluster, now| cluster.leave(node, true, now)).unwrap();
        // Asked while it is down, and while it comes back.
        let boots = simulation.look(|cluster| cluster.node(node).unwrap().boots());
        let back = async {
            loop {
                client.nodes().await.unwrap();
                lock.check().unwrap();
                let is_back = simulation.look(|cluster| {
                    cluster.node(node).is_ok_and(|node| node.boots() > boots)
                        && cluster.etcd().members().iter().all(|member| member.up)
                });
                if is_back {
                    return;
                }
            }
        };
        tokio::time::timeout(LIMIT, back).await.expect("it comes back");
    }
}

#[tokio::test]
async fn without_a_quorum_of_etcd_there_is_no_api() {
    let cluster = Cluster::new().await;
    let client = client(&cluster.world, &cluster.endpoints).await;
    client.nodes().await.unwrap();
    for node in ["cp-1", "cp-2"] {
        cluster.world.simulation.change(|cluster, now| cluster.leave(node, false, now)).unwrap();
    }
    let gone = async { while client.nodes().await.is_ok() {} };
    tokio::time::timeout(LIMIT, gone).await.expect("it stops to answer");
    assert!(client.nodes().await.unwrap_err().is_unreachable());
}

#[tokio::test]
async fn a_node_that_somebody_else_cordoned_stays_theirs() {
    let cluster = Cluster::new().await;
    let client = &cluster.client;
    assert_eq!(client.cordon("w-1", "run-1").await.unwrap(), Scheduling::Changed);
    assert_eq!(client.cordon("w-1", "run-2").await.unwrap(), Scheduling::Unchanged);
    let node = client.node("w-1").await.unwrap().unwrap();
    assert_eq!((node.is_schedulable, node.cordoned_by.as_deref()), (false, Some("run-1")));
    assert_eq!(client.uncordon("w-1").await.unwrap(), Scheduling::Changed);
    assert_eq!(client.uncordon("w-1").await.unwrap(), Scheduling::Unchanged);
    let node = client.node("w-1").await.unwrap().unwrap();
    assert_eq!((node.is_schedulable, node.cordoned_by), (true, None));

    // By hand, so without our mark.
    cluster.api.cordon("w-1");
    assert_eq!(client.cordon("w-1", "run-1").await.unwrap(), Scheduling::NotOurs);
    assert_eq!(client.uncordon("w-1").await.unwrap(), Scheduling::NotOurs);
    assert_eq!(client.cordon("w-9", "run-1").await.unwrap_err().code(), Some(404));
}

#[tokio::test]
async fn a_drain_waits_for_budgets_and_leaves_what_would_not_move() {
    let cluster = Cluster::new().await;
    cluster.api.add_pod(&Pod { refusals: 3, lingers: 2, ..pod("web", Some("ReplicaSet")) });
    cluster.api.add_pod(&pod("db", Some("StatefulSet")));
    cluster.api.add_pod(&pod("agent", Some("DaemonSet")));
    cluster.api.add_pod(&Pod { is_mirror: true, ..pod("proxy-w-1", Some("Node")) });
    cluster.api.add_pod(&Pod { phase: "Succeeded".to_owned(), ..pod("backup", Some("Job")) });
    cluster.api.add_pod(&pod("lone", None));
    cluster.api.add_pod(&Pod { node: "cp-1".to_owned(), ..pod("elsewhere", Some("ReplicaSet")) });
    let mut seen = Vec::new();
    let drained = cluster
        .client
        .drain("w-1", patience(LIMIT), |left| seen.extend(left.iter().map(ToString::to_string)))
        .await
        .unwrap();
    let mut evicted: Vec<&str> = drained.evicted.iter().map(|pod| pod.name.as_str()).collect();
    evicted.sort_unstable();
    assert_eq!(evicted, ["db", "web"]);
    let stayed: Vec<(&str, Reason)> =
        drained.stayed.iter().map(|(pod, why)| (pod.name.as_str(), *why)).collect();
    let expected = [
        ("agent", Reason::DaemonSet),
        ("backup", Reason::Completed),
        ("lone", Reason::Unmanaged),
        ("proxy-w-1", Reason::Mirror),
    ];
    assert_eq!(stayed, expected);
    assert_eq!(cluster.api.pods_on("w-1"), ["agent", "backup", "lone", "proxy-w-1"]);
    assert_eq!(cluster.api.pods_on("cp-1"), ["elsewhere"]);
    let blocked = seen.iter().filter(|line| line.contains("The disruption budget web needs 2 healthy pods"));
    assert_eq!(blocked.count(), 3, "{seen:?}");
    assert!(seen.iter().any(|line| line == "shop/web (shutting down)"), "{seen:?}");
}

#[tokio::test]
async fn a_drain_that_a_budget_never_allows_says_which() {
    let cluster = Cluster::new().await;
    cluster.api.add_pod(&Pod { refusals: u32::MAX, ..pod("web", Some("ReplicaSet")) });
    let error = cluster.client.drain("w-1", patience(Duration::from_millis(100)), |_| {}).await.unwrap_err();
    assert!(matches!(&error, DrainError::Remain { pods, .. } if pods.len() == 1), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("shop/web (Cannot evict pod") && text.contains("disruption budget web needs"),
        "{text}"
    );
}

#[tokio::test]
async fn a_drain_outlives_a_server_that_restarts() {
    let cluster = Cluster::new().await;
    cluster.api.add_pod(&Pod { refusals: 1, ..pod("web", Some("ReplicaSet")) });
    let api = cluster.api.clone();
    let mut rounds = 0;
    // Gone after the first round, and back when somebody has noticed.
    let drained = cluster.client.drain("w-1", patience(LIMIT), |_| {
        rounds += 1;
        if rounds == 1 {
            api.switch(Mode::Unable);
            let api = api.clone();
            tokio::spawn(async move {
                api.until_asked(Mode::Unable).await;
                api.switch(Mode::Answers);
            });
        }
    });
    let drained = tokio::time::timeout(LIMIT, drained).await.expect("it ends").unwrap();
    assert_eq!(drained.evicted.len(), 1);
}
