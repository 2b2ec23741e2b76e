//! Two reports compared row by row.

use serde::{Deserialize, Serialize};

use super::stats::mann_whitney;
use super::{Report, Row};

/// What became of the rows of a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diff {
    /// Rows that both have, in the order of the second.
    pub rows: Vec<Change>,
    /// What only the first has.
    pub only_a: Vec<Key>,
    /// What only the second has.
    pub only_b: Vec<Key>,
}

/// What tells rows apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The program.
    pub engine: String,
    /// The model.
    pub model: String,
    /// `pp` (prompt) or `tg` (generation).
    pub test: String,
    /// Tokens of the timed prompt.
    pub n_prompt: usize,
    /// Generated tokens.
    pub n_gen: usize,
    /// Tokens in the cache before.
    pub depth: usize,
    /// Sequences at the same time.
    pub parallel: usize,
    /// Threads.
    pub threads: usize,
    /// The device.
    pub device: String,
    /// Which backend served which layer.
    pub placement: String,
    /// Instruction set.
    pub isa: Option<String>,
    /// Layout of the ternary weights.
    pub layout: String,
    /// Number type of the cache.
    pub kv: String,
}

/// A row of both reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// What the row is.
    #[serde(flatten)]
    pub key: Key,
    /// Median tokens per second of the first report.
    pub a: f64,
    /// That of the second.
    pub b: f64,
    /// The second divided by the first: above 1 is faster.
    pub ratio: f64,
    /// How probable ranks as uneven as those of the samples are if nothing changed (Mann and Whitney, two-sided).
    pub p: f64,
    /// Whether that is below the level that was asked for.
    pub is_significant: bool,
    /// The share of the machine's limit in the second divided by that in the first: what is left of the change once the state
    /// of the machine is taken out of it.
    pub share_ratio: Option<f64>,
}

impl Key {
    fn of(row: &Row) -> Key {
        Key {
            engine: row.engine.clone(),
            model: row.model.clone(),
            test: row.test.clone(),
            n_prompt: row.n_prompt,
            n_gen: row.n_gen,
            depth: row.depth,
            parallel: row.parallel,
            threads: row.threads,
            device: row.device.clone(),
            placement: row.placement.clone(),
            isa: row.isa.clone(),
            layout: row.layout.clone(),
            kv: row.kv.clone(),
        }
    }
}

/// Compares two reports; changes with a p-value below `level` are significant. A combination that was measured in two states of
/// the machine has two rows: those whose limits are nearest are compared.
pub fn diff(a: &Report, b: &Report, level: f64) -> Diff {
    let mut left: Vec<&Row> = a.rows.iter().collect();
    let (mut rows, mut only_b) = (Vec::new(), Vec::new());
    for row in &b.rows {
        let key = Key::of(row);
        let distance = |other: &Row| match (row.limit_rate, other.limit_rate) {
            (Some(x), Some(y)) => (x / y).ln().abs(),
            _ => 0.0,
        };
        let alike = left.iter().enumerate().filter(|(_, other)| Key::of(other) == key);
        match alike.min_by(|(_, x), (_, y)| distance(x).total_cmp(&distance(y))).map(|(index, _)| index) {
            Some(index) => rows.push(change(key, left.remove(index), row, level)),
            None => only_b.push(key),
        }
    }
    Diff { rows, only_a: left.into_iter().map(Key::of).collect(), only_b }
}

fn change(key: Key, a: &Row, b: &Row, level: f64) -> Change {
    let p = mann_whitney(&a.tokens_per_second.samples, &b.tokens_per_second.samples);
    let (before, after) = (a.tokens_per_second.median, b.tokens_per_second.median);
    Change {
        key,
        a: before,
        b: after,
        ratio: after / before,
        p,
        is_significant: p < level,
        share_ratio: a.limit_share.zip(b.limit_share).map(|(before, after)| after / before),
    }
}

impl Diff {
    /// The significant changes to less than `least` of what it was.
    pub fn drops(&self, least: f64) -> impl Iterator<Item = &Change> {
        self.rows.iter().filter(move |change| change.is_significant && change.ratio < least)
    }
}
