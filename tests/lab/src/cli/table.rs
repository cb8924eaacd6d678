//! Tables for people.

use comfy_table::{Table, presets};

/// A table without lines, as wide as it needs to be.
pub(super) fn table(
    header: impl IntoIterator<Item = impl ToString>,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.into_iter().map(|cell| cell.to_string()));
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.to_string();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// A table of what each member sees of each other one.
pub(super) fn matrix(corner: &str, names: &[String], cell: impl Fn(&str, &str) -> String) -> String {
    let header = [corner].into_iter().chain(names.iter().map(String::as_str));
    let rows = names.iter().map(|from| {
        let cells = names.iter().map(|to| if from == to { String::new() } else { cell(from, to) });
        [from.clone()].into_iter().chain(cells).collect()
    });
    table(header, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_leaves_out_the_diagonal() {
        let names = ["a".to_owned(), "b".to_owned()];
        let text = matrix("FROM", &names, |from, to| format!("{from}{to}"));
        assert_eq!(text, "FROM  a   b\na         ab\nb     ba\n");
    }
}
