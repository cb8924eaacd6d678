use super::*;

fn entries() -> Vec<Entry> {
    let at = Duration::from_secs(7);
    let begin = Entry::Begin {
        at,
        node: "cp-1".into(),
        work: Digest(5),
        call: "reboot".into(),
        boot: Some("a".into()),
        anew: true,
        config: Some(Digest(9)),
    };
    let end = Entry::End {
        at,
        node: "cp-1".into(),
        call: "reboot".into(),
        outcome: Ended::Unknown,
        why: Some("x".into()),
    };
    vec![
        Entry::Run { at, goal: Digest(1) },
        begin,
        end,
        Entry::Stop { at, why: "y".into() },
        Entry::Finish { at },
    ]
}

fn text() -> String {
    entries().iter().map(|entry| encode(entry).unwrap()).collect()
}

#[test]
fn what_is_written_is_read() {
    assert_eq!(decode(text().as_bytes()).unwrap(), entries());
    assert_eq!(decode(b"").unwrap(), []);
}

#[test]
fn a_torn_last_line_is_left_out_wherever_it_was_torn() {
    let text = text();
    let start = text.trim_end().rfind('\n').unwrap() + 1;
    for end in start..text.len() {
        let torn = &text.as_bytes()[..end];
        assert_eq!(decode(torn).unwrap(), entries()[..4], "torn at {end}");
        assert_eq!(whole_len(torn), start);
    }
    assert_eq!(whole_len(text.as_bytes()), text.len());
}

#[test]
fn damage_anywhere_else_is_found() {
    let text = text();
    let first = text.find('\n').unwrap();
    for at in 0..first {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        assert!(matches!(decode(&bytes), Err(JournalError::Damaged { line: 1 })), "changed at {at}");
    }
}

#[test]
fn a_call_whose_end_nobody_saw_may_have_been_made() {
    let mut journal = Journal::replay(entries().into_iter().take(2));
    assert!(journal.is_flying("cp-1"));
    journal.begin_run(Digest(1), Duration::from_secs(9));
    assert!(!journal.any_flying() && journal.is_open("cp-1"));
    let made = journal.node("cp-1").unwrap().open.as_ref().unwrap().made(&Call::Reboot).unwrap();
    assert_eq!((made.outcome, made.ended), (Some(Ended::Unknown), Some(Duration::from_secs(9))));
    assert!(!made.is_ours);
}

/// A journal in which these calls were made for the node, each with its work, and ended well at so many seconds.
fn journal(calls: &[(u64, Call, u64)]) -> Journal {
    let mut entries = vec![Entry::Run { at: Duration::ZERO, goal: Digest(1) }];
    for (second, call, work) in calls {
        let (at, node, call) = (Duration::from_secs(*second), Text::from("cp-1"), Text::from(call.name()));
        let (name, work) = (call.clone(), Digest(*work));
        entries.push(Entry::Begin {
            at,
            node: node.clone(),
            work,
            call,
            boot: None,
            anew: false,
            config: None,
        });
        entries.push(Entry::End { at, node, call: name, outcome: Ended::Done, why: None });
    }
    Journal::replay(entries)
}

#[test]
fn a_loaded_image_is_no_node_after_which_to_pause() {
    let loaded = [(1, Call::Pull, 5), (2, Call::Conclude, 5)];
    assert_eq!(journal(&loaded).last_conclusion(), None);
    let rebooted = [(3, Call::Reboot, 6), (4, Call::Conclude, 6)];
    let all = [&loaded[..], &rebooted].concat();
    assert_eq!(journal(&all).last_conclusion(), Some(Duration::from_secs(4)));
}

#[test]
fn a_run_has_begun_with_its_first_call_that_changes_something() {
    let looked = [(1, Call::Pull, 5), (2, Call::Conclude, 5), (3, Call::Snapshot { from: 0 }, 6)];
    assert!(!journal(&looked).has_begun());
    let drained = [&looked[..], &[(4, Call::Drain, 6)]].concat();
    let mut journal = journal(&drained);
    assert!(journal.has_begun());
    journal.begin_run(Digest(1), Duration::from_secs(9));
    assert!(!journal.has_begun(), "another run has not");
}
