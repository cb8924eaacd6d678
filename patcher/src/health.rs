//! Health of a cluster as far as the Talos API tells it.
//!
//! The checks and their order are those of `talosctl health` (Talos: pkg/cluster/check). Those that need the Kubernetes
//! API are left to the control plane node that runs them on request.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures_util::future::try_join_all;
use ichor_proto::talos::machine::EtcdMember;
use serde::Deserialize;

use crate::api::{ApiError, Cause, ListFilter, NodeClient};

const MIB: u64 = 1 << 20;

/// Least memory of a control plane node: 1848 MiB, of which the kernel keeps some (Talos: pkg/minimal).
const CONTROL_PLANE_MEMORY: u64 = (1848 - 150) * MIB;

/// Least memory of a worker.
const WORKER_MEMORY: u64 = (1024 - 150) * MIB;

/// Least size of the EPHEMERAL partition: a disk of 6 GiB without boot, state, meta and the partition table.
const EPHEMERAL_BYTES: u64 = (6 * 1024 - 2101 - 100 - 1 - 10) * MIB;

/// The nodes of a cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterNodes {
    /// Control plane nodes.
    pub control_plane: Vec<Member>,
    /// All others.
    pub workers: Vec<Member>,
}

/// A node and its addresses.
#[derive(Clone, Debug)]
pub struct Member {
    /// How to reach it.
    pub client: NodeClient,
    /// All addresses that it is known by.
    pub addresses: Vec<String>,
}

/// Something that has to be true of a healthy cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// etcd runs and is healthy on every control plane node.
    EtcdHealthy,
    /// All control plane nodes see the same members.
    EtcdConsistent,
    /// Every member is a control plane node.
    EtcdOnControlPlane,
    /// Every node answers.
    ApidReady,
    /// Every node has the memory that Talos asks for.
    MemorySizes,
    /// Every node has the disk that Talos asks for.
    DiskSizes,
    /// No node reports a problem of its own.
    NoDiagnostics,
    /// kubelet runs and is healthy on every control plane node.
    KubeletHealthy,
    /// Every node has finished booting.
    BootFinished,
}

/// How a check that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is true.
    Passed,
    /// The nodes cannot tell.
    Skipped,
}

impl Check {
    /// All checks, in the order in which they make sense.
    pub const ALL: [Self; 9] = [
        Self::EtcdHealthy,
        Self::EtcdConsistent,
        Self::EtcdOnControlPlane,
        Self::ApidReady,
        Self::MemorySizes,
        Self::DiskSizes,
        Self::NoDiagnostics,
        Self::KubeletHealthy,
        Self::BootFinished,
    ];

    /// What is waited for.
    pub const fn title(self) -> &'static str {
        match self {
            Self::EtcdHealthy => "etcd to be healthy",
            Self::EtcdConsistent => "etcd members to be consistent across nodes",
            Self::EtcdOnControlPlane => "etcd members to be control plane nodes",
            Self::ApidReady => "apid to be ready",
            Self::MemorySizes => "all nodes memory sizes",
            Self::DiskSizes => "all nodes disk sizes",
            Self::NoDiagnostics => "no diagnostics",
            Self::KubeletHealthy => "kubelet to be healthy",
            Self::BootFinished => "all nodes to finish boot sequence",
        }
    }

    /// Looks once.
    ///
    /// # Errors
    ///
    /// What is not true, in words.
    pub async fn run(self, cluster: &ClusterNodes) -> Result<Verdict, String> {
        match self {
            Self::EtcdHealthy => service_is_healthy(&cluster.control_plane, "etcd").await,
            Self::EtcdConsistent => etcd_is_consistent(cluster).await,
            Self::EtcdOnControlPlane => etcd_is_on_control_plane(cluster).await,
            Self::ApidReady => {
                on_all(cluster.all(), |node| async move { node.version().await.map(drop) }).await
            }
            Self::MemorySizes => memory_is_enough(cluster).await,
            Self::DiskSizes => disks_are_large_enough(cluster).await,
            Self::NoDiagnostics => no_diagnostics(cluster).await,
            Self::KubeletHealthy => service_is_healthy(&cluster.control_plane, "kubelet").await,
            Self::BootFinished => boot_is_finished(cluster).await,
        }
    }
}

impl ClusterNodes {
    /// All nodes.
    pub fn all(&self) -> impl Iterator<Item = &Member> {
        self.control_plane.iter().chain(&self.workers)
    }
}

