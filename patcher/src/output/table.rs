//! Tables as talosctl prints them: no borders, three blanks between columns.

use std::fmt;

use comfy_table::{ContentArrangement, presets};

use super::escape;

/// Rows under headings. Cells are escaped.
#[derive(Debug)]
pub struct Table {
    inner: comfy_table::Table,
}

impl Table {
    /// A table with `columns` as its headings.
    pub fn new(columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut inner = comfy_table::Table::new();
        inner.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        inner.set_header(columns.into_iter().map(Into::into).collect::<Vec<String>>());
        for column in inner.column_iter_mut() {
            column.set_padding((0, 3));
        }
        Self { inner }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.inner.add_row(cells.into_iter().map(|cell| escape(&cell)).collect::<Vec<_>>());
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.inner.lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_cells_escaped() {
        let mut table = Table::new(["NODE", "STATE"]);
        assert!(table.is_empty());
        table.row(["10.0.0.2".to_owned(), "Run\x1b[1mning".to_owned()]);
        table.row(["cp".to_owned(), String::new()]);
        assert_eq!(table.to_string(), "NODE       STATE\n10.0.0.2   Run\\u{1b}[1mning\ncp\n");
    }
}
