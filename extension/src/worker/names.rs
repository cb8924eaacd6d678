//! Looking up the endpoints that are names, again and again, and never in anybody's way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::{mpsc, watch};

/// Wait before a name that was found is looked up again.
const REFRESH: Duration = Duration::from_secs(60);
/// Wait before a name that was not found is looked up again.
const RETRY: Duration = Duration::from_secs(5);
/// A resolver that does not answer must not keep the others waiting.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Lookups at once.
const CONCURRENT: usize = 16;

/// A host name and port.
pub(super) type Name = (String, u16);

/// What a lookup gave.
pub(super) type Answer = (Name, Result<Vec<SocketAddr>, String>);

/// Looks up the `wanted` names until the receiver of answers is gone.
pub(super) async fn run(mut wanted: watch::Receiver<BTreeSet<Name>>, answers: mpsc::Sender<Answer>) {
    let mut found = BTreeSet::new();
    loop {
        let names = wanted.borrow_and_update().clone();
        let mut lookups = futures_util::stream::iter(names).map(look_up).buffer_unordered(CONCURRENT);
        let mut all_found = true;
        while let Some((name, answer)) = lookups.next().await {
            match &answer {
                Ok(_) => {
                    found.insert(name.clone());
                }
                Err(_) => all_found = false,
            }
            if answers.send((name, answer)).await.is_err() {
                return;
            }
        }
        let wait = if all_found { REFRESH } else { RETRY };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

async fn look_up(name: Name) -> Answer {
    let lookup = tokio::net::lookup_host((name.0.clone(), name.1));
    let answer = match tokio::time::timeout(TIMEOUT, lookup).await {
        Ok(Ok(addresses)) => Ok(addresses.collect::<Vec<_>>()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err("no answer from the resolver".to_owned()),
    };
    let answer = answer.and_then(|addresses| {
        if addresses.is_empty() { Err("the name has no address".to_owned()) } else { Ok(addresses) }
    });
    (name, answer)
}

/// The addresses that names have now.
#[derive(Debug, Default)]
pub(super) struct Resolved(BTreeMap<Name, SocketAddr>);

impl Resolved {
    /// Takes an answer; whether the address to use changed. An address that is still among several stays, so
    /// that round-robin DNS does not move a peer about.
    pub(super) fn note(&mut self, name: Name, addresses: &[SocketAddr]) -> bool {
        let Some(first) = addresses.first() else { return false };
        if self.0.get(&name).is_some_and(|known| addresses.contains(known)) {
            return false;
        }
        self.0.insert(name, *first);
        true
    }

    /// The address of `name`, if it is known.
    pub(super) fn get(&self, name: &Name) -> Option<SocketAddr> {
        self.0.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_still_valid_stays() {
        let name: Name = ("b.example".into(), 1);
        let [one, two]: [SocketAddr; 2] = ["192.0.2.1:1".parse().unwrap(), "192.0.2.2:1".parse().unwrap()];
        let mut resolved = Resolved::default();
        assert!(resolved.note(name.clone(), &[one, two]));
        assert!(!resolved.note(name.clone(), &[two, one]));
        assert_eq!(resolved.get(&name), Some(one));
        assert!(resolved.note(name.clone(), &[two]));
        assert_eq!(resolved.get(&name), Some(two));
    }
}
