//! One lock for every run that changes a cluster: the Lease `kube-system/ichor-rollout`.
//!
//! Whoever has it renews it in the background and asks [`Lock::check`] before each action. `decide` says who may have
//! it, `object` is the lease in the API; here both are put to work.

mod decide;
mod object;

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::Lease;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::decide::LockState;
use self::decide::{Candidate, Holding, Step};
use self::object::{create, filled, give_up, held, read, renewed, replace, seen, version};
use super::{Kubernetes, KubernetesError};
use crate::output::date;

/// Where the lease is.
pub const NAMESPACE: &str = "kube-system";
/// Its name.
pub const NAME: &str = "ichor-rollout";

/// How often a lock is given up again that changes meanwhile.
const CONFLICTS: usize = 3;

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

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: SystemTime| {
            date(time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
        };
        write!(f, "{} has the lock", self.holder)?;
        if let Some(purpose) = &self.purpose {
            write!(f, " for {purpose}")?;
        }
        if let Some(since) = self.since {
            write!(f, " since {}", time(since))?;
        }
        if let Some(end) = self.renewed.and_then(|renewed| renewed.checked_add(self.term)) {
            write!(f, "; it renews it, or else it expires at {}", time(end))?;
        }
        Ok(())
    }
}

/// Why the lock was not acquired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody else has it and is alive.
    #[error("{0}")]
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
        for _ in 0..CONFLICTS {
            let Some(mut lease) = read(&self.kubernetes).await? else { return Ok(()) };
            if !give_up(&mut lease, &self.me) {
                return Ok(());
            }
            match replace(&self.kubernetes, &lease).await {
                // A last renewal was still on its way.
                Err(error) if error.code() == Some(409) => {}
                result => return result.map(drop),
            }
        }
        Ok(())
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
                    match self.publishing(read(&kubernetes)).await {
                        Ok(found) => {
                            lock(&self.holding).found(found.as_ref().map(seen).as_ref());
                            self.lease = found.unwrap_or_default();
                            Duration::ZERO
                        }
                        Err(_) => self.times.retry,
                    }
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
    fn a_refusal_says_who_since_when_and_until_when() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let mut held = Held {
            holder: "alice@desk-1".to_owned(),
            purpose: Some("upgrade".to_owned()),
            since: at(1_767_225_600),
            renewed: at(1_767_225_610),
            term: Duration::from_secs(60),
        };
        assert_eq!(
            LockError::Held(held.clone()).to_string(),
            "alice@desk-1 has the lock for upgrade since 2026-01-01T00:00:00Z; it renews it, or else it expires at \
             2026-01-01T00:01:10Z"
        );
        (held.purpose, held.since, held.renewed) = (None, None, None);
        assert_eq!(held.to_string(), "alice@desk-1 has the lock");
    }
}
