//! Activations as int8 with one scale per token.

mod row;

pub use row::quantize_row;

use crate::activation::Gate;
use crate::buffer::AlignedBuf;
use crate::kernel::{Form, Kernels, MAX_TOKENS, Operand, Quads, ROUND, SQUARE_COLS, SQUARE_TOKENS, Square};
use crate::layout::MAX_TILE_COLS;
use crate::pool::{Pool, SharedSlice};

/// Rows of int8 start at multiples of this.
const ALIGN: usize = 64;

/// Zeros behind each row, at least: a tile may reach beyond the last column.
const PADDING: usize = MAX_TILE_COLS - 1;

/// Quantized activations, `[tokens, cols]`: `x ≈ q / scale`, in the form that some kernels read.
///
/// Per token, as the models were trained: `scale = 127 / max(|x|max, 1e-5)`, `q = clamp(round(x · scale), -128, 127)`,
/// halves to even. Source: <https://arxiv.org/abs/2402.17764>.
#[derive(Clone, Debug, Default)]
pub struct Activations {
    tokens: usize,
    cols: usize,
    q: AlignedBuf<i8>,
    scale: Vec<f32>,
    sum: Vec<i32>,
    prepared: Prepared,
    /// Panels, squares or tables.
    memory: AlignedBuf<u8>,
}

/// What was made of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Prepared {
    #[default]
    Nothing,
    /// One panel for every [`MAX_TOKENS`] tokens.
    Panels,
    /// One band of squares for every [`SQUARE_TOKENS`] tokens.
    Squares,
    /// One table of so many bytes per token, for the kernels of this name.
    Tables(&'static str, usize),
}

/// Fills in the int8 values of a token; returns their scale and their sum.
pub type FillRow<'a> = dyn Fn(usize, &mut [i8]) -> (f32, i32) + Sync + 'a;

/// Fills in the int8 values, the scales and the sums of rows that are made at once, from the one numbered.
pub(crate) type FillRows<'a> = dyn Fn(usize, &mut [i8], &mut [f32], &mut [i32]) + Sync + 'a;

impl Activations {
    /// Makes room for `tokens` rows of `cols`; what they hold is undefined until they are quantized.
    fn resize(&mut self, kernels: &Kernels, tokens: usize, cols: usize) {
        (self.tokens, self.cols) = (tokens, cols);
        self.q.resize(tokens.next_multiple_of(ROUND) * self.stride());
        self.scale.resize(tokens, 0.0);
        self.sum.resize(tokens, 0);
        self.prepared = match kernels.form() {
            Form::Panels if tokens > MAX_TOKENS => Prepared::Panels,
            Form::Squares if tokens > MAX_TOKENS => Prepared::Squares,
            Form::Rows | Form::Panels | Form::Squares => Prepared::Nothing,
            Form::Tables(builder) => Prepared::Tables(kernels.name(), (builder.bytes)(kernels.layout().pad(cols))),
        };
        self.memory.resize(match self.prepared {
            Prepared::Nothing => 0,
            Prepared::Panels => tokens.next_multiple_of(MAX_TOKENS) * self.stride(),
            Prepared::Squares => tokens.next_multiple_of(SQUARE_TOKENS) * self.stride(),
            Prepared::Tables(_, bytes) => tokens * bytes,
        });
    }

    /// Quantizes the rows of `x`, `[tokens, cols]`, after an RMSNorm with the given weight and epsilon if there is one,
    /// for products by `kernels`.
    ///
    /// # Panics
    /// If `x` does not consist of whole rows, or the weight has another length.
    pub fn quantize(&mut self, pool: &Pool, kernels: &Kernels, x: &[f32], cols: usize, norm: Option<(&[f32], f32)>) {
        assert!(x.len().is_multiple_of(cols), "quantize: whole rows");
        let isa = kernels.isa();
        self.fill(pool, kernels, x.len() / cols, cols, &|token, q| {
            let x = &x[token * cols..(token + 1) * cols];
            match norm {
                None => quantize_row(isa, x, q),
                Some((weight, eps)) => with_memory(cols, |normed| row::norm_quantize(isa, x, weight, eps, normed, q)),
            }
        });
    }

    /// Quantizes `function(gate) · up`, `[tokens, cols]` each, after an RMSNorm with the given weight and epsilon if there
    /// is one, for products by `kernels`. `gate` is overwritten.
    ///
    /// # Panics
    /// If `gate` does not consist of whole rows, or another length differs.
    #[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
    pub fn quantize_gated(
        &mut self,
        pool: &Pool,
        kernels: &Kernels,
        function: Gate,
        gate: &mut [f32],
        up: &[f32],
        cols: usize,
        norm: Option<(&[f32], f32)>,
    ) {
        assert!(gate.len().is_multiple_of(cols) && gate.len() == up.len(), "quantize_gated: whole rows");
        let tokens = gate.len() / cols;
        let gate = SharedSlice::new(gate);
        self.fill(pool, kernels, tokens, cols, &|token, q| {
            // SAFETY: each token belongs to one task.
            let gate = unsafe { gate.range(token * cols, cols) };
            row::gate_quantize(kernels.isa(), function, gate, &up[token * cols..][..cols], norm, q)
        });
    }

