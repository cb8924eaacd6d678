//! One lock for every run that changes a cluster: the Lease `kube-system/ichor-rollout`.
//!
//! Whoever has it renews it in the background and asks [`Lock::check`] before each action. `decide` says who may have
//! it; here are the requests.

mod decide;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube_core::Request;
use kube_core::params::{GetParams, PostParams};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::decide::LockState;
use self::decide::{Candidate, Holding, Seen, Step};
use super::{Kubernetes, KubernetesError};

/// Where the lease is.
pub const NAMESPACE: &str = "kube-system";
/// Its name.
pub const NAME: &str = "ichor-rollout";

/// What the run that has the lock does.
const PURPOSE: &str = "ichor/run";
/// Texts of a lease that somebody else wrote are cut to this.
const MAX_TEXT_CHARS: usize = 200;

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// After this long without a renewal somebody else may take the lock.
    pub term: Duration,
    /// After this long we no longer count on having it. Less than the term.
    pub safe: Duration,
    /// How often it is renewed.
    pub renew: Duration,
    /// How often it is looked at while somebody else has it, and how soon a failed renewal is tried again.
    pub retry: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            term: Duration::from_secs(60),
            safe: Duration::from_secs(40),
            renew: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Somebody who has the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Who.
    pub holder: String,
    /// What for, if it says so.
    pub purpose: Option<String>,
    /// Since when, by its clock.
    pub since: Option<SystemTime>,
    /// When it was renewed last, by its clock.
    pub renewed: Option<SystemTime>,
    /// How long it keeps the lock after that.
    pub term: Duration,
}

/// Why the lock was not acquired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody else has it and is alive.
    #[error("{} has the lock{}", .0.holder, .0.purpose.as_ref().map(|it| format!(" for {it}")).unwrap_or_default())]
    Held(Held),
    /// The Kubernetes API did not do it.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
}

/// The lock is not ours any more: nothing may be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockLost {
    /// It could not be renewed for so long that somebody else may have it.
    #[error("the lock could not be renewed for {} s: somebody else may have it by now", .0.as_secs())]
    Doubtful(Duration),
    /// Somebody else has it.
    #[error("{0} took the lock")]
    Taken(String),
    /// It is not there any more.
    #[error("the lock was given up or deleted by somebody else")]
    Deleted,
}

/// The lock. It is renewed until this goes; then it runs out by itself, unless [`Lock::release`] gives it up.
#[derive(Debug)]
pub struct Lock {
    kubernetes: Kubernetes,
    me: String,
    times: Times,
    holding: Arc<Mutex<Holding>>,
    state: watch::Receiver<LockState>,
    renewal: JoinHandle<()>,
}

/// A name for a run: who started it where, and something that no other run has.
pub fn identity() -> String {
    let text = |text: String| -> String {
        text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).take(48).collect()
    };
    let user = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok()).map(text);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").map(text);
    let mut random = [0; 8];
    // Without randomness the process number still tells two runs on one machine apart.
    if SystemRandom::new().fill(&mut random).is_err() {
        random = u64::from(std::process::id()).to_be_bytes();
    }
    let user = user.filter(|user| !user.is_empty()).unwrap_or_else(|| "ichorctl".to_owned());
    let host = host.ok().filter(|host| !host.is_empty()).unwrap_or_else(|| "unknown".to_owned());
    let mut identity = format!("{user}@{host}-");
    for byte in random {
        let _infallible = write!(identity, "{byte:02x}");
    }
    identity
}

