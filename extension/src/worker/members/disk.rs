//! The identity and the membership on the disk.

use anyhow::Context as _;
use ichor_mesh::crypto::{RealCrypto, Secret};
use ichor_mesh::membership::Saved;
use zeroize::Zeroizing;

use crate::random;
use crate::store::{Loaded, Store};

/// The key that makes this node this member. Written before anybody is asked: who asks again after a crash must be the
/// same, for its token may be spent.
const IDENTITY: &str = "identity-key";
/// All that was learned.
const MEMBERSHIP: &str = "membership";

/// The membership that was saved. Of a damaged file, what can be verified: its records are signed.
pub(super) fn load(store: &Store) -> anyhow::Result<Option<Saved>> {
    let (bytes, aside) = match store.load(MEMBERSHIP).context("failed to read the saved membership")? {
        Loaded::Missing => return Ok(None),
        Loaded::Damaged(aside) => (Store::salvage(&aside).unwrap_or_default(), Some(aside)),
        Loaded::Found(bytes) => (bytes, None),
    };
    let bytes = Zeroizing::new(bytes);
    match (Saved::decode(&bytes, &RealCrypto), aside) {
        (Ok(saved), None) => Ok(Some(saved)),
        (Ok(saved), Some(aside)) => {
            tracing::error!(
                file = %aside.display(),
                records = saved.items.len(),
                "the saved membership was damaged and set aside; what can be verified of it is used"
            );
            Ok(Some(saved))
        }
        (Err(error), aside) => {
            let aside = match aside {
                Some(aside) => aside,
                None => store.set_aside(MEMBERSHIP).context("failed to set the saved membership aside")?,
            };
            let error = anyhow::Error::from(error);
            tracing::error!(file = %aside.display(), "the saved membership was set aside: {error:#}");
            Ok(None)
        }
    }
}

/// Replaces what was saved.
pub(super) fn save(store: &Store, saved: &Saved) -> anyhow::Result<()> {
    let bytes = saved.encode(&RealCrypto).context("failed to write the membership down")?;
    store.save(MEMBERSHIP, &bytes).context("failed to save the membership")
}

/// This node's identity, made now if there is none.
pub(super) fn identity(store: &Store) -> anyhow::Result<Secret> {
    match store.load(IDENTITY).context("failed to read the identity")? {
        Loaded::Found(bytes) => {
            let bytes = Zeroizing::new(bytes);
            if let Ok(secret) = <[u8; 32]>::try_from(&bytes[..]) {
                return Ok(Secret::new(secret));
            }
            let aside = store.set_aside(IDENTITY).context("failed to set the identity aside")?;
            tracing::error!(file = %aside.display(), "the identity has an impossible length and was set aside");
        }
        Loaded::Missing => {}
        Loaded::Damaged(aside) => {
            tracing::error!(file = %aside.display(), "the identity was damaged and set aside");
        }
    }
    let secret = Secret::new(random::seed());
    store.save(IDENTITY, secret.expose()).context(
        "failed to save the identity: a node that asks to be let in must be the same after a crash",
    )?;
    Ok(secret)
}

/// Sets a membership aside that has ended, with its identity, which nobody lets in any more.
pub(super) fn retire(store: &Store) -> anyhow::Result<()> {
    for name in [MEMBERSHIP, IDENTITY] {
        if store.path(name).exists() {
            store.set_aside(name).with_context(|| format!("failed to set {name} aside"))?;
        }
    }
    Ok(())
}