/// The members of a cluster, as one of its nodes discovered them.
///
/// # Errors
///
/// Those of the call, and when a node cannot be addressed.
pub async fn discover(
    node: &NodeClient,
    client: impl Fn(&str) -> anyhow::Result<NodeClient>,
) -> anyhow::Result<ClusterNodes> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        addresses: Vec<String>,
        machine_type: String,
    }
    let mut nodes = ClusterNodes::default();
    for member in node.list("cluster", "Members.cluster.talos.dev", ListFilter::default()).await? {
        let spec: Spec = member.spec()?;
        let address = spec.addresses.first();
        let address =
            address.ok_or_else(|| anyhow::anyhow!("member {} has no address", member.metadata.id))?;
        let member = Member { client: client(address)?, addresses: spec.addresses.clone() };
        match spec.machine_type.as_str() {
            "controlplane" | "init" => nodes.control_plane.push(member),
            _ => nodes.workers.push(member),
        }
    }
    anyhow::ensure!(
        !nodes.control_plane.is_empty(),
        "{} knows no control plane node of its cluster",
        node.name()
    );
    Ok(nodes)
}

async fn on_all<'a, F>(
    members: impl Iterator<Item = &'a Member>,
    call: impl Fn(&'a NodeClient) -> F,
) -> Result<Verdict, String>
where
    F: Future<Output = Result<(), ApiError>>,
{
    try_join_all(members.map(|member| call(&member.client))).await.map_err(say)?;
    Ok(Verdict::Passed)
}

async fn service_is_healthy(members: &[Member], id: &str) -> Result<Verdict, String> {
    let look = |member: &Member| {
        let node = member.client.clone();
        async move {
            let services = node.services().await.map_err(say)?;
            let service = services.into_iter().find(|service| service.id == id);
            let service = service.ok_or_else(|| format!("{} has no service {id}", node.name()))?;
            let health = service.health.unwrap_or_default();
            let last = service.events.unwrap_or_default().events.pop().unwrap_or_default();
            match (service.state.as_str(), health.healthy || health.unknown) {
                ("Running", true) => Ok(()),
                ("Running", false) => {
                    Err(format!("{}: {id} is not healthy: {}", node.name(), health.last_message))
                }
                (state, _) => Err(format!("{}: {id} is {state}: {}", node.name(), last.msg)),
            }
        }
    };
    try_join_all(members.iter().map(look)).await?;
    Ok(Verdict::Passed)
}

async fn etcd_views(cluster: &ClusterNodes) -> Result<Vec<(String, Vec<EtcdMember>)>, String> {
    let look = |member: &Member| {
        let node = member.client.clone();
        // As each member sees it: only so do splits show.
        async move { node.etcd_members(true).await.map(|members| (node.name().to_owned(), members)) }
    };
    try_join_all(cluster.control_plane.iter().map(look)).await.map_err(say)
}

async fn etcd_is_consistent(cluster: &ClusterNodes) -> Result<Verdict, String> {
    consistent(&etcd_views(cluster).await?)
}

fn consistent(views: &[(String, Vec<EtcdMember>)]) -> Result<Verdict, String> {
    let key = |member: &EtcdMember| (member.id, member.hostname.clone(), member.is_learner);
    let names = |members: &[EtcdMember]| {
        members.iter().map(|member| member.hostname.as_str()).collect::<Vec<_>>().join(", ")
    };
    let Some(((first, expected), rest)) = views.split_first() else { return Ok(Verdict::Skipped) };
    let expected_keys: BTreeSet<_> = expected.iter().map(key).collect();
    for (node, members) in rest {
        if members.iter().map(key).collect::<BTreeSet<_>>() != expected_keys {
            return Err(format!("{first} sees {}, but {node} sees {}", names(expected), names(members)));
        }
    }
    match expected.iter().find(|member| member.hostname.is_empty()) {
        Some(member) => Err(format!("member {:016x} has not started yet", member.id)),
        None => Ok(Verdict::Passed),
    }
}

async fn etcd_is_on_control_plane(cluster: &ClusterNodes) -> Result<Verdict, String> {
    let known: BTreeSet<String> = cluster
        .control_plane
        .iter()
        .flat_map(|member| member.addresses.iter().map(|text| canonical(text)))
        .collect();
    for (_, members) in etcd_views(cluster).await? {
        for url in members.iter().flat_map(|member| &member.peer_urls) {
            let host = host_of(url).ok_or_else(|| format!("{url:?} is not the URL of an etcd member"))?;
            if !known.contains(&canonical(host)) {
                return Err(format!("etcd member {host} is no control plane node"));
            }
        }
    }
    Ok(Verdict::Passed)
}

async fn memory_is_enough(cluster: &ClusterNodes) -> Result<Verdict, String> {
    let control_plane = cluster.control_plane.iter().map(|member| (member, CONTROL_PLANE_MEMORY));
    let workers = cluster.workers.iter().map(|member| (member, WORKER_MEMORY));
    let look = |(member, least): (&Member, u64)| {
        let node = member.client.clone();
        async move {
            if is_container(&node).await? {
                return Ok(());
            }
            let total =
                node.memory().await.map_err(say)?.meminfo.unwrap_or_default().memtotal.saturating_mul(1024);
            if total >= least {
                return Ok(());
            }
            Err(format!(
                "{} has {} MiB of memory, which is less than {} MiB",
                node.name(),
                total / MIB,
                least / MIB
            ))
        }
    };
    try_join_all(control_plane.chain(workers).map(look)).await?;
    Ok(Verdict::Passed)
}

