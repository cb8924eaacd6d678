//! Ichor and other implementations of WireGuard understand each other, whoever begins.

use std::net::SocketAddr;
use std::time::Duration;

use ichor_lab::traffic::{self, Ping, Tcp, Udp};
use ichor_lab::{Child, Family, Lab, LabError, Node};
use ichor_tests::netns::{REQUIRE_VARIABLE, in_lab, skip};
use ichor_tests::peers::{self, Device, Implementation, OURS, PORT, THEIRS, Terms, introduce, pair};
use ichor_tests::probe::{self, Capture};

const AGENT: &str = env!("CARGO_BIN_EXE_lab-agent");
/// The first byte of a cookie reply (WireGuard paper section 5.4.7), and its length.
const COOKIE_REPLY: (u8, usize) = (3, 64);
/// How long a handshake may take under a flood: others retry every five seconds.
const FLOOD_LIMIT: Duration = Duration::from_secs(40);

/// Runs `test` with a lab of ours and a device of `other`, if that is here.
fn with(other: Implementation, test: impl AsyncFn(&Lab, &Device) -> Result<(), LabError>) {
    if let Err(why) = other.find() {
        // The one that every distribution has must be there where nothing may be skipped.
        let required = other.variable == peers::WIREGUARD_GO.variable;
        assert!(
            !required || std::env::var_os(REQUIRE_VARIABLE).is_none(),
            "{REQUIRE_VARIABLE} is set, but {why}"
        );
        return skip(&why);
    }
    in_lab(AGENT, pair(), async |lab| {
        let device = other.start(&lab.node(THEIRS)).await?;
        test(lab, &device).await
    });
}

/// One side knows where the other is.
fn one_knows(we: bool, family: Family) -> Terms {
    Terms { we_know: we, they_know: !we, family, preshared: false }
}

/// The sides in the order in which they begin: only who knows where the other is can.
fn beginner_first<'n>(ours: &'n Node, theirs: &'n Node, we_begin: bool) -> [(&'n Node, &'n Node); 2] {
    if we_begin { [(ours, theirs), (theirs, ours)] } else { [(theirs, ours), (ours, theirs)] }
}

/// Makes sure that echoes come back through the tunnel within `limit`.
async fn assert_reaches(from: &Node, to: &Node, limit: Duration) -> Result<(), LabError> {
    let mesh = to.view().await?.mesh;
    let targets = [mesh.ip(Family::V4), mesh.ip(Family::V6)];
    let pinged = traffic::ping(from, Ping { limit, ..Ping::once(targets) }).await?;
    let (from, to) = (from.name(), to.name());
    assert!(pinged.iter().all(|pinged| pinged.received > 0), "from {from} to {to}: {pinged:?}");
    Ok(())
}

fn handshake_and_data(other: Implementation) {
    for we_begin in [true, false] {
        for family in [Family::V4, Family::V6] {
            with(other, async |lab, device| {
                introduce(
                    lab,
                    device,
                    Terms { preshared: family == Family::V6, ..one_knows(we_begin, family) },
                )
                .await?;
                let ours = lab.node(OURS);
                for (from, to) in beginner_first(&ours, &device.node, we_begin) {
                    assert_reaches(from, to, Duration::from_secs(15)).await?;
                    let mesh = to.view().await?.mesh;
                    for inner in [Family::V4, Family::V6] {
                        let report = traffic::tcp(from, to, mesh.ip(inner), Tcp::checked(2 << 20, 5)).await?;
                        assert_eq!((report.bytes, report.damaged_at), (2 << 20, None));
                        let udp = Udp { count: 200, rate: 500, size: 1300, quiet: Duration::from_secs(2) };
                        let report = traffic::udp(from, to, mesh.ip(inner), udp).await?;
                        assert_eq!((report.received, report.damaged), (200, 0), "{report:?}");
                    }
                }
                let status = ours.until_connected(&[THEIRS]).await?;
                let at = SocketAddr::new(device.node.view().await?.underlay.ip(family), PORT);
                assert_eq!(status.peers[0].endpoint, Some(at));
                Ok(())
            });
        }
    }
}

