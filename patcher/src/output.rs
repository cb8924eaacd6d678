//! What the commands print: data to stdout, everything else to stderr.
//!
//! Text from a node is not trusted: control characters could drive the terminal. `escape` makes them visible.
//! A reader that closes its end of a pipe has seen enough: that is success, not an error.

mod bytes;
mod escape;
mod table;
mod time;

use std::io::{self, IsTerminal as _, Write};

use serde::Serialize;

pub use bytes::bytes;
pub use escape::{escape, escape_lines};
pub use table::Table;
pub use time::{age, date, rfc3339, timestamp};

/// In which form data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON document per record.
    Json,
}

/// Standard output, locked per record.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output {
    format: Format,
}

impl Output {
    /// Prints in `format`.
    pub const fn new(format: Format) -> Self {
        Self { format }
    }

    /// True when data goes out as JSON.
    pub fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Prints one record as JSON, or the text that `text` makes of it.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn record<T: Serialize>(self, record: &T, text: impl FnOnce(&T) -> String) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(record),
            Format::Text => self.raw(text(record).as_bytes()),
        }
    }

    /// Prints rows as a JSON array, or as the table that `columns` and `cells` make of them.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn rows<T: Serialize, const N: usize>(
        self,
        columns: [&str; N],
        rows: &[T],
        cells: impl Fn(&T) -> [String; N],
    ) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(&rows),
            Format::Text => {
                let head = std::iter::once(columns.map(str::to_owned));
                self.raw(Table::default().lines(head.chain(rows.iter().map(cells))).as_bytes())
            }
        }
    }

    /// Prints a JSON document on lines of its own, indented like talosctl's.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn json<T: Serialize>(self, value: &T) -> io::Result<()> {
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
        text.push(b'\n');
        self.raw(&text)
    }

    /// Prints a JSON document on one line, for streams.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn json_line<T: Serialize>(self, value: &T) -> io::Result<()> {
        let mut text = serde_json::to_vec(value)?;
        text.push(b'\n');
        self.raw(&text)
    }

    /// Prints bytes that a node sent: as they are, but for a terminal with control characters made visible.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn foreign(self, bytes: &[u8]) -> io::Result<()> {
        match io::stdout().is_terminal() {
            true => self.raw(escape_lines(&String::from_utf8_lossy(bytes)).as_bytes()),
            false => self.raw(bytes),
        }
    }

    /// Prints bytes as they are.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn raw(self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()
    }
}

/// Tells the user something that is no data. Control characters are made visible.
pub fn note(text: &str) {
    // With stderr closed nobody is listening.
    let _ = writeln!(io::stderr().lock(), "{}", escape_lines(text));
}

/// True when `error` says that nobody reads what is printed any more.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}
