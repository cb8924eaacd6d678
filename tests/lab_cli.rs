//! `ichorctl lab` as its user meets it: labs by name, and the demo.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use ichor_tests::netns::{self, REQUIRE_VARIABLE, skip};
use rustix::process::{Pid, Signal, kill_process};

const OPERATOR: &str = env!("CARGO_BIN_EXE_operator");

/// The tool, whose labs have their directories in `home`.
fn command(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(OPERATOR);
    command.args(arguments).env("XDG_RUNTIME_DIR", home).current_dir(home).stdin(Stdio::null());
    command
}

/// What a command that works printed; `None`, which is said, where no lab can run.
fn run(home: &Path, arguments: &[&str]) -> Option<Output> {
    let output = command(home, arguments).output().expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    if error.contains("no lab can run here") && std::env::var_os(REQUIRE_VARIABLE).is_none() {
        skip(&error);
        return None;
    }
    assert!(output.status.success(), "{arguments:?}: {error}");
    Some(output)
}

#[test]
fn a_name_is_free_again_as_soon_as_its_lab_is_down() {
    let home = tempfile::tempdir().expect("a directory");
    let topology = "sites: [{name: a, nodes: [{name: a-1, daemon: false}]}]\n";
    std::fs::write(home.path().join("one.yaml"), topology).expect("written");
    for round in 0..12 {
        let up = ["lab", "up", "--name", "again", "--file", "one.yaml"];
        let Some(_) = run(home.path(), &up) else { return };
        let status = run(home.path(), &["lab", "status", "--name", "again"]).expect("it runs");
        assert!(String::from_utf8_lossy(&status.stdout).contains("a-1"), "round {round}: {status:?}");
        let taken = command(home.path(), &up).output().expect("it runs");
        let error = String::from_utf8_lossy(&taken.stderr);
        assert!(!taken.status.success() && error.contains("it runs already"), "round {round}: {error}");
        run(home.path(), &["lab", "down", "--name", "again"]);
        assert!(!home.path().join("ichor-lab/again").exists(), "round {round}: its directory is left");
    }
}

/// The process that tidies up after the lab of a directory.
fn stage_of(directory: &Path) -> Pid {
    let end = format!("@ichor-lab\0stage\0{}\0", directory.display());
    let is_it = |pid: &i32| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(end.as_bytes()))
    };
    let entries = std::fs::read_dir("/proc").expect("there is a /proc").flatten();
    let mut processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    processes.find(is_it).and_then(Pid::from_raw).expect("a stage")
}

#[test]
fn a_new_lab_waits_until_the_last_of_its_name_has_tidied_up() {
    let home = tempfile::tempdir().expect("a directory");
    let topology = "sites: [{name: a, nodes: [{name: a-1, daemon: false}]}]\n";
    std::fs::write(home.path().join("one.yaml"), topology).expect("written");
    let up = ["lab", "up", "--name", "again", "--file", "one.yaml"];
    let Some(_) = run(home.path(), &up) else { return };
    // Held right before it tidies up: everything in the lab is gone then, its directory is not.
    let stage = stage_of(&home.path().join("ichor-lab/again"));
    let inside = netns::descendants(u32::try_from(stage.as_raw_pid()).expect("a process"));
    kill_process(stage, Signal::STOP).expect("it is there");
    let mut down = command(home.path(), &["lab", "down", "--name", "again"]).spawn().expect("it starts");
    assert!(netns::all_end(&inside, Duration::from_secs(10)), "the lab goes on");
    let mut again = command(home.path(), &up).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut said = BufReader::new(again.stderr.take().expect("it is piped")).lines();
    let first = said.next().expect("it speaks").expect("text");
    kill_process(stage, Signal::CONT).expect("it is there");
    assert!(first.ends_with("waiting until the last lab of this name has ended"), "{first}");
    said.for_each(drop);
    assert!(again.wait().expect("it ends").success() && down.wait().expect("it ends").success());
    let status = run(home.path(), &["lab", "status", "--name", "again"]).expect("it runs");
    assert!(String::from_utf8_lossy(&status.stdout).contains("a-1"), "{status:?}");
    run(home.path(), &["lab", "down", "--name", "again"]);
}

