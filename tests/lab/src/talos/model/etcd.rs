//! etcd, as far as the API of Talos shows it: members, a leader, a quorum, alarms and snapshots.

use std::collections::BTreeMap;

use ichor_proto::talos::machine::{EtcdMember, EtcdMemberAlarm, EtcdMemberStatus};

use super::database::Saved;
use super::digest;
use super::refusal::Refusal;

/// What etcd answers when there is no leader to ask.
const NO_LEADER: &str = "etcdserver: no leader";

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// The name of its node.
    pub node: String,
    /// The addresses at which others reach it.
    pub advertised: Vec<String>,
    /// Whether it runs.
    pub up: bool,
    /// What is wrong with it: the numbers of `AlarmType`.
    pub alarm: Option<i32>,
    /// How many entries of the log it has not applied yet.
    pub lag: u64,
    /// Whether it has no vote yet.
    pub is_learner: bool,
    /// Whether its data is gone: it never runs again, and counts until somebody removes it.
    pub is_lost: bool,
}

/// The etcd of a cluster.
#[derive(Debug, Clone, Default)]
pub struct Etcd {
    members: Vec<Member>,
    leader: Option<u64>,
    term: u64,
    pub(super) index: u64,
    pub(super) removed: Vec<u64>,
    /// Nodes whose member left, and the boot in which it did: it joins again with the next one.
    left: Vec<(String, u64)>,
    /// Whether the lab has begun. Until then everybody is a member from the start.
    has_begun: bool,
    /// How many times it was started anew from nothing or from a snapshot.
    starts: u64,
    /// Nodes with data of a cluster that is gone.
    strays: Vec<String>,
    splits: u64,
    /// What was written, in this order.
    pub(super) writes: Vec<(String, String)>,
    pub(super) saved: BTreeMap<[u8; 32], Saved>,
    pub(super) database_bytes: Option<u64>,
}

impl Etcd {
    /// From here on a first member has to be bootstrapped.
    pub(crate) fn begin(&mut self) {
        self.has_begun = true;
    }

    /// Starts the member of `node`. Without data it joins, if there is a quorum that lets it in.
    pub(crate) fn start(&mut self, node: &str, advertised: Vec<String>) {
        if self.strays.iter().any(|stray| stray == node) {
            return;
        }
        let own = self.members.iter().position(|member| member.node == node && !member.is_lost);
        match own {
            Some(at) => {
                self.members[at].up = true;
                self.members[at].advertised = advertised;
            }
            None if self.has_begun && !self.has_quorum() => return,
            None => {
                // Whoever joins under a name that is taken takes the old member out first (Talos: etcd's addMember).
                let old = self.members.iter().position(|member| member.node == node);
                self.removed.extend(old.map(|at| self.members.remove(at).id));
                self.add(node, advertised);
            }
        }
        self.elect();
    }

    fn add(&mut self, node: &str, advertised: Vec<String>) {
        // A member that was removed comes back as another.
        let seed = match self.starts {
            0 => format!("etcd {node} {}", self.removed.len()),
            starts => format!("etcd {node} {} {starts}", self.removed.len()),
        };
        let id = u64::from_be_bytes(digest(&seed)[..8].try_into().unwrap_or_default());
        self.members.push(Member {
            id,
            node: node.to_owned(),
            advertised,
            up: true,
            alarm: None,
            lag: 0,
            is_learner: false,
            is_lost: false,
        });
    }

    /// Stops the member of `node`; it stays a member.
    pub(crate) fn stop(&mut self, node: &str) {
        if let Some(member) = self.members.iter_mut().find(|member| member.node == node) {
            member.up = false;
        }
        self.elect();
    }

    /// The data of the member of `node` is gone. It stays a member.
    pub(crate) fn lose(&mut self, node: &str) {
        self.strays.retain(|stray| stray != node);
        if let Some(member) = self.members.iter_mut().find(|member| member.node == node) {
            member.up = false;
            member.is_lost = true;
        }
        self.elect();
    }

