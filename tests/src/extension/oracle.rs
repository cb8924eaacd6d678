//! The official library's opinion about extensions and schematics (`tests/oracle/*/extensions`).

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::go::GoProgram;

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

/// Asks the library of a line; none, which is said, where there is no Go and none is required.
///
/// # Errors
///
/// When it cannot be built or does not answer.
pub fn ask(line: &str, questions: &[Question]) -> Result<Option<Vec<Answer>>> {
    let program = GoProgram::start(&format!("v{line}/extensions"))?;
    program.map(|mut program| program.ask_all(questions)).transpose()
}
