//! The daemon in namespaces, with real devices, sockets and tools: what no simulation can promise.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use etherparse::PacketBuilder;
use ichor_lab::traffic::{self, Ping, Tcp, Udp};
use ichor_lab::{Builder, Family, Lab, LabError, LinkEventKind, Nat, Node, NodeSpec, Shape, Site, Topology};
use ichor_tests::netns::{in_lab, until_succeeds};
use ichor_tests::peers::{Device, PORT};
use ichor_tests::probe::{self, Capture};

const AGENT: &str = env!("CARGO_BIN_EXE_lab-agent");
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Two nodes on two sites without NAT.
fn two(daemon: bool) -> Topology {
    let site = |name: &str| {
        let mut site = Site::new(format!("at-{name}"), Nat::None);
        site.nodes.push(NodeSpec { daemon, ..NodeSpec::new(name) });
        site
    };
    Topology { sites: vec![site("a"), site("b")], seed: 1, ..Topology::default() }
}

fn lab_of(topology: Topology) -> Builder {
    Lab::builder().topology(topology)
}

/// The addresses of `node` in the mesh.
async fn mesh(node: &Node) -> Result<[IpAddr; 2], LabError> {
    let mesh = node.view().await?.mesh;
    Ok(FAMILIES.map(|family| mesh.ip(family)))
}

/// Makes sure that `from` gets answers from `to` through the mesh, over both families.
async fn assert_reaches(from: &Node, to: &Node) -> Result<(), LabError> {
    let pinged = traffic::ping(from, Ping::once(mesh(to).await?)).await?;
    let (from, to) = (from.name(), to.name());
    assert!(pinged.iter().all(|pinged| pinged.received > 0), "from {from} to {to}: {pinged:?}");
    Ok(())
}

// ichord tunnel

async fn tunnel(node: &Node) -> Result<Device, LabError> {
    Device::start(node, "wg0", ["ichord", "tunnel", "-f"].map(str::to_owned).to_vec()).await
}

fn allowed_ips(device: &Device) -> String {
    format!("{}/32,{}/128", device.mesh.v4.addr(), device.mesh.v6.addr())
}

#[test]
fn wg_configures_and_shows_a_tunnel() {
    in_lab(AGENT, lab_of(two(false)), async |lab| {
        let (a, b) = (tunnel(&lab.node("a")).await?, tunnel(&lab.node("b")).await?);
        b.set(&["peer", &a.key, "allowed-ips", &allowed_ips(&a)]).await?;
        let endpoint = SocketAddr::new(b.node.view().await?.underlay.ip(Family::V4), PORT).to_string();
        let allowed = allowed_ips(&b);
        a.set(&["peer", &b.key, "allowed-ips", &allowed, "endpoint", &endpoint]).await?;
        assert_reaches(&a.node, &b.node).await?;
        assert_eq!(a.show("endpoints").await?, endpoint);
        let from = SocketAddr::new(a.node.view().await?.underlay.ip(Family::V4), PORT).to_string();
        assert_eq!(b.show("endpoints").await?, from);
        let shaken: u64 = a.show("latest-handshakes").await?.parse().expect("a time");
        assert!(shaken > 0);
        assert!(a.node.run(["wg", "show", "wg0"]).await?.stdout.contains("transfer: "));

        a.set(&[
            "peer",
            &b.key,
            "persistent-keepalive",
            "25",
            "allowed-ips",
            &format!("{allowed},10.9.0.0/16"),
        ])
        .await?;
        assert_eq!(a.show("persistent-keepalive").await?, "25");
        assert!(a.show("allowed-ips").await?.contains("10.9.0.0/16"));
        a.set(&["fwmark", "0x2a"]).await?;
        assert!(a.node.run(["wg", "show", "wg0", "fwmark"]).await?.stdout.contains("0x2a"));
        a.set(&["peer", &b.key, "remove"]).await?;
        assert_eq!(a.node.run(["wg", "show", "wg0", "peers"]).await?.stdout, "");
        Ok(())
    });
}