#[test]
fn what_a_lab_that_was_killed_left_is_replaced() {
    let home = tempfile::tempdir().expect("a directory");
    let topology = "sites: [{name: a, nodes: [{name: a-1, daemon: false}]}]\n";
    std::fs::write(home.path().join("one.yaml"), topology).expect("written");
    let left = home.path().join("ichor-lab/again");
    std::fs::create_dir_all(left.join("bin")).expect("made");
    std::fs::write(left.join("talosconfig"), "old").expect("written");
    drop(std::os::unix::net::UnixListener::bind(left.join("control.sock")).expect("bound"));
    let Some(_) = run(home.path(), &["lab", "up", "--name", "again", "--file", "one.yaml"]) else { return };
    assert!(!left.join("talosconfig").exists());
    run(home.path(), &["lab", "down", "--name", "again"]);
    assert!(!left.exists());
}

/// The lab as `lab status` shows it to programs.
fn status(home: &Path) -> serde_json::Value {
    let output = run(home, &["lab", "status", "--output", "json"]).expect("it runs");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn node<'s>(status: &'s serde_json::Value, name: &str) -> &'s serde_json::Value {
    let mut nodes = status["nodes"].as_array().expect("nodes").iter();
    nodes.find(|node| node["name"] == name).expect("the node")
}

/// Whether `from` gets an answer of `to` within seconds; each attempt waits for one.
fn reaches(home: &Path, from: &str, to: &str, attempts: usize) -> bool {
    let ping = ["lab", "exec", from, "--", "ping", "-c1", "-W1", to];
    (0..attempts).any(|_| command(home, &ping).output().expect("it runs").status.success())
}

/// Long enough for sessions to be made anew on a busy machine.
const ATTEMPTS: usize = 40;

#[test]
fn the_nodes_of_a_lab_join_with_tokens_of_its_owner_and_can_lose_power_state_and_company() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    let Some(_) = run(home, &["lab", "up", "--site", "home:2", "--site", "cloud:1"]) else { return };
    let before = status(home);
    for name in ["home-1", "home-2", "cloud-1"] {
        let network = &node(&before, name)["status"]["network"];
        assert_eq!((&network["member"], &network["members"]), (&name.into(), &3.into()), "{before}");
    }
    let folder = home.join("ichor-lab/lab/owner");
    let listed = run(home, &["token", "list", "--dir", folder.to_str().expect("text")]).expect("it runs");
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), 4, "{listed:?}");

    run(home, &["lab", "power", "off", "home-2"]);
    assert!(node(&status(home), "home-2")["pid"].is_null());
    assert!(!reaches(home, "home-1", "home-2", 1));
    run(home, &["lab", "power", "on", "home-2"]);
    assert!(reaches(home, "home-1", "home-2", ATTEMPTS));

    run(home, &["lab", "isolate", "cloud"]);
    assert!(!reaches(home, "home-1", "cloud-1", 1) && reaches(home, "home-1", "home-2", ATTEMPTS));
    run(home, &["lab", "isolate", "cloud", "--heal"]);
    assert!(reaches(home, "home-1", "cloud-1", ATTEMPTS));
    run(home, &["lab", "isolate", "cloud-1"]);
    assert!(!reaches(home, "home-1", "cloud-1", 1));
    run(home, &["lab", "isolate", "cloud-1", "--heal"]);
    assert!(reaches(home, "home-1", "cloud-1", ATTEMPTS));

    run(home, &["lab", "re-image", "home-2"]);
    let after = status(home);
    let of = |status: &serde_json::Value, key: &str| node(status, "home-2")["status"][key].clone();
    assert_eq!(of(&before, "addresses"), of(&after, "addresses"));
    assert_ne!(of(&before, "publicKey"), of(&after, "publicKey"));
    assert!(reaches(home, "home-1", "home-2", ATTEMPTS));

    // Young keys stay, old ones go; the others go along.
    run(home, &["lab", "age", "home-2", "--days", "29"]);
    assert_eq!(of(&status(home), "publicKey"), of(&after, "publicKey"));
    run(home, &["lab", "age", "home-2"]);
    assert_ne!(of(&status(home), "publicKey"), of(&after, "publicKey"));
    assert!(reaches(home, "home-1", "home-2", ATTEMPTS));

    run(home, &["lab", "clone", "home-2", "home-1"]);
    // Whoever it is now, the one that the others know stays.
    assert!(reaches(home, "cloud-1", "home-2", ATTEMPTS));
    let cloned = status(home);
    let network = |name: &str| node(&cloned, name)["status"]["network"].clone();
    assert_eq!(network("home-1")["identity"], network("home-2")["identity"], "{cloned}");

    for bad in [
        &["lab", "power", "off", "nobody"][..],
        &["lab", "re-image", "nobody"],
        &["lab", "isolate", "nowhere"],
    ] {
        let output = command(home, bad).output().expect("it runs");
        assert!(!output.status.success(), "{bad:?}");
    }
    run(home, &["lab", "down"]);
}

