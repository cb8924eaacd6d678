//! `ichorctl machineconfig patch` with good and with hostile input.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;

const CONFIG: &str = "machine:\n  type: worker # keep me\n  token: hunter2hunter2\n";
const PATCH: &str = "machine:\n  certSANs: [a]\n";

/// A directory with a config and a patch in it.
fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.yaml"), CONFIG).unwrap();
    fs::write(dir.path().join("patch.yaml"), PATCH).unwrap();
    dir
}

fn ichorctl(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("ichorctl").unwrap();
    command.current_dir(dir).args(["machineconfig", "patch"]).args(args);
    command
}

/// Runs a patch that must fail with `code` and these words, and must leave what was there as it was.
fn refused(dir: &Path, args: &[&str], code: i32, words: &[&str]) {
    fs::write(dir.join("out.yaml"), "before").unwrap();
    let names = || {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let output = ichorctl(dir, args).args(["-o", "out.yaml"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} not in {said}");
    }
    assert!(said.len() < 2_000, "{} bytes of error", said.len());
    assert!(!said.contains("hunter2"), "{said}");
    assert!(output.stdout.is_empty());
    assert_eq!(fs::read_to_string(dir.join("out.yaml")).unwrap(), "before");
    assert_eq!(names(), before);
}

/// A config that must be refused with these words.
fn refused_config(config: &[u8], words: &[&str]) {
    let dir = directory();
    fs::write(dir.path().join("config.yaml"), config).unwrap();
    refused(dir.path(), &["config.yaml", "-p", "@patch.yaml"], 1, &[words, &["config.yaml"]].concat());
}

#[test]
fn a_patched_config_goes_to_standard_output_with_its_comments() {
    let dir = directory();
    let output = ichorctl(dir.path(), &["config.yaml", "-p", "@patch.yaml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{CONFIG}  certSANs:\n    - a\n"));
    assert_eq!(fs::read_to_string(dir.path().join("config.yaml")).unwrap(), CONFIG);
}

#[test]
fn an_output_file_is_private_and_may_be_the_input() {
    let dir = directory();
    let file = dir.path().join("config.yaml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let remove = r#"[{"op": "remove", "path": "/machine/token"}]"#;
    ichorctl(dir.path(), &["config.yaml", "-p", remove, "-o", "config.yaml"]).assert().success().stdout("");
    assert_eq!(fs::read_to_string(&file).unwrap(), "machine:\n  type: worker # keep me\n");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_rules_are_those_of_the_given_version() {
    let dir = directory();
    let document = "apiVersion: v1alpha1\nkind: KubeNodeConfig\nregisterWithFQDN: true\n";
    ichorctl(dir.path(), &["config.yaml", "-p", document, "--talos-version", "v1.14.0"]).assert().success();
    let old = ["config.yaml", "-p", document, "--talos-version", "v1.13.4"];
    refused(dir.path(), &old, 1, &["patch 1 of the command line", "KubeNodeConfig", "not registered"]);
    refused(dir.path(), &["config.yaml", "--talos-version", "v1.9"], 2, &["v1.9", "give v1.11 or newer"]);
}

#[test]
fn a_huge_config_is_refused_before_it_is_read_whole() {
    let dir = directory();
    fs::File::create(dir.path().join("config.yaml")).unwrap().set_len(100 << 20).unwrap();
    refused(
        dir.path(),
        &["config.yaml", "-p", "@patch.yaml"],
        1,
        &["config.yaml", "more than 8388608 bytes"],
    );
    fs::File::create(dir.path().join("patch.yaml")).unwrap().set_len(100 << 20).unwrap();
    fs::write(dir.path().join("config.yaml"), CONFIG).unwrap();
    refused(dir.path(), &["config.yaml", "-p", "@patch.yaml"], 1, &["patch.yaml", "more than 8388608 bytes"]);
}

#[test]
fn what_is_no_text_is_refused() {
    let garbage: Vec<u8> =
        (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 | 0x80).collect();
    refused_config(&garbage, &["invalid utf-8"]);
    refused_config(b"machine:\n  type: \x00\n", &["line 2"]);
}

#[test]
fn unknown_keys_and_duplicates_are_refused_with_their_line() {
    refused_config(b"machine:\n  type: worker\n  tokn: hunter2hunter2\n", &["machine.tokn", "line 3"]);
    refused_config(b"machine:\n  type: worker\n  type: worker\n", &["line 3"]);
    let twice = "apiVersion: v1alpha1\nkind: LinkConfig\nname: a\n---\n".repeat(2);
    let words = ["duplicate document", "LinkConfig/a", "line 5"];
    refused_config(format!("{twice}{CONFIG}").as_bytes(), &words);
}

#[test]
fn a_truncated_config_is_refused_with_its_line() {
    refused_config(b"machine:\n  certSANs: [a,\n  b\n", &["line "]);
    refused_config(b"machine:\n  token: \"hunter2hunter2\n", &["line "]);
    refused_config(b"", &["config.yaml"]);
}

#[test]
fn nesting_and_aliases_are_bounded() {
    refused_config(format!("machine: {}", "[".repeat(100_000)).as_bytes(), &["line 1", "nested deeper"]);
    let steps: String = (0..2_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    refused_config(steps.as_bytes(), &["nested deeper"]);
    let mut bomb = "machine:\n  sysctls:\n    a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let last = format!("*a{}", level - 1);
        bomb.push_str(&format!("    a{level}: &a{level} [{}]\n", [last.as_str(); 10].join(", ")));
    }
    refused_config(bomb.as_bytes(), &["line "]);
    refused_config(b"machine: &m\n  sysctls:\n    a: *m\n", &["line "]);
}

#[test]
fn a_bad_patch_is_named() {
    let dir = directory();
    let args = ["config.yaml", "-p", "@patch.yaml", "-p", "@missing.yaml"];
    refused(dir.path(), &args, 1, &["missing.yaml", "No such file"]);
    fs::write(dir.path().join("bad.yaml"), "machine:\n  tokn: hunter2hunter2\n").unwrap();
    let args = ["config.yaml", "-p", "@patch.yaml", "-p", "@bad.yaml"];
    refused(dir.path(), &args, 1, &["failed to load patch bad.yaml", "machine.tokn"]);
    let args = ["config.yaml", "-p", "[{\"op\": \"remove\", \"path\": \"/machine/nope\"}]"];
    refused(dir.path(), &args, 1, &["config.yaml"]);
}