#[test]
fn wg_setconf_replaces_and_syncconf_keeps_sessions() {
    in_lab(AGENT, lab_of(two(false)), async |lab| {
        let (a, b) = (tunnel(&lab.node("a")).await?, tunnel(&lab.node("b")).await?);
        b.set(&["peer", &a.key, "allowed-ips", &allowed_ips(&a)]).await?;
        let endpoint = SocketAddr::new(b.node.view().await?.underlay.ip(Family::V6), PORT);
        let secret = a.node.read("/etc/wireguard/key").await?;
        let config = |more: &str| {
            let (secret, key, allowed) = (secret.trim(), &b.key, allowed_ips(&b));
            format!(
                "[Interface]\nPrivateKey = {secret}\nListenPort = {PORT}\n[Peer]\nPublicKey = {key}\n\
                 AllowedIPs = {allowed}\nEndpoint = {endpoint}\n{more}"
            )
        };
        a.node.write("/etc/wireguard/wg0.conf", &config("")).await?;
        a.node.run(["wg", "setconf", "wg0", "/etc/wireguard/wg0.conf"]).await?;
        assert_reaches(&a.node, &b.node).await?;
        let shaken = a.show("latest-handshakes").await?;

        let other = a.node.run(["sh", "-c", "wg genkey | wg pubkey"]).await?.stdout;
        let more = format!("PersistentKeepalive = 7\n[Peer]\nPublicKey = {other}AllowedIPs = 10.8.0.0/16\n");
        a.node.write("/etc/wireguard/wg0.conf", &config(&more)).await?;
        a.node.run(["wg", "syncconf", "wg0", "/etc/wireguard/wg0.conf"]).await?;
        let peers = a.node.run(["wg", "show", "wg0", "peers"]).await?.stdout;
        assert_eq!(peers.lines().count(), 2);
        let dump = a.node.run(["wg", "show", "wg0", "dump"]).await?.stdout;
        let line = dump.lines().find(|line| line.starts_with(&b.key)).expect("the peer stays");
        assert!(line.contains(&shaken) && line.ends_with("\t7"), "{line}");
        assert_reaches(&a.node, &b.node).await?;

        a.node.write("/etc/wireguard/wg0.conf", &config("")).await?;
        a.node.run(["wg", "setconf", "wg0", "/etc/wireguard/wg0.conf"]).await?;
        let peers = a.node.run(["wg", "show", "wg0", "peers"]).await?.stdout;
        assert_eq!(peers.trim(), b.key);
        assert_reaches(&a.node, &b.node).await
    });
}

#[test]
fn wg_quick_runs_the_second_name_of_the_program() {
    in_lab(AGENT, lab_of(two(false)), async |lab| {
        let (a, b) = (lab.node("a"), tunnel(&lab.node("b")).await?);
        let quick = a.run(["sh", "-c", "command -v wg-quick"]).await?.stdout;
        // It prefers the kernel's WireGuard where there is one: this copy never does.
        let without_kernel = format!(
            "sed -e 's/cmd ip link add \"$INTERFACE\" type wireguard/false/' -e 's#/sys/module/wireguard#/nowhere#' \
             {} > /run/wg-quick; chmod +x /run/wg-quick",
            quick.trim()
        );
        a.run(["sh", "-c", &without_kernel]).await?;
        a.run(["sh", "-c", "mkdir -p /etc/wireguard; umask 077; wg genkey > /etc/wireguard/key"]).await?;
        let key = a.run(["sh", "-c", "wg pubkey < /etc/wireguard/key"]).await?.stdout;
        let secret = a.read("/etc/wireguard/key").await?;
        let mesh = a.view().await?.mesh;
        let endpoint = SocketAddr::new(b.node.view().await?.underlay.ip(Family::V4), PORT);
        b.set(&["peer", key.trim(), "allowed-ips", &format!("{}/32,{}/128", mesh.v4.addr(), mesh.v6.addr())])
            .await?;
        let (v4, v6) = (mesh.v4.addr(), mesh.v6.addr());
        let config = format!(
            "[Interface]\nPrivateKey = {secret}Address = {v4}/32, {v6}/128\nMTU = 1400\n[Peer]\nPublicKey = {}\n\
             AllowedIPs = {}\nEndpoint = {endpoint}\n",
            b.key,
            allowed_ips(&b)
        );
        a.write("/etc/wireguard/quick0.conf", &config).await?;
        let quick = |verb: &'static str| {
            let command = a.command(["/run/wg-quick", verb, "quick0"]);
            command.env("WG_QUICK_USERSPACE_IMPLEMENTATION", "ichord-tunnel").success()
        };
        let said = quick("up").await?.stderr;
        assert!(said.contains("ichord-tunnel quick0"), "{said}");
        assert_reaches(&a, &b.node).await?;
        quick("down").await?;
        until_succeeds(&a, "! ip link show quick0 2>/dev/null && ! test -e /run/wireguard/quick0.sock").await
    });
}

