//! `mesh init` and `token`: the owner's folder, and what is given out of it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use ichor_mesh::crypto::RealCrypto;
use ichor_mesh::join_string::JoinString;
use serde_json::Value;
use tempfile::TempDir;

/// A home directory.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// One with a mesh called home in it.
    fn with_mesh() -> Self {
        let home = Self::new();
        home.run(&["mesh", "init", "home", "--seed", "203.0.113.7:51840"]);
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(".config/ichor").join(name)
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ichorctl"));
        command
            .args(args)
            .env("HOME", self.0.path())
            .env_remove("XDG_CONFIG_HOME")
            .current_dir(self.0.path());
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs what must end with `code`, with these words and without standard output.
    fn refused(&self, args: &[&str], code: i32, words: &[&str]) {
        let output = self.output(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(code), &[][..]), "{args:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{args:?}: {said}");
    }

    fn create(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[&["token", "create", "-o", "json"], args].concat())).unwrap()
    }
}

#[test]
fn a_mesh_is_begun_once_and_its_files_are_private() {
    let home = Home::new();
    let begun = home.run(&["mesh", "init", "home", "-o", "json"]);
    let begun: Value = serde_json::from_str(&begun).unwrap();
    assert_eq!(begun["range"], "10.213.0.0/16");
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(home.path("home")), 0o700);
    for file in ["owner.key", "hello.key", "network.json", "tokens.json"] {
        assert_eq!(mode(home.path("home").join(file)), 0o600, "{file}");
    }
    let key = fs::read_to_string(home.path("home/owner.key")).unwrap();
    home.refused(&["mesh", "init", "home"], 1, &["there is a mesh in", "home"]);
    assert_eq!(fs::read_to_string(home.path("home/owner.key")).unwrap(), key);
    // Nothing but the mesh is there.
    assert_eq!(fs::read_dir(home.path("")).unwrap().count(), 1);
}

#[test]
fn a_range_that_something_uses_is_refused_with_both_facts_and_a_free_one() {
    let home = Home::new();
    let init =
        |more: &[&str], words: &[&str]| home.refused(&[&["mesh", "init", "home"], more].concat(), 3, words);
    init(
        &["--range", "10.100.0.0/16"],
        &["10.100.0.0/16 overlaps Kubernetes services", "10.96.0.0/12", "--range 10.213.0.0/16"],
    );
    init(&["--range", "100.64.0.0/16"], &["carrier-grade NAT"]);
    init(
        &["--range", "10.213.0.0/16", "--avoid", "10.213.7.0/24"],
        &["--avoid (10.213.7.0/24)", "--range 10.214.0.0/16"],
    );
    home.refused(&["mesh", "init", "home", "--range", "10.213.0.0/31"], 2, &["10.213.0.0/31"]);
    home.refused(&["mesh", "init"], 2, &["NAME"]);
    assert!(!home.path("home").exists());

    let cluster = "mesh: {name: rack, range: 10.220.0.0/16}\nsites: [{name: a, lans: [10.220.3.0/24]}]\nnodes: [{name: a, role: \
                   worker, site: a, address: 10.220.0.1, api: 10.220.3.1, endpoint: \"203.0.113.9:51840\"}]\n";
    fs::write(home.0.path().join("ichor.yaml"), cluster).unwrap();
    home.refused(&["mesh", "init", "-f", "ichor.yaml"], 3, &["the LAN of a (10.220.3.0/24)"]);
    let begun = home.run(&["mesh", "init", "-f", "ichor.yaml", "--range", "10.221.0.0/16", "-o", "json"]);
    let begun: Value = serde_json::from_str(&begun).unwrap();
    assert_eq!((&begun["name"], &begun["seeds"][0]), (&"rack".into(), &"203.0.113.9:51840".into()));
}

