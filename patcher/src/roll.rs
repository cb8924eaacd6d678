//! Rollouts carried out: what [`ichor_rollout`] decides is done here, and nowhere else.
//!
//! `observe` makes a view of the nodes, `perform` makes one call, `record` keeps the journal on the disk, and `drive`
//! goes round: look, ask what is next, write it down, do it, write down how it ended. `config_plan` and `upgrade_plan`
//! make the plans, `image_check` and `image_look` see to it that an image has what a node needs, `show` tells people
//! about it.

pub(crate) mod config_plan;
pub(crate) mod drive;
pub(crate) mod image_check;
pub(crate) mod image_look;
pub(crate) mod observe;
pub(crate) mod perform;
pub(crate) mod record;
pub(crate) mod sealed;
pub(crate) mod show;
pub(crate) mod target;
pub(crate) mod undo;
pub(crate) mod upgrade_plan;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ichor_rollout::view::Digest;
use ring::digest::{SHA256, digest};

/// The time as the core of rollouts has it.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A digest of bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    let hash = digest(&SHA256, bytes);
    let first: [u8; 8] = hash.as_ref()[..8].try_into().unwrap_or_default();
    Digest(u64::from_be_bytes(first))
}

/// A digest of a machine config: of what it says, as nodes are free to write it otherwise.
pub(crate) fn config_digest(text: &str) -> Digest {
    match crate::config_update::canonical(text) {
        Some(canonical) => digest_of(canonical.as_bytes()),
        None => digest_of(text.as_bytes()),
    }
}