// ichord run

#[test]
fn all_pairs_connect_over_both_families_behind_each_kind_of_nat() {
    for nat in [Nat::None, Nat::PortPreserving, Nat::Random, Nat::Static] {
        let mut topology = Topology::demo();
        topology.sites[0].nat = nat;
        in_lab(AGENT, lab_of(topology), async |lab| {
            lab.until_connected().await?;
            for from in lab.view().await?.nodes {
                assert_eq!(from.peers.len(), 4);
                for to in &from.peers {
                    assert_reaches(&lab.node(&from.name), &lab.node(to)).await?;
                }
            }
            Ok(())
        });
    }
}

#[test]
fn an_ipv6_underlay_carries_both_families() {
    in_lab(AGENT, lab_of(two(true)).underlay(Family::V6), async |lab| {
        let (a, b) = (lab.node("a"), lab.node("b"));
        assert_reaches(&a, &b).await?;
        let status = a.until_connected(&["b"]).await?;
        assert!(status.peers[0].endpoint.is_some_and(|endpoint| endpoint.is_ipv6()), "{status:?}");
        for ip in mesh(&b).await? {
            let report = traffic::tcp(&a, &b, ip, Tcp::checked(4 << 20, 7)).await?;
            assert_eq!((report.bytes, report.damaged_at), (4 << 20, None));
        }
        Ok(())
    });
}

/// The configuration of `node` with one more network behind its only peer.
async fn with_network(node: &Node, network: &str) -> Result<String, LabError> {
    let config = node.config().await?;
    let line = config.lines().find(|line| line.contains("allowedIPs: [")).expect("a peer has allowed IPs");
    Ok(config.replace(line, &line.replace("allowedIPs: [", &format!("allowedIPs: [{network}, "))))
}

#[test]
fn a_changed_file_and_a_hangup_are_taken_over_without_dropping_a_session() {
    in_lab(AGENT, lab_of(two(true)), async |lab| {
        let (a, b) = (lab.node("a"), lab.node("b"));
        assert_reaches(&a, &b).await?;
        let shaken = a.until_connected(&["b"]).await?.peers[0].last_handshake;
        for (network, hangup) in [("10.99.0.0/24", true), ("10.98.0.0/24", false)] {
            let udp = Udp { count: 2000, rate: 500, size: 400, quiet: Duration::from_secs(2) };
            let to = mesh(&b).await?[0];
            let change = async {
                a.write_config(&with_network(&a, network).await?).await?;
                if hangup {
                    a.reload().await?;
                }
                let has = |allowed: &String| allowed == network;
                a.until_status("a new network", |status| status.peers[0].allowed_ips.iter().any(has)).await
            };
            let (report, status) = tokio::try_join!(traffic::udp(&a, &b, to, udp), change)?;
            assert_eq!((report.lost(), report.damaged), (0, 0), "{report:?}");
            assert_eq!(status.peers[0].last_handshake, shaken);
            until_succeeds(&a, &format!("ip route show {network} | grep -q ichor0")).await?;
        }
        Ok(())
    });
}

