//! Commands that change machine configs, and what the nodes have afterwards.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use ichor_lab::talos::model::{Api, Cluster, Line, Stage};

use crate::world::{World, machine_config};

const LABEL: &str = "machine: {nodeLabels: {site: home}}";

/// Both configs of a node have the label, or neither.
fn labels(world: &World, node: &str) -> (bool, bool) {
    let (active, persistent) = world.configs(node);
    (active.contains("site: home"), persistent.contains("site: home"))
}

fn write_script(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("executable");
}

#[test]
fn a_dry_run_of_a_patch_shows_the_difference_and_changes_nothing() {
    for line in Line::ALL {
        let world = World::new(line);
        let shown = world.run(&["patch", "mc", "-p", LABEL, "--dry-run"]);
        assert!(shown.starts_with("--- 10.5.0.1/current\n+++ 10.5.0.1/new\n@@ "), "{shown}");
        assert!(shown.contains("+  nodeLabels:\n+    site: home\n"), "{shown}");
        assert_eq!(labels(&world, "cp-1"), (false, false));
    }
}

#[test]
fn a_patch_reaches_all_nodes_that_are_named_and_no_other() {
    for line in Line::ALL {
        let world = World::new(line);
        let patch = ["-n", "10.5.0.1,10.5.0.3,w-1", "patch", "mc", "-p", LABEL, "--mode", "no-reboot"];
        world.run(&patch);
        for node in ["cp-1", "cp-3", "w-1"] {
            assert_eq!(labels(&world, node), (true, true), "{line:?} {node}");
        }
        assert_eq!(labels(&world, "cp-2"), (false, false), "{line:?}");
        let again = world.output(&patch);
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        assert_eq!(said.matches("nothing to do, no changes detected").count(), 3, "{said}");
    }
}

#[test]
fn a_trial_ends_by_itself_unless_it_is_kept() {
    let world = World::new(Line::V1_13);
    let is_tried = |cluster: &Cluster| {
        let active = cluster.node("cp-1").expect("a node").active();
        active.is_some_and(|config| config.text().contains("site: home"))
    };
    world.run(&["patch", "mc", "-p", LABEL, "--mode", "try", "--timeout", "5s"]);
    assert_eq!(world.configs("cp-1").1, machine_config("controlplane", ""), "a trial is not saved");
    world.until(|cluster| !is_tried(cluster));
    assert_eq!(labels(&world, "cp-1"), (false, false));

    world.run(&["patch", "mc", "-p", LABEL, "--mode", "try", "--timeout", "10m"]);
    assert_eq!(labels(&world, "cp-1"), (true, false));
    world.run(&["patch", "mc", "-p", LABEL, "--mode", "no-reboot"]);
    assert_eq!(labels(&world, "cp-1"), (true, true));
}

#[test]
fn a_patch_that_a_node_refuses_stops_there_with_the_reason() {
    let world = World::new(Line::V1_14);
    let (hostname, document) =
        ("machine: {network: {hostname: a}}", "apiVersion: v1alpha1\nkind: HostnameConfig\nhostname: b\n");
    let patch = ["-n", "10.5.0.1,10.5.0.2", "patch", "mc", "-p", hostname, "-p", document];
    let (code, error) = world.refuse(&patch);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("10.5.0.1") && error.contains("static hostname is already set"), "{error}");
    assert!(error.ends_with("not tried after this failure: 10.5.0.2\n"), "{error}");
    let config = machine_config("controlplane", "");
    for node in ["cp-1", "cp-2"] {
        assert_eq!(world.configs(node), (config.clone(), config.clone()), "{node}");
    }
}

#[test]
fn a_config_from_a_file_replaces_that_of_a_running_node() {
    let world = World::new(Line::V1_12);
    let config = machine_config("worker", "  nodeLabels:\n    site: home\n");
    fs::write(world.path("worker.yaml"), &config).expect("written");
    world.run(&["-n", "w-1", "apply-config", "-f", "worker.yaml", "--mode", "no-reboot"]);
    assert_eq!(world.configs("w-1"), (config.clone(), config));
}

/// Waits until the node `new` has become a member of the cluster with this config.
fn until_joined(world: &World, config: &str) {
    world.until(|cluster| {
        cluster.node("new").is_ok_and(|node| node.stage() == Stage::Running && node.api() == Api::Running)
    });
    assert_eq!(world.configs("new"), (config.to_owned(), config.to_owned()));
    world.run(&["-n", "10.5.0.21", "version"]);
}

#[test]
fn a_machine_in_maintenance_mode_becomes_a_node_by_its_first_config() {
    for line in Line::ALL {
        let world = World::new(line);
        let config = machine_config("worker", "");
        fs::write(world.path("worker.yaml"), &config).expect("written");
        let (new, fingerprint) = (world.endpoint("new"), world.fingerprint());
        let apply = ["-n", &new, "apply-config", "--insecure", "-f", "worker.yaml"];
        let wrong = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let (code, error) = world.refuse(&[&apply[..], &["--cert-fingerprint", wrong]].concat());
        assert!(code == Some(1) && error.contains("fingerprint"), "{line:?} {error}");
        assert_eq!(world.configs("new"), (String::new(), String::new()), "{line:?}");
        world.run(&[&apply[..], &["--cert-fingerprint", &fingerprint]].concat());
        until_joined(&world, &config);
    }
}