    /// Whether `node` has data of etcd on its disk.
    pub(crate) fn has_data(&self, node: &str) -> bool {
        let is_its = |member: &Member| member.node == node && !member.is_lost;
        self.members.iter().any(is_its) || self.strays.iter().any(|stray| stray == node)
    }

    /// Starts anew on `node`, with nothing or with what was saved. Members of before that have their data are of another
    /// cluster from now on.
    pub(crate) fn bootstrap(&mut self, node: &str, advertised: Vec<String>, saved: Option<Saved>) {
        self.splits += u64::from(self.has_quorum());
        let strays = self.members.drain(..).filter(|member| !member.is_lost).map(|member| member.node);
        self.strays.extend(strays);
        self.starts += 1;
        let saved = saved.unwrap_or_default();
        (self.index, self.writes) = (self.index.max(saved.index), saved.writes);
        self.left.clear();
        self.leader = None;
        self.add(node, advertised);
        self.elect();
    }

    /// How often a new cluster was started beside one that had a quorum: two halves that both take writes.
    pub fn splits(&self) -> u64 {
        self.splits
    }

    /// Writes a key.
    ///
    /// # Errors
    ///
    /// When there is no quorum.
    pub fn put(&mut self, key: &str, value: &str) -> Result<(), Refusal> {
        if !self.has_quorum() {
            return Err(Refusal::plain(NO_LEADER));
        }
        self.writes.push((key.to_owned(), value.to_owned()));
        self.index += 1;
        Ok(())
    }

