//! What the lab promises: its NATs, links, cuts and moves are what they say, and nothing of it is left behind.

use std::collections::BTreeSet;
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use ichor_lab::traffic::{self, Ping, Udp};
use ichor_lab::{
    Builder, Cut, Exit, Family, Lab, LabError, Link, Nat, Node, NodeSpec, Shape, Site, Topology,
};
use ichor_tests::netns::{all_end, block_on, descendants, in_lab, skip, up};
use ichor_tests::probe::{self, Capture};

const AGENT: &str = env!("CARGO_BIN_EXE_lab-agent");

/// Three nodes behind `nat`, and two with public addresses.
fn behind(nat: Nat) -> Builder {
    let mut topology = Topology::demo();
    topology.sites[0].nat = nat;
    Lab::builder().topology(topology)
}

/// Two nodes of one site without daemons, of which the link of the second has a shape.
fn bare(shape: Shape) -> Builder {
    let mut site = Site::new("site", Nat::None);
    for name in ["a", "b"] {
        site.nodes.push(NodeSpec { daemon: false, ..NodeSpec::new(name) });
    }
    site.nodes[1].link = Link { shape: Some(shape), mtu: None };
    Lab::builder().site(site).seed(1)
}

/// Where `node` sees `peer`.
async fn endpoint(node: &Node, peer: &str) -> Result<SocketAddr, LabError> {
    let status = node.until_connected(&[peer]).await?;
    let found = status.peers.iter().find(|found| found.name == peer).and_then(|peer| peer.endpoint);
    Ok(found.expect("a connected peer has an endpoint"))
}

/// The endpoints of the three nodes at home, as both nodes in the cloud see them.
async fn mappings(lab: &Lab) -> Result<[[SocketAddr; 2]; 3], LabError> {
    let clouds = [lab.node("cloud-1"), lab.node("cloud-2")];
    let mut all = Vec::new();
    for name in ["home-1", "home-2", "home-3"] {
        all.push([endpoint(&clouds[0], name).await?, endpoint(&clouds[1], name).await?]);
    }
    Ok(all.try_into().expect("three"))
}

async fn rtt(lab: &Lab, family: Family) -> Result<Option<Duration>, LabError> {
    let target = lab.node("b").view().await?.underlay.ip(family);
    let ping = Ping { limit: Duration::from_secs(3), ..Ping::once([target]) };
    let pinged = traffic::ping(&lab.node("a"), ping).await?;
    Ok(pinged[0].rtt_us.map(Duration::from_micros))
}

/// Makes sure that echoes come back, or that none does within a second.
async fn assert_answers(lab: &Lab, from: &str, to: &str, expected: bool) -> Result<(), LabError> {
    let view = lab.node(to).view().await?;
    let targets = [view.underlay.ip(Family::V4), view.underlay.ip(Family::V6)];
    let limit = Duration::from_secs(if expected { 10 } else { 1 });
    let pinged = traffic::ping(&lab.node(from), Ping { limit, ..Ping::once(targets) }).await?;
    assert!(pinged.iter().all(|pinged| (pinged.received > 0) == expected), "from {from} to {to}: {pinged:?}");
    Ok(())
}

#[test]
fn a_port_preserving_nat_maps_a_node_to_one_port_for_all_destinations() {
    in_lab(AGENT, behind(Nat::PortPreserving), async |lab| {
        let mappings = mappings(lab).await?;
        let ports: BTreeSet<u16> = mappings.iter().flatten().map(SocketAddr::port).collect();
        assert!(mappings.iter().all(|[one, other]| one == other), "{mappings:?}");
        assert!(ports.len() == 3 && ports.contains(&51840), "{mappings:?}");
        Ok(())
    });
}

#[test]
fn a_random_nat_maps_a_node_to_another_port_for_each_destination() {
    in_lab(AGENT, behind(Nat::Random), async |lab| {
        let mappings = mappings(lab).await?;
        assert!(mappings.iter().all(|[one, other]| one.ip() == other.ip()), "{mappings:?}");
        // That two of three are the same by chance happens once in 10^9 runs.
        let same = mappings.iter().filter(|[one, other]| one.port() == other.port()).count();
        assert!(same < 2, "{mappings:?}");
        Ok(())
    });
}

#[test]
fn a_static_nat_gives_each_node_an_address_that_can_be_dialled() {
    in_lab(AGENT, behind(Nat::Static), async |lab| {
        let addresses: BTreeSet<_> = mappings(lab).await?.iter().flatten().copied().collect();
        assert_eq!(addresses.len(), 3, "{addresses:?}");
        assert!(addresses.iter().all(|address| address.port() == 51840));
        let public = addresses.first().expect("three").ip();
        // From outside, by a node that nobody inside ever spoke to.
        let pinged = traffic::ping(&lab.node("cloud-1"), Ping::once([public])).await?;
        assert_eq!(pinged[0].received, 1);
        Ok(())
    });
}

