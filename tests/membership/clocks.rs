//! Machines whose clock was never set.

use std::path::PathBuf;

use ichor_lab::{Daemon, LabError, Node};
use ichor_tests::netns::skip;

use crate::network::{NAMES, assert_whole, with_network};

/// Says where libfaketime is, if not where Debian has it.
const VARIABLE: &str = "ICHOR_FAKETIME";
/// Set where these tests must run.
const REQUIRE_VARIABLE: &str = "ICHOR_REQUIRE_FAKETIME";

/// An ichord whose wall clock starts with the epoch, each time it starts. No kernel has such a clock for a namespace.
fn never_set() -> Option<Daemon> {
    let debian = || {
        let libraries = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        let mut found = libraries.map(|directory| directory.path().join("faketime/libfaketime.so.1"));
        found.find(|path| path.is_file())
    };
    let Some(library) = std::env::var_os(VARIABLE).map(PathBuf::from).or_else(debian) else {
        assert!(std::env::var_os(REQUIRE_VARIABLE).is_none(), "there is no libfaketime");
        skip(&format!("there is no libfaketime; install it, or say where it is with {VARIABLE}"));
        return None;
    };
    let variables = [
        ("LD_PRELOAD", library.to_string_lossy().into_owned()),
        ("FAKETIME", "@1970-01-01 00:00:10".to_owned()),
        ("TZ", "UTC".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("NO_FAKE_STAT", "1".to_owned()),
    ];
    let environment = variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Some(Daemon { program: None, environment })
}

/// Makes sure that the daemon believes it.
async fn assert_in_1970(node: &Node) -> Result<(), LabError> {
    let status = node.status().await?;
    assert!(status.written_at < 86_400, "{}: {}", node.name(), status.written_at);
    Ok(())
}

#[test]
fn a_member_whose_clock_restarts_in_1970_is_back_without_anybody_setting_it() {
    let Some(daemon) = never_set() else { return };
    with_network(async |lab, operator| {
        let [a, b, c, _] = NAMES.map(|name| lab.node(name));
        operator.admit_three(lab).await?;
        // While the others stay, who know the handshakes of before.
        b.stop().await?;
        b.run(["rm", "-f", "/var/run/ichor/status.json"]).await?;
        b.set_daemon(daemon.clone()).await?;
        b.start().await?;
        assert_whole(lab, &NAMES[..3]).await?;
        assert_in_1970(&b).await?;
        // And when nobody has a clock any more.
        for node in [&a, &b, &c] {
            node.stop().await?;
            node.run(["rm", "-f", "/var/run/ichor/status.json"]).await?;
            node.set_daemon(daemon.clone()).await?;
        }
        for node in [&a, &b, &c] {
            node.start().await?;
        }
        assert_whole(lab, &NAMES[..3]).await?;
        assert_in_1970(&a).await
    });
}

#[test]
fn a_machine_whose_clock_was_never_set_is_let_in() {
    let Some(daemon) = never_set() else { return };
    with_network(async |lab, operator| {
        let [a, b, c, _] = NAMES.map(|name| lab.node(name));
        operator.admit(&a).await?;
        operator.admit(&b).await?;
        assert_whole(lab, &NAMES[..2]).await?;
        c.stop().await?;
        c.run(["rm", "-f", "/var/run/ichor/status.json"]).await?;
        c.set_daemon(daemon).await?;
        c.start().await?;
        operator.admit(&c).await?;
        assert_whole(lab, &NAMES[..3]).await?;
        assert_in_1970(&c).await
    });
}
