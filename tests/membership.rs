//! Networks without a server, of daemons in namespaces: joining, the last one standing, cold start, removal.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ichor_lab::traffic::{self, Ping};
use ichor_lab::{Cut, Family, Lab, LabError, Nat, Node, NodeSpec, Site, Topology};
use ichor_tests::netns::in_lab;
use ichor_tests::operator::{Extra, Operator};

const AGENT: &str = env!("CARGO_BIN_EXE_lab-agent");
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// `a` and `b` at one site, `c` and `d` at another.
fn topology() -> Topology {
    let site = |site: &str, nodes: [&str; 2]| {
        let mut site = Site::new(site, Nat::None);
        site.nodes = nodes.map(NodeSpec::new).to_vec();
        site
    };
    Topology {
        sites: vec![site("here", ["a", "b"]), site("there", ["c", "d"])],
        seed: 1,
        ..Topology::default()
    }
}

fn address(name: &str) -> Ipv4Addr {
    let number = NAMES.iter().position(|known| *known == name).expect("one of the four");
    Ipv4Addr::new(10, 213, 0, number as u8 + 1)
}

/// Where `node` is to be found.
async fn endpoint(node: &Node) -> Result<SocketAddr, LabError> {
    Ok(SocketAddr::new(node.view().await?.underlay.ip(Family::V4), 51840))
}

/// Gives `node` what it needs to join.
async fn admit(node: &Node, operator: &Operator, may_begin: bool) -> Result<(), LabError> {
    let join = operator.token(node.name(), address(node.name()), may_begin, Extra::default());
    node.write_config(&format!("mesh:\n  join: {}\n", &*join)).await?;
    node.reload().await
}

/// Waits until `node` knows of `members` members, and has sessions with all others.
async fn until_whole(node: &Node, members: usize) -> Result<(), LabError> {
    let awaited = format!("a network of {members}");
    let whole = node.until_status(&awaited, |status| {
        let network = status.network.as_ref();
        network.is_some_and(|network| network.members == members && network.member.is_some())
            && status.peers.len() == members - 1
            && status.peers.iter().all(|peer| peer.connected)
    });
    whole.await.map(drop)
}

/// Both mesh addresses of `node`.
async fn mesh(node: &Node) -> Result<Vec<IpAddr>, LabError> {
    let addresses = node.status().await?.addresses;
    Ok(addresses.iter().filter_map(|net| net.split('/').next()?.parse().ok()).collect())
}

async fn assert_reaches(from: &Node, to: &Node) -> Result<(), LabError> {
    let to_addresses = mesh(to).await?;
    assert_eq!(to_addresses.len(), 2, "{to_addresses:?}");
    for address in to_addresses {
        let pinged = traffic::ping(from, Ping::once([address])).await?;
        let (from, to) = (from.name(), to.name());
        assert!(pinged.iter().all(|pinged| pinged.received > 0), "from {from} to {to}: {pinged:?}");
    }
    Ok(())
}

async fn assert_whole(lab: &Lab, names: &[&str]) -> Result<(), LabError> {
    for name in names {
        until_whole(&lab.node(name), names.len()).await?;
    }
    for from in names {
        for to in names.iter().filter(|to| *to != from) {
            assert_reaches(&lab.node(from), &lab.node(to)).await?;
        }
    }
    Ok(())
}

#[test]
fn the_last_member_standing_lets_another_in() {
    in_lab(AGENT, Lab::builder().topology(topology()), async |lab| {
        let mut operator = Operator::begin();
        let nodes = NAMES.map(|name| lab.node(name));
        operator.seeds = vec![endpoint(&nodes[0]).await?];
        admit(&nodes[0], &operator, true).await?;
        nodes[0]
            .until_status("a network of one", |status| {
                status.network.as_ref().is_some_and(|network| network.members == 1)
            })
            .await?;
        for node in &nodes[1..3] {
            admit(node, &operator, false).await?;
        }
        assert_whole(lab, &NAMES[..3]).await?;
        // All but one are off.
        nodes[0].stop().await?;
        nodes[1].stop().await?;
        operator.seeds = vec![endpoint(&nodes[2]).await?];
        admit(&nodes[3], &operator, false).await?;
        nodes[3]
            .until_status("to be let in", |status| {
                status.network.as_ref().is_some_and(|network| network.members == 4)
            })
            .await?;
        assert_reaches(&nodes[3], &nodes[2]).await?;
        // Those that come back hear of it.
        nodes[0].start().await?;
        nodes[1].start().await?;
        assert_whole(lab, &NAMES).await
    });
}

