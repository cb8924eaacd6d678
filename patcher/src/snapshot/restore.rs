//! Whether etcd may be restored from a snapshot: what each control plane node says in, the reasons against it out.
//!
//! A restore starts a new cluster of one member (Talos: Bootstrap with a snapshot). Where another one is alive it would
//! be a second, so that is refused; and a node that still has data of the old one does not join the new one.

use super::MemberInfo;

/// How etcd is on a control plane node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EtcdState {
    /// It has a leader, and so a quorum.
    Leads,
    /// It has data, and no leader that it knows of.
    Alone,
    /// It has no data and waits for a bootstrap or for members that let it join (Talos: the service is `Preparing`).
    Waits,
    /// Its service is in another state: whether it has data is not known.
    Stopped(String),
    /// The node is none of the control plane.
    Worker,
    /// The node does not answer.
    Silent(String),
}

/// A control plane node, as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The node, as the user named it.
    pub node: String,
    /// How etcd is there.
    pub state: EtcdState,
}

/// What the user said to be so.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// These nodes are dead or wiped, and do not come back with their data.
    pub lost: Vec<String>,
    /// Data of etcd may be wiped where there is some.
    pub wipe: bool,
    /// The cluster that lives is to be replaced.
    pub replaces_living: bool,
}

/// A reason against a restore.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Objection {
    /// The node is not among those that were looked at.
    #[error("{0} was not looked at: name all control plane nodes with -n")]
    NotSeen(String),
    /// The node cannot be the first member.
    #[error("{node} cannot take the snapshot: {problem}")]
    Unfit {
        /// The node.
        node: String,
        /// Why not.
        problem: String,
    },
    /// etcd has a quorum.
    #[error("etcd is alive: {} has a leader; a restore would throw away what it holds", .0.join(", "))]
    Alive(Vec<String>),
    /// Nobody knows about these.
    #[error("{} may be alive, and have a quorum among themselves", .0.join(", "))]
    Unknown(Vec<String>),
    /// Members of the snapshot that are none of the nodes.
    #[error("the snapshot knows members that were not looked at: {}", .0.join(", "))]
    Unseen(Vec<String>),
    /// These have data that must go first.
    #[error("{} still has data of etcd, which has to go first", .0.join(", "))]
    Data(Vec<String>),
}

impl Objection {
    /// What to do about it.
    pub fn advice(&self) -> String {
        match self {
            Self::NotSeen(_) => "name them all: -n NODE,NODE,NODE".to_owned(),
            Self::Unfit { .. } => "choose another control plane node with --node".to_owned(),
            Self::Alive(_) => {
                "restore nothing: a member that is broken is replaced, see `ichorctl etcd members`".to_owned()
            }
            Self::Unknown(nodes) | Self::Unseen(nodes) => {
                format!("if they are dead for good, and only then: --lost {}", nodes.join(","))
            }
            Self::Data(_) => "--wipe wipes it: what was written after the snapshot is gone then".to_owned(),
        }
    }
}

/// The nodes whose data has to be wiped before a restore on `target`.
///
/// # Errors
///
/// The first reason against it.
pub fn judge(
    views: &[View],
    members: &[MemberInfo],
    target: &str,
    claims: &Claims,
) -> Result<Vec<String>, Objection> {
    let found = views.iter().find(|view| view.node == target);
    let found = found.ok_or_else(|| Objection::NotSeen(target.to_owned()))?;
    let problem = match &found.state {
        EtcdState::Worker => Some("it is no control plane node".to_owned()),
        EtcdState::Silent(why) => Some(format!("it does not answer: {why}")),
        EtcdState::Stopped(state) => Some(format!("its etcd is in the state {state}")),
        EtcdState::Leads | EtcdState::Alone | EtcdState::Waits => None,
    };
    if let Some(problem) = problem {
        return Err(Objection::Unfit { node: target.to_owned(), problem });
    }
    let named = |is: &dyn Fn(&EtcdState) -> bool| -> Vec<String> {
        views.iter().filter(|view| is(&view.state)).map(|view| view.node.clone()).collect()
    };
    let alive = named(&|state| *state == EtcdState::Leads);
    if !alive.is_empty() && !claims.replaces_living {
        return Err(Objection::Alive(alive));
    }
    let is_lost = |node: &String| claims.lost.contains(node);
    let mut unknown = named(&|state| matches!(state, EtcdState::Silent(_) | EtcdState::Stopped(_)));
    unknown.retain(|node| !is_lost(node));
    if !unknown.is_empty() {
        return Err(Objection::Unknown(unknown));
    }
    let unseen = members.iter().filter(|member| !views.iter().any(|view| is_node(member, &view.node)));
    let unseen = unseen.filter(|member| !claims.lost.iter().any(|lost| is_node(member, lost)));
    let unseen: Vec<String> = unseen.map(name_of).collect();
    if !unseen.is_empty() {
        return Err(Objection::Unseen(unseen));
    }
    let data = named(&|state| matches!(state, EtcdState::Leads | EtcdState::Alone));
    if !data.is_empty() && !claims.wipe {
        return Err(Objection::Data(data));
    }
    Ok(data)
}

