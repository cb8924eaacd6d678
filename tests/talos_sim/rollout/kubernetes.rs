//! The lock, draining, and what Kubernetes says of nodes; and how runs end.

use ichor_lab::kubernetes::{Mode, Pod};
use ichor_lab::talos::model::Line;
use ichorctl::kubernetes::lease::{NAME, NAMESPACE};
use serde_json::json;

use super::{QUICK, ending, is_whole, lines, nodes, strs, with_images};
use crate::world::World;

/// Three control planes and two workers, which know Kubernetes.
fn world() -> World {
    with_images(World::with_kubernetes(nodes([Line::V1_13; 5])))
}

/// A command that changes the cluster, with the lock.
fn locked(world: &World, command: &[&str]) -> Vec<String> {
    let (_, address) = world.kubernetes();
    let words = command.iter().chain(&QUICK).map(|it| (*it).to_owned());
    words.chain(["--kubernetes".to_owned(), address.to_string()]).collect()
}

fn upgrade(world: &World, more: &[&str]) -> Vec<String> {
    locked(world, &[&["upgrade", "--to", Line::V1_14.tag()], more].concat())
}

fn pod(name: &str, controller: &str, refusals: u32) -> Pod {
    Pod {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        node: "w-1".to_owned(),
        controller: Some(controller.to_owned()),
        refusals,
        ..Pod::default()
    }
}

fn holder(world: &World) -> Option<String> {
    let lease = world.kubernetes().0.lease(NAMESPACE, NAME)?;
    lease["spec"]["holderIdentity"].as_str().filter(|it| !it.is_empty()).map(str::to_owned)
}

fn is_cordoned(world: &World, node: &str) -> bool {
    world.kubernetes().0.node(node)["spec"]["unschedulable"] == true
}

#[test]
fn an_upgrade_has_the_lock_moves_pods_away_and_gives_both_back() {
    let world = world();
    let (api, _) = world.kubernetes();
    api.add_pod(&pod("web", "ReplicaSet", 1));
    api.add_pod(&pod("agent", "DaemonSet", 0));
    let run = world.listen(&strs(&upgrade(&world, &[])));
    run.until(|line| line.contains("w-1: draining"));
    let me = holder(&world).expect("somebody has the lock");
    assert!(me.contains('@'), "{me}");
    let blocked = run.until(|line| line.contains("waiting for pods that may not go yet"));
    assert!(blocked.contains("shop/web") && blocked.contains("disruption budget web needs"), "{blocked}");
    // Its kubelet says nothing after the boot: Talos is well, and the node still not proven.
    world.until(|cluster| cluster.node("w-1").expect("a node").boots() > 1);
    api.silence("w-1", true);
    run.until(|line| line.contains("w-1: waiting: Kubernetes does not call it Ready"));
    assert!(is_cordoned(&world, "w-1"));
    assert_eq!(holder(&world), Some(me));
    let others = |name: &str| world.simulation.look(|cluster| cluster.node(name).expect("a node").boots());
    assert_eq!(["cp-1", "cp-2", "cp-3", "w-2"].map(others), [1; 4], "nobody else was touched");
    api.silence("w-1", false);
    let (code, said) = run.end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(lines(&world), [Line::V1_14; 5]);
    assert!(is_whole(&world) && holder(&world).is_none());
    assert!(["cp-1", "cp-2", "cp-3", "w-1", "w-2"].iter().all(|node| !is_cordoned(&world, node)), "{said}");
    assert_eq!(api.pods_on("w-1"), ["agent"]);
    let asked = api.requests();
    let at =
        |what: &str| asked.iter().position(|it| it == what).unwrap_or_else(|| panic!("{what}: {asked:?}"));
    assert!(
        at("PATCH /api/v1/nodes/w-1") < at("POST /api/v1/namespaces/shop/pods/web/eviction"),
        "cordoned before anything is evicted"
    );
    let lease = format!("PUT /apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{NAME}");
    assert!(asked.iter().filter(|it| **it == lease).count() >= 2, "renewed, and released: {asked:?}");
}