#[test]
fn a_name_keeps_its_address_and_only_the_first_token_may_begin_the_network() {
    let home = Home::with_mesh();
    let first = home.create(&["--name", "cp-1", "--role", "controlplane", "--site", "rack"]);
    let second = home.create(&["--name", "w-1", "--routes", "10.0.0.0/24", "--ttl", "24h"]);
    let again = home.create(&["--name", "cp-1"]);
    assert_eq!(
        (&first["addresses"], &second["addresses"]),
        (&"10.213.0.1/32".into(), &"10.213.0.2/32".into())
    );
    assert_eq!(again["addresses"], first["addresses"]);
    assert_eq!(second["notAfter"].as_u64().unwrap() - second["minted"].as_u64().unwrap(), 86_400);

    let join =
        |token: &Value| JoinString::decode(token["joinString"].as_str().unwrap(), &RealCrypto).unwrap();
    let (one, two) = (join(&first), join(&second));
    assert!(one.first_hello.is_some() && two.first_hello.is_none() && join(&again).first_hello.is_none());
    assert_eq!((one.network(), one.grant.owner), (two.network(), two.grant.owner));
    assert!(one.grant.grant.serial < two.grant.grant.serial);
    assert_eq!(one.seeds, ["203.0.113.7:51840".parse().unwrap()]);
    assert_eq!(two.grant.grant.routes, ["10.0.0.0/24".parse().unwrap()]);

    let pool = home.create(&[
        "--pattern",
        "pool-*",
        "--range",
        "10.213.128.0/20",
        "--uses",
        "50",
        "--ephemeral",
        "10m",
    ]);
    assert_eq!((&pool["uses"], &pool["ephemeral"]), (&50.into(), &600.into()));
    let list = home.run(&["token", "list"]);
    assert!(
        list.contains("pool-*") && list.contains("10.213.128.0/20") && !list.contains("ichor1-"),
        "{list}"
    );
}

#[test]
fn what_cannot_be_given_out_is_refused_and_not_written_down() {
    let home = Home::with_mesh();
    home.create(&["--name", "cp-1"]);
    home.create(&["--pattern", "pool-*", "--range", "10.213.128.0/20"]);
    let before = fs::read(home.path("home/tokens.json")).unwrap();
    let create = |more: &[&str], code, words: &[&str]| {
        home.refused(&[&["token", "create"], more].concat(), code, words)
    };
    create(&["--name", "w-1", "--address", "10.213.0.1"], 3, &["10.213.0.1 was given to cp-1"]);
    create(&["--name", "w-1", "--address", "10.213.130.1"], 3, &["pool-* (10.213.128.0/20)"]);
    create(&["--name", "w-1", "--address", "10.9.0.1"], 3, &["10.9.0.1 is not in 10.213.0.0/16"]);
    create(&["--pattern", "other-*", "--range", "10.213.0.0/24"], 3, &["cp-1 (10.213.0.1)"]);
    create(&["--name", "w-1", "--uses", "2"], 2, &["--pattern"]);
    create(&["--pattern", "pool", "--range", "10.213.144.0/20"], 2, &["say --name"]);
    create(&["--pattern", "a-*"], 2, &["--range"]);
    create(&["--name", "UPPER"], 2, &["not a name"]);
    create(&["--name", "w-1", "--replace", "12ab"], 2, &["64 hexadecimal digits"]);
    create(&[], 2, &["--name"]);
    assert_eq!(fs::read(home.path("home/tokens.json")).unwrap(), before);

    home.run(&["mesh", "init", "other"]);
    create(&["--name", "w-1"], 2, &["--mesh: home, other"]);
    Home::new().refused(&["token", "list"], 2, &["ichorctl mesh init NAME"]);
}

#[test]
fn a_join_string_shows_what_it_is_for_and_none_of_its_secrets() {
    let home = Home::with_mesh();
    let token = home.create(&["--name", "cp-1", "--site", "rack"]);
    let text = token["joinString"].as_str().unwrap();
    let shown = home.run(&["token", "show", text]);
    assert!(
        shown.contains("cp-1") && shown.contains("10.213.0.1") && shown.contains("203.0.113.7:51840"),
        "{shown}"
    );
    let json: Value = serde_json::from_str(&home.run(&["token", "show", text, "-o", "json"])).unwrap();
    assert_eq!(
        (&json["mesh"], &json["expired"], &json["mayBegin"]),
        (&"home".into(), &false.into(), &true.into())
    );
    for file in ["owner.key", "hello.key"] {
        let secret = fs::read_to_string(home.path("home").join(file)).unwrap();
        assert!(!shown.contains(secret.trim()) && !json.to_string().contains(secret.trim()), "{file}");
    }
    home.refused(&["token", "show", &text[..text.len() - 3]], 1, &["join string"]);
    home.refused(&["token", "show", "hello"], 1, &["starts with ichor1-"]);
}

