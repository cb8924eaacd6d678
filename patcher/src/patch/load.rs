//! From the values of `-p` to patches: which file is read, and which of the two formats it is.

use std::fmt;
use std::path::{Path, PathBuf};

use super::document::{Entry, load_patch};
use super::error::{Class, PatchError};
use super::json6902::JsonPatch;
use super::line::TalosLine;
use crate::files::read_bounded;
use crate::machine::parse::MAX_BYTES;
use crate::machine::{DocumentId, MachineConfig};

/// A patch as it was given.
#[derive(Clone, PartialEq, Eq)]
pub enum PatchArg {
    /// The text itself.
    Inline(String),
    /// What was read from a file.
    File {
        /// Its name, for messages.
        path: PathBuf,
        /// What is in it.
        contents: Vec<u8>,
    },
}

impl PatchArg {
    /// Reads the value of a `-p` flag as `talosctl` of the line does: `@name` is a file; since 1.12, so is a
    /// word without blanks that does not begin with a bracket.
    ///
    /// # Errors
    /// When the file cannot be read, is no text, or is larger than any config.
    pub fn from_flag(value: &str, line: TalosLine) -> Result<Self, PatchError> {
        let name = match value.strip_prefix('@') {
            Some(name) => name,
            None if line >= TalosLine::V1_12
                && !value.contains(['\n', ' '])
                && !value.starts_with(['[', '{']) =>
            {
                value
            }
            None => return Ok(Self::Inline(value.to_owned())),
        };
        let path = Path::new(name);
        let contents = read_bounded(path, MAX_BYTES as u64).map_err(|source| {
            PatchError::new(Class::Unreadable, format!("failed to read patch {}: {source}", path.display()))
        })?;
        Ok(Self::File { path: path.to_owned(), contents: contents.into_bytes() })
    }

    fn contents(&self) -> &[u8] {
        match self {
            Self::Inline(text) => text.as_bytes(),
            Self::File { contents, .. } => contents,
        }
    }
}

/// A patch may hold secrets, so only its size is shown.
impl fmt::Debug for PatchArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.contents().len();
        match self {
            Self::Inline(_) => write!(f, "Inline({size} bytes)"),
            Self::File { path, .. } => write!(f, "File({}, {size} bytes)", path.display()),
        }
    }
}

/// A patch that was found to be well-formed for the line it was loaded for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Patch {
    /// JSON patch operations (RFC 6902).
    Json(JsonPatch),
    /// Documents to be merged.
    Strategic(Strategic),
}

/// A strategic merge patch.
#[derive(Clone)]
pub struct Strategic {
    pub(super) config: MachineConfig,
    pub(super) entries: Vec<Entry>,
}

impl Strategic {
    /// The documents that it changes, in its order.
    pub fn documents(&self) -> impl Iterator<Item = &DocumentId> {
        self.entries.iter().map(|entry| match entry {
            Entry::Delete(selector) => &selector.id,
            Entry::Merge(doc) => &doc.id,
        })
    }
}

impl fmt::Debug for Strategic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.documents()).finish()
    }
}

/// Loads patches in order. JSON patches that follow one another become one.
///
/// # Errors
/// When one of them is neither a strategic nor a JSON patch of the line.
pub fn load(args: &[PatchArg], line: TalosLine) -> Result<Vec<Patch>, PatchError> {
    let mut patches: Vec<Patch> = Vec::with_capacity(args.len());
    for arg in args {
        let patch = load_one(arg.contents(), line)?;
        match (patches.last_mut(), patch) {
            (Some(Patch::Json(last)), Patch::Json(next)) => last.extend(next),
            (_, patch) => patches.push(patch),
        }
    }
    Ok(patches)
}

/// Tries the formats in the order of the official tool: documents, JSON, YAML with the operations of a JSON
/// patch. When all fail, the first refusal counts, unless the text looks like JSON.
fn load_one(text: &[u8], line: TalosLine) -> Result<Patch, PatchError> {
    let strategic = match load_strategic(text, line) {
        Ok(patch) => return Ok(Patch::Strategic(patch)),
        Err(error) => error,
    };
    let json = match JsonPatch::from_json(text) {
        Ok(patch) => return Ok(Patch::Json(patch)),
        Err(error) => error,
    };
    match JsonPatch::from_yaml(text, line.dialect()) {
        // What is a list of operations, but cannot be written as JSON, is refused as such.
        Ok(patch) => patch.map(Patch::Json),
        Err(_) if text.trim_ascii_start().starts_with(b"[") => Err(json),
        Err(_) => Err(strategic),
    }
}

fn load_strategic(text: &[u8], line: TalosLine) -> Result<Strategic, PatchError> {
    let (config, entries) = load_patch(text, line)?;
    Ok(Strategic { config, entries })
}
