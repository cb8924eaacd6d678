//! Announcements that came before the members that made them.
//!
//! A node that catches up is told records in no order. Without these it would have to compare and ask for
//! half of all announcements once more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::record::IdentityKey;
use crate::record::announcement::SignedAnnouncement;

/// Announcements that wait: anybody can make some of somebody who does not exist.
const MAX_WAITING: usize = 1024;
/// How long one waits.
const WAIT: Duration = Duration::from_secs(10);

/// The newest announcement of each.
#[derive(Debug, Default)]
pub(super) struct EarlyAnnouncements {
    waiting: BTreeMap<IdentityKey, (SignedAnnouncement, Instant)>,
}

impl EarlyAnnouncements {
    pub(super) fn wait(&mut self, announcement: SignedAnnouncement, now: Instant) {
        let identity = announcement.identity;
        let known = self.waiting.get(&identity).map(|(known, _)| known.announcement.sequence);
        let has_room = known.is_some() || self.waiting.len() < MAX_WAITING;
        if has_room && known < Some(announcement.announcement.sequence) {
            self.waiting.insert(identity, (announcement, now));
        }
    }

    /// The announcement of somebody who is known now.
    pub(super) fn take(&mut self, identity: &IdentityKey) -> Option<SignedAnnouncement> {
        self.waiting.remove(identity).map(|(announcement, _)| announcement)
    }

    /// Forgets those whose makers did not come.
    pub(super) fn forget_old(&mut self, now: Instant) {
        self.waiting.retain(|_, (_, since)| now.saturating_duration_since(*since) < WAIT);
    }
}
