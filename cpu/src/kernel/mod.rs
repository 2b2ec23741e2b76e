//! The integer kernels: one file per instruction set, one table for all.
//!
//! A kernel multiplies groups of packed rows ([`crate::layout`]) with the int8 rows of several tokens and gives the
//! exact sums over codes, `Σ (w + 1) · q`; [`mod@crate::linear`] subtracts `Σ q` and applies the scales.

mod lut;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod operand;
mod portable;
mod table;
#[cfg(test)]
mod tests;
mod verify;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use verify::Mismatch;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::amx_products;

use crate::Isa;
use crate::layout::{GROUP, Layout};
use table::Entry;

/// Most tokens that a kernel is given at once as rows, and tokens of a panel.
pub(crate) const MAX_TOKENS: usize = 12;

/// Most tokens that a kernel is given at once as panels or squares: beside so many products, it costs little to take the
/// tiles apart once.
pub(crate) const MANY_TOKENS: usize = 192;

/// Kernels may read as many tokens as are a multiple of this.
pub(crate) const ROUND: usize = 4;

/// Columns `4i … 4i + 3` of the tokens of a panel: what one step of a kernel for many tokens reads.
pub(crate) type Quads = [[i8; 4]; MAX_TOKENS];

/// Tokens of a [`Square`].
pub(crate) const SQUARE_TOKENS: usize = 16;

/// Columns of a [`Square`].
pub(crate) const SQUARE_COLS: usize = 64;

/// Some columns of some tokens, what a tile register holds.
pub(crate) type Square = [[i8; SQUARE_COLS]; SQUARE_TOKENS];

/// The activations in the form that a kernel reads.
#[derive(Clone, Copy)]
pub(crate) enum Operand<'a> {
    /// One row per token, `stride` apart, padded with zeros to whole tiles; behind the last, rows of anything up to a
    /// multiple of [`ROUND`].
    Rows { q: &'a [i8], stride: usize },
    /// Panels of [`MAX_TOKENS`] tokens, `stride` apart: four columns of all its tokens after each other, padded with zeros
    /// to whole tiles.
    Panels { quads: &'a [Quads], stride: usize },
    /// Bands of [`SQUARE_TOKENS`] tokens, `stride` apart: their squares along the columns, padded with zeros.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "no kernel of the architecture reads squares"))]
    Squares { squares: &'a [Square], stride: usize },
    /// One table per token, `stride` bytes apart.
    Tables { tables: &'a [u8], stride: usize },
}

/// What a kernel works on: some groups of rows and some tokens.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    /// The tiles of whole groups, one group after the other.
    pub(crate) tiles: &'a [u8],
    /// Bytes of a group.
    pub(crate) group_bytes: usize,
    /// The activations.
    pub(crate) operand: Operand<'a>,
    /// Number of tokens: 1 to [`MAX_TOKENS`]; of panels and squares up to [`MANY_TOKENS`], a multiple of [`ROUND`] or
    /// [`SQUARE_TOKENS`].
    pub(crate) tokens: usize,
    /// How far ahead of the tile in use to prefetch, in bytes.
    pub(crate) prefetch: usize,
    /// Whether no other thread reads from memory meanwhile.
    pub(crate) alone: bool,
}

impl Block<'_> {
    /// Number of groups.
    fn groups(&self) -> usize {
        self.tiles.len() / self.group_bytes
    }

    /// Checks what the kernels rely on: whole groups, activations in bounds and in the right form, room for the sums.
    fn check(&self, entry: &Entry, sums: &[[i32; GROUP]]) {
        let layout = entry.layout;
        assert!(self.tokens > 0 && self.group_bytes > 0, "kernel: tokens or columns");
        assert!(self.group_bytes.is_multiple_of(layout.tile_bytes()), "kernel: whole tiles");
        assert!(self.tiles.len().is_multiple_of(self.group_bytes), "kernel: whole groups");
        assert_eq!(sums.len(), self.groups() * layout.parts() * self.tokens, "kernel: sums");
        let cols = self.group_bytes / layout.tile_bytes() * layout.tile_cols();
        let fits = match (self.operand, entry.form) {
            (Operand::Rows { q, stride }, Form::Rows | Form::Panels | Form::Squares) => {
                self.tokens <= entry.tokens
                    && stride >= cols
                    && q.len() >= (self.tokens.next_multiple_of(ROUND) - 1) * stride + cols
            }
            (Operand::Panels { quads, stride }, Form::Panels) => {
                self.tokens <= MANY_TOKENS
                    && self.tokens.is_multiple_of(ROUND)
                    && stride >= cols / 4
                    && quads.len() >= (self.tokens.div_ceil(MAX_TOKENS) - 1) * stride + cols / 4
            }
            (Operand::Squares { squares, stride }, Form::Squares) => {
                let count = cols.div_ceil(SQUARE_COLS);
                self.tokens <= MANY_TOKENS
                    && self.tokens.is_multiple_of(SQUARE_TOKENS)
                    && stride >= count
                    && squares.len() >= (self.tokens / SQUARE_TOKENS - 1) * stride + count
            }
            (Operand::Tables { tables, stride }, Form::Tables(builder)) => {
                let bytes = (builder.bytes)(cols);
                self.tokens <= entry.tokens && stride >= bytes && tables.len() >= (self.tokens - 1) * stride + bytes
            }
            _ => false,
        };
        assert!(fits, "kernel: activations");
    }
}

/// Sums of 16 rows for each token: `sums[part · tokens + token]`, where the parts of a group follow each other
/// ([`Layout::parts`]).
///
/// Its caller has checked the block, and the machine has what the kernel's entry in the table asks for.
type Kernel = unsafe fn(Block<'_>, &mut [[i32; GROUP]]);

/// In which form a kernel reads activations.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    /// Rows, for any number of tokens.
    Rows,
    /// Rows up to [`MAX_TOKENS`] tokens, panels beyond.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "no kernel of the architecture reads panels"))]
    Panels,
    /// Rows up to [`MAX_TOKENS`] tokens, squares beyond.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "no kernel of the architecture reads squares"))]
    Squares,
    /// Tables, built once per token.
    Tables(TableBuilder),
}

/// How the table of a token is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableBuilder {
    /// Bytes of the table of a token with so many columns, padded to whole tiles; a multiple of 64.
    pub(crate) bytes: fn(usize) -> usize,
    /// Fills in the table from the int8 values, padded with zeros to whole tiles.
    ///
    /// The machine has what the kernel's entry asks for; the table has `bytes(q.len())` bytes.
    pub(crate) build: unsafe fn(&[i8], &mut [u8]),
}