#[test]
fn a_bad_file_is_named_with_line_and_key_and_the_last_good_one_stays() {
    in_lab(AGENT, lab_of(two(true)), async |lab| {
        let (a, b) = (lab.node("a"), lab.node("b"));
        assert_reaches(&a, &b).await?;
        let good = a.config().await?;
        let bad = good.replace("listenPort: 51840", "listenPort: many");
        a.write_config(&bad).await?;
        a.reload().await?;
        let of_config = |status: &ichord::status::Status| {
            status.problems.iter().find(|problem| problem.part == "config").map(|found| found.cause.clone())
        };
        let status = a.until_status("a problem", |status| of_config(status).is_some()).await?;
        let cause = of_config(&status).expect("it is there");
        for part in ["/etc/ichor/ichord.yaml", "listenPort", "line 2"] {
            assert!(cause.contains(part), "{cause}");
        }
        assert_reaches(&a, &b).await?;
        // Also over a restart.
        a.stop().await?;
        a.start().await?;
        a.until_status("the peer of the last good configuration", |status| {
            of_config(status).is_some() && status.peers.iter().any(|peer| peer.name == "b" && peer.connected)
        })
        .await?;
        assert_reaches(&a, &b).await?;
        a.write_config(&good).await?;
        a.until_status("no problem", |status| status.problems.is_empty()).await?;
        assert_reaches(&a, &b).await
    });
}

#[test]
fn a_killed_worker_costs_neither_link_nor_carrier_nor_addresses_nor_routes() {
    in_lab(AGENT, lab_of(two(true)), async |lab| {
        let (a, b) = (lab.node("a"), lab.node("b"));
        assert_reaches(&a, &b).await?;
        let network = "10.99.0.0/24";
        b.configure(&with_network(&b, network).await?).await?;
        until_succeeds(&b, &format!("ip route show {network} | grep -q ichor0")).await?;
        let mut watch = b.watch_link("ichor0").await?;
        assert!(watch.begin.up && watch.begin.carrier, "{:?}", watch.begin);
        let before = b.view().await?.pid;
        let state =
            "ip -o address show ichor0; ip route show table all dev ichor0; ip -6 route show dev ichor0";
        let was = b.run(["sh", "-c", state]).await?.stdout;

        let udp = Udp { count: 5000, rate: 2000, size: 400, quiet: Duration::from_secs(2) };
        let to = mesh(&b).await?[1];
        let kill = async {
            // Traffic flows when the counters say so.
            until_succeeds(&b, "test $(cat /sys/class/net/ichor0/statistics/rx_packets) -gt 200").await?;
            b.kill_worker().await
        };
        let (report, ()) = tokio::try_join!(traffic::udp(&a, &b, to, udp), kill)?;
        assert!(report.received > report.sent / 4 && report.damaged == 0, "{report:?}");

        // Not one of a second stream is lost: all is as it was.
        assert_reaches(&a, &b).await?;
        let udp = Udp { count: 500, ..udp };
        assert_eq!(traffic::udp(&a, &b, to, udp).await?.lost(), 0);
        assert_eq!(traffic::udp(&b, &a, mesh(&a).await?[0], udp).await?.lost(), 0);
        assert_eq!(b.run(["sh", "-c", state]).await?.stdout, was);
        assert_eq!(b.view().await?.pid, before);
        for event in watch.drain(Duration::from_millis(500)).await? {
            let deleted =
                [LinkEventKind::DeletedLink, LinkEventKind::DeletedAddress, LinkEventKind::DeletedRoute];
            assert!(!deleted.contains(&event.kind), "{event:?}");
            if event.kind == LinkEventKind::NewLink {
                assert!(event.carrier && event.up && event.index == watch.begin.index, "{event:?}");
            }
        }
        Ok(())
    });
}

/// `home-1` and `cloud-1`, of which only home is told where the other is.
fn home_and_cloud() -> Topology {
    let mut topology = Topology::demo();
    topology.sites[0].nodes.truncate(1);
    topology.sites[1].nodes.truncate(1);
    topology
}

#[test]
fn a_restarted_daemon_finds_its_peers_again() {
    in_lab(AGENT, lab_of(home_and_cloud()), async |lab| {
        // Only home knows where the cloud is; that the cloud knows the way home is what it heard.
        let (home, cloud) = (lab.node("home-1"), lab.node("cloud-1"));
        assert_reaches(&home, &cloud).await?;
        cloud.until_connected(&["home-1"]).await?;
        until_succeeds(&cloud, "test -s /var/lib/ichor/endpoints").await?;
        cloud.stop().await?;
        cloud.start().await?;
        assert_reaches(&cloud, &home).await
    });
}