/// Whether a member is on the node that the user calls `name`: by its own name or an address at which others reach it.
fn is_node(member: &MemberInfo, name: &str) -> bool {
    let host = |url: &String| {
        let (_, rest) = url.split_once("://")?;
        let authority = rest.split('/').next()?;
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        Some(host.trim_matches(['[', ']']).to_owned())
    };
    member.name == name || member.peer_urls.iter().filter_map(host).any(|host| host == name)
}

fn name_of(member: &MemberInfo) -> String {
    if member.name.is_empty() { member.id.clone() } else { member.name.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, host: &str) -> MemberInfo {
        MemberInfo {
            id: "01".to_owned(),
            name: name.to_owned(),
            peer_urls: vec![format!("https://{host}:2380")],
            is_learner: false,
        }
    }

    fn members() -> Vec<MemberInfo> {
        vec![member("cp-1", "10.0.0.1"), member("cp-2", "10.0.0.2"), member("cp-3", "[fd00::3]")]
    }

    fn views(states: [EtcdState; 3]) -> Vec<View> {
        let nodes = ["10.0.0.1", "cp-2", "fd00::3"];
        nodes.iter().zip(states).map(|(node, state)| View { node: (*node).to_owned(), state }).collect()
    }

    fn verdict(states: [EtcdState; 3], claims: &Claims) -> Result<Vec<String>, Objection> {
        judge(&views(states), &members(), "10.0.0.1", claims)
    }

    fn silent() -> EtcdState {
        EtcdState::Silent("no answer".to_owned())
    }

    use EtcdState::{Alone, Leads, Stopped, Waits, Worker};

    #[test]
    fn where_all_wait_there_is_nothing_in_the_way() {
        assert_eq!(verdict([Waits, Waits, Waits], &Claims::default()), Ok(vec![]));
    }

    #[test]
    fn a_living_etcd_is_replaced_only_by_somebody_who_means_it() {
        let alive = Objection::Alive(vec!["cp-2".into(), "fd00::3".into()]);
        let wipe = Claims { wipe: true, ..Claims::default() };
        assert_eq!(verdict([Waits, Leads, Leads], &wipe), Err(alive));
        let meant = Claims { wipe: true, replaces_living: true, ..Claims::default() };
        assert_eq!(verdict([Waits, Leads, Leads], &meant), Ok(vec!["cp-2".into(), "fd00::3".into()]));
        let unwiped = Claims { replaces_living: true, ..Claims::default() };
        assert!(matches!(verdict([Waits, Leads, Leads], &unwiped), Err(Objection::Data(_))));
    }

    #[test]
    fn who_does_not_answer_may_be_a_quorum() {
        let wipe = Claims { wipe: true, ..Claims::default() };
        let unknown = Objection::Unknown(vec!["cp-2".into(), "fd00::3".into()]);
        assert_eq!(verdict([Waits, silent(), silent()], &wipe), Err(unknown));
        let lost = Claims { lost: vec!["cp-2".into(), "fd00::3".into()], ..Claims::default() };
        assert_eq!(verdict([Waits, silent(), silent()], &lost), Ok(vec![]));
        let half = Claims { lost: vec!["cp-2".into()], ..Claims::default() };
        assert_eq!(
            verdict([Waits, silent(), Stopped("Failed".into())], &half),
            Err(Objection::Unknown(vec!["fd00::3".into()]))
        );
    }

    #[test]
    fn a_member_that_nobody_looked_at_may_be_alive_too() {
        let two = &views([Waits, Waits, Waits])[..2];
        let unseen = Objection::Unseen(vec!["cp-3".into()]);
        assert_eq!(judge(two, &members(), "10.0.0.1", &Claims::default()), Err(unseen));
        for lost in ["cp-3", "fd00::3"] {
            let claims = Claims { lost: vec![lost.into()], ..Claims::default() };
            assert_eq!(judge(two, &members(), "10.0.0.1", &claims), Ok(vec![]), "{lost}");
        }
    }

    #[test]
    fn data_without_a_quorum_is_wiped_only_when_that_is_said() {
        let data = Objection::Data(vec!["10.0.0.1".into()]);
        assert_eq!(verdict([Alone, Waits, Waits], &Claims::default()), Err(data));
        let wipe = Claims { wipe: true, ..Claims::default() };
        assert_eq!(verdict([Alone, Waits, Alone], &wipe), Ok(vec!["10.0.0.1".into(), "fd00::3".into()]));
    }

    #[test]
    fn a_node_that_cannot_take_a_snapshot_is_not_chosen() {
        for state in [Worker, silent(), Stopped("Failed".into())] {
            let verdict = verdict(
                [state.clone(), Waits, Waits],
                &Claims { lost: vec!["10.0.0.1".into()], ..Claims::default() },
            );
            assert!(matches!(verdict, Err(Objection::Unfit { .. })), "{state:?}: {verdict:?}");
        }
        let elsewhere = judge(&views([Waits, Waits, Waits]), &members(), "cp-9", &Claims::default());
        assert_eq!(elsewhere, Err(Objection::NotSeen("cp-9".into())));
    }
}