async fn disks_are_large_enough(cluster: &ClusterNodes) -> Result<Verdict, String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Spec {
        size: u64,
    }
    let look = |member: &Member| {
        let node = member.client.clone();
        async move {
            if is_container(&node).await? {
                return Ok(Verdict::Passed);
            }
            let volume = match node.get("runtime", "VolumeStatuses.block.talos.dev", "EPHEMERAL").await {
                Err(ApiError { cause: Cause::UnknownResource(_) | Cause::Denied(_), .. }) => {
                    return Ok(Verdict::Skipped);
                }
                volume => volume.map_err(say)?,
            };
            let size = volume.spec::<Spec>().map_err(|error| error.to_string())?.size;
            if size >= EPHEMERAL_BYTES {
                return Ok(Verdict::Passed);
            }
            let (has, least) = (size / MIB, EPHEMERAL_BYTES / MIB);
            Err(format!("{} has {has} MiB for EPHEMERAL, which is less than {least} MiB", node.name()))
        }
    };
    try_join_all(cluster.all().map(look)).await.map(worst)
}

async fn no_diagnostics(cluster: &ClusterNodes) -> Result<Verdict, String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Spec {
        message: String,
    }
    let look = |member: &Member| {
        let node = member.client.clone();
        async move {
            match node.list("runtime", "Diagnostics.runtime.talos.dev", ListFilter::default()).await {
                Err(ApiError { cause: Cause::UnknownResource(_), .. }) => Ok(Verdict::Skipped),
                Err(error) => Err(say(error)),
                Ok(found) if found.is_empty() => Ok(Verdict::Passed),
                Ok(found) => {
                    let texts = found.iter().map(|found| found.spec::<Spec>().unwrap_or_default().message);
                    Err(format!("{}: {}", node.name(), texts.collect::<Vec<_>>().join(", ")))
                }
            }
        }
    };
    try_join_all(cluster.all().map(look)).await.map(worst)
}

async fn boot_is_finished(cluster: &ClusterNodes) -> Result<Verdict, String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Spec {
        stage: String,
    }
    let look = |member: &Member| {
        let node = member.client.clone();
        async move {
            let status =
                node.get("runtime", "MachineStatuses.runtime.talos.dev", "machine").await.map_err(say)?;
            match status.spec::<Spec>().map_err(|error| error.to_string())?.stage.as_str() {
                "running" => Ok(()),
                stage => Err(format!("{} is {stage}", node.name())),
            }
        }
    };
    try_join_all(cluster.all().map(look)).await?;
    Ok(Verdict::Passed)
}

/// Containers have the memory and the disks of their host.
async fn is_container(node: &NodeClient) -> Result<bool, String> {
    let platform = node.version().await.map_err(say)?.platform;
    Ok(platform.is_some_and(|platform| platform.mode == "container"))
}

fn worst(verdicts: Vec<Verdict>) -> Verdict {
    if verdicts.contains(&Verdict::Skipped) { Verdict::Skipped } else { Verdict::Passed }
}

fn say(error: ApiError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

/// The host of `scheme://host[:port]`.
pub(crate) fn host_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next(),
        None => authority.split(':').next(),
    }
    .filter(|host| !host.is_empty())
}

/// Addresses that are written differently are the same.
fn canonical(host: &str) -> String {
    host.parse::<IpAddr>().map_or_else(|_| host.to_owned(), |address| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_that_differ_are_a_split() {
        let member =
            |id: u64, hostname: &str| EtcdMember { id, hostname: hostname.into(), ..Default::default() };
        let whole = || vec![member(1, "a"), member(2, "b")];
        let views = |second| [("cp-1".to_owned(), whole()), ("cp-2".to_owned(), second)];
        assert_eq!(consistent(&views(vec![member(2, "b"), member(1, "a")])), Ok(Verdict::Passed));
        assert_eq!(consistent(&views(vec![member(1, "a")])).unwrap_err(), "cp-1 sees a, b, but cp-2 sees a");
        assert!(consistent(&views(vec![member(1, "a"), member(3, "b")])).is_err());
        let unstarted = [("cp-1".to_owned(), vec![member(7, "")])];
        assert_eq!(consistent(&unstarted).unwrap_err(), "member 0000000000000007 has not started yet");
    }

    #[test]
    fn the_host_of_a_peer_url_is_found() {
        assert_eq!(host_of("https://10.0.0.2:2380"), Some("10.0.0.2"));
        assert_eq!(host_of("https://[fd00::2]:2380"), Some("fd00::2"));
        assert_eq!(host_of("10.0.0.2:2380"), None);
        assert_eq!(canonical("fd00:0:0::2"), "fd00::2");
    }
}
