//! The check at start-up: a kernel against the definition.

use super::{Block, Form, Kernels, MAX_TOKENS, Operand, Quads, ROUND, SQUARE_COLS, SQUARE_TOKENS, Square};
use crate::layout::{GROUP, Layout};

/// A kernel gives other sums than the definition: a fault of the machine, or of the build.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel {kernel:?} gives wrong sums with {tokens} tokens")]
pub struct Mismatch {
    kernel: &'static str,
    tokens: usize,
}

impl Kernels {
    /// Compares the kernels with the definition, on two groups of rows with every number of tokens, extremes included.
    /// Takes well below a millisecond.
    ///
    /// # Errors
    /// The first [`Mismatch`].
    pub fn verify(&self) -> Result<(), Mismatch> {
        let cols = 17 * self.layout().tile_cols();
        // Any mixture will do, as long as it is the same everywhere.
        let random = |i: usize| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let weights: Vec<i8> = (0..2 * self.layout().group_rows() * cols).map(|i| (random(i) % 3) as i8 - 1).collect();
        let many = match self.form() {
            Form::Panels | Form::Squares => Some(MAX_TOKENS + SQUARE_TOKENS + 1),
            Form::Rows | Form::Tables(_) => None,
        };
        for tokens in (1..=self.few_tokens()).chain(many) {
            let q: Vec<i8> = (0..tokens * cols)
                .map(|i| match random(i + tokens) % 8 {
                    0 => -128,
                    1 => 127,
                    _ => (random(i) >> 8) as i8,
                })
                .collect();
            let case = Case::new(self.layout(), cols, &weights, &q);
            if case.operands(self).iter().any(|operand| case.sums(self, operand.get(&case)) != case.want) {
                return Err(Mismatch { kernel: self.name(), tokens });
            }
        }
        Ok(())
    }
}

/// A product and what must come of it.
pub(super) struct Case {
    group_bytes: usize,
    tiles: Vec<u8>,
    tokens: usize,
    stride: usize,
    /// The activations' rows, padded.
    q: Vec<i8>,
    /// The sums by the definition.
    pub(super) want: Vec<[i32; GROUP]>,
}

/// The activations in a form other than rows.
pub(super) enum Prepared {
    Rows,
    Panels(Vec<Quads>),
    Squares(Vec<Square>),
    Tables { tables: Vec<u8>, stride: usize },
}

impl Case {
    /// `weights` are some rows, padded to whole groups, and `q` some tokens, `cols` columns each.
    pub(super) fn new(layout: Layout, cols: usize, weights: &[i8], q: &[i8]) -> Case {
        let stride = cols.next_multiple_of(layout.tile_cols());
        let padded = |rows: &[i8]| -> Vec<i8> {
            let mut out = vec![0; rows.len() / cols * stride];
            out.chunks_exact_mut(stride).zip(rows.chunks_exact(cols)).for_each(|(o, r)| o[..cols].copy_from_slice(r));
            out
        };
        let (mut weights, mut q) = (padded(weights), padded(q));
        let (rows, tokens) = (layout.group_rows(), q.len() / stride);
        weights.resize(weights.len().next_multiple_of(rows * stride), 0);
        let groups = weights.len() / stride / rows;
        let group_bytes = layout.bytes(rows, cols);
        let mut tiles = vec![0; groups * group_bytes];
        let mut want = vec![[0; GROUP]; groups * layout.parts() * tokens];
        for (row, values) in weights.chunks_exact(stride).enumerate() {
            layout.pack_row(values, row % rows, &mut tiles[row / rows * group_bytes..][..group_bytes]);
            for (token, q) in q.chunks_exact(stride).enumerate() {
                want[row / GROUP * tokens + token][row % GROUP] =
                    values.iter().zip(q).map(|(&w, &q)| (i32::from(w) + 1) * i32::from(q)).sum();
            }
        }
        // Rows of anything.
        q.resize(tokens.next_multiple_of(ROUND) * stride, 77);
        Case { group_bytes, tiles, tokens, stride, q, want }
    }

    /// The activations in every form that `kernels` read.
    pub(super) fn operands(&self, kernels: &Kernels) -> Vec<Prepared> {
        match kernels.form() {
            Form::Rows => vec![Prepared::Rows],
            Form::Panels => {
                let quad = |k: usize, token: usize| std::array::from_fn(|b| self.value(token, 4 * k + b));
                let panel = |first: usize| {
                    (0..self.stride / 4).map(move |k| std::array::from_fn(|token| quad(k, first + token)))
                };
                self.and_rows(Prepared::Panels((0..self.tokens).step_by(MAX_TOKENS).flat_map(panel).collect()))
            }
            Form::Squares => {
                let count = self.stride.div_ceil(SQUARE_COLS);
                let row = |token: usize, col: usize| std::array::from_fn(|b| self.value(token, col * SQUARE_COLS + b));
                let band =
                    |first: usize| (0..count).map(move |col| std::array::from_fn(|token| row(first + token, col)));
                self.and_rows(Prepared::Squares((0..self.tokens).step_by(SQUARE_TOKENS).flat_map(band).collect()))
            }
            Form::Tables(builder) => {
                let stride = (builder.bytes)(self.stride);
                let mut tables = vec![0; self.tokens * stride];
                for (q, table) in self.q.chunks_exact(self.stride).zip(tables.chunks_exact_mut(stride)) {
                    kernels.build_table(q, table);
                }
                vec![Prepared::Tables { tables, stride }]
            }
        }
    }

    /// An operand, and the rows where there are few enough for them.
    fn and_rows(&self, many: Prepared) -> Vec<Prepared> {
        if self.tokens <= MAX_TOKENS { vec![Prepared::Rows, many] } else { vec![many] }
    }

    /// Column `col` of a token, zero in the padding. What is behind the tokens must not matter.
    fn value(&self, token: usize, col: usize) -> i8 {
        match (token < self.tokens, col < self.stride) {
            (false, _) => 77,
            (true, false) => 0,
            (true, true) => self.q[token * self.stride + col],
        }
    }

    /// What `kernels` make of it.
    pub(super) fn sums(&self, kernels: &Kernels, operand: Operand<'_>) -> Vec<[i32; GROUP]> {
        let Case { group_bytes, ref tiles, .. } = *self;
        let tokens = match operand {
            Operand::Rows { .. } | Operand::Tables { .. } => self.tokens,
            Operand::Panels { .. } => self.tokens.next_multiple_of(ROUND),
            Operand::Squares { .. } => self.tokens.next_multiple_of(SQUARE_TOKENS),
        };
        let mut sums = vec![[i32::MIN; GROUP]; self.want.len() / self.tokens * tokens];
        let prefetch = kernels.tuning().prefetch;
        kernels.multiply(Block { tiles, group_bytes, operand, tokens, prefetch, alone: true }, &mut sums);
        sums.chunks_exact(tokens).flat_map(|sums| &sums[..self.tokens]).copied().collect()
    }
}

impl Prepared {
    pub(super) fn get<'a>(&'a self, case: &'a Case) -> Operand<'a> {
        match self {
            Prepared::Rows => Operand::Rows { q: &case.q, stride: case.stride },
            Prepared::Panels(quads) => Operand::Panels { quads, stride: case.stride / 4 },
            Prepared::Squares(squares) => Operand::Squares { squares, stride: case.stride.div_ceil(SQUARE_COLS) },
            Prepared::Tables { tables, stride } => Operand::Tables { tables, stride: *stride },
        }
    }
}
