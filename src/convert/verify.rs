//! Whether two files are the same model.

use std::path::Path;

use sterna_cpu::kv::KvType;

use crate::backend::HeadKind;
use crate::engine::{Error, Model, OpenOptions};
use crate::format;

/// How the logits of two models differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Tokens that both read.
    pub tokens: usize,
    /// The largest difference of two logits.
    pub largest: f32,
    /// Tokens behind which both find the same one the most probable.
    pub agreeing: usize,
    /// Whether all logits are the same bits.
    pub is_exact: bool,
    /// Whether both make the same tokens of a text, if they have vocabularies.
    pub same_tokens: bool,
}

/// Tokens that the models read.
const TOKENS: usize = 24;

/// A text for the vocabularies.
const TEXT: &str = "Once upon a time, in 1842, there was a king (who'd \"no\" crown).\n\n  Żółw & 学习!";

/// What a model makes of the tokens and of the text.
struct Seen {
    rows: Vec<Vec<f32>>,
    text: Option<Vec<u32>>,
}

/// Compares what two models, one after the other in memory, make of some tokens. The first is read with `files`.
///
/// # Errors
/// If one of them cannot be opened, or does not run.
pub fn compare(source: &Path, files: &format::OpenOptions, written: &Path) -> Result<Comparison, Error> {
    let (a, b) = (see(source, files)?, see(written, &format::OpenOptions::default())?);
    let pairs = || a.rows.iter().zip(&b.rows);
    let best = |row: &[f32]| (0..row.len()).max_by(|&i, &j| row[i].total_cmp(&row[j]));
    let differences = pairs().flat_map(|(a, b)| a.iter().zip(b).map(|(a, b)| (a - b).abs()));
    let is_same =
        |(a, b): (&Vec<f32>, &Vec<f32>)| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
    Ok(Comparison {
        tokens: a.rows.len(),
        largest: differences.fold(0.0, f32::max),
        agreeing: pairs().filter(|(a, b)| best(a) == best(b)).count(),
        is_exact: a.rows.len() == b.rows.len() && pairs().all(is_same),
        same_tokens: a.text == b.text,
    })
}

fn see(path: &Path, files: &format::OpenOptions) -> Result<Seen, Error> {
    let options = OpenOptions {
        context: Some(64),
        kv: KvType::F32,
        head: HeadKind::Exact,
        i2s_layout: files.i2s_layout,
        kernel_config: files.kernel_config.clone(),
        ..OpenOptions::default()
    };
    let model = Model::open(path, &options)?;
    let vocab = model.config().vocab_size as u32;
    // Tokens from everywhere in the vocabulary.
    let tokens: Vec<u32> = (0..TOKENS as u32).map(|i| (i * 7919 + 1) % vocab).collect();
    let mut rows = Vec::new();
    model.session().logits(&tokens, |_, row| rows.push(row.to_vec()))?;
    let text = model.tokenizer().ok().map(|tokenizer| tokenizer.encode(TEXT, true)).transpose()?;
    Ok(Seen { rows, text })
}