#[test]
fn the_demo_plans_and_applies_a_mesh_onto_talos_nodes_and_proves_it() {
    let home = tempfile::tempdir().expect("a directory");
    let Some(output) = run(home.path(), &["lab", "demo", "--output", "json"]) else { return };
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["connected"], true, "{report}");
    assert_eq!(report["applied"], serde_json::json!({"nodes": 5, "steps": 10, "tokens": 5}), "{report}");
    assert_eq!(report["families"], serde_json::json!(["v4", "v6"]), "{report}");
    assert_eq!(report["pairs"].as_array().map(Vec::len), Some(20), "{report}");
    let progress = String::from_utf8_lossy(&output.stderr);
    for node in ["home-1", "home-2", "home-3", "cloud-1", "cloud-2"] {
        for step in ["pin", "mesh"] {
            assert!(progress.contains(&format!("{node}: {step} applied and verified")), "{progress}");
        }
    }
    assert!(progress.contains("5 nodes took 10 steps, each verified; a second plan is empty"), "{progress}");
    assert!(progress.contains("5 tokens let 5 members in, and all see each other"), "{progress}");
    assert!(!progress.contains("ichor1-"), "a join string is in what is told");
    // Nothing of it is left, nor of the owner's key.
    assert_eq!(std::fs::read_dir(home.path()).expect("a directory").count(), 0);
}

#[test]
fn the_demo_shows_people_what_was_changed() {
    let home = tempfile::tempdir().expect("a directory");
    let Some(output) = run(home.path(), &["lab", "demo", "--site", "a:1", "--site", "b:1:random"]) else {
        return;
    };
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(
        shown.contains("2 Talos nodes joined by 2 tokens and 4 verified steps; a second plan is empty\n"),
        "{shown}"
    );
    assert!(shown.contains("2 of 2 ordered pairs connected, IPv4 / IPv6\n"), "{shown}");
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let mut demo = command(home.path(), &["lab", "demo"]);
    let mut demo = demo.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let stderr = BufReader::new(demo.stderr.take().expect("it is piped"));
    let mut said = String::new();
    let mut processes = None;
    for line in stderr.lines() {
        let line = line.expect("text");
        // In the middle of the work on the nodes.
        if line.contains("applied and verified") && processes.is_none() {
            processes = Some(netns::descendants(demo.id()));
            let pid = Pid::from_raw(i32::try_from(demo.id()).expect("a small number")).expect("a process");
            kill_process(pid, Signal::INT).expect("it is there");
        }
        said.push_str(&line);
        said.push('\n');
    }
    let status = demo.wait().expect("it ends");
    let Some(processes) = processes else {
        let required = std::env::var_os(REQUIRE_VARIABLE).is_some();
        assert!(!required && said.contains("no lab can run here"), "{said}");
        return skip(&said);
    };
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted; the lab is gone"), "{said}");
    assert!(processes.len() >= 2, "a stage and a supervisor at least");
    assert!(netns::all_end(&processes, Duration::from_secs(10)), "a process of the lab is left");
    assert_eq!(std::fs::read_dir(home.path()).expect("a directory").count(), 0);
}