#[test]
fn damaged_files_are_named_and_a_foreign_key_is_noticed() {
    let home = Home::with_mesh();
    let create = ["token", "create", "--name", "w-1"];
    let damage = |file: &str, content: &[u8], words: &[&str]| {
        let path = home.path("home").join(file);
        let good = fs::read(&path).unwrap();
        fs::write(&path, content).unwrap();
        home.refused(&create, 1, &[&[file], words].concat());
        fs::write(&path, good).unwrap();
    };
    damage("network.json", b"{", &["damaged"]);
    damage("tokens.json", b"[]", &["damaged"]);
    damage("owner.key", b"AAAA\n", &["damaged"]);
    damage("owner.key", b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n", &["is of no owner"]);
    damage("hello.key", &[0xff; 80], &["failed to read"]);
    let text = fs::read_to_string(home.path("home/network.json")).unwrap();
    let network: Value = serde_json::from_str(&text).unwrap();
    let genesis = network["genesis"].as_str().unwrap();
    let forged = text.replace(
        genesis,
        &genesis.replacen(&genesis[150..151], if &genesis[150..151] == "A" { "B" } else { "A" }, 1),
    );
    damage("network.json", forged.as_bytes(), &["does not hold a valid network"]);
    home.run(&create);
}

#[test]
fn tokens_made_at_the_same_time_share_neither_address_nor_serial() {
    let home = Home::with_mesh();
    let names: Vec<String> = (0..8).map(|n| format!("w-{n}")).collect();
    let start = |name: &String| {
        let mut command = home.command(&["token", "create", "-o", "json", "--name", name]);
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let running: Vec<_> = names.iter().map(start).collect();
    let made: Vec<JoinString> = running
        .into_iter()
        .map(|child| {
            let json: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
            JoinString::decode(json["joinString"].as_str().unwrap(), &RealCrypto).unwrap()
        })
        .collect();
    let addresses: BTreeSet<_> = made.iter().map(|join| join.grant.grant.addresses).collect();
    let serials: BTreeSet<_> = made.iter().map(|join| join.grant.grant.serial).collect();
    assert_eq!((addresses.len(), serials.len()), (8, 8));
    assert_eq!(made.iter().filter(|join| join.first_hello.is_some()).count(), 1);
}

#[test]
fn a_token_can_be_printed_as_a_patch_that_the_daemon_understands() {
    let home = Home::with_mesh();
    let patch = home.run(&["token", "create", "--name", "cp-1", "--patch"]);
    let document: yaml_serde::Value = yaml_serde::from_str(&patch).unwrap();
    assert_eq!(document["kind"], "ExtensionServiceConfig");
    assert_eq!(document["name"], "ichor");
    let file = &document["configFiles"][0];
    assert_eq!(file["mountPath"], "/usr/local/etc/ichor/ichord.yaml");
    let config: yaml_serde::Value = yaml_serde::from_str(file["content"].as_str().unwrap()).unwrap();
    let join = config["mesh"]["join"].as_str().unwrap();
    assert!(JoinString::decode(join, &RealCrypto).unwrap().first_hello.is_some());
}

#[test]
fn members_are_listed_from_a_status_and_removed_only_when_meant() {
    let home = Home::with_mesh();
    let network = home.run(&["token", "create", "--name", "cp-1"]);
    let network = JoinString::decode(&network, &RealCrypto).unwrap().network();
    let (identity, record) = ("11".repeat(32), "22".repeat(32));
    let status = format!(
        r#"{{"version": "9", "network": {{"name": "home", "id": "{network}", "member": "cp-1",
            "identity": "{identity}", "incarnation": "{record}"}}, "addresses": ["10.213.0.1/16"],
            "peers": [{{"name": "w-1", "identity": "{record}", "incarnation": "{identity}", "connected": true,
            "allowedIPs": ["10.213.0.2/32", "10.0.0.0/24"], "somethingNew": 1}}]}}"#
    );
    fs::write(home.0.path().join("status.json"), status).unwrap();
    let listed = home.run(&["member", "list", "--status", "status.json", "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[1]["name"], "w-1");
    assert_eq!(listed[1]["addresses"], serde_json::json!(["10.213.0.2"]));
    assert_eq!(listed[1]["state"], "connected");

    let bad = r#"{"version": "9", "problems": [{"part": "device", "cause": "no TUN"}]}"#;
    fs::write(home.0.path().join("bad.json"), bad).unwrap();
    assert!(home.run(&["mesh", "status", "--status", "status.json"]).contains("1 of 1"));
    let shown = home.output(&["mesh", "status", "--status", "status.json,bad.json"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(shown.status.code(), Some(1));
    assert!(text.starts_with("bad.json: device: no TUN\n  next: "), "{text}");

    let remove = |more: &[&str], code, words: &[&str]| {
        home.refused(&[&["member", "remove", "--status", "status.json"], more].concat(), code, words)
    };
    remove(&["w-1"], 3, &["for good", "--yes"]);
    remove(&["w-2", "--yes"], 2, &["no member is called w-2; there are cp-1, w-1"]);
    // Nobody listens there.
    remove(&["w-1", "--at", "127.0.0.1:9", "--yes"], 4, &["no member answered at 127.0.0.1:9"]);
    home.refused(&["token", "revoke", "ffff"], 2, &["no token has an id that starts with"]);
}

#[test]
fn a_backup_brings_the_folder_back_and_is_never_overwritten() {
    let home = Home::with_mesh();
    home.run(&["token", "create", "--name", "a"]);
    fs::write(home.0.path().join("phrase"), "correct horse\n").unwrap();
    home.run(&["mesh", "backup", "plain"]);
    home.run(&["mesh", "backup", "sealed", "--passphrase-file", "phrase"]);
    let mode = fs::metadata(home.0.path().join("plain")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    home.refused(&["mesh", "backup", "plain"], 3, &["already"]);
    let before = home.run(&["token", "list", "-o", "json"]);
    for (file, more) in [("plain", &[][..]), ("sealed", &["--passphrase-file", "phrase"][..])] {
        home.refused(
            &["mesh", "restore", file, "--mesh", "home"],
            1,
            &[if more.is_empty() { "already" } else { "passphrase" }],
        );
        fs::remove_dir_all(home.path("home")).unwrap();
        home.run(&[&["mesh", "restore", file, "--mesh", "home"], more].concat());
        assert_eq!(home.run(&["token", "list", "-o", "json"]), before);
        home.run(&["owner", "list"]);
    }
}

#[test]
fn a_controller_is_given_the_document_that_its_machines_join_with() {
    let home = Home::with_mesh();
    let create = |kind| {
        let range = format!("10.213.{}.0/24", if kind == "talos" { 8 } else { 9 });
        let args = [
            "token",
            "create",
            "--pattern",
            "pool-*",
            "--range",
            &range,
            "--uses",
            "50",
            "--user-data",
            kind,
        ];
        home.run(&args)
    };
    let talos = create("talos");
    assert!(talos.starts_with("---\napiVersion: v1alpha1\nkind: ExtensionServiceConfig\n"), "{talos}");
    let cloud = create("cloud-init");
    assert!(cloud.starts_with("#cloud-config\n") && cloud.contains("permissions: \"0600\""), "{cloud}");
    for text in [talos, cloud] {
        let join = text.lines().find_map(|line| line.trim().strip_prefix("join: ")).unwrap();
        assert_eq!(JoinString::decode(join, &RealCrypto).unwrap().grant.grant.uses, 50);
    }
}

#[test]
fn a_key_for_a_new_owner_is_made_once_and_waits_for_its_invitation() {
    let home = Home::new();
    let key = home.run(&["owner", "key", "--mesh", "home"]);
    assert_eq!(home.run(&["owner", "key", "--mesh", "home"]), key);
    assert_eq!(key.trim().len(), 64);
    home.refused(&["token", "create", "--mesh", "home", "--name", "a"], 1, &["network.json"]);
    let stranger = Home::with_mesh();
    let network = fs::read_to_string(stranger.path("home").join("network.json")).unwrap();
    fs::write(home.0.path().join("invitation.json"), network).unwrap();
    home.refused(&["owner", "accept", "invitation.json", "--mesh", "home"], 1, &["no owner"]);
    assert!(!home.path("home").join("network.json").exists());
}

#[test]
fn an_owner_gives_away_only_what_it_has_and_has_not_given_out() {
    let home = Home::with_mesh();
    let key = Home::new().run(&["owner", "key", "--mesh", "home"]);
    let add = |range| ["owner", "add", key.trim(), "--range", range, "--at", "127.0.0.1:9"];
    home.refused(&add("10.0.0.0/16"), 3, &["not part of"]);
    home.refused(&add("10.213.0.0/16"), 3, &["not part of"]);
    home.run(&["token", "create", "--name", "a", "--address", "10.213.64.7"]);
    home.refused(&add("10.213.64.0/18"), 3, &["10.213.64.7", "was given to a"]);
}

#[test]
fn the_names_of_members_are_written_for_machine_configs() {
    let home = Home::with_mesh();
    let network = serde_json::json!({"name": "home", "id": "0".repeat(64), "member": "a", "identity": "1".repeat(64),
        "incarnation": "2".repeat(64)});
    let status = serde_json::json!({"version": "0.1.0", "network": network, "addresses": ["10.213.0.1/16"]});
    fs::write(home.0.path().join("status.json"), status.to_string()).unwrap();
    let hosts = home.run(&["mesh", "hosts", "--status", "status.json", "--form", "hosts", "--zone", "home"]);
    assert_eq!(hosts, "10.213.0.1 a a.home\n");
    home.refused(&["mesh", "sync", "--status", "status.json"], 2, &["not in network"]);
}

#[test]
fn a_problem_is_shown_first_with_its_cause_and_what_to_do_next() {
    let home = Home::new();
    let problem = serde_json::json!({"part": "membership", "cause": "mesh.join: not a join string"});
    let status = serde_json::json!({"version": "0.1.0", "problems": [problem]});
    fs::write(home.0.path().join("bad.json"), status.to_string()).unwrap();
    let output = home.output(&["mesh", "status", "--status", "bad.json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let expected = "bad.json: membership: mesh.join: not a join string\n  next: make a new join string: ichorctl token create\n\n";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn who_decides_about_a_waiting_machine_names_it() {
    let home = Home::with_mesh();
    let network: Value = serde_json::from_str(&home.run(&[
        "token",
        "show",
        home.run(&["token", "create", "--name", "a"]).trim(),
        "-o",
        "json",
    ]))
    .unwrap();
    let waiting = serde_json::json!({"identity": "5".repeat(64), "incarnation": "6".repeat(64), "name": "a",
        "address": "10.213.0.1", "token": "7".repeat(64), "with": "1".repeat(64)});
    let network = serde_json::json!({"name": "home", "id": network["network"], "member": "a",
        "identity": "1".repeat(64), "incarnation": "2".repeat(64), "conflicts": [waiting]});
    let status = serde_json::json!({"version": "0.1.0", "network": network, "addresses": ["10.213.0.1/16"]});
    fs::write(home.0.path().join("status.json"), status.to_string()).unwrap();
    let with = |args: &[&'static str]| [args, &["--status", "status.json"]].concat();
    assert!(home.run(&with(&["member", "show", "5555"])).contains("waits"));
    home.refused(&with(&["member", "accept", "5555"]), 3, &["a (1111", "in favour of 5555", "--yes"]);
    home.refused(&with(&["member", "reject", "5555"]), 3, &["refused for good", "--yes"]);
    home.refused(&with(&["member", "reject", "4444"]), 2, &["nobody like 4444"]);
    home.refused(&with(&["member", "rename", "a", "a"]), 3, &["the name of another"]);
    home.refused(&with(&["member", "rename", "a", "b"]), 3, &["would be called b"]);
}