#[test]
fn a_nat_lets_nobody_in_who_was_not_asked() {
    let mut topology = Topology::demo();
    topology.sites[1].nodes[1].daemon = false;
    in_lab(AGENT, Lab::builder().topology(topology), async |lab| {
        let mapped = endpoint(&lab.node("cloud-1"), "home-1").await?;
        let stranger = lab.node("cloud-2");
        let address = stranger.view().await?.underlay.v4.addr();
        let inside = Capture::start(&lab.node("home-1"), address.into(), 1, Duration::from_secs(1)).await?;
        let builder =
            etherparse::PacketBuilder::ipv4(address.octets(), ipv4(mapped), 64).udp(1, mapped.port());
        let mut packet = Vec::new();
        builder.write(&mut packet, b"let me in").expect("a vector takes everything");
        probe::send(&stranger, &[packet]).await?;
        assert_eq!(inside.packets().await?, Vec::<Vec<u8>>::new());
        // IPv6 is routed, and filtered alike.
        let home = lab.node("home-1").view().await?.underlay.ip(Family::V6);
        let ping = Ping { limit: Duration::from_millis(500), ..Ping::once([home]) };
        assert_eq!(traffic::ping(&stranger, ping).await?[0].received, 0);
        Ok(())
    });
}

fn ipv4(address: SocketAddr) -> [u8; 4] {
    match address {
        SocketAddr::V4(address) => address.ip().octets(),
        SocketAddr::V6(_) => panic!("{address} is not IPv4"),
    }
}

#[test]
fn a_shaped_link_delays_each_way() {
    let delay = Duration::from_millis(30);
    in_lab(AGENT, bare(Shape::delay(delay)), async |lab| {
        for family in [Family::V4, Family::V6] {
            let rtt = rtt(lab, family).await?.expect("an answer");
            assert!(rtt >= 2 * delay, "{family}: {rtt:?}");
        }
        lab.link("b").set(Shape::default()).await?;
        // Best of several: the machine may be busy.
        let mut best = Duration::MAX;
        for _ in 0..5 {
            best = best.min(rtt(lab, Family::V4).await?.expect("an answer"));
        }
        assert!(best < delay, "{best:?}");
        Ok(())
    });
}

#[test]
fn a_shaped_link_loses_and_repeats_as_asked_and_says_so() {
    let shape = Shape { loss: 0.2, duplicate: 0.1, ..Shape::default() };
    in_lab(AGENT, bare(shape), async |lab| {
        let ip = lab.node("b").view().await?.underlay.ip(Family::V6);
        // Neighbours know each other before: while they look, packets that wait are lost elsewhere.
        traffic::ping(&lab.node("a"), Ping::once([ip])).await?;
        let udp = Udp { count: 4000, rate: 8000, size: 200, quiet: Duration::from_secs(1) };
        let report = traffic::udp(&lab.node("a"), &lab.node("b"), ip, udp).await?;
        let counters = lab.link("b").counters().await?;
        assert_eq!(report.damaged, 0);
        assert!((600..1000).contains(&report.lost()), "{report:?}");
        // A few of those counted are not ours: neighbours look for each other.
        assert!(
            counters.lost >= report.lost() && counters.lost < report.lost() + 20,
            "{report:?} {counters:?}"
        );
        assert!(report.duplicates.abs_diff(counters.duplicated) < 20, "{report:?} {counters:?}");
        Ok(())
    });
}

#[test]
fn a_silent_mtu_swallows_what_is_longer() {
    in_lab(AGENT, bare(Shape { silent_mtu: Some(1300), ..Shape::default() }), async |lab| {
        let ip = lab.node("b").view().await?.underlay.ip(Family::V4);
        let (ip_and_udp, udp) =
            (28, |size| Udp { count: 20, rate: 1000, size, quiet: Duration::from_millis(300) });
        let fits = traffic::udp(&lab.node("a"), &lab.node("b"), ip, udp(1300 - ip_and_udp)).await?;
        assert_eq!(fits.received, 20);
        let before = lab.link("b").counters().await?.oversized;
        let packet = |len: usize| {
            let mut packet = vec![0; len];
            packet[0] = 0x45;
            packet[9] = 253;
            packet[16..20].copy_from_slice(&ipv4(SocketAddr::new(ip, 0)));
            packet
        };
        probe::send(&lab.node("a"), &[packet(1300), packet(1301)]).await?;
        let mut oversized = before;
        while oversized == before {
            oversized = lab.link("b").counters().await?.oversized;
        }
        assert_eq!(oversized, before + 1);
        Ok(())
    });
}

