//! The official Talos library as a child process, one per Talos line (`tests/oracle`).

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use base64::Engine;
use serde::{Deserialize, Serialize};

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
pub struct Oracle {
    child: Child,
    input: Option<BufWriter<ChildStdin>>,
    output: BufReader<ChildStdout>,
}

impl Oracle {
    /// Whether the environment demands the comparison: then a missing Go is a failure, not a reason to skip.
    pub fn required() -> bool {
        std::env::var_os("ICHOR_REQUIRE_ORACLE").is_some_and(|value| value == "1")
    }

    /// Builds and starts the oracle of a line such as `1.14`; none where there is no Go and none is required.
    ///
    /// # Errors
    /// When Go is there but the oracle cannot be built, or Go is required and missing.
    pub fn start(line: &str) -> Result<Option<Self>> {
        if Command::new("go").arg("version").output().is_err() {
            if Self::required() {
                bail!("the oracle is required, and there is no Go");
            }
            return Ok(None);
        }
        let program = build(line)?;
        let mut child = Command::new(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {}", program.display()))?;
        let input = child.stdin.take().map(BufWriter::new);
        let output = child.stdout.take().map(BufReader::new).context("the oracle has no output")?;
        Ok(Some(Self { child, input, output }))
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
        let input = self.input.as_mut().context("the oracle has no input")?;
        let output = &mut self.output;
        // Written from a second thread: pipes hold little, and the oracle answers while it reads.
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || -> Result<()> {
                for request in requests {
                    serde_json::to_writer(&mut *input, request)?;
                    input.write_all(b"\n")?;
                }
                Ok(input.flush()?)
            });
            let mut answers = Vec::with_capacity(requests.len());
            let mut line = String::new();
            for _ in requests {
                line.clear();
                if output.read_line(&mut line)? == 0 {
                    bail!("the oracle ended early");
                }
                answers.push(serde_json::from_str(&line)?);
            }
            match writer.join() {
                Ok(result) => result?,
                Err(_) => bail!("the writer of the oracle panicked"),
            }
            Ok(answers)
        })
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        drop(self.input.take());
        // The oracle ends with its input; whatever it says then is of no interest.
        self.child.wait().ok();
    }
}

fn build(line: &str) -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = manifest.join("oracle").join(format!("v{line}"));
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| manifest.join("../target"), PathBuf::from)
        .join("oracle");
    std::fs::create_dir_all(&target)?;
    let program = std::path::absolute(target.join(format!("v{line}")))?;
    let output = Command::new("go")
        .arg("build")
        .arg("-o")
        .arg(&program)
        .arg(".")
        .current_dir(&source)
        .output()
        .with_context(|| format!("failed to run go build in {}", source.display()))?;
    if !output.status.success() {
        bail!("go build in {} failed: {}", source.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(program)
}
