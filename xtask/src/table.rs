//! Plain-text tables for people.

use std::fmt;

/// Rows of cells under a header, printed in aligned columns.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    left: usize,
}

impl Table {
    /// A table whose first `left` columns are words; the others are figures and stand to the
    /// right.
    pub(crate) fn new(left: usize, header: &[&str]) -> Self {
        Self {
            rows: vec![header.iter().map(|&cell| cell.to_owned()).collect()],
            left,
        }
    }

    /// Adds a row, as long as the header.
    pub(crate) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<_> = (0..columns)
            .map(|column| width(column).unwrap_or(0))
            .collect();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let cell = match column < self.left {
                    true => format!("{cell:width$}  "),
                    false => format!("{cell:>width$}  "),
                };
                line.push_str(&cell);
            }
            writeln!(f, "  {}", line.trim_end())?;
            if index == 0 {
                let rule: Vec<_> = widths.iter().map(|&width| "─".repeat(width)).collect();
                writeln!(f, "  {}", rule.join("  "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn words_stand_left_and_figures_right() {
        let mut table = Table::new(1, &["path", "Gbit/s"]);
        table.row(["same node", "7.1"]);
        table.row(["to µ", "12.0"]);
        let expected =
            "  path       Gbit/s\n  ─────────  ──────\n  same node     7.1\n  to µ         12.0\n";
        assert_eq!(table.to_string(), expected);
    }
}
