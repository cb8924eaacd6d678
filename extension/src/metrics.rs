//! The status as metrics, in the text format of Prometheus (OpenMetrics 1.0).

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::status::{Peer, State, Status};

/// Labels of one series.
type Labels<'l> = Vec<(&'static str, String)>;

/// The metrics of `status`.
pub(crate) fn render(status: &Status) -> String {
    let mut registry = Registry::with_prefix("ichor");
    registry.register_collector(Box::new(Snapshot(status.clone())));
    let mut text = String::new();
    // A String takes everything.
    let _ = text::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Snapshot(Status);

/// One metric, while its series are written.
struct Metric<'n> {
    name: &'n str,
    help: &'n str,
    kind: MetricType,
}

impl Metric<'_> {
    fn encode<M: EncodeMetric>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        series: impl IntoIterator<Item = (Labels<'static>, M)>,
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, self.kind)?;
        for (labels, value) in series {
            value.encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn one(&self, encoder: &mut DescriptorEncoder<'_>, value: &impl EncodeMetric) -> fmt::Result {
        value.encode(encoder.encode_descriptor(self.name, self.help, None, self.kind)?)
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(status) = self;
        let encoder = &mut encoder;
        let gauge = |name, help| Metric { name, help, kind: MetricType::Gauge };
        let counter = |name, help| Metric { name, help, kind: MetricType::Counter };

        let network = status.network.as_ref();
        let about = vec![
            ("version", status.version.clone()),
            ("interface", status.interface.clone().unwrap_or_default()),
            ("network", network.map(|network| network.name.clone()).unwrap_or_default()),
            ("member", network.and_then(|network| network.member.clone()).unwrap_or_default()),
        ];
        gauge("build_info", "What runs here; always 1").encode(encoder, [(about, ConstGauge::new(1))])?;
        let states = [State::Starting, State::Idle, State::Degraded, State::Running];
        gauge("state", "1 for the state that the daemon is in").encode(
            encoder,
            states.map(|state| {
                (vec![("state", state.label().to_owned())], ConstGauge::new(i64::from(state == status.state)))
            }),
        )?;
        gauge("problem", "1 for each part that has a problem; the status says which").encode(
            encoder,
            status.problems.iter().map(|problem| (vec![("part", problem.part.clone())], ConstGauge::new(1))),
        )?;
        gauge("status_written_timestamp_seconds", "When these values were read")
            .one(encoder, &ConstGauge::new(status.written_at as i64))?;
        if let Some(network) = network {
            gauge("members", "Members of the network, this node included")
                .one(encoder, &ConstGauge::new(network.members as i64))?;
            gauge("conflicts", "Members that an owner must decide about")
                .one(encoder, &ConstGauge::new(network.conflicts.len() as i64))?;
        }
        counter("dropped_packets", "Packets that were dropped, by reason").encode(
            encoder,
            status
                .drops
                .iter()
                .map(|(reason, count)| (vec![("reason", reason.clone())], ConstCounter::new(*count))),
        )?;

        let peers = |value: fn(&Peer) -> Option<f64>| {
            status.peers.iter().filter_map(move |peer| Some((of(peer), ConstGauge::new(value(peer)?))))
        };
        let bytes = |value: fn(&Peer) -> u64| {
            status.peers.iter().map(move |peer| (of(peer), ConstCounter::new(value(peer))))
        };
        gauge("peer_connected", "1 while a packet could be sent to the peer")
            .encode(encoder, peers(|peer| Some(f64::from(u8::from(peer.connected)))))?;
        gauge("peer_last_handshake_timestamp_seconds", "When keys were last agreed upon with the peer")
            .encode(encoder, peers(|peer| peer.last_handshake.map(|at| at as f64)))?;
        gauge("peer_rtt_seconds", "The last round trip to the peer that was measured")
            .encode(encoder, peers(|peer| peer.rtt_micros.map(|micros| micros as f64 / 1e6)))?;
        gauge(
            "peer_full_size",
            "1 while packets of full size pass to the peer in one piece, 0 while they do not",
        )
        .encode(encoder, peers(|peer| peer.full_size.map(|passes| f64::from(u8::from(passes)))))?;
        counter("peer_received_bytes", "Bytes received from the peer, headers of WireGuard included")
            .encode(encoder, bytes(|peer| peer.rx_bytes))?;
        counter("peer_sent_bytes", "Bytes sent to the peer, headers of WireGuard included")
            .encode(encoder, bytes(|peer| peer.tx_bytes))
    }
}

fn of(peer: &Peer) -> Labels<'static> {
    let mut labels = vec![("peer", peer.name.clone())];
    // Peers that are listed by hand may share a name.
    if peer.identity.is_none() {
        labels.push(("public_key", peer.public_key.clone()));
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Network;

    #[test]
    fn what_the_status_says_is_there_and_names_cannot_break_the_format() {
        let mut status = Status::starting();
        status.state = State::Running;
        status.drops.insert("replay".to_owned(), 3);
        status.peers.push(Peer {
            name: "a\"b\nc".to_owned(),
            public_key: "AAAA".to_owned(),
            identity: Some("00".to_owned()),
            incarnation: None,
            endpoint: None,
            connected: true,
            last_handshake: None,
            allowed_ips: Vec::new(),
            token: None,
            version: None,
            rtt_micros: Some(1500),
            full_size: Some(false),
            since: None,
            rx_bytes: 7,
            tx_bytes: 8,
        });
        status.network = Some(Network {
            name: "home".to_owned(),
            id: String::new(),
            member: None,
            identity: None,
            incarnation: None,
            token: None,
            members: 2,
            mtu: Some(1420),
            conflicts: Vec::new(),
            owners: Vec::new(),
            hello_key: None,
            tombstones: None,
        });
        let text = render(&status);
        for line in [
            "ichor_state{state=\"running\"} 1",
            "ichor_state{state=\"idle\"} 0",
            "ichor_members 2",
            "ichor_dropped_packets_total{reason=\"replay\"} 3",
            "ichor_peer_connected{peer=\"a\\\"b\\nc\"} 1.0",
            "ichor_peer_rtt_seconds{peer=\"a\\\"b\\nc\"} 0.0015",
            "ichor_peer_full_size{peer=\"a\\\"b\\nc\"} 0.0",
            "ichor_peer_received_bytes_total{peer=\"a\\\"b\\nc\"} 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in:\n{text}");
        }
        assert!(!text.contains("last_handshake_timestamp_seconds{"), "it is not known");
        assert!(text.ends_with("# EOF\n"));
    }
}