impl Lock {
    /// Acquires the lock as `me` ([`identity`]). Where somebody has it, waits until they renew it, which is a
    /// refusal, or until their term is over; `watching` is told of them once.
    ///
    /// # Errors
    ///
    /// When somebody has it, or the API does not do it.
    pub async fn acquire(
        kubernetes: &Kubernetes,
        me: &str,
        purpose: &str,
        times: Times,
        watching: impl FnOnce(&Held),
    ) -> Result<Self, LockError> {
        let mut candidate = Candidate::new(me.to_owned());
        let mut watching = Some(watching);
        loop {
            let found = read(kubernetes).await?;
            let seen = found.as_ref().map(seen);
            let sent = since_boot();
            let written = match candidate.look(seen.as_ref(), sent) {
                Step::Create => create(kubernetes, filled(None, me, purpose, times)).await,
                Step::Take(_) => replace(kubernetes, &filled(found, me, purpose, times)).await,
                Step::Watch(end) => {
                    if let (Some(found), Some(watching)) = (&found, watching.take()) {
                        watching(&held(found));
                    }
                    tokio::time::sleep(end.saturating_sub(sent).min(times.retry)).await;
                    continue;
                }
                Step::GiveUp => {
                    let lease = found.unwrap_or_default();
                    return Err(LockError::Held(held(&lease)));
                }
            };
            match written {
                Ok(lease) => return Ok(Self::hold(kubernetes, me, &lease, times, sent)),
                // Somebody was faster: look at what they did.
                Err(error) if error.code() == Some(409) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether an action may begin. Asked right before each one.
    ///
    /// # Errors
    ///
    /// When it may not.
    pub fn check(&self) -> Result<(), LockLost> {
        let now = since_boot();
        let holding = lock(&self.holding);
        let age = now.saturating_sub(holding.sure_until()) + self.times.safe;
        lost(&holding.state(now), age)
    }

    /// Told of every change of [`LockState`].
    pub fn changes(&self) -> watch::Receiver<LockState> {
        self.state.clone()
    }

    /// Waits until the lock is ours for certain, after a time in which the API did not answer, as while the only
    /// control plane node reboots.
    ///
    /// # Errors
    ///
    /// When somebody else has it.
    pub async fn regained(&self) -> Result<(), LockLost> {
        let mut state = self.state.clone();
        // The sender lives as long as the renewal, which ends with a loss.
        let _ended = state.wait_for(|state| *state != LockState::Doubtful).await;
        self.check()
    }

    /// Who we are in the lease.
    pub fn holder(&self) -> &str {
        &self.me
    }

    /// Gives the lock up, so that the next run need not wait.
    ///
    /// # Errors
    ///
    /// When the API does not do it: the lock runs out by itself then.
    pub async fn release(self) -> Result<(), KubernetesError> {
        self.renewal.abort();
        let Some(mut lease) = read(&self.kubernetes).await? else { return Ok(()) };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.me) {
            return Ok(());
        }
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        lease.metadata.annotations.get_or_insert_default().remove(PURPOSE);
        match replace(&self.kubernetes, &lease).await {
            Err(error) if error.code() == Some(409) => Ok(()),
            result => result.map(drop),
        }
    }

    fn hold(kubernetes: &Kubernetes, me: &str, lease: &Lease, times: Times, sent: Duration) -> Self {
        let holding = Holding::new(me.to_owned(), version(lease), times.safe, sent);
        let holding = Arc::new(Mutex::new(holding));
        let (sender, state) = watch::channel(LockState::Held);
        let renewal = Renewal {
            kubernetes: kubernetes.clone(),
            lease: lease.clone(),
            times,
            holding: holding.clone(),
            state: sender,
        };
        Self {
            kubernetes: kubernetes.clone(),
            me: me.to_owned(),
            times,
            holding,
            state,
            renewal: tokio::spawn(renewal.run()),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// What renews the lock in the background, until it is lost.
struct Renewal {
    kubernetes: Kubernetes,
    lease: Lease,
    times: Times,
    holding: Arc<Mutex<Holding>>,
    state: watch::Sender<LockState>,
}

impl Renewal {
    async fn run(mut self) {
        let mut pause = self.times.renew;
        loop {
            self.publishing(tokio::time::sleep(pause)).await;
            let Some(current) = lock(&self.holding).version().map(str::to_owned) else { return };
            let sent = since_boot();
            let kubernetes = self.kubernetes.clone();
            let lease = renewed(&self.lease, current);
            let result = self.publishing(replace(&kubernetes, &lease)).await;
            pause = match result {
                Ok(lease) => {
                    lock(&self.holding).renewed(version(&lease), sent);
                    self.lease = lease;
                    self.times.renew
                }
                Err(error) if matches!(error.code(), Some(404 | 409)) => {
                    if let Ok(found) = self.publishing(read(&kubernetes)).await {
                        lock(&self.holding).found(found.as_ref().map(seen).as_ref());
                        self.lease = found.unwrap_or_default();
                    }
                    Duration::ZERO
                }
                Err(_) => self.times.retry,
            };
            self.publish();
        }
    }

    /// Waits for something and tells meanwhile when the lock becomes doubtful.
    async fn publishing<T>(&self, wait: impl Future<Output = T>) -> T {
        let mut wait = std::pin::pin!(wait);
        loop {
            let now = since_boot();
            let left = lock(&self.holding).sure_until().saturating_sub(now);
            if left.is_zero() {
                self.publish();
                return wait.await;
            }
            if let Ok(result) = tokio::time::timeout(left, &mut wait).await {
                return result;
            }
        }
    }

    fn publish(&self) {
        let now = lock(&self.holding).state(since_boot());
        self.state.send_if_modified(|state| std::mem::replace(state, now.clone()) != now);
    }
}

fn lost(state: &LockState, age: Duration) -> Result<(), LockLost> {
    match state {
        LockState::Held => Ok(()),
        LockState::Doubtful => Err(LockLost::Doubtful(age)),
        LockState::Lost { by: Some(by) } => Err(LockLost::Taken(by.clone())),
        LockState::Lost { by: None } => Err(LockLost::Deleted),
    }
}

fn resource() -> Request {
    Request::new(format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"))
}

async fn read(kubernetes: &Kubernetes) -> Result<Option<Lease>, KubernetesError> {
    match kubernetes.ask("read the lock", resource().get(NAME, &GetParams::default())).await {
        Err(error) if error.code() == Some(404) => Ok(None),
        result => result.map(Some),
    }
}

async fn create(kubernetes: &Kubernetes, lease: Lease) -> Result<Lease, KubernetesError> {
    let request = serde_json::to_vec(&lease)
        .map_err(kube_core::request::Error::SerializeBody)
        .and_then(|body| resource().create(&PostParams::default(), body));
    kubernetes.ask("make the lock", request).await
}

/// Overwrites the version that `lease` names, and no other: anything else is a conflict (409).
async fn replace(kubernetes: &Kubernetes, lease: &Lease) -> Result<Lease, KubernetesError> {
    let request = serde_json::to_vec(lease)
        .map_err(kube_core::request::Error::SerializeBody)
        .and_then(|body| resource().replace(NAME, &PostParams::default(), body));
    kubernetes.ask("write the lock", request).await
}

/// The lease with us as its holder.
fn filled(lease: Option<Lease>, me: &str, purpose: &str, times: Times) -> Lease {
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

fn renewed(lease: &Lease, version: String) -> Lease {
    let mut lease = lease.clone();
    lease.metadata.resource_version = Some(version);
    lease.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
    lease
}

fn version(lease: &Lease) -> String {
    lease.metadata.resource_version.clone().unwrap_or_default()
}

fn seen(lease: &Lease) -> Seen {
    let spec = lease.spec.clone().unwrap_or_default();
    Seen {
        version: version(lease),
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        renewed: spec.renew_time.map(|time| time.0.to_string()).unwrap_or_default(),
        term: Duration::from_secs(spec.lease_duration_seconds.map_or(0, i32::unsigned_abs).into()),
    }
}

fn held(lease: &Lease) -> Held {
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

/// The time since this machine booted, in which sleep counts: somebody else's term goes on while a laptop is closed.
fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_runs_never_have_the_same_name() {
        let (one, other) = (identity(), identity());
        assert_ne!(one, other);
        assert!(one.contains('@') && one.len() < 128 && one.is_ascii(), "{one}");
    }

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
