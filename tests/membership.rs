//! Networks without a server, of daemons in namespaces: joining, the last one standing, cold start, removal.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use base64::Engine as _;

use ichor_lab::traffic::{self, Ping};
use ichor_lab::{Cut, Exit, Family, Lab, LabError, Nat, Node, NodeSpec, Output, Site, Topology};
use ichor_mesh::crypto::{RealCrypto, Secret};
use ichor_mesh::hello::{HelloPublic, REQUEST_LEN};
use ichor_mesh::join::Profile;
use ichor_mesh::join_string::JoinString;
use ichor_mesh::key::PublicKey;
use ichor_mesh::membership::{Membership, Now, Output as Said, Saved};
use ichor_mesh::record::announcement::Announcement;
use ichor_tests::boots::{self, Boots};
use ichor_tests::netns::{in_lab, until_succeeds};
use ichor_tests::probe::{self, Capture};

const AGENT: &str = env!("CARGO_BIN_EXE_lab-agent");
const OPERATOR: &str = env!("CARGO_BIN_EXE_operator");
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// `a` and `b` at one site, `c` and `d` at another, and the operator, who is no member, at a third.
fn topology() -> Topology {
    let site = |site: &str, nodes: &[&str]| {
        let mut site = Site::new(site, Nat::None);
        site.nodes = nodes.iter().map(|name| NodeSpec::new(*name)).collect();
        site
    };
    let mut office = site("office", &["op"]);
    office.nodes[0].daemon = false;
    let sites = vec![site("here", &["a", "b"]), site("there", &["c", "d"]), office];
    Topology { sites, seed: 1, ..Topology::default() }
}

/// Runs `test` with a network that was begun.
fn with_network(test: impl AsyncFnOnce(&Lab, &Operator) -> Result<(), LabError>) {
    in_lab(AGENT, Lab::builder().topology(topology()), async |lab| {
        let operator = Operator { node: lab.node("op") };
        let seed = endpoint(&lab.node("a")).await?.to_string();
        operator.run(&["mesh", "init", "lab", "--range", "10.213.0.0/16", "--seed", &seed]).await?;
        test(lab, &operator).await
    });
}

/// Who has the key of the network's owner, and nothing but `ichorctl`.
struct Operator {
    node: Node,
}

impl Operator {
    async fn output(&self, args: &[&str]) -> Result<Output, LabError> {
        let command = [&[OPERATOR], args].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
        self.node.command(command).env("HOME", "/run/operator").output().await
    }

    async fn run(&self, args: &[&str]) -> Result<String, LabError> {
        let output = self.output(args).await?;
        assert!(output.exit.success(), "{args:?}: {}", output.stderr);
        Ok(output.stdout)
    }

    /// What the configuration of `name` is to be for it to be let in.
    async fn token(&self, name: &str, more: &[&str]) -> Result<String, LabError> {
        let join = self.run(&[&["token", "create", "--name", name], more].concat()).await?;
        Ok(format!("mesh:\n  join: {join}"))
    }

    /// Lets `node` in under its own name.
    async fn admit(&self, node: &Node) -> Result<(), LabError> {
        self.admit_as(node, node.name(), &[]).await
    }

    async fn admit_as(&self, node: &Node, name: &str, more: &[&str]) -> Result<(), LabError> {
        node.write_config(&self.token(name, more).await?).await?;
        node.reload().await
    }

    /// Hands the operator what `node` says of itself.
    async fn sees(&self, node: &Node) -> Result<(), LabError> {
        self.node.write("/run/operator/status.json", &node.status().await?.to_json()).await
    }
}