#[test]
fn a_killed_worker_leaves_its_endpoints_to_the_next_even_without_a_disk() {
    in_lab(AGENT, lab_of(home_and_cloud()), async |lab| {
        let (home, cloud) = (lab.node("home-1"), lab.node("cloud-1"));
        assert_reaches(&home, &cloud).await?;
        until_succeeds(&cloud, "test -s /var/lib/ichor/endpoints").await?;
        // Nobody tells the next worker where home is.
        home.stop().await?;
        let endpoints = "wg show ichor0 endpoints";
        let was = cloud.run(["sh", "-c", endpoints]).await?.stdout;
        cloud.run(["rm", "/var/lib/ichor/endpoints"]).await?;
        cloud.kill_worker().await?;
        until_succeeds(&cloud, &format!("test \"$({endpoints})\" = '{}'", was.trim_end())).await
    });
}

#[test]
fn a_member_roams_and_traffic_follows() {
    for family in FAMILIES {
        in_lab(AGENT, lab_of(two(true)).underlay(family), async |lab| {
            let (a, b) = (lab.node("a"), lab.node("b"));
            assert_reaches(&a, &b).await?;
            for site in ["at-b", "at-b", "at-a"] {
                a.roam(site).await?;
                assert_reaches(&a, &b).await?;
                let now = a.view().await?.underlay.ip(family);
                b.until_status("the new address of a", |status| {
                    status.peers[0].endpoint.is_some_and(|endpoint| endpoint.ip() == now)
                })
                .await?;
                assert_reaches(&b, &a).await?;
            }
            Ok(())
        });
    }
}

