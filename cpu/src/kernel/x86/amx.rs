//! Products with many tokens in tile registers: `tdpbsud` multiplies 16 tokens by 64 columns with 64 columns by 16 rows.
//!
//! Sixteen quads of codes ([`Codes`]) are the second operand as it must lie. Two bands of tokens and two groups of rows
//! share their operands, so that a product loads one register. Source: Intel 64 and IA-32 Architectures Optimization
//! Reference Manual, chapter on AMX.

use std::arch::asm;

use super::codes::Codes;
use super::simd::Avx512;
use super::unpack::Unpack;
use super::{Sums, TILE, Tiles, vnni};
use crate::kernel::{Block, Operand, SQUARE_COLS, SQUARE_TOKENS, Square};
use crate::layout::GROUP;

/// Quads of columns of a square.
const SQUARE_QUADS: usize = SQUARE_COLS / 4;

/// What the tile registers hold: the operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight registers: 16 rows of 64 bytes.
static CONFIGURATION: Configuration = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut register = 0;
    while register < 8 {
        (row_bytes[register], rows[register]) = (SQUARE_COLS as u16, SQUARE_TOKENS as u8);
        register += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// [`crate::kernel::Kernel`] for rows and squares.
///
/// # Safety
/// The machine has AMX and what `L` needs, and the block was checked.
#[inline(always)]
pub(super) unsafe fn multiply<L: Unpack<Avx512>>(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    // SAFETY: the caller's promise: the groups are in `tiles`, their sums in `sums`, the tokens in `squares`.
    unsafe {
        let Operand::Squares { squares, stride } = block.operand else {
            return vnni::multiply::<Avx512, L>(block, sums);
        };
        // The compiler uses no tile registers, so that they keep what they hold from one block of assembly to the next.
        asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(readonly, nostack, preserves_flags));
        for group in (0..block.groups()).step_by(2) {
            let together = 2.min(block.groups() - group);
            let tiles = Tiles::new(&block, group, together, block.group_bytes);
            let out = Sums::new(&block, group, GROUP * block.tokens, sums);
            match together {
                2 => groups::<L, 2>(tiles, squares, stride, out),
                _ => groups::<L, 1>(tiles, squares, stride, out),
            }
        }
        // What is not in use needs not be saved when the system changes between processes.
        asm!("tilerelease", options(nomem, nostack, preserves_flags));
    }
}

/// `N` groups of rows with all tokens.
///
/// # Safety
/// As [`multiply`]; `tiles`, `squares` and `out` hold what they are asked for.
#[inline(always)]
unsafe fn groups<L: Unpack<Avx512>, const N: usize>(tiles: Tiles, squares: &[Square], stride: usize, out: Sums) {
    let mut codes = Codes::new();
    for first in (0..tiles.count).step_by(Codes::tiles(L::FIELDS)) {
        let end = tiles.count.min(first + Codes::tiles(L::FIELDS));
        // SAFETY: the caller's promise; there are such tiles, and a square for each step of tokens and columns.
        unsafe {
            codes.fill::<Avx512, L, N>(tiles, first, end, SQUARE_QUADS);
            let count = ((end - first) * L::FIELDS).div_ceil(SQUARE_QUADS);
            for token in (0..out.tokens).step_by(2 * SQUARE_TOKENS) {
                let q = squares.as_ptr().add(token / SQUARE_TOKENS * stride + first * L::FIELDS / SQUARE_QUADS);
                let out = out.skip(token, 2 * SQUARE_TOKENS);
                if out.tokens == SQUARE_TOKENS {
                    add::<1, N>(codes.start(), count, [q, q], out, first == 0);
                } else {
                    add::<2, N>(codes.start(), count, [q, q.add(stride)], out, first == 0);
                }
            }
        }
    }
}