    /// Makes `tokens` rows of `cols`, in one parallel region, for products by `kernels`. `row` is given the number of a
    /// token and its int8 values to fill in; it returns their scale and their sum, as [`quantize_row`] does.
    pub fn fill(&mut self, pool: &Pool, kernels: &Kernels, tokens: usize, cols: usize, row: &FillRow<'_>) {
        self.fill_together(pool, kernels, tokens, cols, 1, &|token, q, scale, sum| {
            (scale[0], sum[0]) = row(token, &mut q[..cols]);
        });
    }

    /// As [`Activations::fill`], for rows of which `together` are made at once. `rows` is given the number of the first one,
    /// their int8 values, [`Activations::stride`] apart and zero behind the columns, their scales and their sums.
    pub(crate) fn fill_together(
        &mut self,
        pool: &Pool,
        kernels: &Kernels,
        tokens: usize,
        cols: usize,
        together: usize,
        rows: &FillRows<'_>,
    ) {
        self.resize(kernels, tokens, cols);
        let (stride, prepared) = (self.stride(), self.prepared);
        let (q, scale, sum, memory) = (
            SharedSlice::new(&mut self.q),
            SharedSlice::new(&mut self.scale),
            SharedSlice::new(&mut self.sum),
            SharedSlice::new(&mut self.memory),
        );
        // The tokens of a panel, or of a band of squares, are one task, and so are rows that belong together.
        let unit = match prepared {
            Prepared::Panels => MAX_TOKENS,
            Prepared::Squares => SQUARE_TOKENS,
            Prepared::Nothing | Prepared::Tables(..) => 1,
        };
        let of_task = if unit.is_multiple_of(together) { unit } else { unit * together };
        pool.run(tokens.div_ceil(of_task), &|task| {
            let first = task * of_task;
            let count = of_task.min(tokens - first);
            // SAFETY: each token belongs to one task.
            let (q, scale, sum) = unsafe {
                (q.range(first * stride, count * stride), scale.range(first, count), sum.range(first, count))
            };
            q.chunks_exact_mut(stride).for_each(|row| row[cols..].fill(0));
            let at_once = q.chunks_mut(together * stride).zip(scale.chunks_mut(together)).zip(sum.chunks_mut(together));
            for (((q, scale), sum), row) in at_once.zip((first..).step_by(together)) {
                rows(row, q, scale, sum);
            }
            match prepared {
                Prepared::Nothing => {}
                Prepared::Panels | Prepared::Squares => {
                    for (q, first) in q.chunks(unit * stride).zip((first..).step_by(unit)) {
                        // SAFETY: each panel and each band belongs to one task.
                        let memory = unsafe { memory.range(first * stride, unit * stride) };
                        match prepared {
                            Prepared::Panels => interleave(q, stride, bytemuck::cast_slice_mut(memory)),
                            _ => cut(q, stride, bytemuck::cast_slice_mut(memory)),
                        }
                    }
                }
                Prepared::Tables(_, bytes) => {
                    for (q, token) in q.chunks_exact(stride).zip(first..) {
                        // SAFETY: each token belongs to one task.
                        let table = unsafe { memory.range(token * bytes, bytes) };
                        kernels.build_table(&q[..kernels.layout().pad(cols)], table);
                    }
                }
            }
        });
    }

    /// The activations of `tokens` tokens from `token` on, the first of a panel or band, as `kernels` read them, and how
    /// many tokens these are with what may be behind the last.
    ///
    /// # Panics
    /// If they were quantized for kernels that read another form.
    pub(crate) fn operand(&self, kernels: &Kernels, token: usize, tokens: usize) -> (Operand<'_>, usize) {
        self.operand_from(kernels, token, tokens, 0)
    }