/// A UDP packet from `from` to `to` with the ECN field `ecn`.
fn udp_packet(from: IpAddr, to: IpAddr, ecn: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 9),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 9),
        (from, to) => panic!("{from} and {to} are of different families"),
    };
    // Each codepoint is a flow of its own: packets of one flow may arrive joined.
    builder
        .udp(1000, 9000 + u16::from(ecn))
        .write(&mut packet, &[ecn; 64])
        .expect("a vector takes everything");
    match to {
        IpAddr::V4(_) => {
            packet[1] = ecn;
            let sum = ipv4_checksum(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        IpAddr::V6(_) => packet[1] |= ecn << 4,
    }
    packet
}

fn ipv4_checksum(header: &[u8]) -> u16 {
    let words = header.chunks(2).enumerate().filter(|(n, _)| *n != 5);
    let sum: u32 = words.map(|(_, word)| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

fn ecn(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 4 { packet[1] & 3 } else { packet[1] >> 4 & 3 }
}

#[test]
fn congestion_met_on_the_way_reaches_the_receiver() {
    let mut topology = two(true);
    topology.sites[1].uplink.shape = Some(Shape::default());
    in_lab(AGENT, lab_of(topology), async |lab| {
        let (a, b) = (lab.node("a"), lab.node("b"));
        assert_reaches(&a, &b).await?;
        let (from, to) = (mesh(&a).await?, mesh(&b).await?);
        // RFC 6040: what can be marked is marked; what cannot is dropped when it should have been.
        for (congestion, sent, expected) in
            [(0.0, vec![0, 1, 2, 3], vec![0, 1, 2, 3]), (1.0, vec![1, 2, 3], vec![3, 3, 3])]
        {
            lab.uplink("at-b").set(Shape { congestion, ..Shape::default() }).await?;
            for (from, to) in from.iter().zip(to) {
                let packets: Vec<_> = sent.iter().map(|ecn| udp_packet(*from, to, *ecn)).collect();
                let capture = Capture::start(&b, *from, sent.len(), Duration::from_secs(10)).await?;
                probe::send(&a, &packets).await?;
                let arrived: Vec<u8> = capture.packets().await?.iter().map(|packet| ecn(packet)).collect();
                assert_eq!(arrived, expected, "{from} with congestion {congestion}");
            }
        }
        Ok(())
    });
}

/// Packets that offload, checksums or parsers could stumble over.
fn odd_packets(from: [IpAddr; 2], to: [IpAddr; 2]) -> Vec<Vec<u8>> {
    let plain = udp_packet(from[0], to[0], 0);
    let change = |packet: &[u8], f: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = packet.to_vec();
        f(&mut packet);
        if packet[0] >> 4 == 4 {
            let header = usize::from(packet[0] & 15) * 4;
            let sum = ipv4_checksum(&packet[..header]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            let len = u16::try_from(packet.len() - 40).expect("a short packet");
            packet[4..6].copy_from_slice(&len.to_be_bytes());
        }
        packet
    };
    let six = udp_packet(from[1], to[1], 0);
    // The kernel sets an identification of 0 itself.
    let numbered = change(&plain, &|packet| packet[4..6].copy_from_slice(&[7, 7]));
    vec![
        // UDP with a checksum that is wrong, and with none.
        change(&numbered, &|packet| packet[26] ^= 1),
        change(&numbered, &|packet| packet[26..28].fill(0)),
        // A first fragment without the rest, and a last one without the first.
        change(&numbered, &|packet| packet[6] = 0x20),
        change(&numbered, &|packet| packet[6..8].copy_from_slice(&[0, 64])),
        // An unassigned protocol, nothing but a header, and options.
        change(&numbered, &|packet| packet[9] = 253),
        change(&numbered, &|packet| {
            packet.truncate(20);
            packet[2..4].copy_from_slice(&20_u16.to_be_bytes());
            packet[9] = 253;
        }),
        change(&numbered, &|packet| {
            packet.splice(20..20, [1, 1, 1, 0]);
            packet[0] = 0x46;
            let len = u16::try_from(packet.len()).expect("a short packet");
            packet[2..4].copy_from_slice(&len.to_be_bytes());
        }),
        // A checksum that is wrong, no next header, a fragment, a destination option, an unassigned protocol.
        change(&six, &|packet| packet[46] ^= 1),
        change(&six, &|packet| {
            packet.truncate(40);
            packet[6] = 59;
        }),
        change(&six, &|packet| {
            packet[6] = 44;
            packet.splice(40..40, [17, 0, 0, 1, 0, 0, 0, 9]);
        }),
        change(&six, &|packet| {
            packet[6] = 60;
            packet.splice(40..40, [17, 0, 1, 4, 0, 0, 0, 0]);
        }),
        change(&six, &|packet| packet[6] = 253),
    ]
}

#[test]
fn fragments_and_odd_packets_pass_unchanged() {
    in_lab(AGENT, lab_of(two(true)), async |lab| {
        let (a, b) = (lab.node("a"), lab.node("b"));
        assert_reaches(&a, &b).await?;
        let (from, to) = (mesh(&a).await?, mesh(&b).await?);
        let odd = odd_packets(from, to);
        for family in FAMILIES {
            let n = usize::from(family == Family::V6);
            let sent: Vec<_> =
                odd.iter().filter(|packet| (packet[0] >> 4 == 6) == from[n].is_ipv6()).cloned().collect();
            let capture = Capture::start(&b, from[n], sent.len(), Duration::from_secs(10)).await?;
            probe::send(&a, &sent).await?;
            assert_eq!(capture.packets().await?, sent, "{family}");
            // Longer than the MTU: fragments of the kernel's making, put together again.
            let udp = Udp { count: 100, rate: 500, size: 7000, quiet: Duration::from_secs(2) };
            let report = traffic::udp(&a, &b, to[n], udp).await?;
            assert_eq!((report.lost(), report.damaged), (0, 0), "{family}: {report:?}");
        }
        Ok(())
    });
}

#[test]
fn streams_survive_a_bad_underlay_unharmed() {
    let mut topology = two(true);
    let shape = Shape { loss: 0.01, reorder: 0.05, duplicate: 0.02, delay_ms: 3.0, ..Shape::default() };
    topology.sites[1].uplink.shape = Some(shape);
    in_lab(AGENT, lab_of(topology), async |lab| {
        let (a, b) = (lab.node("a"), lab.node("b"));
        assert_reaches(&a, &b).await?;
        for ip in mesh(&b).await? {
            let report = traffic::tcp(&a, &b, ip, Tcp::checked(1 << 20, 3)).await?;
            assert_eq!((report.bytes, report.damaged_at), (1 << 20, None));
        }
        Ok(())
    });
}
