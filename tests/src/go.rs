//! Programs in Go that speak for the official libraries (`tests/oracle`): found, built, and asked as child processes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::netns::skip;

/// Set where the comparison must run: then a missing Go is a failure, not a reason to skip.
pub const REQUIRE_VARIABLE: &str = "ICHOR_REQUIRE_ORACLE";

/// A running program, which answers each JSON line with one.
#[derive(Debug)]
pub struct GoProgram {
    child: Child,
    input: Option<BufWriter<ChildStdin>>,
    output: BufReader<ChildStdout>,
}

impl GoProgram {
    /// Builds and starts the program in `tests/oracle/NAME`; none, which is said, where there is no Go and none is
    /// required.
    ///
    /// # Errors
    /// When Go is there but the program cannot be built, or Go is required and missing.
    pub fn start(name: &str) -> Result<Option<Self>> {
        if let Err(error) = Command::new("go").arg("version").output() {
            if std::env::var_os(REQUIRE_VARIABLE).is_some() {
                bail!("{REQUIRE_VARIABLE} is set, but go cannot be run: {error}");
            }
            skip(&format!("go cannot be run: {error}"));
            return Ok(None);
        }
        let program = built(name)?;
        let mut child = Command::new(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {}", program.display()))?;
        let input = child.stdin.take().map(BufWriter::new);
        let output = child.stdout.take().map(BufReader::new).context("the oracle has no output")?;
        Ok(Some(Self { child, input, output }))
    }

    /// Asks many questions at once; the answers come in their order.
    ///
    /// # Errors
    /// When the program is gone, or an answer is not what is expected.
    pub fn ask_all<Q: Serialize + Sync, A: DeserializeOwned>(&mut self, questions: &[Q]) -> Result<Vec<A>> {
        let input = self.input.as_mut().context("the oracle has no input")?;
        let output = &mut self.output;
        // Written from a second thread: pipes hold little, and the oracle answers while it reads.
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || -> Result<()> {
                for question in questions {
                    serde_json::to_writer(&mut *input, question)?;
                    input.write_all(b"\n")?;
                }
                Ok(input.flush()?)
            });
            let mut answers = Vec::with_capacity(questions.len());
            let mut line = String::new();
            for _ in questions {
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

impl Drop for GoProgram {
    fn drop(&mut self) {
        drop(self.input.take());
        // It ends with its input; whatever it says then is of no interest.
        self.child.wait().ok();
    }
}

/// The program, which is built once per process: a running one cannot be written over.
fn built(name: &str) -> Result<PathBuf> {
    static PROGRAMS: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(program) = programs.get(name) {
        return Ok(program.clone());
    }
    let program = build(name)?;
    programs.insert(name.to_owned(), program.clone());
    Ok(program)
}

fn build(name: &str) -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = manifest.join("oracle").join(name);
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| manifest.join("../target"), PathBuf::from)
        .join("oracle");
    std::fs::create_dir_all(&target)?;
    let program = std::path::absolute(target.join(name.replace('/', "-")))?;
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
