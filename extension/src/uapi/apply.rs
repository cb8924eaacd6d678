//! Carrying out requests on the driver.

use std::fmt::Write as _;
use std::io;
use std::time::UNIX_EPOCH;

use super::request::{PeerChange, SetRequest};
use crate::clock::{self, WallClock};
use crate::driver::Driver;

/// Applies a `set`. The order is wireguard-go's: the device first, then peers as they come.
pub(crate) fn execute(driver: &mut Driver, set: SetRequest) -> io::Result<()> {
    if let Some(key) = set.private_key {
        driver.set_private_key(Some(key).filter(|key| !key.is_zero()));
    }
    if let Some(mark) = set.fwmark {
        driver.set_mark(mark)?;
    }
    if let Some(port) = set.listen_port {
        driver.listen(port)?;
    }
    if set.replace_peers {
        let now = clock::now();
        for peer in driver.node().peer_ids() {
            driver.node().remove_peer(peer, now);
        }
    }
    for change in set.peers {
        apply_peer(driver, change);
    }
    Ok(())
}

fn apply_peer(driver: &mut Driver, change: PeerChange) {
    let now = clock::now();
    let node = driver.node();
    let known = node.peer(&change.public_key);
    if change.remove {
        if let Some(peer) = known {
            node.remove_peer(peer, now);
        }
        return;
    }
    if change.update_only && known.is_none() {
        return;
    }
    // Our own key is silently no peer, as in every other implementation.
    let Some(peer) = node.add_peer(change.public_key, now) else { return };
    if let Some(preshared) = change.preshared_key {
        node.set_preshared(peer, Some(preshared), now);
    }
    if let Some(endpoint) = change.endpoint {
        node.set_endpoint(peer, endpoint, now);
    }
    if let Some(keepalive) = change.keepalive {
        node.set_keepalive(peer, Some(keepalive), now);
    }
    if change.replace_allowed_ips {
        node.routes_mut().remove_all(peer);
    }
    for (net, add) in change.allowed_ips {
        if add {
            node.routes_mut().insert(net, peer);
        } else {
            node.routes_mut().remove(net, peer);
        }
    }
}

/// Whether secret keys are part of a description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secrets {
    /// `wg` owns the interface and may read back what it set.
    Shown,
    /// The interface is configured from elsewhere; nobody needs to read its keys here.
    Hidden,
}

/// Writes the answer to `get`, without `errno`.
pub(crate) fn describe(driver: &mut Driver, secrets: Secrets) -> String {
    let clock = WallClock::read();
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_device(&mut text, driver, secrets);
    for peer in driver.node().status(clock::now()) {
        let handshake = peer
            .last_handshake
            .and_then(|at| clock.date(at).duration_since(UNIX_EPOCH).ok())
            .unwrap_or_default();
        let _ = writeln!(text, "public_key={}", hex(peer.key.as_bytes()));
        if secrets == Secrets::Shown {
            let preshared = peer.preshared.as_ref().map_or([0; 32], |key| *key.expose());
            let _ = writeln!(text, "preshared_key={}", hex(&preshared));
        }
        let _ = writeln!(text, "protocol_version=1");
        if let Some(endpoint) = peer.endpoint {
            let _ = writeln!(text, "endpoint={endpoint}");
        }
        let _ = writeln!(
            text,
            "last_handshake_time_sec={}\nlast_handshake_time_nsec={}\ntx_bytes={}\nrx_bytes={}\n\
             persistent_keepalive_interval={}",
            handshake.as_secs(),
            handshake.subsec_nanos(),
            peer.tx_bytes,
            peer.rx_bytes,
            peer.keepalive.unwrap_or_default().as_secs(),
        );
        for net in peer.allowed_ips {
            let _ = writeln!(text, "allowed_ip={net}");
        }
    }
    text
}

fn write_device(text: &mut String, driver: &Driver, secrets: Secrets) -> std::fmt::Result {
    if secrets == Secrets::Shown
        && let Some(key) = driver.private_key()
    {
        writeln!(text, "private_key={}", hex(key.expose()))?;
    }
    if let Some(port) = driver.port() {
        writeln!(text, "listen_port={port}")?;
    }
    if driver.mark() != 0 {
        writeln!(text, "fwmark={}", driver.mark())?;
    }
    Ok(())
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
