//! What is shown of the membership: the part of the status that is about it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use ichor_mesh::key::PublicKey;
use ichor_mesh::record::IdentityKey;
use ichor_mesh::roster::owners::Standing as OwnerStanding;
use ichor_mesh::roster::{Problem, Settled};

use super::{Members, UNHEARD_AFTER, has_ended, hex, is_newer};
use crate::clock;
use crate::config::MeshConfig;
use crate::status::{Conflict, Network, Owner};

impl Members {
    /// The network, as this node sees it.
    pub(in crate::worker) fn shown(&self) -> Network {
        let roster = self.membership.roster();
        let us = self.us();
        Network {
            name: roster.genesis().name.to_string(),
            id: roster.network().to_string(),
            member: self.our_name().map(ToString::to_string),
            identity: us.map(|us| us.identity().to_string()),
            incarnation: us.map(|us| us.id().to_string()),
            token: us.map(|us| us.grant.id.to_string()),
            members: roster.members().count(),
            mtu: (self.mtu != 0).then_some(self.mtu),
            conflicts: roster.problems().iter().filter_map(|problem| self.conflict(problem)).collect(),
            owners: self.owners(),
            hello_key: self.membership.hello_keys().current().map(|(_, public)| hex(&public.0)),
            tombstones: us.map(|_| format!("{:016x}", roster.tombstone_sum())),
        }
    }

    fn conflict(&self, problem: &Problem) -> Option<Conflict> {
        let roster = self.membership.roster();
        let (identity, with) = match problem {
            Problem::Conflict { waiting, installed } => (waiting, Some(installed)),
            Problem::Overused { refused, .. } => (refused, None),
        };
        let settled = roster.settled(identity)?;
        Some(Conflict {
            identity: identity.to_string(),
            incarnation: settled.id().to_string(),
            name: roster.name(settled).to_string(),
            address: settled.member.member.address.to_string(),
            token: settled.grant.id.to_string(),
            with: with.map(ToString::to_string),
        })
    }

    /// The addresses of all members, this node included, by name.
    pub(in crate::worker) fn hosts(&self) -> BTreeMap<String, Vec<IpAddr>> {
        let roster = self.membership.roster();
        let host = |settled: &Settled| {
            let (v4, v6) = roster.addresses(settled);
            (roster.name(settled).to_string(), vec![v4.into(), v6.into()])
        };
        roster.members().map(host).collect()
    }

    fn owners(&self) -> Vec<Owner> {
        let shown = self.membership.roster().owners().iter().map(|owner| Owner {
            key: owner.owner.key.to_string(),
            range: owner.owner.range.to_string(),
            standing: match owner.standing {
                OwnerStanding::Active => "active",
                OwnerStanding::Retired => "retired",
                OwnerStanding::Void => "void",
            }
            .to_owned(),
            added_by: owner.added_by.map(|key| key.to_string()),
        });
        shown.collect()
    }

    /// What an owner should look at, and why this node is no member.
    pub(in crate::worker) fn problems(&self) -> Vec<String> {
        let roster = self.membership.roster();
        let conflicts = roster.problems().into_iter().map(|problem| match problem {
            Problem::Conflict { waiting, installed } => format!(
                "{waiting} wants the name or address of {} and waits; who is to go: ichorctl member accept or reject",
                self.name_of(&installed)
            ),
            Problem::Overused { refused, grant } => format!(
                "token {grant} was used more often than granted, {refused} was refused: somebody may have stolen it; \
                 when you know who it was: ichorctl member reject, or accept"
            ),
        });
        let waiting = "this node is no member yet, and asks to be let in".to_owned();
        let put_behind = "others came first with the token of this node: an owner may still decide for it (ichorctl \
                          member accept), or give it another one (ichorctl token create)";
        let obstacle = self.obstacle.clone().or_else(|| self.us().is_none().then_some(waiting));
        let obstacle = obstacle.or_else(|| self.membership.is_put_behind().then(|| put_behind.to_owned()));
        obstacle.into_iter().chain(conflicts).collect()
    }

    /// What is wrong if the join string of a member is for another token than its own, and nobody is there: who was
    /// removed while it was off is told by nobody.
    pub(in crate::worker) fn unheard(&self, config: &MeshConfig) -> Option<String> {
        let has_others = self.membership.roster().members().nth(1).is_some();
        let has_waited = clock::now() >= self.began + UNHEARD_AFTER;
        let is_unheard = has_others && has_waited && !has_ended(&self.membership);
        (is_unheard && is_newer(config, &self.membership)).then(|| {
            "no member answers, and mesh.join is for another token than the one of this node: if an owner removed this \
             node while it was off, reset its state to join anew"
                .to_owned()
        })
    }

    /// The record of the peer with this key.
    pub(in crate::worker) fn of_key(&self, key: &PublicKey) -> Option<&Settled> {
        self.membership.roster().settled(self.identity_of(key)?)
    }

    /// The version that the peer with this key says it is.
    pub(in crate::worker) fn version_of(&self, key: &PublicKey) -> Option<String> {
        let announced = self.membership.roster().announcement(self.identity_of(key)?)?;
        Some(announced.announcement.version.clone())
    }

    /// Microseconds of the last round trip to the peer with this key.
    pub(in crate::worker) fn rtt_micros(&self, key: &PublicKey) -> Option<u64> {
        u64::try_from(self.sessions.rtt(key)?.as_micros()).ok()
    }

    /// Since when the peer with this key is there, or is not.
    pub(in crate::worker) fn since(&self, key: &PublicKey) -> Option<Instant> {
        self.sessions.since(key)
    }

    pub(super) fn identity_of(&self, key: &PublicKey) -> Option<&IdentityKey> {
        self.by_key.get(key)
    }
}
