//! Is this node what the plan wanted?

use std::collections::BTreeSet;
use std::time::Duration;

use crate::guard::Reason;
use crate::plan::Expect;
use crate::view::{NodeView, Stage, Text};

/// Something that keeps a node from being proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// It does not answer.
    Silent,
    /// It goes on in the boot that it was in before.
    SameBoot,
    /// It has not finished to boot, for these reasons.
    Booting(Vec<Text>),
    /// It is up but does not call itself ready, for these reasons.
    NotReady(Vec<Text>),
    /// It runs this version.
    Version {
        /// What it runs.
        runs: Text,
        /// What it should run.
        wanted: Text,
    },
    /// It has not confirmed its upgrade: a fatal error would still roll it back.
    Unconfirmed,
    /// Extensions that its image lacks.
    Lacks(Vec<String>),
    /// Extensions that its image still has.
    Still(Vec<String>),
    /// The mesh daemon does not run.
    Daemonless,
    /// Its config is not what was applied, or not on the disk too.
    Config,
    /// It has no session that carries packets of full size to these nodes.
    Unmeshed(BTreeSet<usize>),
    /// Other members of etcd dial it elsewhere.
    Advertised,
    /// etcd is not whole.
    Etcd(Vec<Reason>),
    /// Kubernetes does not call it Ready.
    Kubernetes,
}

impl Doubt {
    /// Whether waiting does not help, once the node is up and steady.
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Version { .. } | Self::Lacks(_) | Self::Still(_) | Self::Config)
    }
}

/// What there is to doubt about a node by its own word.
pub fn doubts(expect: &Expect, node: &NodeView) -> Vec<Doubt> {
    if !node.answers {
        return vec![Doubt::Silent];
    }
    let mut doubts = Vec::new();
    match (node.stage, node.ready) {
        (Some(Stage::Running), true) => {}
        (Some(Stage::Running), false) => doubts.push(Doubt::NotReady(node.unmet.clone())),
        _ => doubts.push(Doubt::Booting(node.unmet.clone())),
    }
    doubts.extend(lasting(expect, node));
    if node.marked == Some(true) {
        doubts.push(Doubt::Unconfirmed);
    }
    if expect.daemon && node.daemon != Some(true) {
        doubts.push(Doubt::Daemonless);
    }
    let meshed = node.meshed.as_deref();
    let gaps: BTreeSet<usize> = expect
        .meshed
        .iter()
        .filter(|peer| meshed.is_none_or(|meshed| !meshed.contains(peer)))
        .copied()
        .collect();
    if !gaps.is_empty() {
        doubts.push(Doubt::Unmeshed(gaps));
    }
    if let Some(wanted) = &expect.advertised
        && node.etcd.as_ref().is_none_or(|etcd| etcd.advertised != *wanted)
    {
        doubts.push(Doubt::Advertised);
    }
    if expect.kubernetes && node.kubernetes.is_none_or(|it| !it.ready) {
        doubts.push(Doubt::Kubernetes);
    }
    doubts
}

/// The doubts among them that do not go away by waiting. Only of a node that answers.
pub fn lasting(expect: &Expect, node: &NodeView) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    if let Some(wanted) = &expect.version
        && node.version.as_ref() != Some(wanted)
    {
        let runs = node.version.clone().unwrap_or_else(|| "an unknown version".into());
        doubts.push(Doubt::Version { runs, wanted: wanted.clone() });
    }
    if !expect.extensions.is_empty() {
        let has = |name: &&String| node.extensions.as_ref().is_some_and(|it| it.contains(*name));
        let lacks: Vec<String> = expect.extensions.iter().filter(|name| !has(name)).cloned().collect();
        if !lacks.is_empty() {
            doubts.push(Doubt::Lacks(lacks));
        }
    }
    let has = |name: &&String| node.extensions.as_ref().is_none_or(|it| it.contains(*name));
    let still: Vec<String> = expect.without.iter().filter(has).cloned().collect();
    if !still.is_empty() {
        doubts.push(Doubt::Still(still));
    }
    if let Some(config) = expect.config
        && (node.active != Some(config) || node.persistent != Some(config))
    {
        doubts.push(Doubt::Config);
    }
    doubts
}

/// Whether a node was found steady for long enough.
pub fn is_soaked(steady: Option<Duration>, soak: Duration, now: Duration) -> bool {
    steady.is_some_and(|since| since + soak <= now)
}

impl Doubt {
    /// In words. `name` gives the name of a node.
    pub fn describe<'a>(&self, name: impl Fn(usize) -> &'a str + Copy) -> String {
        let because = |unmet: &[Text]| match unmet {
            [] => String::new(),
            unmet => format!(": {}", unmet.join("; ")),
        };
        match self {
            Self::Silent => "it does not answer".to_owned(),
            Self::SameBoot => "it has not rebooted".to_owned(),
            Self::Booting(unmet) => format!("it has not finished to boot{}", because(unmet)),
            Self::NotReady(unmet) => format!("it is not ready{}", because(unmet)),
            Self::Version { runs, wanted } => format!("it runs {runs} in place of {wanted}"),
            Self::Unconfirmed => "its upgrade is not confirmed yet".to_owned(),
            Self::Lacks(names) => format!("its image lacks {}", names.join(", ")),
            Self::Still(names) => format!("its image still has {}", names.join(", ")),
            Self::Daemonless => "the service ext-ichor does not run".to_owned(),
            Self::Config => "its config is not the one that was applied".to_owned(),
            Self::Unmeshed(gaps) => {
                let names: Vec<&str> = gaps.iter().map(|node| name(*node)).collect();
                format!("no session that carries packets of full size to {}", names.join(", "))
            }
            Self::Advertised => "etcd does not advertise the addresses that it should".to_owned(),
            Self::Etcd(reasons) => {
                let said: Vec<String> = reasons.iter().map(|reason| reason.describe(name)).collect();
                said.join("; ")
            }
            Self::Kubernetes => "Kubernetes does not call it Ready".to_owned(),
        }
    }
}