    /// The same without the columns before `col`, a multiple of [`SQUARE_COLS`]; of a table there are only all.
    pub(crate) fn operand_from(
        &self,
        kernels: &Kernels,
        token: usize,
        tokens: usize,
        col: usize,
    ) -> (Operand<'_>, usize) {
        let rows = Operand::Rows { q: &self.q[token * self.stride() + col..], stride: self.stride() };
        match (kernels.form(), self.prepared) {
            (Form::Panels, Prepared::Panels) => {
                let quads: &[Quads] = bytemuck::cast_slice(&self.memory[token * self.stride()..]);
                let operand = Operand::Panels { quads: &quads[col / 4..], stride: self.stride() / 4 };
                (operand, tokens.next_multiple_of(ROUND))
            }
            (Form::Squares, Prepared::Squares) => {
                let squares: &[Square] = bytemuck::cast_slice(&self.memory[token * self.stride()..]);
                let stride = self.stride() / SQUARE_COLS;
                let operand = Operand::Squares { squares: &squares[col / SQUARE_COLS..], stride };
                (operand, tokens.next_multiple_of(SQUARE_TOKENS))
            }
            (Form::Rows, _) | (Form::Panels | Form::Squares, Prepared::Nothing) => (rows, tokens),
            (Form::Tables(_), Prepared::Tables(name, stride)) if name == kernels.name() && col == 0 => {
                (Operand::Tables { tables: &self.memory[token * stride..], stride }, tokens)
            }
            _ => panic!("the activations were quantized for other kernels than {}", kernels.name()),
        }
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Numbers in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Distance between rows.
    pub(crate) fn stride(&self) -> usize {
        (self.cols + PADDING).next_multiple_of(ALIGN)
    }

    /// The int8 values of a token.
    pub fn row(&self, token: usize) -> &[i8] {
        &self.q[token * self.stride()..][..self.cols]
    }

    /// 127 / absmax of a token.
    pub fn scale(&self, token: usize) -> f32 {
        self.scale[token]
    }

    /// Sum of the int8 values of a token.
    pub fn sum(&self, token: usize) -> i32 {
        self.sum[token]
    }
}

/// Puts rows of int8, `stride` apart, into a panel: four columns of all tokens, then the next four.
fn interleave(q: &[i8], stride: usize, panel: &mut [Quads]) {
    for (token, q) in q.chunks_exact(stride).enumerate() {
        for (quads, four) in panel.iter_mut().zip(q.as_chunks().0) {
            quads[token] = *four;
        }
    }
}

/// Cuts rows of int8, `stride` apart, into squares.
fn cut(q: &[i8], stride: usize, squares: &mut [Square]) {
    for (token, q) in q.chunks_exact(stride).enumerate() {
        for (square, row) in squares.iter_mut().zip(q.as_chunks().0) {
            square[token] = *row;
        }
    }
}

/// Gives `f` a row of memory that the thread keeps.
fn with_memory<T>(len: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    thread_local! {
        static MEMORY: std::cell::RefCell<Vec<f32>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    MEMORY.with_borrow_mut(|memory| {
        memory.resize(len, 0.0);
        f(memory)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, Layout};

    #[test]
    fn halves_round_to_even_and_the_scale_is_exact() {
        for isa in Isa::available() {
            // Whole vectors and a rest.
            let x = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -127.0, 126.5].repeat(5);
            let mut q = [0; 40];
            assert_eq!(quantize_row(isa, &x, &mut q), (1.0, 5 * 128));
            assert_eq!(q, *[127, 0, 2, 2, 0, -2, -127, 126].repeat(5), "{isa}");
        }
    }

    #[test]
    fn zeros_and_nonsense_are_defined() {
        for isa in Isa::available() {
            let mut q = [1; 18];
            assert_eq!(quantize_row(isa, &[0.0; 18], &mut q), (127.0 / 1e-5, 0));
            assert_eq!(q, [0; 18]);
            quantize_row(isa, &[f32::NAN, 1.0, -1.0].repeat(6), &mut q);
            assert_eq!(q, *[0, 127, -127].repeat(6), "{isa}");
            // What is beyond every scale leaves nothing.
            quantize_row(isa, &[f32::INFINITY, 1.0, f32::NEG_INFINITY].repeat(6), &mut q);
            assert_eq!(q, [0; 18], "{isa}");
        }
    }

    #[test]
    fn padding_stays_zero_when_the_width_changes() {
        let (pool, kernels) = (Pool::new(1), Kernels::with(Isa::Scalar, Layout::T16));
        let mut acts = Activations::default();
        for cols in [100, 70, 130, 10, 100] {
            acts.quantize(&pool, &kernels, &vec![1.0; 3 * cols], cols, None);
            let (Operand::Rows { q, stride }, 3) = acts.operand(&kernels, 0, 3) else {
                panic!("the portable kernels for T16 read rows")
            };
            for row in q.chunks_exact(stride).take(3) {
                assert!(row[..cols].iter().all(|&q| q == 127) && row[cols..].iter().all(|&q| q == 0), "{cols}");
                assert!(row.len() >= cols.next_multiple_of(MAX_TILE_COLS));
            }
        }
    }
}
