//! Tokens, and what honest machines and thieves do with them.

use std::time::Duration;

use ichor_mesh::join_string::JoinString;
use ichor_mesh::roster::Applied;

use super::super::checks::Fate;
use super::super::owner::Wish;
use super::super::world::{NodeId, World};
use super::History;

impl History {
    /// From now on an owner acts that may, as far as some member knows.
    pub(super) fn let_owners_take_turns(&mut self) {
        let Some(at) = self.any_active() else { return };
        let Some(membership) = self.world.membership(at) else { return };
        let owners = membership.roster().owners();
        self.owner.take_turns(|key| owners.is_active(key), &mut self.random);
    }

    fn wish(&mut self) -> Wish {
        self.names += 1;
        let n = self.names;
        Wish {
            names: format!("n{n}"),
            address: self.owner.address(n),
            uses: 1,
            ephemeral: None,
            replaces: None,
            force: false,
            not_after: self.world.clock() + 3600,
        }
    }

    fn mint(&mut self, wish: &Wish) -> JoinString {
        let active = self.active();
        let hello = active.first().and_then(|node| self.world.hello(*node));
        let seeds: Vec<_> = (0..2)
            .filter(|_| !active.is_empty())
            .map(|_| World::address(*self.random.pick(&active)))
            .collect();
        self.owner.mint(wish, hello, seeds, self.world.clock(), &mut self.random)
    }

    /// Starts a machine with a token.
    fn use_token(&mut self, node: NodeId, join: &JoinString, name: Option<&str>, never: bool) {
        if let Some(old) = self.world.machines[node.0].identity() {
            self.end_of(old);
        }
        self.world.start_joining(node, join.clone(), name);
        let identity = self.world.identity(node).expect("it was started");
        self.detail = format!("{identity:?} on {node:?} with {:?}", join.grant.id);
        let (grant, uses) = (join.grant.id, join.grant.grant.uses);
        self.fates.insert(identity, Fate { grant, uses, gone: false, never, lapsed: false });
    }

    pub(super) fn join(&mut self) -> Option<()> {
        let node = self.free_machine()?;
        let wish = self.wish();
        let join = self.mint(&wish);
        self.use_token(node, &join, None, false);
        self.used.push(join);
        Some(())
    }

    pub(super) fn pool_join(&mut self) -> Option<()> {
        let node = self.free_machine()?;
        if self.pool.as_ref().is_none_or(|(_, left)| *left == 0) {
            let wish = Wish {
                names: "w-*".into(),
                uses: 3,
                ephemeral: Some(Duration::from_secs(60)),
                ..self.wish()
            };
            self.pool = Some((self.mint(&wish), 3));
        }
        let (join, left) = self.pool.as_mut()?;
        *left -= 1;
        let join = join.clone();
        self.names += 1;
        let name = format!("w-{}", self.names);
        self.use_token(node, &join, Some(&name), false);
        Some(())
    }

    pub(super) fn revoke_token(&mut self) -> Option<()> {
        let at = self.any_active()?;
        let wish = self.wish();
        let join = self.mint(&wish);
        let item = self.owner.revoke_token(join.grant.id);
        self.world.act(at, item);
        Some(())
    }

    pub(super) fn expired(&mut self) -> Option<()> {
        let node = self.free_machine()?;
        let not_after = self.world.clock() - 1;
        let wish = Wish { not_after, ..self.wish() };
        let join = self.mint(&wish);
        // Whose clock went back cannot know. It admits nobody whose token is from after its time.
        self.use_token(node, &join, None, true);
        Some(())
    }

    pub(super) fn duplicate(&mut self, name: bool) -> Option<()> {
        let victim = self.any_active()?;
        let node = self.free_machine()?;
        let held = self.settled(victim)?.member.member;
        let fresh = self.wish();
        // Only the owner of an address can give it out a second time.
        let wish = if name {
            Wish { names: held.name.as_str().to_owned(), ..fresh }
        } else {
            Wish { address: held.address, ..fresh }
        };
        let join = self.mint(&wish);
        self.use_token(node, &join, None, false);
        Some(())
    }

    pub(super) fn replay(&mut self) -> Option<()> {
        let join = self.any_used()?;
        let node = self.free_machine()?;
        self.use_token(node, &join, None, false);
        Some(())
    }

    /// A token that was used. A thief has the string without what lets it begin the network.
    pub(super) fn any_used(&mut self) -> Option<JoinString> {
        let join = (!self.used.is_empty()).then(|| self.random.pick(&self.used).clone())?;
        Some(JoinString { first_hello: None, ..join })
    }

    fn successor_of(&mut self, node: NodeId, force: bool) -> Option<JoinString> {
        let settled = self.settled(node)?;
        let wish = Wish {
            names: settled.member.member.name.as_str().to_owned(),
            address: settled.member.member.address,
            replaces: Some(settled.id()),
            force,
            ..self.wish()
        };
        Some(self.mint(&wish))
    }

    pub(super) fn reimage(&mut self) -> Option<()> {
        let node = self.victim()?;
        let force = self.random.chance(1, 2);
        let join = self.successor_of(node, force)?;
        self.use_token(node, &join, None, false);
        Some(())
    }

    pub(super) fn replace_running(&mut self) -> Option<()> {
        let old = self.victim()?;
        let node = self.free_machine()?;
        let join = self.successor_of(old, true)?;
        self.use_token(node, &join, None, false);
        Some(())
    }

    pub(super) fn later_token(&mut self) -> Option<()> {
        let node = self.free_machine()?;
        let wish = self.wish();
        let join = self.mint(&wish);
        let join = self.owner.grant_of_later_version(join);
        self.use_token(node, &join, None, false);
        self.used.push(join);
        Some(())
    }

    pub(super) fn later_tombstone(&mut self) -> Option<()> {
        let at = self.any_active()?;
        let wish = self.wish();
        let join = self.mint(&wish);
        let item = self.owner.revoke_token_of_later_version(join.grant.id);
        let (digest, bytes) = (item.digest(), item.to_bytes());
        let applied = self.world.with(at, |membership, now| membership.act(item.clone(), now));
        let kept = self.world.membership(at)?.roster().find(digest).map(|item| item.to_bytes());
        // An owner that acts may not be one any more here: nobody knows everything.
        if applied == Some(Applied::New) && kept != Some(bytes) {
            self.found.push(format!("{at:?} changed a record of a later version"));
        }
        let is_owner = self.world.membership(at)?.roster().owners().was_one(&self.owner.acting());
        if is_owner && applied != Some(Applied::New) {
            self.found.push(format!("{at:?} did not take a record of a later version: {applied:?}"));
        }
        self.later.push(item);
        Some(())
    }

    /// Whoever knows a record of a later version has it as it was signed, and a grant that made a member
    /// is there with all its fields.
    pub(super) fn look_for_later_records(&self, found: &mut Vec<String>) {
        for node in self.world.members() {
            let Some(membership) = self.world.membership(node) else { continue };
            for item in &self.later {
                let kept = membership.roster().find(item.digest()).map(|item| item.to_bytes());
                if kept.is_some_and(|kept| kept != item.to_bytes()) {
                    found.push(format!("{node:?} changed a record of a later version"));
                }
            }
        }
    }
}
