//! etcd, as far as the API of Talos shows it: members, a leader, a quorum, alarms and snapshots.

use ichor_proto::talos::machine::{EtcdMember, EtcdMemberAlarm, EtcdMemberStatus};

use super::bolt::{self, Bucket};
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
}

/// The etcd of a cluster.
#[derive(Debug, Clone, Default)]
pub struct Etcd {
    members: Vec<Member>,
    leader: Option<u64>,
    term: u64,
    index: u64,
    removed: Vec<u64>,
    /// Nodes whose member left, and the boot in which it did: it joins again with the next one.
    left: Vec<(String, u64)>,
}

impl Etcd {
    /// Starts the member of `node`, which joins when it is new.
    pub(crate) fn start(&mut self, node: &str, advertised: Vec<String>) {
        match self.members.iter_mut().find(|member| member.node == node) {
            Some(member) => {
                member.up = true;
                member.advertised = advertised;
            }
            None => {
                // A member that was removed comes back as another.
                let seed = format!("etcd {node} {}", self.removed.len());
                let id = u64::from_be_bytes(digest(&seed)[..8].try_into().unwrap_or_default());
                let member = Member { id, node: node.to_owned(), advertised, up: true, alarm: None };
                self.members.push(member);
            }
        }
        self.elect();
    }

    /// Stops the member of `node`; it stays a member.
    pub(crate) fn stop(&mut self, node: &str) {
        if let Some(member) = self.members.iter_mut().find(|member| member.node == node) {
            member.up = false;
        }
        self.elect();
    }

    /// Changes at which addresses others reach the member of `node`.
    pub(crate) fn advertise(&mut self, node: &str, advertised: &[String]) {
        let member = self.members.iter_mut().find(|member| member.node == node);
        if let Some(member) = member.filter(|member| member.advertised != advertised) {
            member.advertised = advertised.to_vec();
            self.index += 1;
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
        self.members.iter().filter(|member| member.up).count() * 2 > self.members.len()
    }

    /// The name of the node that leads.
    pub fn leader(&self) -> Option<&str> {
        let leader = self.leader?;
        self.members.iter().find(|member| member.id == leader).map(|member| member.node.as_str())
    }

    /// Finds a leader if there is none that runs.
    fn elect(&mut self) {
        let runs = |id: u64| self.members.iter().any(|member| member.id == id && member.up);
        if !self.has_quorum() {
            self.leader = None;
        } else if !self.leader.is_some_and(runs) {
            self.leader = self.members.iter().find(|member| member.up).map(|member| member.id);
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
            is_learner: false,
        };
        Ok(self.members.iter().map(member).collect())
    }

    /// The state of the member of `node`.
    pub(crate) fn status(&self, node: &str, version: &str) -> Result<EtcdMemberStatus, Refusal> {
        let member = self.running(node)?;
        let size = self.database(node).len() as i64;
        let errors = if self.leader.is_none() { vec![NO_LEADER.to_owned()] } else { Vec::new() };
        Ok(EtcdMemberStatus {
            protocol_version: version.to_owned(),
            storage_version: version.rsplit_once('.').map_or(version, |(line, _)| line).to_owned() + ".0",
            db_size: size,
            db_size_in_use: size,
            leader: self.leader.unwrap_or(0),
            raft_index: self.index,
            raft_applied_index: self.index,
            raft_term: self.term,
            errors,
            is_learner: false,
            member_id: member.id,
        })
    }

    fn running(&self, node: &str) -> Result<&Member, Refusal> {
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

    /// The database of the member of `node`, and its SHA-256 behind it.
    pub(crate) fn snapshot(&self, node: &str) -> Result<Vec<u8>, Refusal> {
        self.running(node)?;
        let mut file = self.database(node);
        let hash = ring::digest::digest(&ring::digest::SHA256, &file);
        file.extend_from_slice(hash.as_ref());
        Ok(file)
    }

    fn database(&self, node: &str) -> Vec<u8> {
        let name = |id: u64| format!("{id:x}").into_bytes();
        let members = self.members.iter().map(|member| {
            let peers: Vec<String> =
                member.advertised.iter().map(|address| format!("https://{address}:2380")).collect();
            let value = serde_json::json!({"id": member.id, "name": member.node, "peerURLs": peers});
            (name(member.id), value.to_string().into_bytes())
        });
        let meta = vec![
            (b"consistent_index".to_vec(), self.index.to_be_bytes().to_vec()),
            (b"term".to_vec(), self.term.to_be_bytes().to_vec()),
        ];
        // One revision: when the member was asked, and which it is.
        let mut revision = 1_u64.to_be_bytes().to_vec();
        revision.push(b'_');
        revision.extend(0_u64.to_be_bytes());
        let key = format!("/ichor-lab/{node}").into_bytes();
        let removed = self.removed.iter().map(|id| (name(*id), b"removed".to_vec()));
        let bucket = |name, entries| Bucket { name, entries };
        let empty = ["alarm", "auth", "authRoles", "authUsers", "lease"];
        let mut buckets: Vec<Bucket> = empty.into_iter().map(|name| bucket(name, Vec::new())).collect();
        buckets.push(bucket("cluster", vec![(b"clusterVersion".to_vec(), b"3.6.0".to_vec())]));
        buckets.push(bucket("key", vec![(revision, key)]));
        buckets.push(bucket("members", members.collect()));
        buckets.push(bucket("members_removed", removed.collect()));
        buckets.push(bucket("meta", meta));
        bolt::database(buckets, self.index)
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

    #[test]
    fn a_snapshot_is_whole_blocks_and_their_hash() {
        let file = three().snapshot("b").unwrap();
        assert_eq!(file.len() % 512, 32);
        let (body, trailer) = file.split_at(file.len() - 32);
        assert_eq!(ring::digest::digest(&ring::digest::SHA256, body).as_ref(), trailer);
    }
}
