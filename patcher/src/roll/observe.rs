//! What is seen of all nodes at one moment. Nodes are asked side by side: one that is dead costs its own time only.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use ichor_rollout::view::{Etcd, Kubernetes as Seen, Lock, Member, NodeView, Stage, Text, View};
use tokio::time::timeout;

use super::target::Target;
use super::{config_digest, now};
use crate::api::{ApiError, NodeClient, UPGRADE_MARKER};
use crate::config_update::NodeConfig;
use crate::daemon_status::{self, DaemonStatus, Peer};
use crate::kubernetes::Kubernetes;
use crate::kubernetes::nodes::Node;

/// How long one node may take to tell all. What it has not told until then it does not tell this time.
const NODE: Duration = Duration::from_secs(4);
/// How long Kubernetes may take.
const KUBERNETES: Duration = Duration::from_secs(3);
/// The service of the mesh daemon.
const SERVICE: &str = "ext-ichor";

/// Looks at everything once.
pub(crate) async fn look(targets: &[Target], kubernetes: Option<&Kubernetes>, lock: Lock) -> View {
    let at = now();
    let nodes = join_all(targets.iter().map(node));
    let listed = async {
        match kubernetes {
            Some(kubernetes) => timeout(KUBERNETES, kubernetes.nodes()).await.ok()?.ok(),
            None => None,
        }
    };
    let (seen, listed) = tokio::join!(nodes, listed);
    let (mut nodes, daemons): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
    for (at, (target, node)) in targets.iter().zip(&mut nodes).enumerate() {
        node.kubernetes = listed.as_ref().and_then(|listed| in_kubernetes(target, listed));
        node.meshed = daemons[at].as_ref().map(|daemon| Arc::new(meshed(targets, &daemons, daemon)));
    }
    View { at, nodes, lock }
}

/// Waits until every part of what one node tells is there, or its time is over. Its daemon's part is judged apart.
async fn node(target: &Target) -> (NodeView, Option<DaemonStatus>) {
    if target.is_given_up {
        return Default::default();
    }
    let client = target.client.clone().with_deadline(NODE);
    let Ok(Ok(version)) = timeout(NODE, client.talos_version()).await else { return Default::default() };
    let mut view =
        NodeView { answers: true, version: Some(version.to_string().into()), ..NodeView::default() };
    let status = async { client.machine_status().await };
    let daemon = async {
        let services = client.services().await?;
        let found = services.iter().find(|service| service.id == SERVICE);
        Ok::<_, ApiError>(found.is_some_and(|service| service.state == "Running"))
    };
    let etcd = async { if target.votes { etcd(&client).await.ok() } else { None } };
    let all = async {
        tokio::join!(
            status,
            client.boot_id(),
            client.meta_keys(),
            client.extensions(),
            daemon,
            NodeConfig::read(&client),
            daemon_status::read(&client),
            etcd
        )
    };
    let Ok((status, boot, keys, extensions, daemon, config, mesh, etcd)) = timeout(NODE, all).await else {
        return (view, None);
    };
    if let Ok(status) = status {
        view.stage = Some(match status.stage.as_str() {
            "running" => Stage::Running,
            "booting" => Stage::Booting,
            _ => Stage::Other,
        });
        view.ready = status.is_ready();
        view.unmet = status.unmet().iter().map(|unmet| unmet_text(&unmet.name, &unmet.reason)).collect();
    }
    view.boot = boot.ok().map(Text::from);
    view.marked = keys.ok().map(|keys| keys.contains(&UPGRADE_MARKER));
    let names = |extensions: &crate::api::Extensions| {
        extensions.extensions.iter().map(|(name, _)| name.clone()).collect()
    };
    view.extensions = extensions.ok().map(|extensions| Arc::new(names(&extensions)));
    view.daemon = daemon.ok();
    if let Ok(config) = config {
        view.active = Some(config_digest(&config.active.text));
        let persistent = config.persistent.as_ref().unwrap_or(&config.active);
        view.persistent = Some(config_digest(&persistent.text));
    }
    view.etcd = etcd;
    (view, mesh.ok())
}

fn unmet_text(name: &str, reason: &str) -> Text {
    format!("{name}: {reason}").into()
}

