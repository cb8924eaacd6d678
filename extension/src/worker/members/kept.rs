//! With whom sessions are kept, whether anybody uses them or not.
//!
//! A rollout moves etcd and the kubelets onto the mesh after each pair that it counts on was seen to carry packets of full
//! size, so these pairs have sessions before there is traffic. `ichorctl` expects the same pairs (`config_plan`).

use std::collections::BTreeSet;

use ichor_mesh::record::name::Role;

use super::{IdentityKey, Members};

/// Members, this node included, up to which all keep sessions with all: no more than gossip needs in a network of 100.
const ALL_PAIRS: usize = 16;
/// Members up to which control planes keep sessions with everybody.
const PAIRS_WITH_CONTROL_PLANES: usize = 128;

/// Whether a member of a network of so many keeps a session with another one.
fn is_kept(members: usize, own: Role, other: Role) -> bool {
    let control_planes = [own, other].iter().filter(|role| **role == Role::ControlPlane).count();
    match control_planes {
        2 => true,
        1 => members <= PAIRS_WITH_CONTROL_PLANES,
        _ => members <= ALL_PAIRS,
    }
}

impl Members {
    /// The members with which sessions are kept: those that gossip needs, and those that a rollout counts on.
    pub(super) fn wanted_identities(&mut self) -> BTreeSet<IdentityKey> {
        let mut wanted = self.membership.wanted();
        let members = self.membership.roster().members().count();
        if let Some(own) = self.membership.settled().map(|settled| settled.grant.grant.role) {
            let kept =
                self.membership.peers().filter(|peer| is_kept(members, own, peer.settled.grant.grant.role));
            wanted.extend(kept.map(|peer| peer.settled.identity()));
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_networks_keep_all_pairs_larger_ones_those_with_control_planes() {
        use Role::{ControlPlane, Worker};
        let kept = |members| {
            [(Worker, Worker), (Worker, ControlPlane), (ControlPlane, Worker), (ControlPlane, ControlPlane)]
                .map(|(own, other)| is_kept(members, own, other))
        };
        assert_eq!(kept(ALL_PAIRS), [true; 4]);
        assert_eq!(kept(ALL_PAIRS + 1), [false, true, true, true]);
        assert_eq!(kept(PAIRS_WITH_CONTROL_PLANES), [false, true, true, true]);
        assert_eq!(kept(PAIRS_WITH_CONTROL_PLANES + 1), [false, false, false, true]);
    }
}
