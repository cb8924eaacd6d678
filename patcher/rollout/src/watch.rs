//! What this process saw over time: one look proves little.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::view::{NodeView, Text, View};

/// What was seen over time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch {
    /// How far the furthest member of etcd was in the looks before the last one.
    floor: Option<u64>,
    /// When the last look began, and how far the furthest member was in it.
    last: Option<(Duration, u64)>,
    /// When the look before that began.
    before: Option<Duration>,
    nodes: BTreeMap<usize, Seen>,
}

/// What was seen of one node over time.
#[derive(Debug, Clone, Default)]
struct Seen {
    boot: Option<Text>,
    /// Since when each look found it steady, in the same boot.
    steady: Option<Duration>,
}

impl Watch {
    /// Takes note of a view. One that is not newer than the last is no news.
    pub(crate) fn look(&mut self, view: &View) {
        if self.last.is_some_and(|(at, _)| view.at <= at) {
            return;
        }
        self.before = self.last.map(|(at, _)| at);
        let floor = self.floor.max(self.last.map(|(_, index)| index));
        let members = view.nodes.iter().filter_map(|node| node.etcd.as_ref());
        let index = members.map(|member| member.index).max().unwrap_or(0);
        (self.floor, self.last) = (floor, Some((view.at, index)));
        for (index, node) in view.nodes.iter().enumerate() {
            self.nodes.entry(index).or_default().look(node, view.at);
        }
    }

    /// What no present word of a member of etcd may fall short of.
    pub(crate) const fn floor(&self) -> Option<u64> {
        self.floor
    }

    /// When the look before the last one began. What it saw is the floor of the last one, so old news that began before
    /// it shows.
    pub(crate) const fn before(&self) -> Option<Duration> {
        self.before
    }

    /// Since when each look found a node steady, in the same boot.
    pub(crate) fn steady(&self, node: usize) -> Option<Duration> {
        self.nodes.get(&node).and_then(|seen| seen.steady)
    }
}

impl Seen {
    fn look(&mut self, node: &NodeView, at: Duration) {
        let is_same = node.boot == self.boot;
        self.boot.clone_from(&node.boot);
        self.steady = match (node.is_steady(), is_same) {
            (false, _) => None,
            (true, true) => self.steady.or(Some(at)),
            (true, false) => Some(at),
        };
    }
}
