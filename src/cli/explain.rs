//! What `sterna bench --explain` prints: the cost of a token, counted.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use sterna::bench::StageCost;

/// A table for each stage.
pub(super) fn as_text(model: &str, backend: &str, depth: usize, stages: &[StageCost]) -> String {
    let mut out = format!("{model} on {backend}: one token behind {depth}\n");
    for stage in stages {
        let [first, last] = stage.layers;
        let ratio = stage.bytes as f64 / stage.least_bytes.max(1) as f64;
        // Writing to a string cannot fail.
        let _ = writeln!(out, "layers {first} to {last} on {}", stage.backend);
        let _ = match (stage.dispatches, stage.submissions, stage.readback) {
            (Some(dispatches), Some(submissions), Some(readback)) => writeln!(
                out,
                "  {dispatches} dispatches, {submissions} submission{}, {readback} bytes come back",
                if submissions == 1 { "" } else { "s" }
            ),
            _ => writeln!(out, "  this backend does not count what it starts"),
        };
        let _ = writeln!(
            out,
            "  {} bytes read, {ratio:.3} of the least possible ({}: weights at 2 bits, head, cache)",
            stage.bytes, stage.least_bytes
        );
        if stage.kernels.is_empty() {
            continue;
        }
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["kernel", "dispatches", "bytes read"]);
        for (name, dispatches, bytes) in &stage.kernels {
            table.add_row([(*name).to_owned(), dispatches.to_string(), bytes.to_string()]);
        }
        for column in [1, 2] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let _ = writeln!(out, "{table}");
    }
    out
}