fn a_wrong_preshared_key_is_refused(other: Implementation) {
    with(other, async |lab, device| {
        introduce(lab, device, Terms { preshared: true, ..one_knows(true, Family::V4) }).await?;
        let ours = lab.node(OURS);
        assert_reaches(&ours, &device.node, Duration::from_secs(15)).await?;
        let right = ours.config().await?;
        let wrong = ours.run(["wg", "genpsk"]).await?.stdout;
        // At our end: not all others take another key for a peer that they have. A session outlives a change of
        // the key, so there must be none.
        ours.stop().await?;
        ours.write("/etc/ichor/wrong", &wrong).await?;
        ours.write_config(&right.replace("/etc/ichor/preshared", "/etc/ichor/wrong")).await?;
        ours.start().await?;
        ours.until_status("a peer", |status| status.peers.len() == 1).await?;
        let mesh = device.node.view().await?.mesh.ip(Family::V4);
        let ping = Ping { limit: Duration::from_secs(2), ..Ping::once([mesh]) };
        assert_eq!(traffic::ping(&ours, ping).await?[0].received, 0);
        ours.configure(&right).await?;
        assert_reaches(&ours, &device.node, Duration::from_secs(15)).await
    });
}

fn roaming(other: Implementation) {
    with(other, async |lab, device| {
        let terms = Terms { we_know: true, they_know: true, family: Family::V4, preshared: false };
        introduce(lab, device, terms).await?;
        let (ours, theirs) = (lab.node(OURS), &device.node);
        assert_reaches(&ours, theirs, Duration::from_secs(15)).await?;
        // They move and speak; we follow. Their link stays: some keep sending by the one that they used last.
        if other.moves {
            theirs.roam(&format!("at-{THEIRS}")).await?;
            assert_reaches(theirs, &ours, Duration::from_secs(15)).await?;
            let at = SocketAddr::new(theirs.view().await?.underlay.ip(Family::V4), PORT);
            ours.until_status("their new address", |status| status.peers[0].endpoint == Some(at)).await?;
            assert_reaches(&ours, theirs, Duration::from_secs(15)).await?;
        } else {
            skip(&format!("{} does not send again after its own address changed", other.name));
        }
        // We move and speak; they follow.
        ours.roam(&format!("at-{THEIRS}")).await?;
        assert_reaches(&ours, theirs, Duration::from_secs(15)).await?;
        let at = SocketAddr::new(ours.view().await?.underlay.ip(Family::V4), 51840).to_string();
        assert_eq!(device.show("endpoints").await?, at);
        assert_reaches(theirs, &ours, Duration::from_secs(15)).await
    });
}

/// Floods `port` of `to` with handshake initiations for `key` from `from`, until what is returned is dropped.
async fn flood(from: &Node, to: &Node, port: u16, key: &str) -> Result<Child, LabError> {
    let at = SocketAddr::new(to.view().await?.underlay.ip(Family::V4), port);
    probe::flood(from, at, key).await
}

/// The flood comes from the address of who begins, so that whoever limits sources limits that one too.
fn cookies(other: Implementation) {
    for we_begin in [true, false] {
        with(other, async |lab, device| {
            let (ours, theirs) = (lab.node(OURS), &device.node);
            let our_key = ours.view().await?.public_key.unwrap_or_default();
            let [(from, to), _] = beginner_first(&ours, theirs, we_begin);
            let (port, key) = if we_begin { (PORT, &device.key) } else { (51840, &our_key) };
            let _flood = flood(from, to, port, key).await?;
            let source = to.view().await?.underlay.v4.addr().into();
            // The flood is answered with cookies once it is felt: only then the handshake is tried.
            let felt = Capture::start(from, source, 1, FLOOD_LIMIT).await?.packets().await?;
            assert!(felt.iter().any(|packet| is_cookie_reply(packet)), "the flood is not felt: {felt:?}");
            introduce(lab, device, one_knows(we_begin, Family::V4)).await?;
            assert_reaches(from, to, FLOOD_LIMIT).await
        });
    }
}

/// Whether an IPv4 packet is a datagram with a cookie reply, or several that were joined.
fn is_cookie_reply(packet: &[u8]) -> bool {
    let (first, len) = COOKIE_REPLY;
    packet.len() > 28 && (packet.len() - 28).is_multiple_of(len) && packet[28] == first
}

/// One module for each, so that the list of tests says what was tried with whom.
macro_rules! interop {
    ($($module:ident: $implementation:expr),+ $(,)?) => {$(
        mod $module {
            use super::*;

            #[test]
            fn handshake_and_data_work_both_ways_over_both_families_with_and_without_preshared_key() {
                handshake_and_data($implementation);
            }

            #[test]
            fn a_wrong_preshared_key_is_refused() {
                super::a_wrong_preshared_key_is_refused($implementation);
            }

            #[test]
            fn either_side_roams() {
                roaming($implementation);
            }

            #[test]
            fn a_handshake_gets_through_a_flood_with_a_cookie() {
                cookies($implementation);
            }
        }
    )+};
}

interop! {
    wireguard_go: peers::WIREGUARD_GO,
    wireguard_go_newest: peers::WIREGUARD_GO_NEWEST,
    boringtun: peers::BORINGTUN,
    gotatun: peers::GOTATUN,
}
