//! The journal as lines of text.

use super::Entry;

/// Why a journal cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// A line that is followed by others is damaged.
    #[error("line {line} of the journal is damaged")]
    Damaged {
        /// Which, from 1.
        line: usize,
    },
    /// An entry cannot be written as text.
    #[error("failed to encode an entry of the journal")]
    Encode(#[source] serde_json::Error),
}

/// An entry as a line: its checksum in 16 hexadecimal digits, a space, JSON, a line feed.
///
/// # Errors
///
/// When the entry cannot be written as JSON, which no entry is.
pub fn encode(entry: &Entry) -> Result<String, JournalError> {
    let json = serde_json::to_string(entry).map_err(JournalError::Encode)?;
    Ok(format!("{:016x} {json}\n", sum(json.as_bytes())))
}

/// Reads all lines. A damaged last line was being written when the power went: it is left out.
///
/// # Errors
///
/// When any other line is damaged.
pub fn decode(text: &[u8]) -> Result<Vec<Entry>, JournalError> {
    let mut entries = Vec::new();
    let mut lines = text.split_inclusive(|byte| *byte == b'\n').enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        match read(line) {
            Some(entry) => entries.push(entry),
            None if lines.peek().is_none() => {}
            None => return Err(JournalError::Damaged { line: index + 1 }),
        }
    }
    Ok(entries)
}

/// The bytes of `text` that are whole lines: where the next entry is to be written.
pub fn whole_len(text: &[u8]) -> usize {
    let last = text.split_inclusive(|byte| *byte == b'\n').next_back().unwrap_or_default();
    if read(last).is_some() { text.len() } else { text.len() - last.len() }
}

fn read(line: &[u8]) -> Option<Entry> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (checksum, json) = line.split_once(' ')?;
    let is_whole = checksum.len() == 16 && u64::from_str_radix(checksum, 16).ok()? == sum(json.as_bytes());
    is_whole.then(|| serde_json::from_str(json).ok()).flatten()
}

/// FNV-1a: it finds torn and rotten lines. Whoever can write the file can do anything anyway.
fn sum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
