//! The official library's opinion about extensions and schematics (`tests/oracle/*/extensions`).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::oracle::Oracle;

/// The Talos lines that there is an oracle for.
pub const LINES: [&str; 4] = ["1.11", "1.12", "1.13", "1.14"];

/// A question.
#[derive(Debug, Default, Serialize)]
pub struct Question {
    /// A directory with manifest.yaml and rootfs.
    pub directory: String,
    /// Files with service specs.
    pub specs: Vec<String>,
    /// A schematic in JSON.
    pub schematic: Option<serde_json::Value>,
}

/// An answer.
#[derive(Debug, Deserialize)]
pub struct Answer {
    /// One text per check that refused.
    pub errors: Vec<String>,
    /// A schematic as YAML.
    #[serde(default)]
    pub text: String,
    /// Its SHA-256.
    #[serde(default)]
    pub id: String,
}

/// Asks the library of a line; none where there is no Go and none is required.
///
/// # Errors
///
/// When it cannot be built or does not answer.
pub fn ask(line: &str, questions: &[Question]) -> Result<Option<Vec<Answer>>> {
    if Command::new("go").arg("version").output().is_err() {
        if Oracle::required() {
            bail!("the oracle is required, and there is no Go");
        }
        return Ok(None);
    }
    let program = build(line)?;
    let mut child = Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("the oracle has no input")?;
    let text = questions.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?.join("\n");
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output()?;
    match writer.join() {
        Ok(result) => result?,
        Err(_) => bail!("the writer of the oracle panicked"),
    }
    let answers = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
    let answers = answers.collect::<Result<Vec<Answer>, _>>()?;
    if answers.len() != questions.len() {
        bail!("the oracle of {line} gave {} answers to {} questions", answers.len(), questions.len());
    }
    Ok(Some(answers))
}

fn build(line: &str) -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| manifest.join("../target"), PathBuf::from);
    let directory = std::path::absolute(target.join("oracle"))?;
    std::fs::create_dir_all(&directory)?;
    let program = directory.join(format!("extensions-v{line}"));
    let mut command = Command::new("go");
    command.arg("build").arg("-o").arg(&program).arg("./extensions");
    let output = command.current_dir(manifest.join("oracle").join(format!("v{line}"))).output()?;
    if !output.status.success() {
        bail!("go build for {line} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(program)
}
