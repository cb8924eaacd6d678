//! `edit`, with editors that are scripts.

use std::os::unix::fs::PermissionsExt as _;

use tonic::Status;

use crate::change::{CONFIG, cluster};
use crate::cluster::{Cluster, Run};

/// Runs `edit` with an editor that does this with its file, and shows what it got in `seen`.
async fn edit(cluster: &Cluster, script: &str, args: &[&str]) -> Run {
    let editor = cluster.path("editor");
    let text = format!("#!/bin/sh\ncat \"$2\" >> '{}'\n{script}\n", cluster.path("seen").display());
    std::fs::write(&editor, text).unwrap();
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = cluster.command(&[&["edit", "machineconfig"], args].concat());
    // An editor may be a command with arguments.
    command.env("EDITOR", format!("{} --wait", editor.display())).env("XDG_RUNTIME_DIR", cluster.dir.path());
    command.output().await.unwrap().into()
}

fn drafts(cluster: &Cluster) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(cluster.dir.path()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().contains("ichorctl-edit-")).collect()
}

#[tokio::test]
async fn what_the_editor_leaves_is_applied_and_the_file_is_gone() {
    let cluster = cluster(&["10.0.0.2"]).await;
    let run = edit(&cluster, "sed -i s/a.example.com/b.example.com/ \"$2\"", &[]).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    let expected = CONFIG.replace("a.example.com", "b.example.com");
    assert_eq!(cluster.nodes[0].config("persistent"), expected, "without our comment");
    assert!(drafts(&cluster).is_empty());
}

#[tokio::test]
async fn nothing_is_sent_for_an_unchanged_or_empty_text_or_after_a_failed_editor() {
    let cluster = cluster(&["10.0.0.2"]).await;
    for (script, code, says) in [
        ("true", 0, "no changes detected"),
        (": > \"$2\"", 0, "the text is empty"),
        ("exit 3", 1, "failed (exit status: 3): nothing was changed"),
    ] {
        let run = edit(&cluster, script, &[]).await;
        assert_eq!(run.code, Some(code), "{run:?}");
        assert!(run.stderr.contains(says), "{}", run.stderr);
    }
    assert!(cluster.nodes[0].applied().is_empty() && drafts(&cluster).is_empty());
}

#[tokio::test]
async fn a_refused_text_is_opened_again_with_the_reason_on_top() {
    let cluster = cluster(&["10.0.0.2"]).await;
    let refusal = Status::invalid_argument("unknown keys found:\nmachine: nonsense");
    cluster.nodes[0].script.lock().unwrap().failures.insert("ApplyConfiguration", refusal);
    let run = edit(&cluster, "grep -q 'refused as invalid' \"$2\" || echo '# more' >> \"$2\"", &[]).await;
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr.contains("nothing was changed in the editor after the last refusal"),
        "{}",
        run.stderr
    );
    let seen = std::fs::read_to_string(cluster.path("seen")).unwrap();
    assert!(
        seen.contains("refused as invalid: unknown keys found:\n# machine: nonsense\nversion:"),
        "{seen}"
    );
    assert_eq!(seen.matches("# more").count(), 1, "the second time it starts from what was edited");
    assert!(drafts(&cluster).is_empty());
}

#[tokio::test]
async fn the_text_is_kept_when_the_node_cannot_be_changed_now() {
    let cluster = cluster(&["10.0.0.2"]).await;
    let away = Status::permission_denied("not authorized");
    cluster.nodes[0].script.lock().unwrap().failures.insert("ApplyConfiguration", away);
    let run = edit(&cluster, "sed -i s/a.example/b.example/ \"$2\"", &["--mode", "no-reboot"]).await;
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("your text is kept in "), "{}", run.stderr);
    let file = drafts(&cluster)[0].join("machineconfig.yaml");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), CONFIG.replace("a.example", "b.example"));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}
