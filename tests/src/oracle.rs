//! The official Talos library as a child process, one per Talos line (`tests/oracle`).

use std::sync::Mutex;

use anyhow::{Result, bail};
use base64::Engine;
use ichorctl::patch::TalosLine;
use serde::{Deserialize, Serialize};

use crate::go::GoProgram;

/// What the official validation says about a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validation {
    /// Why a node refuses it, one reason each; empty when it is valid. Also why it cannot be loaded.
    pub errors: Vec<String>,
    /// What a node accepts with a warning.
    pub warnings: Vec<String>,
}

/// Validates a config as `talosctl validate` of the line does, `mode` being metal, cloud or container. None, which is
/// said, where there is no Go. The oracle of a line is started once per process.
///
/// # Errors
/// When the oracle fails, or Go is required and missing; not when the config is refused.
pub fn validate(line: TalosLine, config: &str, mode: &str) -> Result<Option<Validation>> {
    static ORACLES: [Mutex<Option<Oracle>>; 4] = [const { Mutex::new(None) }; 4];
    let slot = TalosLine::ALL.iter().position(|known| *known == line).unwrap_or_default();
    // An oracle that another thread gave up on is started anew.
    let mut slot = ORACLES[slot].lock().unwrap_or_else(|poisoned| {
        let mut slot = poisoned.into_inner();
        *slot = None;
        slot
    });
    if slot.is_none() {
        *slot = Oracle::start(&line.to_string())?;
    }
    let Some(oracle) = slot.as_mut() else { return Ok(None) };
    let answer = oracle.ask(&Request::validate(config.as_bytes(), mode))?;
    if answer.panic {
        bail!("the official validation of {line} panicked: {}", answer.error);
    }
    let mut errors = answer.errors;
    if !answer.ok && errors.is_empty() {
        errors.push(answer.error);
    }
    Ok(Some(Validation { errors, warnings: answer.warnings }))
}

/// A question to the oracle. Texts travel as base64, so that they may hold anything.
#[derive(Debug, Default, Serialize)]
pub struct Request<'a> {
    id: u64,
    op: &'a str,
    b64: bool,
    config: String,
    patches: Vec<String>,
    mode: &'a str,
    strict: bool,
    local: bool,
}

impl<'a> Request<'a> {
    fn new(op: &'a str, config: &[u8]) -> Self {
        Self { op, b64: true, config: encode(config), ..Self::default() }
    }

    /// What `machineconfig patch` of the line prints for these values of `-p`.
    pub fn patch<P: AsRef<[u8]>>(config: &[u8], patches: &[P]) -> Self {
        let patches = patches.iter().map(|patch| encode(patch.as_ref())).collect();
        Self { patches, ..Self::new("patch", config) }
    }

    /// The config loaded and encoded again.
    pub fn canonical(config: &[u8]) -> Self {
        Self::new("canonical", config)
    }

    /// What validation in this mode (metal, cloud, container) says; `local` leaves out what needs a node.
    pub fn validate(config: &[u8], mode: &'a str) -> Self {
        Self { mode, local: true, ..Self::new("validate", config) }
    }

    /// The nodes that the YAML library of the line sees.
    pub fn tree(text: &[u8]) -> Self {
        Self::new("tree", text)
    }

    /// The table of types, enums, conflicts and secrets.
    pub fn fields() -> Self {
        Self::new("fields", b"")
    }
}

fn encode(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// An answer of the oracle.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Response {
    /// Of the request.
    pub id: u64,
    /// Whether the operation went through.
    pub ok: bool,
    /// Where a refusal came from: load-patch, apply, encode, load, validate.
    pub stage: String,
    /// The text of a refusal.
    pub error: String,
    /// Whether the library panicked.
    pub panic: bool,
    /// What the official tool prints.
    pub output: String,
    /// The output loaded and encoded again.
    pub canonical: String,
    /// Why the output is no machine config.
    pub load_error: String,
    /// Warnings of validation.
    pub warnings: Vec<String>,
    /// Single errors of validation.
    pub errors: Vec<String>,
    /// Documents of a stream.
    pub tree: Vec<Node>,
    /// The table of types.
    pub fields: String,
}

/// A YAML node as the library of the line sees it.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Node {
    /// document, mapping, sequence, scalar, alias
    pub kind: String,
    /// Short tag.
    pub tag: String,
    /// Text of a scalar, name of an alias.
    pub value: String,
    /// Its anchor.
    pub anchor: String,
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
    /// Children; of a mapping keys and values in turn.
    pub content: Vec<Self>,
}

/// A running oracle.
#[derive(Debug)]
pub struct Oracle(GoProgram);

impl Oracle {
    /// Builds and starts the oracle of a line such as `1.14`; none, which is said, where there is no Go and none is
    /// required.
    ///
    /// # Errors
    /// As [`GoProgram::start`].
    pub fn start(line: &str) -> Result<Option<Self>> {
        Ok(GoProgram::start(&format!("v{line}"))?.map(Self))
    }

    /// Asks one question.
    ///
    /// # Errors
    /// When the oracle is gone.
    pub fn ask(&mut self, request: &Request<'_>) -> Result<Response> {
        Ok(self.ask_all(std::slice::from_ref(request))?.remove(0))
    }

    /// Asks many questions at once; the answers come in their order.
    ///
    /// # Errors
    /// When the oracle is gone.
    pub fn ask_all(&mut self, requests: &[Request<'_>]) -> Result<Vec<Response>> {
        self.0.ask_all(requests)
    }
}
