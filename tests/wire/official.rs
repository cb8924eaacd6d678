//! The official side: `tests/oracle/server`, one for all tests.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ichor_tests::go::GoProgram;
use ichor_tests::netns::skip;
use serde::{Deserialize, Deserializer, Serialize};

static OFFICIAL: LazyLock<Option<Mutex<Official>>> = LazyLock::new(|| {
    let mut program = GoProgram::start("server").unwrap()?;
    let access = ask(&mut program, &Question { op: "serve", ..Question::default() });
    Some(Mutex::new(Official { program, access }))
});

/// The running program and the way into its servers.
pub(crate) struct Official {
    program: GoProgram,
    pub(crate) access: Answer,
}

/// A question; what is set depends on the operation.
#[derive(Default, Serialize)]
pub(crate) struct Question<'a> {
    pub(crate) op: &'a str,
    pub(crate) descriptors: String,
    pub(crate) r#type: &'a str,
    pub(crate) data: String,
    pub(crate) seed: u64,
    pub(crate) address: &'a str,
    pub(crate) method: &'a str,
    pub(crate) id: &'a str,
    pub(crate) text: &'a str,
    pub(crate) replies: &'a [serde_json::Value],
}

/// An answer, likewise.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Answer {
    error: String,
    pub(crate) echo: String,
    pub(crate) state: String,
    pub(crate) talosconfig: String,
    pub(crate) ca: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) problems: Vec<String>,
    #[serde(deserialize_with = "bytes")]
    pub(crate) data: Vec<u8>,
    pub(crate) unknown: usize,
    pub(crate) calls: Vec<Call>,
}

/// What a call carried.
#[derive(Clone, Deserialize)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) node: String,
    #[serde(deserialize_with = "list")]
    pub(crate) requests: Vec<Vec<u8>>,
    #[serde(deserialize_with = "list")]
    pub(crate) replies: Vec<Vec<u8>>,
    #[serde(default)]
    pub(crate) received: Vec<serde_json::Value>,
    pub(crate) unknown: usize,
}

/// The program; none where there is no Go, which is said.
pub(crate) fn official() -> Option<MutexGuard<'static, Official>> {
    let official = OFFICIAL.as_ref();
    if official.is_none() {
        skip("the official API cannot be asked without Go");
    }
    // A test that failed meanwhile has failed for itself.
    official.map(|official| official.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Official {
    pub(crate) fn ask(&mut self, question: &Question<'_>) -> Answer {
        ask(&mut self.program, question)
    }
}

fn ask(program: &mut GoProgram, question: &Question<'_>) -> Answer {
    let answer: Answer = program.ask_all(std::slice::from_ref(question)).unwrap().remove(0);
    assert!(
        answer.error.is_empty(),
        "{} {}{}: {}",
        question.op,
        question.method,
        question.r#type,
        answer.error
    );
    answer
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}

fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
    let texts = Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default();
    texts.iter().map(|text| STANDARD.decode(text).map_err(serde::de::Error::custom)).collect()
}