#[test]
fn what_is_cut_off_comes_back_when_it_is_healed() {
    let mut topology = Topology { sites: vec![], ..Topology::default() };
    for name in ["a", "b", "c"] {
        let mut site = Site::new(name, Nat::None);
        site.nodes.push(NodeSpec { daemon: false, ..NodeSpec::new(format!("{name}-1")) });
        topology.sites.push(site);
    }
    in_lab(AGENT, Lab::builder().topology(topology), async |lab| {
        let cuts = [
            (Cut::Node("a-1".to_owned()), [false, false, true]),
            (Cut::Site("a".to_owned()), [false, false, true]),
            (Cut::Sites("b".to_owned(), "a".to_owned()), [false, true, true]),
        ];
        for (cut, expected) in cuts {
            lab.cut(cut.clone()).await?;
            for ((from, to), expected) in
                [("a-1", "b-1"), ("a-1", "c-1"), ("b-1", "c-1")].iter().zip(expected)
            {
                assert_answers(lab, from, to, expected).await?;
            }
            lab.heal(cut).await?;
            assert_answers(lab, "a-1", "b-1", true).await?;
            assert_answers(lab, "a-1", "c-1", true).await?;
        }
        Ok(())
    });
}

#[test]
fn a_node_roams_within_its_site_and_to_another() {
    let mut topology = Topology::demo();
    // Of both kinds: a veth, and a link with a shape.
    topology.sites[0].nodes[1].link.shape = Some(Shape::default());
    in_lab(AGENT, Lab::builder().topology(topology), async |lab| {
        let cloud = lab.node("cloud-1").view().await?.underlay;
        for name in ["home-1", "home-2"] {
            let node = lab.node(name);
            for site in ["home", "cloud", "cloud", "home"] {
                let before = node.view().await?.underlay;
                node.roam(site).await?;
                let view = node.view().await?;
                assert_eq!(view.site, site);
                assert_ne!(view.underlay, before);
                let targets = [cloud.ip(Family::V4), cloud.ip(Family::V6)];
                let pinged = traffic::ping(&node, Ping::once(targets)).await?;
                assert!(pinged.iter().all(|pinged| pinged.received == 1), "{name} in {site}: {pinged:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn programs_of_a_node_see_its_files_and_names() {
    in_lab(AGENT, Lab::builder().topology(Topology::demo()), async |lab| {
        let node = lab.node("home-1");
        node.write("/etc/ichor/note", "text\n").await?;
        let output = node.run(["sh", "-c", "hostname; cat /etc/ichor/note; getent hosts cloud-2"]).await?;
        let lines: Vec<&str> = output.stdout.lines().collect();
        assert_eq!(lines[..2], ["home-1", "text"]);
        assert!(lines[2].contains("fd69:6368:6f72::2:5"), "{lines:?}");
        let elsewhere = lab.node("home-2").command(["cat", "/etc/ichor/note"]).output().await?;
        assert_eq!(elsewhere.exit, Exit::Code(1));
        let ended = node.command(["sh", "-c", "kill -TERM $$"]).output().await?;
        assert_eq!(ended.exit, Exit::Signal(15));
        node.write("/usr/note", "text").await.expect_err("that is a file of the machine");
        lab.node("nobody").run(["true"]).await.expect_err("there is no such node");
        node.run(["/nonexistent"]).await.expect_err("there is no such program");
        Ok(())
    });
}

#[test]
fn everything_in_a_lab_ends_with_it() {
    block_on(async {
        let Some(lab) = up(AGENT, bare(Shape::default())).await else { return };
        // In a session of its own, ignoring what can be ignored, and with a child.
        let stubborn = "trap '' TERM HUP INT; setsid sh -c 'sleep 1000' & sleep 1000";
        let mut left = lab.node("a").command(["sh", "-c", stubborn]).spawn().await.expect("it starts");
        lab.down().await.expect("the lab ends");
        // Both hold the pipe open while they live.
        assert_eq!(left.line().await.expect("the pipe can be read"), None);
    });
}

#[test]
fn a_lab_ends_with_its_owner_however_that_dies() {
    let mut owner = Command::new(AGENT)
        .arg(probe::hold_lab_argument())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the agent starts");
    let mut line = String::new();
    let stdout = owner.stdout.take().expect("it is piped");
    std::io::BufReader::new(stdout).read_line(&mut line).expect("the agent speaks");
    if line.is_empty() {
        let output = owner.wait_with_output().expect("the agent ended");
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        let required = std::env::var_os(ichor_tests::netns::REQUIRE_VARIABLE).is_some();
        assert!(!required && why.contains("no lab can run here"), "{why}");
        return skip(&why);
    }
    let processes = descendants(owner.id());
    // Workers may not have started yet.
    assert!(processes.len() >= 7, "a stage, a supervisor, and one for each of five nodes: {processes:?}");
    owner.kill().expect("the agent is killed");
    owner.wait().expect("the agent is collected");
    assert!(all_end(&processes, Duration::from_secs(10)), "a process of the lab is left");
}
