//! Moving node addresses, and in one profile etcd, onto the mesh.

use super::pin::legacy;
use super::{Case, INTERFACE};
use crate::cluster::{Measured, Profile};
use crate::machine::DocumentId;
use crate::patch::ensure::{Edit, Place, Setting, Wish};

/// Least heartbeat of etcd in milliseconds, which is its default.
const MIN_HEARTBEAT_MS: u32 = 100;

pub(super) fn edits(case: &Case<'_>) -> Vec<Edit> {
    let profile = case.cluster.mesh.profile;
    if profile == Profile::Beside {
        return Vec::new();
    }
    let range = case.cluster.mesh.range.to_string();
    let mut edits = Vec::new();
    if !case.selects_mesh_only(&case.facts.valid_subnets) {
        let reason = "pods and kubelets of all sites reach each other under mesh addresses";
        edits.extend(case.valid_subnets(std::slice::from_ref(&range), reason));
    }
    if !case.is_control_plane() {
        return edits;
    }
    edits.extend(flannel(case));
    if profile == Profile::Stretched {
        edits.extend(etcd(case, &range));
    }
    edits
}

/// Both settings of etcd at one start: members dial the new address at once, but a running etcd does not listen there.
fn etcd(case: &Case<'_>, range: &str) -> Vec<Edit> {
    let mut edits = Vec::new();
    if !case.selects_mesh_only(&case.advertised()) {
        let reason = "voters in several sites reach each other over the mesh only";
        let place = Place::at("cluster.etcd.advertisedSubnets");
        edits.push(legacy(Wish::Is(place, Setting::texts([range])), reason));
    }
    let mut listen = case.lan_subnets(&case.observation.etcd_ips);
    listen.push(range.to_owned());
    let wide = listen.iter().all(|subnet| case.facts.listen.contains(subnet));
    if !wide {
        let reason = "listen on the LAN too, until every member has moved";
        edits.push(legacy(Wish::Is(Place::at("cluster.etcd.listenSubnets"), Setting::texts(listen)), reason));
    }
    if let Some((heartbeat, election)) = case.cluster.mesh.measured.map(timeouts) {
        let reason = format!(
            "a round trip of up to {} ms between voters: heartbeat not below it, election after ten",
            case.cluster.mesh.measured.map_or(0, |measured| measured.rtt_ms)
        );
        let args = || Place::at("cluster.etcd.extraArgs");
        let text = |number: u32| Setting::text(number.to_string());
        edits.push(legacy(Wish::Is(args().key("heartbeat-interval"), text(heartbeat)), &reason));
        edits.push(legacy(Wish::Is(args().key("election-timeout"), text(election)), &reason));
    }
    edits
}

/// Heartbeat interval and election timeout in milliseconds.
fn timeouts(measured: Measured) -> (u32, u32) {
    let heartbeat = measured.rtt_ms.max(MIN_HEARTBEAT_MS);
    (heartbeat, (heartbeat * 10).max(1000))
}

/// flannel takes the interface of the default route unless it is told another one.
fn flannel(case: &Case<'_>) -> Vec<Edit> {
    let reason = "flannel would take the interface of the default route, and its MTU";
    let args = vec![Setting::text(format!("--iface={INTERFACE}"))];
    if case.facts.has("KubeFlannelCNIConfig") {
        // VXLAN adds 50 bytes to each packet.
        let mtu = Setting::Int(i64::from(case.cluster.mesh.mtu) - 50);
        let edit = |wish| Edit {
            document: DocumentId::new("KubeFlannelCNIConfig", ""),
            wish,
            reason: reason.to_owned(),
        };
        return vec![
            edit(Wish::Contains(Place::at("extraArgs"), args)),
            edit(Wish::Is(Place::at("backendMTU"), mtu)),
        ];
    }
    if case.facts.has_flannel() {
        let name = Wish::Is(Place::at("cluster.network.cni.name"), Setting::text("flannel"));
        let args = Wish::Contains(Place::at("cluster.network.cni.flannel.extraArgs"), args);
        return vec![legacy(name, reason), legacy(args, reason)];
    }
    Vec::new()
}