    /// What is stored under a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.writes.iter().rev().find(|(it, _)| it == key).map(|(_, value)| value.as_str())
    }

    /// Changes at which addresses others reach the member of `node`.
    pub(crate) fn advertise(&mut self, node: &str, advertised: &[String]) {
        let member = self.members.iter_mut().find(|member| member.node == node);
        if let Some(member) = member.filter(|member| member.advertised != advertised) {
            member.advertised = advertised.to_vec();
            self.index += 1;
        }
    }

    /// Lets the member of `node` fall behind by so many entries.
    pub fn set_lag(&mut self, node: &str, entries: u64) {
        if let Some(member) = self.members.iter_mut().find(|member| member.node == node) {
            member.lag = entries;
        }
    }

    /// Takes the vote of the member of `node`, or gives it.
    pub fn set_learner(&mut self, node: &str, is_learner: bool) {
        if let Some(member) = self.members.iter_mut().find(|member| member.node == node) {
            member.is_learner = is_learner;
        }
        self.elect();
    }

    /// What the legacy upgrade call of a control plane node looks at (Talos: etcd.Client.ValidateForUpgrade).
    pub(crate) fn check_upgrade(&self) -> Result<(), Refusal> {
        let refused = |text: String| Refusal::plain(format!("error validating etcd for upgrade: {text}"));
        if !self.has_quorum() {
            return Err(Refusal::plain("failed to create etcd client: context deadline exceeded"));
        }
        let count = self.members.len();
        if count == 2 {
            let text =
                format!("etcd member count({count}) is insufficient to maintain quorum if upgrade commences");
            return Err(refused(text));
        }
        match self.members.iter().find(|member| !member.up) {
            Some(member) => Err(refused(format!(
                "etcd member {:016x} is not healthy; all members must be healthy to perform an upgrade: context \
                 deadline exceeded",
                member.id
            ))),
            None => Ok(()),
        }
    }

    /// Raises or clears the alarm of the member of `node`.
    pub fn set_alarm(&mut self, node: &str, alarm: Option<i32>) {
        if let Some(member) = self.members.iter_mut().find(|member| member.node == node) {
            member.alarm = alarm;
        }
    }

    /// All members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member of `node`.
    pub(crate) fn member(&self, node: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }

    /// Whether enough members run to decide anything.
    pub fn has_quorum(&self) -> bool {
        let voters = || self.members.iter().filter(|member| !member.is_learner);
        voters().filter(|member| member.up).count() * 2 > voters().count()
    }

    /// The name of the node that leads.
    pub fn leader(&self) -> Option<&str> {
        let leader = self.leader?;
        self.members.iter().find(|member| member.id == leader).map(|member| member.node.as_str())
    }

    /// Finds a leader if there is none that runs.
    fn elect(&mut self) {
        let can_lead = |member: &&Member| member.up && !member.is_learner;
        let runs = |id: u64| self.members.iter().filter(can_lead).any(|member| member.id == id);
        if !self.has_quorum() {
            self.leader = None;
        } else if !self.leader.is_some_and(runs) {
            self.leader = self.members.iter().find(can_lead).map(|member| member.id);
            self.term += 1;
        }
        self.index += 1;
    }

    /// The members as the member of `node` knows them, or as the cluster agrees on them, which needs a quorum.
    pub(crate) fn list(&self, local: bool) -> Result<Vec<EtcdMember>, Refusal> {
        if !local && !self.has_quorum() {
            return Err(Refusal::plain(NO_LEADER));
        }
        let urls = |member: &Member, port: u16| -> Vec<String> {
            let url = |address: &String| match address.contains(':') {
                true => format!("https://[{address}]:{port}"),
                false => format!("https://{address}:{port}"),
            };
            member.advertised.iter().map(url).collect()
        };
        let member = |member: &Member| EtcdMember {
            id: member.id,
            hostname: member.node.clone(),
            peer_urls: urls(member, 2380),
            client_urls: urls(member, 2379),
            is_learner: member.is_learner,
        };
        Ok(self.members.iter().map(member).collect())
    }

    /// The state of the member of `node`.
    pub(crate) fn status(&self, node: &str, version: &str) -> Result<EtcdMemberStatus, Refusal> {
        let member = self.running(node)?;
        let size = i64::try_from(self.database(node).len()).unwrap_or(i64::MAX);
        let errors = if self.leader.is_none() { vec![NO_LEADER.to_owned()] } else { Vec::new() };
        Ok(EtcdMemberStatus {
            protocol_version: version.to_owned(),
            storage_version: version.rsplit_once('.').map_or(version, |(line, _)| line).to_owned() + ".0",
            db_size: size,
            db_size_in_use: size,
            leader: self.leader.unwrap_or(0),
            raft_index: self.index,
            raft_applied_index: self.index.saturating_sub(member.lag),
            raft_term: self.term,
            errors,
            is_learner: member.is_learner,
            member_id: member.id,
        })
    }

    pub(super) fn running(&self, node: &str) -> Result<&Member, Refusal> {
        let refused = || Refusal::plain("failed to create etcd client: context deadline exceeded");
        self.member(node).filter(|member| member.up).ok_or_else(refused)
    }

    /// The alarms of all members.
    pub(crate) fn alarms(&self) -> Vec<EtcdMemberAlarm> {
        let alarm = |member: &Member| Some(EtcdMemberAlarm { member_id: member.id, alarm: member.alarm? });
        self.members.iter().filter_map(alarm).collect()
    }

    /// Clears all alarms, and returns them.
    pub(crate) fn disarm(&mut self) -> Vec<EtcdMemberAlarm> {
        let cleared = self.alarms();
        self.members.iter_mut().for_each(|member| member.alarm = None);
        cleared
    }

    /// Removes a member, whose node does not join again before its next boot.
    pub(crate) fn remove(&mut self, id: u64, node: &str, boot: u64) -> Result<(), Refusal> {
        if !self.has_quorum() {
            return Err(Refusal::plain(NO_LEADER));
        }
        let before = self.members.len();
        self.members.retain(|member| member.id != id);
        if self.members.len() == before {
            return Err(Refusal::new(tonic::Code::NotFound, "etcdserver: member not found"));
        }
        self.removed.push(id);
        self.left.push((node.to_owned(), boot));
        self.elect();
        Ok(())
    }

    /// Whether the member of `node` left in this boot.
    pub(crate) fn has_left(&self, node: &str, boot: u64) -> bool {
        self.left.iter().any(|(name, at)| name == node && *at == boot)
    }

    /// Removes the member of `node`, which ends with it until the next boot.
    pub(crate) fn leave(&mut self, node: &str, boot: u64) -> Result<(), Refusal> {
        let id = self.running(node)?.id;
        if self.members.len() == 1 {
            return Err(Refusal::plain("failed to leave cluster: etcdserver: unhealthy cluster"));
        }
        self.remove(id, node, boot)
    }

    /// The member of `node` gives up the lead to the first other one, if it has it.
    pub(crate) fn forfeit(&mut self, node: &str) -> Result<Option<String>, Refusal> {
        let id = self.running(node)?.id;
        if self.leader != Some(id) {
            return Ok(None);
        }
        let other = self.members.iter().find(|member| member.id != id);
        let Some(other) = other else {
            return Err(Refusal::plain("failed to forfeit leadership: cluster has only one member"));
        };
        let name = other.node.clone();
        if !other.up {
            return Err(Refusal::plain("failed to forfeit leadership: etcdserver: request timed out"));
        }
        self.leader = Some(other.id);
        self.term += 1;
        self.index += 1;
        Ok(Some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Etcd {
        let mut etcd = Etcd::default();
        for (n, node) in ["a", "b", "c"].into_iter().enumerate() {
            etcd.start(node, vec![format!("10.0.0.{n}")]);
        }
        etcd
    }

    #[test]
    fn the_lead_moves_on_when_the_leader_stops() {
        let mut etcd = three();
        assert_eq!(etcd.leader(), Some("a"));
        let term = etcd.status("b", "3.6.5").unwrap().raft_term;
        etcd.stop("a");
        assert_eq!(etcd.leader(), Some("b"));
        assert_eq!(etcd.status("b", "3.6.5").unwrap().raft_term, term + 1);
        etcd.start("a", vec![]);
        assert_eq!(etcd.leader(), Some("b"), "a member that comes back does not take the lead");
    }

    #[test]
    fn without_a_quorum_only_the_local_view_is_left() {
        let mut etcd = three();
        etcd.stop("a");
        etcd.stop("b");
        assert!(etcd.list(false).is_err());
        assert_eq!(etcd.list(true).unwrap().len(), 3);
        let status = etcd.status("c", "3.6.5").unwrap();
        assert_eq!((status.leader, status.errors), (0, vec![NO_LEADER.to_owned()]));
        assert!(etcd.status("a", "3.6.5").is_err());
    }

    #[test]
    fn a_leader_hands_over_to_the_first_other_member_and_the_others_have_nothing_to_give() {
        let mut etcd = three();
        assert_eq!(etcd.forfeit("c"), Ok(None));
        assert_eq!(etcd.forfeit("a"), Ok(Some("b".to_owned())));
        assert_eq!(etcd.leader(), Some("b"));
    }

    #[test]
    fn a_member_that_was_removed_comes_back_with_another_id() {
        let mut etcd = three();
        let id = etcd.member("c").unwrap().id;
        etcd.remove(id, "c", 1).unwrap();
        assert_eq!(etcd.remove(id, "c", 1).unwrap_err().code, tonic::Code::NotFound);
        etcd.start("c", vec![]);
        assert_ne!(etcd.member("c").unwrap().id, id);
        etcd.leave("c", 1).unwrap();
        etcd.leave("b", 1).unwrap();
        assert!(etcd.has_left("b", 1) && !etcd.has_left("b", 2));
        assert!(etcd.leave("a", 1).is_err(), "the last member stays");
    }

    #[test]
    fn alarms_are_cleared_for_all_members_at_once() {
        let mut etcd = three();
        etcd.set_alarm("a", Some(1));
        etcd.set_alarm("b", Some(2));
        assert_eq!(etcd.disarm().len(), 2);
        assert!(etcd.alarms().is_empty());
    }
}
