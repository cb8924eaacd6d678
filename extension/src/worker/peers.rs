//! Which peers the driver should have, and the changes that lead there without touching the others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use ichor_mesh::key::{PresharedKey, PublicKey};
use ichor_mesh::record::IdentityKey;
use ipnet::IpNet;

use crate::uapi::PeerChange;

/// A peer as it should be.
#[derive(Debug, Clone)]
pub(super) struct PeerSpec {
    pub(super) name: String,
    pub(super) preshared: Option<PresharedKey>,
    pub(super) endpoint: Option<SocketAddr>,
    /// Where it says that it may be reached, best first; without an endpoint from the configuration.
    pub(super) candidates: Vec<SocketAddr>,
    pub(super) keepalive: Option<Duration>,
    pub(super) allowed_ips: BTreeSet<IpNet>,
    /// Who it is, whatever its key is; only members have one.
    pub(super) identity: Option<IdentityKey>,
}

/// Peers by key.
pub(super) type Peers = BTreeMap<PublicKey, PeerSpec>;

/// The changes from `old` to `new`. What did not change is not mentioned: naming an endpoint again would send
/// a peer that roams back to where it was.
pub(super) fn changes(old: &Peers, new: &Peers) -> Vec<PeerChange> {
    let removed = old.keys().filter(|key| !new.contains_key(*key)).map(|key| {
        let mut change = PeerChange::new(*key);
        change.remove = true;
        change
    });
    removed.chain(new.iter().filter_map(|(key, spec)| change(*key, old.get(key), spec))).collect()
}

fn change(key: PublicKey, old: Option<&PeerSpec>, new: &PeerSpec) -> Option<PeerChange> {
    let mut change = PeerChange::new(key);
    if !same_key(old.and_then(|old| old.preshared.as_ref()), new.preshared.as_ref()) {
        // All zeros is the same as none.
        change.preshared_key = Some(new.preshared.clone().unwrap_or(PresharedKey::new([0; 32])));
    }
    if new.endpoint.is_some() && old.and_then(|old| old.endpoint) != new.endpoint {
        change.endpoint = new.endpoint;
    }
    if old.and_then(|old| old.keepalive) != new.keepalive {
        change.keepalive = Some(new.keepalive.unwrap_or_default());
    }
    let none = BTreeSet::new();
    let had = old.map_or(&none, |old| &old.allowed_ips);
    change.allowed_ips = had
        .difference(&new.allowed_ips)
        .map(|net| (*net, false))
        .chain(new.allowed_ips.difference(had).map(|net| (*net, true)))
        .collect();
    let is_empty = change.preshared_key.is_none()
        && change.endpoint.is_none()
        && change.keepalive.is_none()
        && change.allowed_ips.is_empty();
    (old.is_none() || !is_empty).then_some(change)
}

/// Peers that have another key now, the old one first.
pub(super) fn rekeyed(old: &Peers, new: &Peers) -> Vec<(PublicKey, PublicKey)> {
    let gone = old.iter().filter(|(key, _)| !new.contains_key(*key));
    let by_identity: BTreeMap<_, _> = gone.filter_map(|(key, spec)| Some((spec.identity?, *key))).collect();
    let come = new.iter().filter(|(key, _)| !old.contains_key(*key));
    come.filter_map(|(key, spec)| Some((*by_identity.get(&spec.identity?)?, *key))).collect()
}

/// The peers that may be reached elsewhere now.
pub(super) fn moved(old: &Peers, new: &Peers) -> Vec<(PublicKey, Vec<SocketAddr>)> {
    let moved = new
        .iter()
        .filter(|(key, spec)| old.get(key).map_or(&[][..], |old| &old.candidates) != spec.candidates);
    moved.map(|(key, spec)| (*key, spec.candidates.clone())).collect()
}

fn same_key(old: Option<&PresharedKey>, new: Option<&PresharedKey>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => old.same_as(new),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> PeerSpec {
        PeerSpec {
            name: "b".into(),
            preshared: None,
            endpoint: Some("192.0.2.1:1".parse().unwrap()),
            candidates: Vec::new(),
            keepalive: Some(Duration::from_secs(25)),
            allowed_ips: BTreeSet::from(["10.0.0.2/32".parse().unwrap()]),
            identity: None,
        }
    }

    #[test]
    fn a_member_with_another_key_is_the_same_member() {
        let member = |n: u8| PeerSpec { identity: Some(IdentityKey([n; 32])), ..spec() };
        let old = peers(&[(1, member(1)), (2, member(2)), (3, spec())]);
        let new = peers(&[(4, member(1)), (2, member(2)), (5, spec()), (6, member(3))]);
        let key = |n: u8| PublicKey::new([n; 32]);
        assert_eq!(rekeyed(&old, &new), [(key(1), key(4))]);
    }

    fn peers(list: &[(u8, PeerSpec)]) -> Peers {
        list.iter().map(|(key, spec)| (PublicKey::new([*key; 32]), spec.clone())).collect()
    }

    #[test]
    fn nothing_changed_is_no_change() {
        let same = peers(&[(1, spec())]);
        assert!(changes(&same, &same).is_empty());
    }

    #[test]
    fn a_new_peer_is_added_with_all_it_has() {
        let changes = changes(&peers(&[]), &peers(&[(1, spec())]));
        let [change] = &changes[..] else { panic!("one change") };
        assert_eq!(change.endpoint, spec().endpoint);
        assert_eq!(change.keepalive, spec().keepalive);
        assert_eq!(change.allowed_ips, [("10.0.0.2/32".parse().unwrap(), true)]);
        assert!(change.preshared_key.is_none());
    }

    #[test]
    fn only_what_changed_is_mentioned() {
        let moved = PeerSpec { allowed_ips: BTreeSet::from(["10.0.0.3/32".parse().unwrap()]), ..spec() };
        let changes = changes(&peers(&[(1, spec()), (2, spec())]), &peers(&[(1, moved), (2, spec())]));
        let [change] = &changes[..] else { panic!("one change") };
        assert_eq!((change.endpoint, change.keepalive), (None, None));
        assert_eq!(change.allowed_ips.len(), 2);
    }

    #[test]
    fn a_peer_that_is_gone_is_removed() {
        let changes = changes(&peers(&[(1, spec())]), &peers(&[]));
        assert!(changes[0].remove);
    }

    #[test]
    fn a_preshared_key_can_be_taken_away() {
        let with = PeerSpec { preshared: Some(PresharedKey::new([7; 32])), ..spec() };
        let changes = changes(&peers(&[(1, with)]), &peers(&[(1, spec())]));
        assert!(changes[0].preshared_key.as_ref().unwrap().is_zero());
    }
}