/// A directory with an `ssh` that reaches nodes by their addresses, which nobody else does, and notes how it was called.
fn jump_host(world: &World) -> String {
    let reach: String = [("10.5.0.11", "w-1"), ("10.5.0.21", "new")]
        .map(|(address, node)| format!("  {address}:50000) to={} ;;\n", world.endpoint(node)))
        .concat();
    let script = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$*\" >> '{}'\nwhile [ \"$1\" != -W ]; do shift; done\ncase \"$2\" in\n{reach}  *) \
         echo \"channel 0: open failed: connect failed: No route to host\" >&2; exit 255 ;;\nesac\nexec '{}' @ichor-lab \
         dial \"$to\"\n",
        world.path("ssh.log").display(),
        env!("CARGO_BIN_EXE_operator"),
    );
    fs::create_dir(world.path("bin")).expect("made");
    write_script(&world.path("bin/ssh"), &script);
    format!("{}:{}", world.path("bin").display(), std::env::var("PATH").expect("a path"))
}

#[test]
fn a_machine_behind_a_gateway_gets_its_first_config_through_ssh() {
    let world = World::new(Line::V1_14);
    let path = jump_host(&world);
    let config = machine_config("worker", "");
    fs::write(world.path("worker.yaml"), &config).expect("written");
    let fingerprint = world.fingerprint();
    let apply = ["-n", "10.5.0.21", "apply-config", "--insecure", "--cert-fingerprint", &fingerprint];
    let via = ["--via", "ssh://root@gateway:2222", "-f", "worker.yaml"];
    let run = |arguments: &[&str]| world.command(arguments).env("PATH", &path).output().expect("it runs");
    let applied = run(&[&apply[..], &via].concat());
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let calls = fs::read_to_string(world.path("ssh.log")).expect("it was called");
    assert_eq!(calls.lines().next(), Some("-T -W 10.5.0.21:50000 -p 2222 -l root -- gateway"));
    until_joined(&world, &config);

    // With certificates of the cluster the same way works, and what ssh says is shown.
    let version = run(&["-n", "10.5.0.11", "-e", "10.5.0.11", "--via", "ssh://gateway", "version"]);
    assert!(version.status.success(), "{}", String::from_utf8_lossy(&version.stderr));
    let lost = run(&["-n", "10.5.0.98", "-e", "10.5.0.98", "--via", "ssh://gateway", "version"]);
    let error = String::from_utf8_lossy(&lost.stderr);
    assert_eq!(lost.status.code(), Some(1));
    assert!(error.contains("No route to host") && error.contains("gateway"), "{error}");
}

#[test]
fn an_edit_goes_on_until_the_node_takes_it() {
    let world = World::new(Line::V1_14);
    // First a key that no Talos knows, then a right one; what was refused stands on top.
    let editor = format!(
        "#!/bin/sh\nif grep -q siteName \"$1\"; then\n  cp \"$1\" '{}'\n  sed -i 's/siteName:/nodeLabels:/' \"$1\"\nelse\n  sed \
         -i 's/^  token: abc/  siteName: {{site: home}}\\n&/' \"$1\"\nfi\n",
        world.path("second").display()
    );
    write_script(&world.path("editor"), &editor);
    let mut command = world.command(&["-n", "w-1", "edit", "mc", "--mode", "no-reboot"]);
    let edited = command.env("EDITOR", world.path("editor")).output().expect("it runs");
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    let second = fs::read_to_string(world.path("second")).expect("opened again");
    assert!(second.lines().any(|line| line.starts_with('#') && line.contains("siteName")), "{second}");
    assert_eq!(labels(&world, "w-1"), (true, true));
}

#[test]
fn a_node_that_goes_away_while_its_config_is_edited_keeps_the_old_one() {
    let world = World::new(Line::V1_13);
    let (pipe, opened) = (world.path("pipe"), world.path("opened"));
    for path in [&pipe, &opened] {
        assert!(Command::new("mkfifo").arg(path).status().expect("it runs").success());
    }
    // The editor tells that it is open, and changes the text when it is told to.
    let script = format!(
        "#!/bin/sh\necho open > '{}'\ncat '{}' > /dev/null\nsed -i 's/abc/xyz/' \"$1\"\n",
        opened.display(),
        pipe.display()
    );
    write_script(&world.path("editor"), &script);
    let mut command = world.command(&["-n", "w-1", "edit", "mc", "--mode", "no-reboot"]);
    command.env("EDITOR", world.path("editor")).env("XDG_RUNTIME_DIR", world.directory.path());
    let edit = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    assert_eq!(fs::read_to_string(&opened).expect("the editor opens"), "open\n");
    // Switched off, after the config was read and before the new one is sent.
    world.simulation.change(|cluster, now| cluster.leave("w-1", false, now)).expect("a node");
    world.until(|cluster| cluster.node("w-1").is_ok_and(|node| node.api() == Api::Down));
    fs::OpenOptions::new().write(true).open(&pipe).expect("a reader").write_all(b"go\n").expect("written");
    let ended = edit.wait_with_output().expect("it ends");
    let error = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{error}");
    assert!(error.contains("nothing was sent") && error.contains("your text is kept in "), "{error}");
    assert_eq!(world.configs("w-1").1, machine_config("worker", ""));
    let kept = error.split("your text is kept in ").nth(1).and_then(|rest| rest.split(": ").next());
    let kept = fs::read_to_string(kept.expect("a path")).expect("it is kept");
    assert_eq!(kept, machine_config("worker", "").replace("abc", "xyz"));
}