/// What can be set to suit a machine; no value changes a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How far ahead of the tile in use the kernels prefetch into the first-level cache, in bytes; into the second it is
    /// twice as far.
    pub prefetch: usize,
    /// Packed bytes of a task when few tokens are multiplied: enough to hide what claiming it costs, few enough to
    /// share the work evenly.
    pub task_bytes: usize,
    /// Activations, in bytes, that meet all rows of a task before the next do when there are many tokens: about half of
    /// the second-level cache.
    pub block_bytes: usize,
}

impl Default for Tuning {
    /// What was best on machines with a first-level cache of 32 KiB (Zen 4) and of 48 KiB (Zen 5).
    fn default() -> Tuning {
        let is_small = crate::machine::first_level_bytes().is_some_and(|bytes| bytes < 48 << 10);
        let prefetch = if is_small { 4 << 10 } else { 8 << 10 };
        Tuning { prefetch, task_bytes: 128 << 10, block_bytes: 512 << 10 }
    }
}

/// How kernels make sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Multiply-adds.
    Multiply,
    /// Look-ups in tables that are made of the activations.
    LookUp,
}

impl Method {
    /// The layout that suits the kernels of `isa` that work this way best.
    pub fn layout(self, isa: Isa) -> Layout {
        match self {
            Method::Multiply => table::best_layout(isa),
            Method::LookUp => table::best_looked_up(isa),
        }
    }
}

/// The kernels of one instruction set for one layout.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    isa: Isa,
    entry: &'static Entry,
    tuning: Tuning,
}

impl Kernels {
    /// The kernels of `isa` for the layout that suits it best; the portable ones where the machine lacks it.
    pub fn get(isa: Isa) -> Kernels {
        Kernels::with(isa, table::best_layout(isa))
    }

    /// The kernels of `isa` for `layout`: the best that `isa` and what it is built on have; the portable ones where the
    /// machine lacks it.
    pub fn with(isa: Isa, layout: Layout) -> Kernels {
        let isa = if isa.is_available() { isa } else { Isa::Scalar };
        Kernels { isa, entry: table::find(isa, layout), tuning: Tuning::default() }
    }

    /// All kernels that this machine can run, each once.
    pub fn all() -> impl Iterator<Item = Kernels> {
        let usable = table::TABLE.iter().filter(|entry| entry.isa.is_available() && (entry.extra)());
        usable.map(|entry| Kernels { isa: entry.isa, entry, tuning: Tuning::default() })
    }

    /// The same kernels, tuned otherwise.
    pub fn tuned(self, tuning: Tuning) -> Kernels {
        Kernels { tuning, ..self }
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The layout that matrices must have.
    pub fn layout(&self) -> Layout {
        self.entry.layout
    }

    /// What the kernels are, for reports.
    pub fn name(&self) -> &'static str {
        self.entry.name
    }

    /// Whether they are the portable ones, for want of others for their layout.
    pub fn is_portable(&self) -> bool {
        self.entry.isa == Isa::Scalar
    }

    /// What is set to suit the machine.
    pub fn tuning(&self) -> Tuning {
        self.tuning
    }

    /// In which form activations are read.
    pub(crate) fn form(&self) -> Form {
        self.entry.form
    }

    /// Most tokens of a small batch, whose products wait for the weights.
    pub(crate) fn few_tokens(&self) -> usize {
        self.entry.tokens
    }

    /// How many of `tokens` are multiplied at once; in a large batch all parts but the last have so many.
    pub(crate) fn at_once(&self, tokens: usize) -> usize {
        match self.entry.form {
            Form::Panels | Form::Squares if tokens > self.entry.tokens => MANY_TOKENS,
            _ => self.entry.tokens,
        }
    }

    /// Tokens at whose multiples a large batch can be cut without loss.
    pub(crate) fn step(&self) -> usize {
        match self.entry.form {
            Form::Squares => 2 * SQUARE_TOKENS,
            _ => MAX_TOKENS,
        }
    }

    /// The sums of all rows and tokens of `block`: `sums[part · tokens + token]`, see [`Kernel`].
    pub(crate) fn multiply(&self, block: Block<'_>, sums: &mut [[i32; GROUP]]) {
        block.check(self.entry, sums);
        // SAFETY: `find` gives kernels that this machine can run, and `check` has found the block in bounds.
        unsafe { (self.entry.multiply)(block, sums) }
    }

    /// Fills in the table of a token, if the kernels read tables; `q` is padded with zeros to whole tiles.
    pub(crate) fn build_table(&self, q: &[i8], table: &mut [u8]) {
        if let Form::Tables(builder) = self.entry.form {
            assert_eq!(table.len(), (builder.bytes)(q.len()), "build_table: length");
            // SAFETY: `find` gives kernels that this machine can run; the length is right.
            unsafe { (builder.build)(q, table) }
        }
    }
}
