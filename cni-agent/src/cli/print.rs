//! Every form of output in one place.

use crate::config::Output;
use comfy_table::{Table, presets::NOTHING};
use serde::Serialize;
use std::io::{self, Write};

/// Column heads and rows; `wide` columns stand last and are left out of the plain table.
#[derive(Debug, Default)]
pub(super) struct Columns {
    pub heads: Vec<&'static str>,
    pub wide_heads: Vec<&'static str>,
    pub rows: Vec<(Vec<String>, Vec<String>)>,
}

/// `value` as JSON or YAML, or `columns` as a table.
///
/// # Errors
/// When the value has no such form.
pub(super) fn render<T: Serialize>(
    value: &T,
    output: Output,
    columns: impl FnOnce() -> Columns,
) -> Result<String, String> {
    Ok(match output {
        Output::Json => serde_json::to_string_pretty(value).map_err(|e| e.to_string())? + "\n",
        Output::Yaml => serde_saphyr::to_string(value).map_err(|e| e.to_string())?,
        Output::Table => table(columns(), false),
        Output::Wide => table(columns(), true),
    })
}

/// Writes what was rendered.
///
/// # Errors
/// When standard output can't be written.
pub(super) fn print(text: &str) -> Result<(), String> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        // The reader has seen enough (`fairlead drops | head`).
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| format!("standard output: {e}")),
    }
}

fn table(columns: Columns, wide: bool) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    let mut heads = columns.heads;
    if wide {
        heads.extend(&columns.wide_heads);
    }
    table.set_header(heads);
    for (mut row, more) in columns.rows {
        if wide {
            row.extend(more);
        }
        table.add_row(row);
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect()
}
