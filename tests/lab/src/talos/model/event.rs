//! Events of a node.

use std::collections::VecDeque;
use std::time::Duration;

use ichor_proto::talos::machine as proto;
use prost::Message;

/// Most events that are kept (Talos: internal/app/machined/pkg/runtime/v1alpha1/v1alpha1_events.go).
const MAX_EVENTS: usize = 1000;

/// The events of a node since it booted.
#[derive(Debug, Clone, Default)]
pub struct Events {
    events: VecDeque<proto::Event>,
    /// How many there ever were.
    next: u64,
}

impl Events {
    /// Adds an event whose payload is the message `name` of the package `machine`.
    pub(crate) fn push(&mut self, name: &str, payload: &impl Message, actor: &str, now: Duration) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        let any = prost_types::Any {
            type_url: format!("talos/runtime/machine.{name}"),
            value: payload.encode_to_vec(),
        };
        self.events.push_back(proto::Event {
            metadata: None,
            data: Some(any),
            id: id(now, self.next),
            actor_id: actor.to_owned(),
        });
        self.next += 1;
    }

    /// The number of the next event.
    pub fn end(&self) -> u64 {
        self.next
    }

    /// The number of the first event that is `tail` before the end; of the oldest if that is negative.
    pub fn tail(&self, tail: i32) -> u64 {
        match u64::try_from(tail) {
            Ok(tail) => self.next.saturating_sub(tail).max(self.oldest()),
            Err(_negative) => self.oldest(),
        }
    }

    /// The number of the first event after the one with `id`.
    pub fn after(&self, id: &str) -> u64 {
        let before = self.events.iter().filter(|event| event.id.as_str() <= id).count();
        self.oldest() + before as u64
    }

    /// The number of the first event that is not older than `age`.
    pub fn younger_than(&self, age: Duration, now: Duration) -> u64 {
        let least = id(now.saturating_sub(age), 0);
        let before = self.events.iter().filter(|event| event.id < least).count();
        self.oldest() + before as u64
    }

    /// The events from number `from` on; `None` when some of them are forgotten already.
    pub fn since(&self, from: u64) -> Option<impl Iterator<Item = &proto::Event>> {
        let skip = usize::try_from(from.checked_sub(self.oldest())?).ok()?;
        Some(self.events.iter().skip(skip))
    }

    fn oldest(&self) -> u64 {
        self.next - self.events.len() as u64
    }
}

/// An id that sorts by time, in the form that Talos uses (rs/xid): 12 bytes, of which the first four are the time in
/// seconds and the last ones count, in base 32 with the alphabet 0-9a-v.
fn id(now: Duration, count: u64) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    let seconds = u128::from(u32::try_from(now.as_secs()).unwrap_or(u32::MAX));
    let value = (seconds << 64) | u128::from(count);
    // 96 bits are 19 digits and one bit, which begins the last digit.
    (0..20).map(|n| char::from(ALPHABET[((value << 4 >> (95 - 5 * n)) & 31) as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(count: u64) -> Events {
        let mut events = Events::default();
        for n in 0..count {
            let payload = proto::PhaseEvent { phase: n.to_string(), action: 0 };
            events.push("PhaseEvent", &payload, "", Duration::from_secs(1000 + n));
        }
        events
    }

    #[test]
    fn ids_have_twenty_characters_and_sort_by_time() {
        let events = events(50);
        let ids: Vec<&str> = events.since(0).unwrap().map(|event| event.id.as_str()).collect();
        assert!(ids.iter().all(|id| id.len() == 20));
        assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn one_can_go_on_after_an_event_and_from_a_time() {
        let events = events(10);
        let third = events.since(2).unwrap().next().unwrap().id.clone();
        assert_eq!(events.after(&third), 3);
        assert_eq!(events.younger_than(Duration::from_secs(4), Duration::from_secs(1009)), 5);
        assert_eq!(events.tail(2), 8);
        assert_eq!(events.tail(-1), 0);
    }

    #[test]
    fn a_reader_that_is_too_slow_is_told() {
        let events = events(MAX_EVENTS as u64 + 5);
        assert!(events.since(4).is_none());
        assert_eq!(events.since(5).unwrap().count(), MAX_EVENTS);
    }
}
