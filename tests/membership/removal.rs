//! Members that are replaced or removed.

use std::time::Duration;

use ichor_lab::Exit;

use crate::network::{NAMES, assert_whole, until_status_in, until_whole, with_network};

/// A member that hears nobody waits half a minute before it says so.
const UNHEARD_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn a_replacing_token_gives_the_same_addresses_to_a_machine_that_lost_its_state() {
    with_network(async |lab, operator| {
        let [a, b, c, thief] = NAMES.map(|name| lab.node(name));
        operator.admit_three(lab).await?;
        let before = b.status().await?;
        let network = before.network.as_ref();
        let incarnation = network.and_then(|network| network.incarnation.clone()).expect("a member has one");

        // Who merely has a token for the name cannot have it while its holder is there.
        operator.admit_as(&thief, "b", &[]).await?;
        thief
            .until_status("to hear that the name is taken", |status| {
                let taken = |cause: &str| cause.contains("somebody has the name");
                status.problems.iter().any(|problem| problem.part == "member" && taken(&problem.cause))
            })
            .await?;

        b.stop().await?;
        b.run(["sh", "-c", "rm -rf /var/lib/ichor"]).await?;
        b.write_config(&operator.token("b", &["--replace", &incarnation]).await?).await?;
        b.start().await?;
        b.until_status("another incarnation", |status| {
            let now = status.network.as_ref().and_then(|network| network.incarnation.as_ref());
            now.is_some_and(|now| *now != incarnation)
        })
        .await?;
        assert_whole(lab, &NAMES[..3]).await?;
        let after = b.status().await?;
        assert_eq!(after.addresses, before.addresses);
        assert_ne!(after.public_key, before.public_key);
        for node in [&a, &c] {
            let keys = node.run(["wg", "show", "ichor0", "peers"]).await?.stdout;
            assert!(keys.contains(after.public_key.as_deref().expect("a key")), "{keys}");
            assert!(!keys.contains(before.public_key.as_deref().expect("a key")), "{keys}");
        }
        Ok(())
    });
}

#[test]
fn whom_an_owner_removes_is_gone_everywhere_and_comes_back_with_a_new_token_only() {
    with_network(async |lab, operator| {
        let [a, b, c, _] = NAMES.map(|name| lab.node(name));
        operator.admit_three(lab).await?;
        operator.sees(&b).await?;
        let status = ["--status", "/run/operator/status.json"];
        let listed = operator.run(&[&["member", "list"], &status[..]].concat()).await?;
        let lines: Vec<_> = listed.lines().map(|line| line.split_whitespace().next().unwrap_or("")).collect();
        assert_eq!(lines, ["NAME", "b", "a", "c"], "{listed}");
        let remove = [&["member", "remove", "c"], &status[..]].concat();
        let refused = operator.output(&remove).await?;
        assert_eq!(refused.exit, Exit::Code(3), "{}", refused.stderr);
        operator.run(&[&remove[..], &["--yes"]].concat()).await?;

        let old_key = c.status().await?.public_key.expect("a key");
        for node in [&a, &b] {
            until_whole(node, 2).await?;
            assert!(!node.run(["wg", "show", "ichor0", "peers"]).await?.stdout.contains(&old_key));
        }
        c.until_status("to be no member any more", |status| {
            let barred = |cause: &str| cause.contains("removed by an owner");
            status.problems.iter().any(|problem| barred(&problem.cause))
        })
        .await?;
        assert_whole(lab, &NAMES[..2]).await?;

        // Its old join string is of no use, a new one is.
        operator.admit(&c).await?;
        assert_whole(lab, &NAMES[..3]).await
    });
}

#[test]
fn who_was_removed_while_it_was_off_says_why_its_new_token_has_no_effect() {
    with_network(async |lab, operator| {
        let [a, b, c, _] = NAMES.map(|name| lab.node(name));
        operator.admit_three(lab).await?;
        operator.sees(&b).await?;
        c.power_off().await?;
        operator.run(&["member", "remove", "c", "--status", "/run/operator/status.json", "--yes"]).await?;
        for node in [&a, &b] {
            until_whole(node, 2).await?;
        }
        // Nobody tells it: to them it is a stranger.
        c.write_config(&operator.token("c", &[]).await?).await?;
        c.power_on().await?;
        until_status_in(&c, UNHEARD_WITHIN, |status| {
            status.problems.iter().any(|problem| problem.cause.contains("reset its state"))
        })
        .await?;
        assert_whole(lab, &NAMES[..2]).await?;
        c.stop().await?;
        c.run(["rm", "-r", "/var/lib/ichor"]).await?;
        c.start().await?;
        assert_whole(lab, &NAMES[..3]).await
    });
}