/// The nodes to which a daemon has sessions that carry packets of full size.
fn meshed(targets: &[Target], daemons: &[Option<DaemonStatus>], daemon: &DaemonStatus) -> BTreeSet<usize> {
    let owns = |peer: &Peer, address: IpAddr| {
        peer.allowed_ips
            .iter()
            .any(|net| net.split('/').next().and_then(|it| it.parse().ok()) == Some(address))
    };
    let is_peer = |target: &Target, peer: &Peer| {
        peer.name == target.name || target.mesh.is_some_and(|address| owns(peer, address))
    };
    let is_meshed = |at: &usize| {
        let found = daemon.peers.iter().filter(|peer| is_peer(&targets[*at], peer));
        found.into_iter().any(|peer| carries_all(daemon, daemons[*at].as_ref(), peer))
    };
    (0..targets.len()).filter(is_meshed).collect()
}

/// Whether packets of full size are taken to pass to `peer`, whose own daemon is `theirs` if it told. Where both ends
/// prove it, it has to be proven; others never tell.
fn carries_all(ours: &DaemonStatus, theirs: Option<&DaemonStatus>, peer: &Peer) -> bool {
    let proves = |daemon: &DaemonStatus| daemon.network.as_ref().is_some_and(|network| network.mtu.is_some());
    let is_proven = peer.identity.is_some() && proves(ours) && theirs.is_none_or(proves);
    peer.connected && peer.full_size.unwrap_or(!is_proven)
}

/// What the etcd member of a node says, of itself and the others.
async fn etcd(client: &NodeClient) -> Result<Etcd, ApiError> {
    // As this member sees them: only so do splits show.
    let (members, status, alarms) =
        tokio::join!(client.etcd_members(true), client.etcd_status(), client.etcd_alarms());
    let (members, status, alarms) = (members?, status?, alarms?);
    let own = members.iter().find(|member| member.id == status.member_id);
    let advertised =
        own.map(|own| own.peer_urls.iter().filter_map(|url| host(url)).collect()).unwrap_or_default();
    let mut listed: Vec<Member> = members
        .iter()
        .map(|it| Member { id: it.id, started: !it.hostname.is_empty(), learner: it.is_learner })
        .collect();
    listed.sort();
    let has_alarm = alarms.iter().any(|alarm| alarm.member_id == status.member_id && alarm.alarm != 0);
    Ok(Etcd {
        id: status.member_id,
        members: listed.into(),
        leader: status.leader,
        index: status.raft_index,
        applied: status.raft_applied_index,
        ailing: !status.errors.is_empty() || has_alarm,
        advertised: Arc::new(advertised),
    })
}

/// The host of `https://host:2380`, as addresses are written.
fn host(url: &str) -> Option<String> {
    let host = crate::health::host_of(url)?;
    Some(host.parse::<IpAddr>().map_or_else(|_| host.to_owned(), |address| address.to_string()))
}

fn in_kubernetes(target: &Target, listed: &[Node]) -> Option<Seen> {
    let by_name = listed.iter().find(|node| node.name == target.name);
    let by_address =
        || listed.iter().find(|node| target.addresses.iter().any(|it| node.internal_ips.contains(it)));
    let node = by_name.or_else(by_address)?;
    Some(Seen { ready: node.is_ready, schedulable: node.is_schedulable })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon_status::Network;

    #[test]
    fn members_that_prove_their_paths_are_waited_for_and_others_are_believed() {
        let daemon = |mtu| DaemonStatus {
            network: Some(Network { mtu, ..Network::default() }),
            ..DaemonStatus::default()
        };
        let (new, old) = (daemon(Some(1420)), daemon(None));
        let peer = |identity: &[&str], full_size| Peer {
            identity: identity.first().map(|it| (*it).to_owned()),
            connected: true,
            full_size,
            ..Peer::default()
        };
        let (member, listed) = (peer(&["a"], None), peer(&[], None));
        assert!(!carries_all(&new, Some(&new), &member), "it is still to be proven");
        assert!(!carries_all(&new, None, &member), "who did not tell may be able to");
        assert!(carries_all(&new, Some(&old), &member));
        assert!(carries_all(&old, Some(&new), &member));
        assert!(carries_all(&new, Some(&new), &listed), "nobody proves that");
        for ends in [&new, &old] {
            assert!(carries_all(ends, Some(ends), &peer(&["a"], Some(true))));
            assert!(!carries_all(ends, Some(ends), &peer(&["a"], Some(false))));
        }
        let gone = Peer { connected: false, ..peer(&["a"], Some(true)) };
        assert!(!carries_all(&new, Some(&new), &gone));
    }
}