/// Where `node` is to be found.
async fn endpoint(node: &Node) -> Result<SocketAddr, LabError> {
    Ok(SocketAddr::new(node.view().await?.underlay.ip(Family::V4), 51840))
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
    with_network(async |lab, operator| {
        let nodes = NAMES.map(|name| lab.node(name));
        for node in &nodes[..3] {
            operator.admit(node).await?;
        }
        assert_whole(lab, &NAMES[..3]).await?;
        // All but one are off.
        nodes[0].stop().await?;
        nodes[1].stop().await?;
        let seed = endpoint(&nodes[2]).await?.to_string();
        operator.admit_as(&nodes[3], "d", &["--seed", &seed]).await?;
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
    with_network(async |lab, operator| {
        let (a, b) = (lab.node("a"), lab.node("b"));
        let configs = [operator.token("a", &[]).await?, operator.token("b", &[]).await?];
        lab.cut(Cut::Site("here".to_owned())).await?;
        for (node, config) in [&a, &b].into_iter().zip(&configs) {
            node.write_config(config).await?;
            node.reload().await?;
        }
        assert_whole(lab, &["a", "b"]).await?;
        // The join strings are gone, as they may be once a node is a member, and each was moved meanwhile.
        for node in [&a, &b] {
            node.stop().await?;
            // What it said before is not to be taken for what it says then.
            node.run(["rm", "-f", "/var/run/ichor/status.json"]).await?;
            node.write_config("mesh: {}\n").await?;
            node.roam("here").await?;
        }
        let began = Instant::now();
        a.start().await?;
        b.start().await?;
        until_whole(&a, 2).await?;
        until_whole(&b, 2).await?;
        // A figure for who asks (`--nocapture`).
        let _ = writeln!(std::io::stderr().lock(), "cold start: a mesh after {:?}", began.elapsed());
        assert_whole(lab, &["a", "b"]).await
    });
}

#[test]
fn a_replacing_token_gives_the_same_addresses_to_a_machine_that_lost_its_state() {
    with_network(async |lab, operator| {
        let [a, b, c, thief] = NAMES.map(|name| lab.node(name));
        for node in [&a, &b, &c] {
            operator.admit(node).await?;
        }
        assert_whole(lab, &NAMES[..3]).await?;
        let before = b.status().await?;
        let network = before.network.as_ref();
        let incarnation = network.and_then(|network| network.incarnation.clone()).expect("a member has one");

        // Who merely has a token for the name cannot have it while its holder is there.
        operator.admit_as(&thief, "b", &[]).await?;
        thief
            .until_status("to hear that the name is taken", |status| {
                let taken = |cause: &str| cause.contains("somebody has the name");
                status.problems.iter().any(|problem| problem.part == "member" && taken(&problem.cause))
            })
            .await?;

        b.stop().await?;
        b.run(["sh", "-c", "rm -rf /var/lib/ichor"]).await?;
        b.write_config(&operator.token("b", &["--replace", &incarnation]).await?).await?;
        b.start().await?;
        b.until_status("another incarnation", |status| {
            let now = status.network.as_ref().and_then(|network| network.incarnation.as_ref());
            now.is_some_and(|now| *now != incarnation)
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

#[test]
fn whom_an_owner_removes_is_gone_everywhere_and_comes_back_with_a_new_token_only() {
    with_network(async |lab, operator| {
        let [a, b, c, _] = NAMES.map(|name| lab.node(name));
        for node in [&a, &b, &c] {
            operator.admit(node).await?;
        }
        assert_whole(lab, &NAMES[..3]).await?;
        operator.sees(&b).await?;
        let status = ["--status", "/run/operator/status.json"];
        let listed = operator.run(&[&["member", "list"], &status[..]].concat()).await?;
        let lines: Vec<_> = listed.lines().map(|line| line.split_whitespace().next().unwrap_or("")).collect();
        assert_eq!(lines, ["NAME", "b", "a", "c"], "{listed}");
        let remove = [&["member", "remove", "c"], &status[..]].concat();
        let refused = operator.output(&remove).await?;
        assert_eq!(refused.exit, Exit::Code(3), "{}", refused.stderr);
        operator.run(&[&remove[..], &["--yes"]].concat()).await?;

        let old_key = c.status().await?.public_key.expect("a key");
        for node in [&a, &b] {
            until_whole(node, 2).await?;
            assert!(!node.run(["wg", "show", "ichor0", "peers"]).await?.stdout.contains(&old_key));
        }
        c.until_status("to be no member any more", |status| {
            let barred = |cause: &str| cause.contains("removed by an owner");
            status.problems.iter().any(|problem| barred(&problem.cause))
        })
        .await?;
        assert_whole(lab, &NAMES[..2]).await?;

        // Its old join string is of no use, a new one is.
        operator.admit(&c).await?;
        assert_whole(lab, &NAMES[..3]).await
    });
}

#[test]
fn a_join_string_that_lets_nobody_in_can_be_replaced_while_the_daemon_runs() {
    with_network(async |lab, operator| {
        let [a, b, ..] = NAMES.map(|name| lab.node(name));
        operator.admit(&a).await?;
        until_whole(&a, 1).await?;
        // The name is taken.
        operator.admit_as(&b, "a", &[]).await?;
        b.until_status("to hear that it is taken", |status| {
            status.problems.iter().any(|problem| problem.cause.contains("somebody has the name"))
        })
        .await?;
        operator.admit(&b).await?;
        assert_whole(lab, &NAMES[..2]).await
    });
}

/// The first hello of a machine that has the join string `join`, and the identity `identity`.
fn hello(join: JoinString, identity: u8) -> Vec<u8> {
    let announcement = Announcement {
        sequence: 0,
        wireguard: PublicKey::new([identity; 32]),
        candidates: vec![],
        version: "0".to_owned(),
        capabilities: 0,
        instance: [identity; 8],
        boot: 0,
    };
    let profile = Profile { identity: Secret::new([identity; 32]), name: None, routes: vec![], announcement };
    let now = Now { instant: Instant::now(), clock: None };
    let joining = Membership::join(join, profile, [identity; 32], now, &RealCrypto);
    said_by(&mut joining.expect("a request"), now).remove(0)
}

/// The hellos that `membership` sends at `now`.
fn said_by(membership: &mut Membership, now: Now) -> Vec<Vec<u8>> {
    membership.handle_timeout(now);
    let outputs = std::iter::from_fn(|| membership.poll_output());
    outputs
        .filter_map(|output| if let Said::Hello { datagram, .. } = output { Some(datagram) } else { None })
        .collect()
}

/// What a member that was removed would say: with all that it has on its disk.
async fn hellos_of_removed(node: &Node) -> Result<Vec<Vec<u8>>, LabError> {
    let file = node.run(["base64", "-w0", "/var/lib/ichor/membership"]).await?.stdout;
    let file = base64::engine::general_purpose::STANDARD.decode(file.trim()).expect("base64");
    let head = file.iter().position(|byte| *byte == b'\n').expect("a checksum") + 1;
    let mut saved = Saved::decode(&file[head..], &RealCrypto).expect("a membership");
    // It does not want to know that it was removed.
    saved.items.clear();
    let now = |seconds| Now { instant: Instant::now() + Duration::from_secs(seconds), clock: None };
    let mut membership =
        Membership::resume(saved, [9; 8], [9; 32], now(0), &RealCrypto).expect("a valid genesis");
    let hellos: Vec<_> = (0..10).flat_map(|second| said_by(&mut membership, now(second))).collect();
    assert!(!hellos.is_empty());
    Ok(hellos)
}

#[test]
fn outsiders_get_no_answer() {
    with_network(async |lab, operator| {
        let [a, b, c, _] = NAMES.map(|name| lab.node(name));
        let decode = |config: &str| {
            let text = config.lines().nth(1).and_then(|line| line.trim().strip_prefix("join: "));
            JoinString::decode(text.expect("a join string"), &RealCrypto).expect("a valid one")
        };
        let at = endpoint(&a).await?;
        operator.admit(&a).await?;
        until_whole(&a, 1).await?;
        let from_b = endpoint(&b).await?.ip();
        let capture = Capture::start(&a, from_b, 10, Duration::from_secs(20)).await?;
        operator.admit(&b).await?;
        operator.admit(&c).await?;
        assert_whole(lab, &NAMES[..3]).await?;
        // Without IP and UDP headers.
        let captured = capture.packets().await?;
        let replayed = captured.iter().filter_map(|packet| packet.get(28..));
        let replayed = replayed.filter(|hello| hello.len() == REQUEST_LEN).map(<[u8]>::to_vec).next();
        let replayed = replayed.expect("the hello with which b was let in");
        let spent = decode(&b.config().await?);
        let expired = decode(&operator.token("e", &["--ttl", "1s"]).await?);
        let revoked = decode(&operator.token("f", &[]).await?);
        operator.run(&["token", "revoke", &revoked.grant.id.to_string()]).await?;
        operator.sees(&b).await?;
        operator.run(&["member", "remove", "c", "--status", "/run/operator/status.json", "--yes"]).await?;
        until_whole(&a, 2).await?;
        let mut genesis_only = decode(&operator.token("g", &[]).await?);
        genesis_only.hello = HelloPublic([7; 32]);
        let good = decode(&operator.token("d", &[]).await?);
        let not_after = expired.grant.grant.not_after;
        until_succeeds(&a, &format!("test $(date +%s) -gt {not_after}")).await?;

        let mut datagrams =
            vec![vec![], vec![0], vec![0x10; 4], vec![0x10; REQUEST_LEN], vec![0xff; REQUEST_LEN]];
        datagrams.extend((0..40).map(|n| damaged(&good, n)));
        datagrams.push(replayed);
        datagrams.extend([hello(spent, 31), hello(expired, 32), hello(revoked, 33), hello(genesis_only, 34)]);
        datagrams.extend(hellos_of_removed(&c).await?);
        // And one that is answered, once: by then all others were looked at.
        datagrams.push(hello(good, 35));
        let answers = probe::knock(&lab.node("op"), at, &datagrams).await?;
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert!(answers[0].len() <= REQUEST_LEN);
        Ok(())
    });
}

/// A hello with one byte changed, `n` picks which.
fn damaged(join: &JoinString, n: usize) -> Vec<u8> {
    let mut datagram = hello(join.clone(), 40);
    let at = n * REQUEST_LEN / 40;
    datagram[at] ^= 1;
    datagram
}

#[test]
fn whatever_lies_on_the_disk_the_daemon_starts_and_says_how_it_is() {
    let mut site = Site::new("here", Nat::None);
    site.nodes = vec![NodeSpec { daemon: false, ..NodeSpec::new("a") }];
    let topology = Topology { sites: vec![site], ..Topology::default() };
    in_lab(AGENT, Lab::builder().topology(topology), async |lab| {
        let boots = Boots { seed: 1, count: 40, member: boots::first_member() };
        let report = boots::run(&lab.node("a"), boots).await?;
        // How long it took is for `boot-fuzz`: this machine may be busy.
        let wrong: Vec<_> = report.violations.iter().filter(|what| !what.contains(" after ")).collect();
        assert!(wrong.is_empty() && report.good > 0, "{report:?}");
        Ok(())
    });
}
