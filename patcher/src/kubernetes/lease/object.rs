//! The lease as an object of the API.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube_core::Request;
use kube_core::params::{GetParams, PostParams};

use super::decide::Seen;
use super::{Held, NAME, NAMESPACE, Times};
use crate::kubernetes::{Kubernetes, KubernetesError};

/// What the run that has the lock does.
const PURPOSE: &str = "ichor/run";
/// Texts of a lease that somebody else wrote are cut to this.
const MAX_TEXT_CHARS: usize = 200;

fn resource() -> Request {
    Request::new(format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"))
}

pub(super) async fn read(kubernetes: &Kubernetes) -> Result<Option<Lease>, KubernetesError> {
    match kubernetes.ask("read the lock", resource().get(NAME, &GetParams::default())).await {
        Err(error) if error.code() == Some(404) => Ok(None),
        result => result.map(Some),
    }
}

pub(super) async fn create(kubernetes: &Kubernetes, lease: Lease) -> Result<Lease, KubernetesError> {
    let request = serde_json::to_vec(&lease)
        .map_err(kube_core::request::Error::SerializeBody)
        .and_then(|body| resource().create(&PostParams::default(), body));
    kubernetes.ask("make the lock", request).await
}

/// Overwrites the version that `lease` names, and no other: anything else is a conflict (409).
pub(super) async fn replace(kubernetes: &Kubernetes, lease: &Lease) -> Result<Lease, KubernetesError> {
    let request = serde_json::to_vec(lease)
        .map_err(kube_core::request::Error::SerializeBody)
        .and_then(|body| resource().replace(NAME, &PostParams::default(), body));
    kubernetes.ask("write the lock", request).await
}

/// The lease with us as its holder.
pub(super) fn filled(lease: Option<Lease>, me: &str, purpose: &str, times: Times) -> Lease {
    let mut lease = lease.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    let now = MicroTime(Timestamp::now());
    let annotations: &mut BTreeMap<_, _> = lease.metadata.annotations.get_or_insert_default();
    annotations.insert(PURPOSE.to_owned(), purpose.chars().take(MAX_TEXT_CHARS).collect());
    let old = lease.spec.take().unwrap_or_default();
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(i32::try_from(times.term.as_secs().max(1)).unwrap_or(i32::MAX)),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: Some(old.lease_transitions.unwrap_or(0).saturating_add(1)),
        ..old
    });
    lease
}

pub(super) fn renewed(lease: &Lease, version: String) -> Lease {
    let mut lease = lease.clone();
    lease.metadata.resource_version = Some(version);
    lease.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
    lease
}

pub(super) fn version(lease: &Lease) -> String {
    lease.metadata.resource_version.clone().unwrap_or_default()
}

pub(super) fn seen(lease: &Lease) -> Seen {
    let spec = lease.spec.clone().unwrap_or_default();
    Seen {
        version: version(lease),
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        renewed: spec.renew_time.map(|time| time.0.to_string()).unwrap_or_default(),
        term: Duration::from_secs(spec.lease_duration_seconds.map_or(0, i32::unsigned_abs).into()),
    }
}

pub(super) fn held(lease: &Lease) -> Held {
    let seen = seen(lease);
    let spec = lease.spec.clone().unwrap_or_default();
    let text = |text: &str| text.chars().take(MAX_TEXT_CHARS).collect::<String>();
    let purpose = lease.metadata.annotations.as_ref().and_then(|all| all.get(PURPOSE));
    Held {
        holder: text(seen.holder.as_deref().unwrap_or("somebody")),
        purpose: purpose.map(|purpose| text(purpose)),
        since: spec.acquire_time.map(|time| time.0.into()),
        renewed: spec.renew_time.map(|time| time.0.into()),
        term: seen.term(),
    }
}

/// Takes our name out of a lease, or leaves it alone where it is not in it.
pub(super) fn give_up(lease: &mut Lease, me: &str) -> bool {
    let spec = lease.spec.get_or_insert_default();
    if spec.holder_identity.as_deref() != Some(me) {
        return false;
    }
    spec.holder_identity = None;
    spec.lease_duration_seconds = Some(1);
    spec.renew_time = Some(MicroTime(Timestamp::now()));
    lease.metadata.annotations.get_or_insert_default().remove(PURPOSE);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_keeps_what_others_wrote_and_counts_its_holders() {
        let times = Times::default();
        let mut lease = filled(None, "a", "upgrade", times);
        lease.metadata.labels = Some([("team".to_owned(), "x".to_owned())].into());
        lease.metadata.resource_version = Some("3".to_owned());
        let second = filled(Some(lease), "b", "apply", times);
        let spec = second.spec.clone().unwrap();
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("b"), Some(2)));
        assert_eq!(second.metadata.labels.as_ref().unwrap()["team"], "x");
        assert_eq!(seen(&second).version, "3");
        let shown = held(&second);
        assert_eq!((&*shown.holder, shown.purpose.as_deref(), shown.term), ("b", Some("apply"), times.term));
    }

    #[test]
    fn a_renewal_changes_the_time_and_nothing_else() {
        let lease = filled(None, "a", "upgrade", Times::default());
        let again = renewed(&lease, "9".to_owned());
        let (before, after) = (lease.spec.unwrap(), again.spec.clone().unwrap());
        assert!(after.renew_time.unwrap().0 >= before.renew_time.unwrap().0);
        assert_eq!(
            (after.acquire_time, after.lease_transitions),
            (before.acquire_time, before.lease_transitions)
        );
        assert_eq!(version(&again), "9");
    }

    #[test]
    fn hostile_leases_are_cut_and_bounded() {
        let mut lease = filled(None, &"x".repeat(10_000), "p", Times::default());
        lease.spec.as_mut().unwrap().lease_duration_seconds = Some(i32::MIN);
        let shown = held(&lease);
        assert_eq!(shown.holder.len(), MAX_TEXT_CHARS);
        assert!(shown.term <= Duration::from_secs(300));
    }
}