/// Multiplies `count` squares of columns of `N` groups, `[quad][group]`, with `M` bands of tokens. The sums are added to
/// what `out` holds, or, if they are the first, overwrite it. Registers 0 to 3 hold the sums `[band][group]`, 4 and 5 the
/// activations, 6 and 7 the codes.
///
/// # Safety
/// As [`multiply`], after `ldtilecfg`; `codes`, `q` and `out` hold what they are asked for.
#[inline(always)]
unsafe fn add<const M: usize, const N: usize>(
    codes: *const u8,
    count: usize,
    q: [*const Square; 2],
    out: Sums,
    first: bool,
) {
    /// A block of assembly with the operands that all have.
    macro_rules! tiles {
        ($($line:literal),* ; $($operands:tt)*) => {
            asm!($($line),*, row = in(reg) SQUARE_COLS, $($operands)* options(nostack))
        };
    }
    // SAFETY: the caller's promise. The loops end after `count` squares.
    unsafe {
        let sums = |band: usize, group: usize| out.at(group % N, band % M * SQUARE_TOKENS);
        let (s0, s1, s2, s3) = (sums(0, 0), sums(0, 1), sums(1, 0), sums(1, 1));
        if first {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nomem, nostack));
        } else {
            tiles!("tileloadd tmm0, [{s0} + {row}]", "tileloadd tmm1, [{s1} + {row}]", "tileloadd tmm2, [{s2} + {row}]",
                "tileloadd tmm3, [{s3} + {row}]"; s0 = in(reg) s0, s1 = in(reg) s1, s2 = in(reg) s2, s3 = in(reg) s3,);
        }
        match (M, N) {
            (2, 2) => tiles!(
                "2:",
                "tileloadd tmm4, [{q0} + {row}]",
                "tileloadd tmm6, [{codes} + 2 * {row}]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{codes} + 2 * {row} + 64]",
                "tdpbsud tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{q1} + {row}]",
                "tdpbsud tmm2, tmm5, tmm6",
                "tdpbsud tmm3, tmm5, tmm7",
                "add {q0}, 1024", "add {q1}, 1024", "add {codes}, 2048",
                "dec {count}", "jnz 2b";
                q0 = inout(reg) q[0] => _, q1 = inout(reg) q[1] => _, codes = inout(reg) codes => _,
                count = inout(reg) count => _,),
            (2, _) => tiles!(
                "2:",
                "tileloadd tmm6, [{codes} + {row}]",
                "tileloadd tmm4, [{q0} + {row}]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{q1} + {row}]",
                "tdpbsud tmm2, tmm5, tmm6",
                "add {q0}, 1024", "add {q1}, 1024", "add {codes}, 1024",
                "dec {count}", "jnz 2b";
                q0 = inout(reg) q[0] => _, q1 = inout(reg) q[1] => _, codes = inout(reg) codes => _,
                count = inout(reg) count => _,),
            (_, 2) => tiles!(
                "2:",
                "tileloadd tmm4, [{q0} + {row}]",
                "tileloadd tmm6, [{codes} + 2 * {row}]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{codes} + 2 * {row} + 64]",
                "tdpbsud tmm1, tmm4, tmm7",
                "add {q0}, 1024", "add {codes}, 2048",
                "dec {count}", "jnz 2b";
                q0 = inout(reg) q[0] => _, codes = inout(reg) codes => _, count = inout(reg) count => _,),
            _ => tiles!(
                "2:",
                "tileloadd tmm4, [{q0} + {row}]",
                "tileloadd tmm6, [{codes} + {row}]",
                "tdpbsud tmm0, tmm4, tmm6",
                "add {q0}, 1024", "add {codes}, 1024",
                "dec {count}", "jnz 2b";
                q0 = inout(reg) q[0] => _, codes = inout(reg) codes => _, count = inout(reg) count => _,),
        }
        tiles!("tilestored [{s0} + {row}], tmm0"; s0 = in(reg) s0,);
        if N == 2 {
            tiles!("tilestored [{s1} + {row}], tmm1"; s1 = in(reg) s1,);
        }
        if M == 2 {
            tiles!("tilestored [{s2} + {row}], tmm2"; s2 = in(reg) s2,);
        }
        if M == 2 && N == 2 {
            tiles!("tilestored [{s3} + {row}], tmm3"; s3 = in(reg) s3,);
        }
    }
}

/// Does `count` products of tile registers with each other: what the machine can do at most.
///
/// # Safety
/// The machine has AMX.
pub(crate) unsafe fn products(count: usize) {
    // SAFETY: the caller's promise; no register is used by anything else.
    unsafe {
        asm!(
            "ldtilecfg [{configuration}]",
            "2:",
            "tdpbsud tmm0, tmm4, tmm6",
            "tdpbsud tmm1, tmm4, tmm7",
            "tdpbsud tmm2, tmm5, tmm6",
            "tdpbsud tmm3, tmm5, tmm7",
            "dec {steps}",
            "jnz 2b",
            "tilerelease",
            configuration = in(reg) &raw const CONFIGURATION,
            steps = inout(reg) count.div_ceil(4).max(1) => _,
            options(nostack),
        );
    }
}

const _: () = assert!(TILE == SQUARE_COLS && GROUP == SQUARE_TOKENS, "rows of squares, tiles and sums are alike");
