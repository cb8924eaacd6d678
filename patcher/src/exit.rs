//! How the program ends.

use std::fmt;
use std::process::ExitCode;

use crate::api::ApiError;
use crate::config_update::UpdateError;
use crate::output::{self, is_broken_pipe};

/// Exit codes. They are part of the interface: scripts decide by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The command line cannot be understood.
    Usage = 2,
    /// A guard refused: doing it would have been unsafe.
    Refused = 3,
    /// Stopped halfway, because the last step could not be proven good.
    Stopped = 4,
    /// Some nodes failed, others did not.
    Partial = 5,
    /// There are changes: `plan --exit-code` only.
    Changes = 10,
    /// Interrupted by the user, as shells number it.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command line that parses but makes no sense.
#[derive(Debug)]
pub struct UsageError(pub String);

/// Something that is not done because it would be unsafe.
#[derive(Debug)]
pub struct Refusal {
    /// What is refused, and why.
    pub reason: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// A step that was done and cannot be proven good: nothing more is done.
#[derive(Debug)]
pub struct Unproven {
    /// What is not proven, and what was seen last.
    pub what: String,
    /// The command that tells more.
    pub advice: String,
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Unproven {}

/// The exit code for how a command ended, after telling the user about its error.
pub fn conclude(result: anyhow::Result<Exit>) -> Exit {
    match result {
        Ok(exit) => exit,
        Err(error) if is_broken_pipe(&error) => Exit::Done,
        Err(error) => {
            explain(&error);
            exit_of(&error)
        }
    }
}

/// Which exit code an error asks for.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    let is = |check: fn(&(dyn std::error::Error + 'static)) -> bool| error.chain().any(check);
    if is(|cause| cause.is::<UsageError>()) {
        return Exit::Usage;
    }
    if is(|cause| cause.is::<Refusal>()) {
        return Exit::Refused;
    }
    if is(|cause| cause.is::<Unproven>()) {
        return Exit::Stopped;
    }
    error.chain().find_map(|cause| cause.downcast_ref()).map_or(Exit::Failed, UpdateError::exit)
}

/// Prints an error with its causes, and what to do next where that is known.
pub fn explain(error: &anyhow::Error) {
    output::note(&format!("error: {error:#}"));
    if let Some(advice) = advice(error) {
        output::note(&format!("  next: {advice}"));
    }
}

pub(crate) fn advice(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        let from_call = cause.downcast_ref::<ApiError>().and_then(|error| error.cause.advice());
        from_call
            .or_else(|| cause.downcast_ref::<Refusal>().and_then(|refusal| refusal.advice.clone()))
            .or_else(|| cause.downcast_ref::<Unproven>().map(|unproven| unproven.advice.clone()))
            .or_else(|| cause.downcast_ref().and_then(UpdateError::advice).map(str::to_owned))
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn errors_choose_their_exit_code_from_anywhere_in_the_chain() {
        let usage = anyhow::Error::new(UsageError("no nodes".into())).context("starting");
        assert_eq!(exit_of(&usage), Exit::Usage);
        let refusal = anyhow::Error::new(Refusal { reason: "no".into(), advice: Some("do".into()) });
        assert_eq!((exit_of(&refusal), advice(&refusal).as_deref()), (Exit::Refused, Some("do")));
        let unproven = anyhow::Error::new(Unproven { what: "silent".into(), advice: "look".into() });
        assert_eq!((exit_of(&unproven), advice(&unproven).as_deref()), (Exit::Stopped, Some("look")));
        assert_eq!(exit_of(&anyhow::anyhow!("x")), Exit::Failed);
    }

    #[test]
    fn a_reader_that_left_is_success() {
        let pipe = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let result: anyhow::Result<Exit> = Err(pipe).context("printing");
        assert_eq!(conclude(result), Exit::Done);
    }
}
