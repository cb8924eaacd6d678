//! Whether packets of full size pass between members, as the members say it.

use std::net::IpAddr;
use std::time::Duration;

use ichor_lab::traffic::{self, Udp};
use ichor_lab::{Link, Nat, Node, NodeSpec, Shape, Site};
use ichor_tests::netns::until_succeeds;
use ichord::status::{Peer, Status};

use crate::network::{mesh, network_of, tell, until_status_in, until_whole, with_network_in};

/// The MTU of the interface, and what WireGuard and UDP add to it.
const MTU: u16 = 1420;
const OVERHEAD: u16 = 32 + 8;
/// How long a verdict may take: a narrow path is asked once a minute at last.
const PATIENCE: Duration = Duration::from_secs(90);

fn peer<'s>(status: &'s Status, name: &str) -> Option<&'s Peer> {
    status.peers.iter().find(|peer| peer.name == name)
}

/// Waits until `node` says whether packets of full size pass to its peer `name`.
async fn until_told(node: &Node, name: &str, passes: bool) -> Result<Status, ichor_lab::LabError> {
    let is_told = |status: &Status| {
        peer(status, name).is_some_and(|peer| peer.connected && peer.full_size == Some(passes))
    };
    until_status_in(node, PATIENCE, is_told).await
}

/// What `status` says of narrow paths.
fn problem(status: &Status) -> Option<&str> {
    status.problems.iter().find(|problem| problem.part == "path").map(|problem| problem.cause.as_str())
}

/// Bytes of an outer packet of full size to the peer `name`.
fn outer(status: &Status, name: &str) -> u16 {
    let endpoint = peer(status, name).and_then(|peer| peer.endpoint).expect("an endpoint");
    MTU + OVERHEAD + if endpoint.is_ipv6() { 40 } else { 20 }
}

#[test]
fn a_path_that_swallows_long_packets_is_told_and_so_is_one_that_was_mended() {
    let narrow = Shape { silent_mtu: Some(1300), ..Shape::default() };
    let b = NodeSpec { link: Link { shape: Some(narrow), mtu: None }, ..NodeSpec::new("b") };
    let site = |name: &str, node| Site { nodes: vec![node], ..Site::new(name, Nat::None) };
    let op = NodeSpec { daemon: false, ..NodeSpec::new("op") };
    let sites = ["a", "c"]
        .map(|name| site(name, NodeSpec::new(name)))
        .into_iter()
        .chain([site("b", b), site("op", op)]);
    with_network_in(network_of(sites.collect()), async |lab, operator| {
        let [a, b, c] = ["a", "b", "c"].map(|name| lab.node(name));
        for node in [&a, &b, &c] {
            operator.admit(node).await?;
        }
        for node in [&a, &b, &c] {
            until_whole(node, 3).await?;
        }
        until_told(&a, "c", true).await?;
        let seen_by_b = until_told(&b, "a", false).await?;
        let seen_by_a = until_told(&a, "b", false).await?;
        let cause = problem(&seen_by_a).expect("a problem");
        assert!(cause.contains("in one piece to b (MTU 1420)"), "{cause}");
        // An operator sees it, and what to do.
        operator.sees(&a).await?;
        let told = operator.output(&["mesh", "status", "--status", "/run/operator/status.json"]).await?;
        assert!(!told.exit.success() && told.stdout.contains("next: lower mtu in ichor.yaml"), "{told:?}");
        assert!(told.stdout.contains("no long packets"), "{}", told.stdout);

        // Questions and answers are exactly as long as what carries a packet of full size.
        let whole = outer(&seen_by_a, "b").max(outer(&seen_by_b, "a"));
        lab.link("b").set(Shape { silent_mtu: Some(whole - 1), ..Shape::default() }).await?;
        let before = lab.link("b").counters().await?.oversized;
        let swallowed = async {
            while lab.link("b").counters().await?.oversized == before {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, swallowed).await.expect("a question in time")?;
        assert_eq!(peer(&a.status().await?, "b").and_then(|peer| peer.full_size), Some(false));
        lab.link("b").set(Shape { silent_mtu: Some(whole), ..Shape::default() }).await?;
        let began = std::time::Instant::now();
        until_told(&b, "a", true).await?;
        until_told(&a, "b", true).await?;
        tell(&format!("a mended path was told after {:?}", began.elapsed()));
        let mended = until_status_in(&a, PATIENCE, |status| problem(status).is_none()).await?;
        assert_eq!(mended.problems, [], "nothing else is wrong");
        Ok(())
    });
}

#[test]
fn a_path_that_fragments_is_told_though_packets_arrive() {
    let site = |name: &str, node| Site { nodes: vec![node], ..Site::new(name, Nat::None) };
    let b = NodeSpec { link: Link { mtu: Some(1400), shape: None }, ..NodeSpec::new("b") };
    let op = NodeSpec { daemon: false, ..NodeSpec::new("op") };
    let sites = vec![site("a", NodeSpec::new("a")), site("b", b), site("op", op)];
    with_network_in(network_of(sites), async |lab, operator| {
        let [a, b] = ["a", "b"].map(|name| lab.node(name));
        for node in [&a, &b] {
            operator.admit(node).await?;
        }
        until_told(&a, "b", false).await?;
        let told = until_told(&b, "a", false).await?;
        assert_eq!(told.drops.get("udp_send"), None, "what the kernel refuses here is an answer, too");
        for (from, to) in [(&a, &b), (&b, &a)] {
            let at = mesh(to).await?.into_iter().find(IpAddr::is_ipv4).expect("an address");
            let size = usize::from(MTU) - 28;
            let long = Udp { count: 50, rate: 100, size, quiet: Duration::from_millis(500) };
            let arrived = traffic::udp(from, to, at, long).await?;
            assert!(arrived.received > 0, "{arrived:?}");
        }
        Ok(())
    });
}

#[test]
fn in_a_small_network_all_pairs_are_proven_without_traffic() {
    // On a ring of seven each is next to all; of eight not.
    let names: Vec<String> =
        ["a"].into_iter().map(str::to_owned).chain((2..=8).map(|n| format!("n-{n}"))).collect();
    let nodes = names.iter().map(NodeSpec::new).collect();
    let op = NodeSpec { daemon: false, ..NodeSpec::new("op") };
    let site = |name: &str, nodes| Site { nodes, ..Site::new(name, Nat::None) };
    with_network_in(
        network_of(vec![site("here", nodes), site("office", vec![op])]),
        async |lab, operator| {
            let nodes: Vec<_> = names.iter().map(|name| lab.node(name)).collect();
            // All at once: most are let in by others that came a moment ago.
            for node in &nodes {
                operator.admit(node).await?;
            }
            let proven = |status: &Status| {
                status.peers.len() == names.len() - 1
                    && status.peers.iter().all(|peer| peer.connected && peer.full_size == Some(true))
            };
            for node in &nodes {
                until_status_in(node, PATIENCE, proven).await?;
                // It stays so: a session that nobody uses ends after three minutes, unless it is kept.
                let kept = "wg show ichor0 persistent-keepalive | grep -c '[0-9]$'";
                until_succeeds(node, &format!("{kept} | grep -x {}", names.len() - 1)).await?;
            }
            Ok(())
        },
    );
}
