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

/// Writes one of many values as it comes: a line of JSON, a document of YAML, or its text (`true`: the wide
/// one). Whether somebody still reads (`fairlead flows | head`).
///
/// # Errors
/// When standard output can't be written.
pub(super) fn print_one<T: Serialize>(
    out: &mut impl Write,
    value: &T,
    output: Output,
    text: impl Fn(&T, bool) -> String,
) -> Result<bool, String> {
    let text = match output {
        Output::Json => serde_json::to_string(value).map_err(|e| e.to_string())?,
        Output::Yaml => {
            let document = serde_saphyr::to_string(value).map_err(|e| e.to_string())?;
            format!("---\n{}", document.trim_end())
        }
        Output::Table | Output::Wide => text(value, output == Output::Wide),
    };
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        done => done
            .map(|()| true)
            .map_err(|e| format!("standard output: {e}")),
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
