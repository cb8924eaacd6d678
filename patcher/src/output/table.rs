//! Tables as talosctl prints them: no borders, three blanks between columns.

use comfy_table::{ColumnConstraint, ContentArrangement, Width, presets};

use super::escape;

/// Blanks between two columns.
const GAP: u16 = 3;

/// A table that may be printed in parts: columns are as wide as what came so far. Headings are its first row.
#[derive(Debug, Default)]
pub struct Table {
    widths: Vec<u16>,
}

impl Table {
    /// The lines of `rows`, aligned with each other and with earlier ones. Cells are escaped.
    pub fn lines<R>(&mut self, rows: impl IntoIterator<Item = R>) -> String
    where
        R: IntoIterator,
        R::Item: AsRef<str>,
    {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        for row in rows {
            table.add_row(row.into_iter().map(|cell| escape(cell.as_ref())).collect::<Vec<_>>());
        }
        let content = table.column_max_content_widths();
        self.widths.resize(self.widths.len().max(content.len()), 0);
        for (width, content) in self.widths.iter_mut().zip(content) {
            *width = (*width).max(content);
        }
        for (column, width) in table.column_iter_mut().zip(&self.widths) {
            column.set_padding((0, GAP));
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width.saturating_add(GAP))));
        }
        let mut text = String::new();
        for line in table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_cells_escaped() {
        let text = Table::default().lines([["NODE", "STATE"], ["10.0.0.2", "Run\x1b[1mning\n"], ["cp", ""]]);
        assert_eq!(text, "NODE       STATE\n10.0.0.2   Run\\u{1b}[1mning\\n\ncp\n");
    }

    #[test]
    fn later_rows_keep_the_columns_of_earlier_ones() {
        let mut table = Table::default();
        assert_eq!(table.lines([["NODE", "ID"], ["10.0.0.2", "a"]]), "NODE       ID\n10.0.0.2   a\n");
        assert_eq!(table.lines([["cp", "b"]]), "cp         b\n");
        assert_eq!(table.lines([["2001:db8::1", "c"]]), "2001:db8::1   c\n");
        assert_eq!(table.lines([["cp", "d"]]), "cp            d\n");
        assert_eq!(table.lines([[""; 2]; 0]), "");
    }
}
