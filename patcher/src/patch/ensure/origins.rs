//! Which edit each line of a changed text comes from.

use std::collections::BTreeMap;

use similar::{ChangeTag, TextDiff};

/// Which line comes from where.
pub(super) struct Origins {
    /// Per line of the current text: its number in the old text, or the edit that wrote it.
    lines: Vec<Origin>,
    removed: BTreeMap<usize, usize>,
}

#[derive(Clone, Copy)]
enum Origin {
    Edit(usize),
    Old(usize),
}

impl Origins {
    pub(super) fn new(text: &str) -> Self {
        Self { lines: (0..text.lines().count()).map(Origin::Old).collect(), removed: BTreeMap::new() }
    }

    pub(super) fn update(&mut self, before: &str, after: &str, edit: usize) {
        let mut lines = Vec::new();
        for change in TextDiff::from_lines(before, after).iter_all_changes() {
            let old = change.old_index().and_then(|index| self.lines.get(index));
            match (change.tag(), old) {
                (ChangeTag::Equal, Some(origin)) => lines.push(*origin),
                (ChangeTag::Delete, Some(Origin::Old(line))) => {
                    self.removed.insert(*line, edit);
                }
                (ChangeTag::Delete, _) => {}
                (ChangeTag::Equal | ChangeTag::Insert, _) => lines.push(Origin::Edit(edit)),
            }
        }
        self.lines = lines;
    }

    pub(super) fn finish(self) -> (BTreeMap<usize, usize>, BTreeMap<usize, usize>) {
        let added = self.lines.iter().enumerate().filter_map(|(line, origin)| match origin {
            Origin::Edit(edit) => Some((line, *edit)),
            Origin::Old(_) => None,
        });
        (added.collect(), self.removed)
    }
}