#[test]
fn a_second_operator_is_refused_and_told_who_is_at_it_and_ctrl_c_gives_the_lock_back() {
    let world = world();
    let first = world.follow(&strs(&upgrade(&world, &["--pause-between", "10m", "--output", "json"])));
    first.until(|line| line.contains("w-1") && line.contains("proven"));
    let me = holder(&world).expect("somebody has the lock");
    // On the same machine the journal is taken already.
    let (code, said) = world.refuse(&strs(&upgrade(&world, &[])));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("another process is at it"), "{said}");
    let output = world.output(&strs(&upgrade(&world, &["--output", "json"])));
    let end = ending(&String::from_utf8_lossy(&output.stdout));
    assert_eq!((&end["result"], &end["next"]), (&json!("refused"), &json!("wait until it is done")), "{end}");
    // Elsewhere it is the lock.
    let elsewhere = upgrade(&world, &["--state", "elsewhere"]);
    let (code, said) = world.refuse(&strs(&elsewhere));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains(&format!("{me} has the lock for upgrade to {}", Line::V1_14.tag())), "{said}");
    let (code, said) = world.refuse(&strs(&locked(&world, &["reboot", "w-2", "--state", "elsewhere"])));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains(&me), "{said}");
    first.interrupt();
    let (code, said) = first.end();
    assert_eq!(code, Some(130), "{said}");
    let end = ending(&said);
    assert_eq!((&end["result"], &end["nodes"]), (&json!("interrupted"), &json!(["w-1"])), "{said}");
    assert_eq!(holder(&world), None, "it was given back");
    // The next one need not wait, and goes on where the first was.
    let output = world.output(&strs(&upgrade(&world, &["--output", "json"])));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(ending(&said)["result"], "done", "{said}");
    let output = world.output(&strs(&upgrade(&world, &["--output", "json"])));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        (output.status.code(), &ending(&said)["result"]),
        (Some(0), &json!("nothing to do")),
        "{said}"
    );
}

#[test]
fn a_lock_that_somebody_else_takes_ends_the_run_before_its_next_action() {
    let world = world();
    let (api, _) = world.kubernetes();
    let run = world.follow(&strs(&upgrade(&world, &["--pause-between", "10m", "--output", "json"])));
    run.until(|line| line.contains("w-1") && line.contains("proven"));
    let mut lease = api.lease(NAMESPACE, NAME).expect("a lease");
    lease["spec"]["holderIdentity"] = json!("bob@desk-2");
    api.set_lease(NAMESPACE, NAME, Some(lease));
    let (code, said) = run.end();
    assert_eq!(code, Some(4), "{said}");
    let end = ending(&said);
    assert_eq!((&end["result"], &end["why"]), (&json!("stopped"), &json!("the lock is somebody else's")));
    assert_eq!(lines(&world).iter().filter(|line| **line == Line::V1_14).count(), 1, "{said}");
    assert_eq!(holder(&world).as_deref(), Some("bob@desk-2"), "what is not ours is not given back");
}

#[test]
fn without_the_kubernetes_api_a_run_says_why_it_does_not_begin_and_how_it_would() {
    let world = world();
    world.kubernetes().0.switch(Mode::Unable);
    for command in [
        &["upgrade", "--to", Line::V1_14.tag()][..],
        &["reboot", "w-1"],
        &["reset", "w-1", "--confirm", "w-1"],
    ] {
        let (code, said) = world.refuse(&strs(&locked(&world, command)));
        assert_eq!(code, Some(3), "{said}");
        assert!(
            said.contains("the Kubernetes API, which has the lock on rollouts, does not answer"),
            "{said}"
        );
        assert!(said.contains("etcdserver: request timed out") && said.contains("--no-lock"), "{said}");
    }
    assert!(world.simulation.calls().iter().all(|call| call.method != "Reboot" && call.method != "Reset"));
    let output = world.output(&strs(&locked(&world, &["reboot", "w-1", "--no-lock", "--output", "json"])));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!((output.status.code(), &ending(&said)["result"]), (Some(0), &json!("done")), "{said}");
    assert_eq!(ending(&said)["nodes"], json!(["w-1"]));
    let reset = ["reset", "w-2", "--confirm", "w-2", "--no-lock", "--output", "json"];
    let output = world.output(&strs(&locked(&world, &reset)));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!((output.status.code(), &ending(&said)["result"]), (Some(0), &json!("done")), "{said}");
}

#[test]
fn a_budget_that_never_lets_a_pod_go_ends_the_run_before_the_node_goes_down() {
    let world = world();
    let (api, _) = world.kubernetes();
    api.add_pod(&pod("web", "ReplicaSet", u32::MAX));
    let command = locked(&world, &["reboot", "w-1", "--drain-timeout", "1s", "--output", "json"]);
    let output = world.output(&strs(&command));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    let why = ending(&said)["why"].as_str().expect("a reason").to_owned();
    assert!(why.contains("w-1: drain failed") && why.contains("shop/web"), "{why}");
    assert!(why.contains("disruption budget web needs 2 healthy pods"), "{why}");
    assert_eq!(world.simulation.look(|cluster| cluster.node("w-1").expect("a node").boots()), 1);
    assert!(is_cordoned(&world, "w-1"), "it is to be drained still");
    assert_eq!(holder(&world), None);
    // The budget allows it: the same command finishes, and pods may come again.
    api.add_pod(&pod("web", "ReplicaSet", 0));
    let output = world.output(&strs(&command));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!((output.status.code(), &ending(&said)["result"]), (Some(0), &json!("done")), "{said}");
    assert_eq!(world.simulation.look(|cluster| cluster.node("w-1").expect("a node").boots()), 2);
    assert!(!is_cordoned(&world, "w-1"), "{said}");
}
