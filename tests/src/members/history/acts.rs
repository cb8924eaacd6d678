//! What owners, members, machines and networks do.

use ichor_mesh::membership::Membership;

use super::super::world::World;
use super::History;

impl History {
    // Owners

    pub(super) fn revoke(&mut self, keep_token: bool) -> Option<()> {
        let victim = self.victim()?;
        let identity = self.world.identity(victim)?;
        self.remember(victim);
        let others: Vec<_> = self.active().into_iter().filter(|node| *node != victim).collect();
        let at = *self.random.pick(&others);
        let item =
            if keep_token { self.owner.revoke_member_only(identity) } else { self.owner.revoke(identity) };
        self.detail = format!("{identity:?} at {at:?}");
        self.world.act(at, item);
        self.end_of(identity);
        Some(())
    }

    pub(super) fn rename(&mut self) -> Option<()> {
        let (at, member) = (self.any_active()?, self.any_active()?);
        let identity = self.world.identity(member)?;
        self.names += 1;
        let name = format!("r{}", self.names);
        let item = self.owner.rename(identity, &name);
        self.detail = format!("{identity:?} to {name} at {at:?}");
        self.world.act(at, item);
        Some(())
    }

    pub(super) fn owner_add(&mut self) -> Option<()> {
        let at = self.any_active()?;
        let item = self.owner.add(&mut self.random)?;
        self.world.act(at, item);
        Some(())
    }

    pub(super) fn owner_rotate(&mut self) -> Option<()> {
        let at = self.any_active()?;
        let item = self.owner.rotate(&mut self.random);
        self.world.act(at, item);
        Some(())
    }

    pub(super) fn owner_remove(&mut self, void: bool) -> Option<()> {
        let at = self.any_active()?;
        let item = self.owner.remove(void, &mut self.random);
        self.world.act(at, item);
        Some(())
    }

    // Members

    pub(super) fn leave(&mut self) -> Option<()> {
        let node = self.victim()?;
        let identity = self.world.identity(node)?;
        self.remember(node);
        self.world.with(node, Membership::leave)?;
        self.detail = format!("{identity:?}");
        self.end_of(identity);
        Some(())
    }

    pub(super) fn move_away(&mut self) -> Option<()> {
        let node = self.any_active()?;
        self.remember(node);
        let candidates = vec![World::address(node)];
        self.world.with(node, |membership, now| membership.set_candidates(candidates, now))
    }

    pub(super) fn ephemeral_end(&mut self) -> Option<()> {
        let ephemeral = |node: &_| {
            let settled = self.settled(*node);
            settled.is_some_and(|settled| settled.grant.grant.ephemeral.is_some())
        };
        let ephemeral: Vec<_> = self.active().into_iter().filter(ephemeral).collect();
        if ephemeral.is_empty() {
            return None;
        }
        let node = *self.random.pick(&ephemeral);
        let identity = self.world.identity(node)?;
        self.world.stop(node);
        self.world.machines[node.0].saved = None;
        self.detail = format!("{identity:?} on {node:?}");
        let fate = self.fates.get_mut(&identity)?;
        (fate.gone, fate.lapsed) = (true, true);
        Some(())
    }

    // Machines and networks

    pub(super) fn crash(&mut self) -> Option<()> {
        let node = self.victim()?;
        self.world.stop(node);
        self.detail = format!("{node:?}");
        Some(())
    }

    pub(super) fn restart(&mut self) -> Option<()> {
        let off: Vec<_> = self
            .world
            .nodes()
            .filter(|node| {
                let machine = &self.world.machines[node.0];
                machine.membership.is_none() && machine.saved.is_some()
            })
            .collect();
        if off.is_empty() {
            return None;
        }
        let node = *self.random.pick(&off);
        self.world.start(node);
        self.detail = format!("{node:?}");
        Some(())
    }

    pub(super) fn clone_machine(&mut self) -> Option<()> {
        let original = self.any_active()?;
        let copy = self.free_machine()?;
        if let Some(old) = self.world.machines[copy.0].identity() {
            self.end_of(old);
        }
        self.detail = format!("{original:?} to {copy:?}");
        self.world.clone_machine(original, copy).then_some(())
    }

    pub(super) fn clone_end(&mut self) -> Option<()> {
        let copy = self.world.nodes().find(|node| self.world.machines[node.0].is_clone)?;
        self.world.end_clone(copy);
        self.detail = format!("{copy:?}");
        Some(())
    }

    pub(super) fn split(&mut self) -> Option<()> {
        let parts: Vec<_> = self.world.nodes().map(|_| self.random.below(2)).collect();
        self.detail = format!("{parts:?}");
        self.world.split(|node| parts.get(node.0).copied().unwrap_or(0));
        Some(())
    }

    pub(super) fn heal(&mut self) -> Option<()> {
        self.world.split(|_| 0);
        Some(())
    }

    pub(super) fn clock(&mut self, shows: Option<u64>) -> Option<()> {
        let node = self.any_active()?;
        self.world.machines[node.0].clock = shows;
        self.detail = format!("{node:?}");
        Some(())
    }
}
