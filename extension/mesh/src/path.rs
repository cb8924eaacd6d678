//! The ways to reach a peer, and which of them carries traffic.
//!
//! Today a peer has the endpoint from its configuration and the pair on which it was last heard, and the
//! latter wins: WireGuard's roaming. More candidates, probes and relays will add pairs here; nobody outside
//! asks for more than [`Paths::primary`].

use std::net::SocketAddr;

use crate::transmit::CandidatePair;

/// Unanswered initiations to the pair last heard on before the configured endpoint gets every other one.
const TRIES_BEFORE_FALLBACK: u32 = 2;

/// The candidate pairs of one peer.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    configured: Option<SocketAddr>,
    primary: Option<CandidatePair>,
}

impl Paths {
    /// The pair that carries traffic.
    #[inline]
    pub(crate) fn primary(&self) -> Option<&CandidatePair> {
        self.primary.as_ref()
    }

    /// Where an initiation goes, by how many of this attempt went unanswered.
    pub(crate) fn for_initiation(&self, tries: u32) -> Option<CandidatePair> {
        let fallback = self.configured.map(CandidatePair::to);
        if tries >= TRIES_BEFORE_FALLBACK && tries % 2 == 1 {
            return fallback.or(self.primary);
        }
        self.primary.or(fallback)
    }

    /// Sets the endpoint from the configuration; it carries traffic until the peer is heard elsewhere.
    pub(crate) fn configure(&mut self, endpoint: SocketAddr) {
        self.configured = Some(endpoint);
        if self.primary.is_none_or(|pair| pair.remote != endpoint) {
            self.primary = Some(CandidatePair::to(endpoint));
        }
    }

    /// Takes up again the pair on which the peer was last heard before a restart.
    pub(crate) fn restore(&mut self, remote: SocketAddr) {
        if self.primary.is_none_or(|pair| Some(pair.remote) == self.configured) {
            self.primary = Some(CandidatePair::to(remote));
        }
    }

    /// The newest message of an established session came on `pair`; whether that changed the primary.
    ///
    /// Initiations do not count: their answer goes where they came from, but whoever replays or reflects one
    /// gets no traffic.
    #[inline]
    pub(crate) fn heard(&mut self, pair: &CandidatePair) -> bool {
        if self.primary.as_ref() == Some(pair) {
            return false;
        }
        self.primary = Some(*pair);
        true
    }

    /// A datagram could not be sent from the local address of `pair`: let the kernel choose again.
    pub(crate) fn local_gone(&mut self, pair: &CandidatePair) {
        if let Some(primary) = &mut self.primary
            && primary == pair
        {
            primary.local = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(port: u16) -> CandidatePair {
        CandidatePair { local: Some([10, 0, 0, 1].into()), remote: SocketAddr::from(([192, 0, 2, 1], port)) }
    }

    #[test]
    fn traffic_follows_the_peer() {
        let mut paths = Paths::default();
        paths.configure(pair(1).remote);
        assert_eq!(paths.primary(), Some(&CandidatePair::to(pair(1).remote)));
        assert!(paths.heard(&pair(2)));
        assert!(!paths.heard(&pair(2)));
        assert_eq!(paths.primary(), Some(&pair(2)));
    }

    #[test]
    fn retries_alternate_with_the_configured_endpoint() {
        let mut paths = Paths::default();
        paths.configure(pair(1).remote);
        paths.heard(&pair(2));
        let ports: Vec<u16> =
            (0..6).map(|tries| paths.for_initiation(tries).unwrap().remote.port()).collect();
        assert_eq!(ports, [2, 2, 2, 1, 2, 1]);
    }

    #[test]
    fn configuring_the_endpoint_in_use_keeps_the_local_address() {
        let mut paths = Paths::default();
        paths.heard(&pair(1));
        paths.configure(pair(1).remote);
        assert_eq!(paths.primary(), Some(&pair(1)));
        paths.local_gone(&pair(1));
        assert_eq!(paths.primary(), Some(&CandidatePair::to(pair(1).remote)));
    }
}
