//! The integer kernels: one file per instruction set, one table for all.
//!
//! A kernel multiplies groups of 16 packed rows ([`crate::layout`]) with the int8 rows of several tokens and gives the
//! exact sums over codes, `Σ (w + 1) · q`; [`mod@crate::linear`] subtracts `Σ q` and applies the scales.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
mod scalar;

use crate::Isa;
use crate::layout::{TILE, TILE_BYTES};

/// Most tokens that a kernel takes at once.
pub(crate) const MAX_TOKENS: usize = 12;

/// What a kernel works on: some groups of rows and some tokens.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    /// The tiles of whole groups, one group after the other.
    pub(crate) tiles: &'a [u8],
    /// Tiles along the columns.
    pub(crate) col_tiles: usize,
    /// The tokens' int8 values, `stride` apart, padded with zeros to whole tiles.
    pub(crate) q: &'a [i8],
    /// Distance between tokens.
    pub(crate) stride: usize,
    /// Number of tokens, 1 to [`MAX_TOKENS`].
    pub(crate) tokens: usize,
}

impl Block<'_> {
    /// Number of groups.
    pub(crate) fn groups(&self) -> usize {
        self.tiles.len() / (self.col_tiles * TILE_BYTES)
    }

    /// Checks what the kernels rely on: whole groups, rows of activations in bounds, room for the sums.
    fn check(&self, sums: &[[i32; TILE]]) {
        assert!((1..=MAX_TOKENS).contains(&self.tokens) && self.col_tiles > 0, "kernel: tokens or columns");
        assert!(self.tiles.len().is_multiple_of(self.col_tiles * TILE_BYTES), "kernel: whole groups");
        assert!(self.stride >= self.col_tiles * TILE, "kernel: rows overlap");
        assert!(self.q.len() >= (self.tokens - 1) * self.stride + self.col_tiles * TILE, "kernel: activations");
        assert_eq!(sums.len(), self.groups() * self.tokens, "kernel: sums");
    }
}

/// Sums of 16 rows for each group and token: `sums[group · tokens + token]`.
type Kernel = unsafe fn(Block<'_>, &mut [[i32; TILE]]);

/// The kernels of one instruction set.
#[derive(Debug)]
pub struct Kernels {
    isa: Isa,
    name: &'static str,
    multiply: Kernel,
}

impl Kernels {
    /// The kernels of `isa`; the portable ones where the machine lacks it.
    pub fn get(isa: Isa) -> &'static Kernels {
        #[cfg(target_arch = "x86_64")]
        {
            const AVX2: Kernels = Kernels { isa: Isa::Avx2, name: "T16 maddubs 256", multiply: avx2::multiply };
            const AVXVNNI: Kernels = Kernels { isa: Isa::AvxVnni, name: "T16 VNNI 256", multiply: avxvnni::multiply };
            const AVX512: Kernels = Kernels { isa: Isa::Avx512, name: "T16 VNNI 512", multiply: avx512::multiply };
            match isa {
                _ if !isa.is_available() => {}
                Isa::Avx2 => return &AVX2,
                Isa::AvxVnni => return &AVXVNNI,
                Isa::Avx512 => return &AVX512,
                Isa::Scalar => {}
            }
        }
        const SCALAR: Kernels = Kernels { isa: Isa::Scalar, name: "T16 portable", multiply: scalar::multiply };
        let _ = isa;
        &SCALAR
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// What the kernels are, for reports.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The sums of all groups and tokens of `block`: `sums[group · tokens + token]`.
    pub(crate) fn multiply(&self, block: Block<'_>, sums: &mut [[i32; TILE]]) {
        block.check(sums);
        // SAFETY: the table holds kernels that this machine can run (`get`), and `check` has found the block in bounds.
        unsafe { (self.multiply)(block, sums) }
    }
}

/// Calls `$kernel::<T>` with the number of tokens as a constant.
#[cfg(target_arch = "x86_64")]
macro_rules! for_tokens {
    ($tokens:expr, [$($t:literal),*], $kernel:ident $args:tt) => {
        match $tokens {
            $($t => $kernel::<$t> $args,)*
            _ => unreachable!("the block was checked"),
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use for_tokens;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every kernel that this machine can run, the twins of absent instruction sets included.
    fn kernels() -> Vec<(&'static str, Kernel)> {
        let mut all: Vec<(&'static str, Kernel)> = vec![("scalar", scalar::multiply)];
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            all.push((isa.name(), Kernels::get(isa).multiply));
        }
        #[cfg(target_arch = "x86_64")]
        if Isa::Avx512.is_available() {
            all.push(("avxvnni, in its EVEX form", avxvnni::multiply_evex));
        }
        all
    }

    /// Runs every kernel over random codes and `q`, and compares with the definition.
    fn compare(groups: usize, cols: usize, tokens: usize, code: impl Fn(usize) -> u8, q: impl Fn(usize) -> i8) {
        let col_tiles = cols.div_ceil(TILE);
        let tiles: Vec<u8> =
            (0..groups * col_tiles * TILE_BYTES).map(|i| (0..4).map(|f| code(4 * i + f) << (2 * f)).sum()).collect();
        let stride = (col_tiles * TILE).next_multiple_of(64);
        let q: Vec<i8> = (0..tokens * stride).map(|i| if i % stride < cols { q(i) } else { 0 }).collect();
        let block = Block { tiles: &tiles, col_tiles, q: &q, stride, tokens };
        let mut want = vec![[0i32; TILE]; groups * tokens];
        for group in 0..groups {
            for token in 0..tokens {
                for (row, want) in want[group * tokens + token].iter_mut().enumerate() {
                    for col in 0..col_tiles * TILE {
                        let byte = tiles[(group * col_tiles + col / TILE) * TILE_BYTES + 4 * row + col % 4];
                        let code = i32::from(byte >> (2 * (col % TILE / 4)) & 3);
                        *want += code * i32::from(q[token * stride + col]);
                    }
                }
            }
        }
        for (name, kernel) in kernels() {
            let mut sums = vec![[i32::MIN; TILE]; groups * tokens];
            block.check(&sums);
            // SAFETY: the machine has the instruction set, and the block was checked.
            unsafe { kernel(block, &mut sums) };
            assert!(sums == want, "{name}: {groups} groups, {cols} columns, {tokens} tokens");
        }
    }

    proptest! {
        #[test]
        fn random_blocks_agree(groups in 1usize..6, cols in 1usize..300, tokens in 1usize..=MAX_TOKENS, seed: u64) {
            let random = |i: usize| (i as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
            compare(groups, cols, tokens, |i| (random(i) % 3) as u8, |i| random(i + 7) as i8);
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        for cols in [16, 240, 256, 8640, 28672] {
            for tokens in [1, 2, 4, 5, 8, 12] {
                for q in [127i8, -128] {
                    for code in [0u8, 1, 2] {
                        compare(2, cols, tokens, |_| code, |_| q);
                    }
                }
                compare(1, cols, tokens, |i| (i % 3) as u8, |i| if i % 2 == 0 { 127 } else { -128 });
                // Codes and signs that go together: the largest partial sums.
                compare(
                    1,
                    cols,
                    tokens,
                    |i| if i / 4 % 4 % 2 == 0 { 2 } else { 0 },
                    |i| if i % 2 == 0 { 127 } else { -128 },
                );
            }
        }
    }
}
