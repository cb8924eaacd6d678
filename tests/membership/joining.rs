//! Joining: by the last one standing, from nothing, at the second attempt.

use std::time::Instant;

use ichor_lab::Cut;

use crate::network::{NAMES, assert_reaches, assert_whole, endpoint, tell, until_whole, with_network};

#[test]
fn the_last_member_standing_lets_another_in() {
    with_network(async |lab, operator| {
        let nodes = NAMES.map(|name| lab.node(name));
        operator.admit_three(lab).await?;
        // All but one are off.
        nodes[0].stop().await?;
        nodes[1].stop().await?;
        let seed = endpoint(&nodes[2]).await?.to_string();
        operator.admit_as(&nodes[3], "d", &["--seed", &seed]).await?;
        nodes[3]
            .until_status("to be let in", |status| {
                status.network.as_ref().is_some_and(|network| network.members == 4)
            })
            .await?;
        assert_reaches(&nodes[3], &nodes[2]).await?;
        // Those that come back hear of it.
        nodes[0].start().await?;
        nodes[1].start().await?;
        assert_whole(lab, &NAMES).await
    });
}

#[test]
fn after_all_were_off_and_without_the_internet_a_segment_finds_itself() {
    with_network(async |lab, operator| {
        let (a, b) = (lab.node("a"), lab.node("b"));
        let configs = [operator.token("a", &[]).await?, operator.token("b", &[]).await?];
        lab.cut(Cut::Site("here".to_owned())).await?;
        for (node, config) in [&a, &b].into_iter().zip(&configs) {
            node.configure(config).await?;
        }
        assert_whole(lab, &["a", "b"]).await?;
        // The join strings are gone, as they may be once a node is a member, and each was moved meanwhile.
        for node in [&a, &b] {
            node.stop().await?;
            // What it said before is not to be taken for what it says then.
            node.run(["rm", "-f", "/var/run/ichor/status.json"]).await?;
            node.write_config("mesh: {}\n").await?;
            node.roam("here").await?;
        }
        let began = Instant::now();
        a.start().await?;
        b.start().await?;
        until_whole(&a, 2).await?;
        until_whole(&b, 2).await?;
        tell(&format!("cold start: a mesh after {:?}", began.elapsed()));
        assert_whole(lab, &["a", "b"]).await
    });
}

#[test]
fn a_join_string_that_lets_nobody_in_can_be_replaced_while_the_daemon_runs() {
    with_network(async |lab, operator| {
        let [a, b, ..] = NAMES.map(|name| lab.node(name));
        operator.admit(&a).await?;
        until_whole(&a, 1).await?;
        // The name is taken.
        operator.admit_as(&b, "a", &[]).await?;
        b.until_status("to hear that it is taken", |status| {
            status.problems.iter().any(|problem| problem.cause.contains("somebody has the name"))
        })
        .await?;
        operator.admit(&b).await?;
        assert_whole(lab, &NAMES[..2]).await
    });
}

#[test]
fn who_says_that_it_is_a_member_is_one_after_a_power_cut() {
    with_network(async |lab, operator| {
        let [a, b, ..] = NAMES.map(|name| lab.node(name));
        operator.admit(&a).await?;
        until_whole(&a, 1).await?;
        operator.admit(&b).await?;
        b.until_status("to be let in", |status| {
            status.network.as_ref().is_some_and(|network| network.member.is_some())
        })
        .await?;
        b.power_off().await?;
        b.run(["test", "-s", "/var/lib/ichor/membership"]).await?;
        b.power_on().await?;
        assert_whole(lab, &NAMES[..2]).await
    });
}
