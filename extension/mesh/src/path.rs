//! The ways to reach a peer, and which of them carries traffic.
//!
//! A peer has candidates, from its configuration or its announcement, and the pair on which it was last heard, and
//! the latter wins: WireGuard's roaming. While it was heard nowhere, an initiation goes to several candidates at once:
//! whoever answers first is the path. Probes and relays will add pairs here; nobody outside asks for more than
//! [`Paths::primary`].

use std::net::SocketAddr;

use crate::transmit::CandidatePair;

/// Unanswered initiations to the pair last heard on before the candidates get every other one.
const TRIES_BEFORE_FALLBACK: u32 = 2;
/// Candidates that one initiation goes to.
const CANDIDATES_AT_ONCE: usize = 4;

/// The candidate pairs of one peer.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    /// Best first.
    candidates: Vec<SocketAddr>,
    primary: Option<CandidatePair>,
    /// Whether the peer was heard on the primary, or was before a restart.
    heard: bool,
}

impl Paths {
    /// The pair that carries traffic.
    #[inline]
    pub(crate) fn primary(&self) -> Option<&CandidatePair> {
        self.primary.as_ref()
    }

    /// Where an initiation goes, by how many of this attempt went unanswered.
    pub(crate) fn for_initiation(&self, tries: u32) -> Vec<CandidatePair> {
        let fall_back = tries >= TRIES_BEFORE_FALLBACK && tries % 2 == 1;
        match self.primary {
            Some(pair) if self.candidates.is_empty() || (self.heard && !fall_back) => vec![pair],
            _ => {
                let start = tries as usize * CANDIDATES_AT_ONCE;
                let around = self.candidates.iter().cycle().skip(start % self.candidates.len().max(1));
                let count = CANDIDATES_AT_ONCE.min(self.candidates.len());
                around.take(count).copied().map(CandidatePair::to).collect()
            }
        }
    }

    /// Sets the endpoint from the configuration; it carries traffic until the peer is heard elsewhere.
    pub(crate) fn configure(&mut self, endpoint: SocketAddr) {
        self.candidates = vec![endpoint];
        if self.primary.is_none_or(|pair| pair.remote != endpoint) {
            self.primary = Some(CandidatePair::to(endpoint));
            self.heard = false;
        }
    }

    /// Sets where the peer says that it may be reached, best first. Where it was heard goes on carrying traffic.
    /// That is as good as any candidate if it is `lost` and the candidates are other ones now.
    pub(crate) fn set_candidates(&mut self, candidates: Vec<SocketAddr>, lost: bool) {
        if lost && self.candidates != candidates {
            self.heard = false;
        }
        self.candidates = candidates;
        if !self.heard {
            self.primary = self.candidates.first().copied().map(CandidatePair::to);
        }
    }

    /// Takes up again the pair on which the peer was last heard before a restart.
    pub(crate) fn restore(&mut self, remote: SocketAddr) {
        if !self.heard {
            self.primary = Some(CandidatePair::to(remote));
            self.heard = true;
        }
    }

    /// The newest message of an established session came on `pair`; whether that changed the primary.
    ///
    /// Initiations do not count: their answer goes where they came from, but whoever replays or reflects one
    /// gets no traffic.
    #[inline]
    pub(crate) fn heard(&mut self, pair: &CandidatePair) -> bool {
        self.heard = true;
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
            (0..6).flat_map(|tries| paths.for_initiation(tries)).map(|pair| pair.remote.port()).collect();
        assert_eq!(ports, [2, 2, 2, 1, 2, 1]);
    }

    #[test]
    fn who_was_never_heard_is_looked_for_at_several_candidates_at_once() {
        let mut paths = Paths::default();
        paths.set_candidates((1..=6).map(|port| pair(port).remote).collect(), false);
        let ports = |paths: &Paths, tries| -> Vec<u16> {
            paths.for_initiation(tries).iter().map(|pair| pair.remote.port()).collect()
        };
        assert_eq!(ports(&paths, 0), [1, 2, 3, 4]);
        assert_eq!(ports(&paths, 1), [5, 6, 1, 2]);
        paths.heard(&pair(9));
        assert_eq!(ports(&paths, 0), [9]);
        assert_eq!(ports(&paths, 3), [1, 2, 3, 4]);
        paths.set_candidates(vec![], false);
        assert_eq!(ports(&paths, 3), [9]);
        assert_eq!(paths.primary(), Some(&pair(9)));
        // It moved while there was no session.
        paths.set_candidates(vec![pair(7).remote], true);
        assert_eq!(ports(&paths, 0), [7]);
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
