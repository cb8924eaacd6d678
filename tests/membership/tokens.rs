//! Tokens that are used more often than granted.

use std::time::{Duration, Instant};

use ichor_lab::{Cut, LabError, Node};
use ichor_tests::probe;
use ichord::status::Status;

use crate::machines::{hello, join_string};
use crate::network::{
    NAMES, assert_reaches, assert_whole, endpoint, tell, until_status_in, until_whole, with_network,
};

/// How long members may take to agree in this test: the machine may be busy. The figure is printed.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn every_member_that_holds_the_first_use_of_a_token_refuses_the_second() {
    with_network(async |lab, operator| {
        let nodes = NAMES.map(|name| lab.node(name));
        operator.admit_three(lab).await?;
        for (n, member) in (1..).zip(&nodes[..3]) {
            let used = nodes[..3].iter().find(|node| node.name() != member.name()).expect("another one");
            let spent = join_string(&used.config().await?);
            let good = join_string(&operator.token(&format!("x-{n}"), &[]).await?);
            // The last one is answered: by then the first was looked at.
            let hellos = [hello(spent, 50 + n), hello(good, 60 + n)];
            let answers = probe::knock(&lab.node("op"), endpoint(member).await?, &hellos).await?;
            assert_eq!(answers.len(), 1, "{answers:?}");
        }
        Ok(())
    });
}

/// The key of the peer called `twin`; nothing while there are two.
fn twin(status: &Status) -> Option<String> {
    let mut twins = status.peers.iter().filter(|peer| peer.name == "twin");
    let twin = twins.next()?;
    twins.next().is_none().then(|| twin.public_key.clone())
}

/// Since when the peer called `name` is there, or is not any more.
fn since(status: &Status, name: &str) -> Option<u64> {
    status.peers.iter().find(|peer| peer.name == name)?.since
}

/// How long two parts are cut off from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absence {
    /// As long as it takes to let somebody in: the sessions between the parts seem to be alive.
    Short,
    /// Until both parts have noticed.
    Noticed,
}

#[test]
fn two_parts_that_let_one_token_in_twice_agree_on_one_machine_after_a_short_cut() {
    two_parts_let_one_token_in(Absence::Short);
}

#[test]
fn two_parts_that_let_one_token_in_twice_agree_on_one_machine_after_a_long_cut() {
    two_parts_let_one_token_in(Absence::Noticed);
}

fn two_parts_let_one_token_in(absence: Absence) {
    with_network(async |lab, operator| {
        let [a, b, c, d] = NAMES.map(|name| lab.node(name));
        operator.admit(&a).await?;
        operator.admit(&c).await?;
        assert_whole(lab, &["a", "c"]).await?;
        let seed = endpoint(&c).await?.to_string();
        let config = operator.token("twin", &["--seed", &seed]).await?;
        let parts = Cut::Sites("here".to_owned(), "there".to_owned());
        let there_since = [since(&a.status().await?, "c"), since(&c.status().await?, "a")];
        lab.cut(parts.clone()).await?;
        for (machine, member) in [(&b, &a), (&d, &c)] {
            machine.configure(&config).await?;
            // A member that was let in a moment ago does so once it has caught up, or once it takes itself to be alone.
            until_status_in(machine, PATIENCE, |status| {
                status.network.as_ref().is_some_and(|network| network.member.is_some())
            })
            .await?;
            member.until_status("the machine", |status| twin(status).is_some()).await?;
            assert_reaches(member, machine).await?;
        }
        if absence == Absence::Noticed {
            for ((member, other), before) in [(&a, "c"), (&c, "a")].into_iter().zip(there_since) {
                // Dates are rounded.
                let misses = |status: &Status| since(status, other) > before.map(|before| before + 1);
                until_status_in(member, PATIENCE, misses).await?;
            }
        }
        let keys = [&b, &d].map(|machine| machine.status());
        let [key_b, key_d] =
            keys.map(async |status| status.await.map(|status| status.public_key.expect("a key")));
        let (key_b, key_d) = (key_b.await?, key_d.await?);
        let (mut of_a, mut of_c) = (a.watch_status().await?, c.watch_status().await?);
        let (mut seen_a, mut seen_c) = (None, None);
        let began = Instant::now();
        lab.heal(parts).await?;
        let agreed = async {
            while seen_a.is_none() || seen_a != seen_c {
                tokio::select! {
                    status = of_a.next() => seen_a = twin(&status?),
                    status = of_c.next() => seen_c = twin(&status?),
                }
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, agreed).await.expect("in time")?;
        tell(&format!("one token in two parts, {absence:?}: all agree {:?} after they met", began.elapsed()));
        assert!(seen_a.as_ref() == Some(&key_b) || seen_a.as_ref() == Some(&key_d), "{seen_a:?}");
        let twins = [(&b, &key_b), (&d, &key_d)];
        let [winner, loser] = if seen_a.as_ref() == Some(&key_b) { twins } else { [twins[1], twins[0]] };
        only_one_is_a_member([&a, &c], winner, loser).await?;
        // Somebody should look at that.
        for member in [&a, &c] {
            let alarm = |status: &Status| {
                status.problems.iter().any(|problem| problem.cause.contains("more often than granted"))
            };
            member.until_status("the alarm", alarm).await?;
        }
        let put_behind =
            |status: &Status| status.problems.iter().any(|problem| problem.cause.contains("came first"));
        loser.0.until_status("to hear that it is put behind", put_behind).await?;
        match absence {
            // The owner knows better which of the two it is, and the machine comes back by itself.
            Absence::Short => {
                operator.sees(&a).await?;
                let conflicts =
                    a.status().await?.network.map(|network| network.conflicts).unwrap_or_default();
                let refused = &conflicts.first().expect("the one that was refused").identity;
                let seen = ["--status", "/run/operator/status.json", "--yes"];
                operator.run(&[&["member", "accept", refused], &seen[..]].concat()).await?;
                only_one_is_a_member([&a, &c], loser, winner).await
            }
            // Or both are its machines, and one gets a token of its own.
            Absence::Noticed => {
                loser.0.configure(&operator.token("again", &["--seed", &seed]).await?).await?;
                for member in [&a, &b, &c, &d] {
                    until_whole(member, 4).await?;
                }
                assert_reaches(loser.0, winner.0).await
            }
        }
    });
}

/// Each is a machine and its key.
async fn only_one_is_a_member(
    others: [&Node; 2],
    (machine, _): (&Node, &String),
    (_, refused): (&Node, &String),
) -> Result<(), LabError> {
    for member in others.into_iter().chain([machine]) {
        until_whole(member, 3).await?;
        let peers = member.run(["wg", "show", "ichor0", "peers"]).await?.stdout;
        assert!(!peers.contains(refused), "{} has it: {peers}", member.name());
    }
    for member in others {
        assert_reaches(member, machine).await?;
    }
    Ok(())
}
