//! WireGuard keys of members change, and nothing is lost by it: sessions go on, and members that have not heard of the new
//! key are answered under the old one until each has used the new one. The next change waits for that.
//!
//! The files are written in an order that leaves a key that somebody knows after a crash at any instruction.

use std::time::Duration;

use anyhow::Context as _;
use ichor_mesh::key::{PublicKey, SecretKey};
use ichor_mesh::status::PeerStatus;
use zeroize::Zeroizing;

use super::Worker;
use super::peers::{self, Peers};
use crate::config::Config;
use crate::driver::Driver;
use crate::identity::PRIVATE_KEY;
use crate::random;
use crate::store::{Loaded, Store};

/// The key before the present one, while somebody may call it.
const PREVIOUS_KEY: &str = "previous-private-key";
/// The state file that says when the present key was made: seconds since the Unix epoch, in decimal.
pub const PRIVATE_KEY_MADE: &str = "private-key-made";
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Members that are called at one look because they have not used the new key.
const CALLS: usize = 2;

/// What is known of the change of keys.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    /// When the present key was made, once that was looked up.
    made: Option<u64>,
    /// Whether a key before it may still be called.
    has_previous: bool,
    /// Who was called last.
    called: Option<PublicKey>,
}

impl Worker {
    /// The key before `present`, if members may still call it.
    pub(super) fn previous_key(&mut self, config: &Config, present: &SecretKey) -> Option<SecretKey> {
        config.mesh.as_ref()?;
        let store = Store::new(config.state_directory.clone());
        let Ok(Loaded::Found(bytes)) = store.load(PREVIOUS_KEY) else { return None };
        let text = Zeroizing::new(String::from_utf8(bytes).unwrap_or_default());
        let previous: SecretKey = text.parse().ok()?;
        // The same: the change was cut short before the new key was saved.
        self.rotation.has_previous = previous.public() != present.public();
        self.rotation.has_previous.then_some(previous)
    }

    /// Makes another key if it is time, and gives the old one up when nobody needs it any more.
    pub(super) async fn look_at_keys(&mut self, sessions: &[PeerStatus]) {
        if let Err(error) = self.rotate_if_due().await {
            self.note("state", format!("failed to change the private key: {error:#}"));
        }
        if !self.rotation.has_previous {
            return;
        }
        let mut waiting: Vec<PublicKey> =
            sessions.iter().filter(|peer| !peer.knows_our_key).map(|peer| peer.key).collect();
        if waiting.is_empty() && !sessions.is_empty() {
            if let Err(error) = self.end_previous_key().await {
                self.note("state", format!("failed to remove the private key of before: {error:#}"));
            }
            return;
        }
        // One after the other: with most members there is nothing to say otherwise.
        let next = self.rotation.called.map_or(0, |called| waiting.partition_point(|key| *key <= called));
        let next = next.min(waiting.len());
        waiting.rotate_left(next);
        waiting.truncate(CALLS);
        self.rotation.called = waiting.last().copied();
        // A data plane that has ended ends this process, elsewhere.
        let _ = self
            .driver
            .call(move |driver: &mut Driver| {
                driver.with_node(|node, sink, now| {
                    for peer in waiting.iter().filter_map(|key| node.peer(key)).collect::<Vec<_>>() {
                        node.connect(peer, now, sink);
                    }
                });
            })
            .await;
    }

    async fn rotate_if_due(&mut self) -> anyhow::Result<()> {
        let (Some(config), Some(members)) = (&self.config, &mut self.members) else { return Ok(()) };
        let Some(mesh) = config.mesh.as_ref().filter(|mesh| mesh.key_days > 0) else { return Ok(()) };
        let Some(now) = members.clock().filter(|_| members.us().is_some()) else { return Ok(()) };
        let store = Store::new(config.state_directory.clone());
        let made = match self.rotation.made {
            Some(made) => made,
            None => {
                let made = match store.load(PRIVATE_KEY_MADE)? {
                    Loaded::Found(bytes) => String::from_utf8_lossy(&bytes).trim().parse().ok(),
                    Loaded::Missing | Loaded::Damaged(_) => None,
                };
                // It is not known: counted from now. So is a time to come: the clock was wrong.
                let made = made.filter(|made| *made <= now);
                if made.is_none() {
                    store.save(PRIVATE_KEY_MADE, now.to_string().as_bytes())?;
                }
                *self.rotation.made.insert(made.unwrap_or(now))
            }
        };
        let age = Duration::from_secs(now.saturating_sub(made));
        if self.rotation.has_previous || age < DAY * u32::from(mesh.key_days) {
            return Ok(());
        }
        let Some(old) = &self.applied.secret else { return Ok(()) };
        let new = random::secret_key();
        store.save(PREVIOUS_KEY, old.expose_base64().as_bytes()).context("save the old key")?;
        store.save(PRIVATE_KEY, new.expose_base64().as_bytes()).context("save the new key")?;
        tracing::info!(public_key = %new.public(), "the private key was changed");
        members.set_wireguard(new.public());
        self.applied.secret = Some(new.clone());
        self.rotation = Rotation { made: Some(now), has_previous: true, called: None };
        self.driver.call(move |driver: &mut Driver| driver.rotate_private_key(new)).await?;
        self.send_for_members().await;
        store.save(PRIVATE_KEY_MADE, now.to_string().as_bytes()).context("save when it was made")
    }

    async fn end_previous_key(&mut self) -> anyhow::Result<()> {
        let Some(config) = &self.config else { return Ok(()) };
        Store::new(config.state_directory.clone()).remove(PREVIOUS_KEY)?;
        self.rotation.has_previous = false;
        tracing::info!("all members know the new key");
        Ok(self.driver.call(|driver: &mut Driver| driver.set_previous_key(None)).await?)
    }

    /// Peers that have another key keep their sessions and their place.
    pub(super) async fn rename_peers(&mut self, wanted: &Peers) -> anyhow::Result<()> {
        let rekeyed = peers::rekeyed(&self.applied.peers, wanted);
        if rekeyed.is_empty() {
            return Ok(());
        }
        for (old, new) in &rekeyed {
            if let Some(spec) = self.applied.peers.remove(old) {
                self.applied.peers.insert(*new, spec);
            }
            self.endpoints_moved |= self.endpoints.rename(old, *new);
            if let Some(members) = &mut self.members {
                members.rekeyed(old, *new);
            }
        }
        self.driver
            .call(move |driver: &mut Driver| {
                driver.with_node(|node, sink, now| {
                    for (old, new) in rekeyed {
                        if let Some(peer) = node.peer(&old)
                            && node.set_peer_key(peer, new, now)
                        {
                            // The sooner it is used, the sooner the old key goes.
                            node.connect(peer, now, sink);
                        }
                    }
                });
            })
            .await
            .map_err(Into::into)
    }
}
