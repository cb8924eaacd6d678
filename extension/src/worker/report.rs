//! What the worker shows of itself: the status file and socket, and the UAPI for `wg show`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::sync::watch;

use super::Worker;
use super::members::Members;
use super::services::View;
use crate::clock::{self, WallClock};
use crate::dns::Zone;
use crate::driver::Driver;
use crate::status::{self, Problem, State, Status};
use crate::uapi;

impl Worker {
    /// Lets `wg(8)` see the interface, once there is one.
    pub(super) fn serve_uapi(&self) -> Option<()> {
        let interface = self.applied.interface.as_deref()?;
        match uapi::Server::bind(uapi::socket_path(interface), uapi::Access::ReadOnly) {
            Ok(server) => {
                let driver = self.driver.clone();
                tokio::spawn(async move { server.serve(&driver).await });
            }
            Err(error) => {
                tracing::warn!("wg(8) will not see the interface: {:#}", anyhow::Error::from(error))
            }
        }
        Some(())
    }

    pub(super) async fn snapshot(&self) -> Status {
        let clock = WallClock::read();
        let mut snapshot = Status::starting();
        snapshot.problems = self
            .problems
            .iter()
            .map(|(part, cause)| Problem { part: (*part).to_owned(), cause: cause.clone() })
            .collect();
        snapshot.state = match (&self.config, snapshot.problems.is_empty()) {
            (None, _) => State::Idle,
            (Some(_), true) => State::Running,
            (Some(_), false) => State::Degraded,
        };
        snapshot.config_sha256.clone_from(&self.config_sha256);
        let Some(config) = &self.config else { return snapshot };
        snapshot.interface.clone_from(&self.applied.interface);
        snapshot.listen_port = self.applied.listen_port;
        snapshot.public_key = self.applied.secret.as_ref().map(|secret| secret.public().to_string());
        let addresses = self.addresses(config.static_mesh.as_ref());
        snapshot.addresses = addresses.iter().map(ToString::to_string).collect();
        snapshot.network = self.members.as_ref().map(Members::shown);
        let observed = self.driver.call(|driver: &mut Driver| {
            let peers = driver.node().status(clock::now());
            let mut drops: BTreeMap<String, u64> = driver
                .node()
                .counters()
                .iter()
                .map(|(reason, count)| (reason.label().to_owned(), count))
                .collect();
            let stats = driver.stats();
            drops.insert("tun_write".to_owned(), stats.tun_write_failed);
            drops.insert("tun_read".to_owned(), stats.tun_read_malformed);
            drops.insert("udp_send".to_owned(), stats.udp_send_failed);
            drops.insert("mail".to_owned(), stats.mail_lost);
            drops.retain(|_, count| *count > 0);
            (peers, drops)
        });
        let Ok((peers, drops)) = observed.await else { return snapshot };
        snapshot.drops = drops;
        snapshot.peers = peers
            .into_iter()
            .map(|peer| (self.members.as_ref().and_then(|members| members.of_key(&peer.key)), peer))
            .map(|(member, peer)| status::Peer {
                version: self.members.as_ref().and_then(|members| members.version_of(&peer.key)),
                rtt_micros: self.members.as_ref().and_then(|members| members.rtt_micros(&peer.key)),
                full_size: self.members.as_ref().and_then(|members| members.full_size(&peer.key)),
                since: self
                    .members
                    .as_ref()
                    .and_then(|members| members.since(&peer.key))
                    .map(|at| status::seconds(clock.date(at))),
                identity: member.map(|settled| settled.identity().to_string()),
                incarnation: member.map(|settled| settled.id().to_string()),
                token: member.map(|settled| settled.grant.id.to_string()),
                name: self.applied.peers.get(&peer.key).map_or_else(String::new, |spec| spec.name.clone()),
                public_key: peer.key.to_string(),
                endpoint: peer.endpoint,
                connected: peer.has_session,
                last_handshake: peer.last_handshake.map(|at| status::seconds(clock.date(at))),
                allowed_ips: peer.allowed_ips.iter().map(ToString::to_string).collect(),
                rx_bytes: peer.rx_bytes,
                tx_bytes: peer.tx_bytes,
            })
            .collect();
        snapshot.peers.sort_by(|a, b| a.name.cmp(&b.name));
        if !snapshot.peers.iter().any(|peer| peer.connected)
            && let (Some(members), Some(mesh)) = (&self.members, &config.mesh)
            && let Some(cause) = members.unheard(mesh)
        {
            snapshot.problems.push(Problem { part: "member".to_owned(), cause });
            snapshot.state = State::Degraded;
        }
        snapshot
    }

    /// The names of the members, if questions about them are answered.
    pub(super) fn zone(&self) -> Option<Zone> {
        let dns = self.config.as_ref()?.mesh.as_ref()?.dns.as_ref()?;
        let members = self.members.as_ref()?;
        let ranges = members.addresses().iter().map(IpNet::trunc).collect();
        Some(Zone::new(&dns.zone, members.hosts(), ranges))
    }
}

/// Replaces the status file. A status that cannot be written is no reason to stop.
pub(super) fn publish(directory: &Path, snapshot: &Status) {
    if let Err(error) = status::write_file(directory, &snapshot.to_json()) {
        tracing::warn!(%error, directory = %directory.display(), "the status cannot be written");
    }
}

/// Answers everybody who connects to the status socket with the current snapshot.
pub(super) fn serve_status(directory: &Path, current: watch::Receiver<Arc<View>>) {
    let path = status::socket(directory);
    // A socket that an earlier process left.
    let _ = std::fs::remove_file(&path);
    let listener = match UnixListener::bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, socket = %path.display(), "the status cannot be served");
            return;
        }
    };
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((mut stream, _)) => {
                    let json = current.borrow().status.to_json();
                    // A client that does not read is its own concern.
                    let write = async move { stream.write_all(json.as_bytes()).await };
                    tokio::spawn(tokio::time::timeout(Duration::from_secs(5), write));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a status client failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
}
