//! Who is no member gets no answer.

use std::time::Duration;

use ichor_mesh::hello::{HelloPublic, REQUEST_LEN};
use ichor_mesh::join_string::JoinString;
use ichor_tests::netns::until_succeeds;
use ichor_tests::probe::{self, Capture};

use crate::machines::{hello, hellos_of_removed, join_string};
use crate::network::{NAMES, assert_whole, endpoint, until_whole, with_network};

#[test]
fn outsiders_get_no_answer() {
    with_network(async |lab, operator| {
        let [a, b, c, _] = NAMES.map(|name| lab.node(name));
        let at = endpoint(&a).await?;
        operator.admit(&a).await?;
        until_whole(&a, 1).await?;
        let from_b = endpoint(&b).await?.ip();
        let capture = Capture::start(&a, from_b, 10, Duration::from_secs(20)).await?;
        operator.admit(&b).await?;
        operator.admit(&c).await?;
        assert_whole(lab, &NAMES[..3]).await?;
        // Without IP and UDP headers.
        let captured = capture.packets().await?;
        let replayed = captured.iter().filter_map(|packet| packet.get(28..));
        let replayed = replayed.filter(|hello| hello.len() == REQUEST_LEN).map(<[u8]>::to_vec).next();
        let replayed = replayed.expect("the hello with which b was let in");
        let spent = join_string(&b.config().await?);
        let expired = join_string(&operator.token("e", &["--ttl", "1s"]).await?);
        let revoked = join_string(&operator.token("f", &[]).await?);
        operator.run(&["token", "revoke", &revoked.grant.id.to_string()]).await?;
        operator.sees(&b).await?;
        operator.run(&["member", "remove", "c", "--status", "/run/operator/status.json", "--yes"]).await?;
        until_whole(&a, 2).await?;
        let mut genesis_only = join_string(&operator.token("g", &[]).await?);
        genesis_only.hello = HelloPublic([7; 32]);
        let good = join_string(&operator.token("d", &[]).await?);
        let not_after = expired.grant.grant.not_after;
        until_succeeds(&a, &format!("test $(date +%s) -gt {not_after}")).await?;

        let mut datagrams =
            vec![vec![], vec![0], vec![0x10; 4], vec![0x10; REQUEST_LEN], vec![0xff; REQUEST_LEN]];
        datagrams.extend((0..40).map(|n| damaged(&good, n)));
        datagrams.push(replayed);
        datagrams.extend([hello(spent, 31), hello(expired, 32), hello(revoked, 33), hello(genesis_only, 34)]);
        datagrams.extend(hellos_of_removed(&c).await?);
        // And one that is answered, once: by then all others were looked at.
        datagrams.push(hello(good, 35));
        let answers = probe::knock(&lab.node("op"), at, &datagrams).await?;
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert!(answers[0].len() <= REQUEST_LEN);
        Ok(())
    });
}

/// A hello with one byte changed, `n` picks which.
fn damaged(join: &JoinString, n: usize) -> Vec<u8> {
    let mut datagram = hello(join.clone(), 40);
    let at = n * REQUEST_LEN / 40;
    datagram[at] ^= 1;
    datagram
}
