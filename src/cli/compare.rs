//! What `sterna bench --compare` prints: two placements beside each other.

use std::fmt::Write as _;
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use sterna::OpenOptions;
use sterna::bench::{self, Comparison};

/// Compares two placements of a model and describes the result, as text or JSON. The tokens are those of `text`, or
/// `prompt` any ones; the last `alone` of them are computed one by one.
pub(super) fn describe(
    path: &Path,
    options: &OpenOptions,
    placements: [&str; 2],
    text: Option<&str>,
    (prompt, alone): (usize, usize),
    json: bool,
) -> anyhow::Result<String> {
    let checkpoint = sterna::source::open(path)?;
    let tokens = match text {
        Some(text) => sterna::engine::tokenizer_of(&checkpoint)?.encode(text, true)?,
        None => {
            let vocab = sterna::model::build_graph(checkpoint.into())?.config().vocab_size as u32;
            (0..(prompt + alone) as u32).map(|i| (i * 31 + 7) % vocab).collect()
        }
    };
    let alone = alone.min(tokens.len().saturating_sub(1));
    let compared = bench::compare(path, options, placements, &tokens, alone)?;
    Ok(if json { serde_json::to_string_pretty(&compared)? + "\n" } else { as_text(&compared) })
}

fn as_text(compared: &Comparison) -> String {
    let [a, b] = &compared.sides;
    let [prompt, alone] = compared.tokens;
    let difference = &compared.logits;
    let mut out = format!("A  {} on {}\nB  {} on {}\n", a.placement, a.devices, b.placement, b.devices);
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "logits of {} tokens: largest difference {:.3e}, mean {:.3e}, KL {:.3e} nats, same best token {:.1} %\n",
        difference.rows,
        difference.max,
        difference.mean,
        difference.kl,
        100.0 * difference.same_best
    );
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["layer", "A", "ms/prompt token", "ms/token", "B", "ms/prompt token", "ms/token"]);
    let last = a.layers.len().saturating_sub(1);
    for (index, (a, b)) in a.layers.iter().zip(&b.layers).enumerate() {
        let name = match index {
            0 => "embed".to_owned(),
            index if index == last => "head".to_owned(),
            index => (index - 1).to_string(),
        };
        let ms = |ms: f64| format!("{ms:.4}");
        table.add_row([
            name,
            a.backend.clone(),
            ms(a.prompt_ms),
            ms(a.token_ms),
            b.backend.clone(),
            ms(b.prompt_ms),
            ms(b.token_ms),
        ]);
    }
    let [[a_prompt, a_token], [b_prompt, b_token]] = [a.total_ms(), b.total_ms()];
    let total = [a_prompt, a_token, b_prompt, b_token].map(|ms| format!("{ms:.4}"));
    let [a_prompt, a_token, b_prompt, b_token] = total;
    table.add_row(["total".into(), String::new(), a_prompt, a_token, String::new(), b_prompt, b_token]);
    for column in [2, 3, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let _ = writeln!(out, "{table}");
    let _ = writeln!(
        out,
        "a prompt of {prompt} tokens and {alone} tokens one by one; each layer is a stage of its own, with its transfers"
    );
    out
}