#[test]
fn after_all_were_off_and_without_the_internet_a_segment_finds_itself() {
    in_lab(AGENT, Lab::builder().topology(topology()), async |lab| {
        let mut operator = Operator::begin();
        let (a, b) = (lab.node("a"), lab.node("b"));
        // Only `c` is named as a seed, and it never comes.
        operator.seeds = vec![endpoint(&lab.node("c")).await?];
        lab.cut(Cut::Site("here".to_owned())).await?;
        admit(&a, &operator, true).await?;
        admit(&b, &operator, false).await?;
        assert_whole(lab, &["a", "b"]).await?;
        // The join strings are gone, as `ichorctl` strips them, and so is what was left with the parent.
        for node in [&a, &b] {
            node.stop().await?;
            node.run(["rm", "-f", "/var/lib/ichor/endpoints"]).await?;
            node.write_config("mesh: {}\n").await?;
            // Neither is where it was.
            node.roam("here").await?;
        }
        a.start().await?;
        b.start().await?;
        assert_whole(lab, &["a", "b"]).await
    });
}

#[test]
fn a_replacing_token_gives_the_same_addresses_to_a_machine_that_lost_its_state() {
    in_lab(AGENT, Lab::builder().topology(topology()), async |lab| {
        let mut operator = Operator::begin();
        let [a, b, c, _] = NAMES.map(|name| lab.node(name));
        operator.seeds = vec![endpoint(&a).await?];
        admit(&a, &operator, true).await?;
        admit(&b, &operator, false).await?;
        admit(&c, &operator, false).await?;
        assert_whole(lab, &NAMES[..3]).await?;
        let before = b.status().await?;
        let network = before.network.as_ref();
        let incarnation_before =
            network.and_then(|network| network.incarnation.clone()).expect("a member has one");

        // Who merely has a token for the name cannot have it while its holder is there.
        let thief = lab.node("d");
        let stolen = operator.token("b", address("b"), false, Extra::default());
        thief.write_config(&format!("mesh:\n  join: {}\n", &*stolen)).await?;
        thief.reload().await?;
        thief
            .until_status("to hear that the name is taken", |status| {
                status.problems.iter().any(|problem| {
                    problem.part == "member" && problem.cause.contains("somebody has the name")
                })
            })
            .await?;

        b.stop().await?;
        b.run(["sh", "-c", "rm -rf /var/lib/ichor"]).await?;
        let replaces = Some(incarnation_before.parse().expect("the id of a record"));
        let join = operator.token("b", address("b"), false, Extra { replaces, ..Extra::default() });
        b.write_config(&format!("mesh:\n  join: {}\n", &*join)).await?;
        b.start().await?;
        b.until_status("another incarnation", |status| {
            let incarnation = status.network.as_ref().and_then(|network| network.incarnation.as_ref());
            incarnation.is_some_and(|now| now != &incarnation_before)
        })
        .await?;
        assert_whole(lab, &NAMES[..3]).await?;
        let after = b.status().await?;
        assert_eq!(after.addresses, before.addresses);
        assert_ne!(after.public_key, before.public_key);
        for node in [&a, &c] {
            let keys = node.run(["wg", "show", "ichor0", "peers"]).await?.stdout;
            assert!(keys.contains(after.public_key.as_deref().expect("a key")), "{keys}");
            assert!(!keys.contains(before.public_key.as_deref().expect("a key")), "{keys}");
        }
        Ok(())
    });
}
