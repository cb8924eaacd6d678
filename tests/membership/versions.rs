//! A mesh of this ichord and an older one.

use std::path::PathBuf;
use std::time::Duration;

use ichor_lab::Daemon;
use ichor_tests::netns::skip;
use ichord::status::Status;

use crate::network::{NAMES, assert_whole, endpoint, until_status_in, until_whole, with_network};

/// Says where the older ichord is.
const VARIABLE: &str = "ICHOR_ICHORD_PREVIOUS";
/// Set where this test must run.
const REQUIRE_VARIABLE: &str = "ICHOR_REQUIRE_PREVIOUS";
/// How long a member may take to notice that all others are gone, and more.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn an_older_daemon_and_this_one_share_a_mesh() {
    let Some(program) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
        assert!(
            std::env::var_os(REQUIRE_VARIABLE).is_none(),
            "{VARIABLE} does not say where an older ichord is"
        );
        return skip(&format!("{VARIABLE} does not say where an older ichord is"));
    };
    assert!(program.is_file(), "{VARIABLE} names no file");
    let program = std::fs::canonicalize(program).expect("a path");
    with_network(async |lab, operator| {
        let [a, b, c, d] = NAMES.map(|name| lab.node(name));
        let older = Daemon { program: Some(program), environment: Vec::new() };
        for node in [&a, &c] {
            node.stop().await?;
            node.set_daemon(older.clone()).await?;
            node.start().await?;
        }
        // The older one begins the network, and lets this one in.
        operator.admit(&a).await?;
        until_whole(&a, 1).await?;
        operator.admit(&b).await?;
        assert_whole(lab, &["a", "b"]).await?;
        // This one lets an older one in, while there is no other.
        a.stop().await?;
        let seed = endpoint(&b).await?.to_string();
        operator.admit_as(&c, "c", &["--seed", &seed]).await?;
        // That one lets nobody in before it has caught up, or takes itself to be alone.
        until_status_in(&c, PATIENCE, |status| {
            status.network.as_ref().is_some_and(|network| network.member.is_some())
        })
        .await?;
        a.start().await?;
        assert_whole(lab, &["a", "b", "c"]).await?;
        operator.admit(&d).await?;
        assert_whole(lab, &NAMES).await?;
        // Two of this version prove that packets of full size pass. An older one proves it, too, or was made before that could
        // be asked, and then nothing is told of it, nor that it is broken.
        let told = |status: &Status, name: &str| {
            status.peers.iter().find(|peer| peer.name == name).and_then(|peer| peer.full_size)
        };
        let status = until_status_in(&b, PATIENCE, |status| told(status, "d") == Some(true)).await?;
        for older in ["a", "c"] {
            assert_ne!(told(&status, older), Some(false), "{older}");
        }

        // Both kinds see who is removed, of both kinds, whoever was told.
        for (gone, told, rest) in [(&d, &c, &["a", "b", "c"][..]), (&c, &b, &["a", "b"][..])] {
            let key = gone.status().await?.public_key.expect("a key");
            operator.sees(told).await?;
            let remove = ["member", "remove", gone.name(), "--status", "/run/operator/status.json", "--yes"];
            operator.run(&remove).await?;
            for name in rest {
                let node = lab.node(name);
                until_whole(&node, rest.len()).await?;
                assert!(!node.run(["wg", "show", "ichor0", "peers"]).await?.stdout.contains(&key));
            }
            gone.until_status("to be no member any more", |status| {
                status.problems.iter().any(|problem| problem.cause.contains("removed by an owner"))
            })
            .await?;
            assert_whole(lab, rest).await?;
        }

        // The older one is replaced by this one, and keeps its identity.
        let key = a.status().await?.public_key;
        a.stop().await?;
        a.set_daemon(Daemon::default()).await?;
        a.start().await?;
        assert_whole(lab, &["a", "b"]).await?;
        assert_eq!(a.status().await?.public_key, key);
        Ok(())
    });
}
