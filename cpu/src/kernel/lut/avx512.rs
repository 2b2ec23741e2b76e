//! AVX-512: a group of 64 rows in a register. `vpshufb` (BW) or, with VBMI, `vpermb` and `vpermi2b`.

use std::arch::x86_64::*;

use super::super::{Block, Form, Operand};
use super::{HEADER, LUT2, LUT3, LUT5, Lanes, PARTS, Shape, TOKENS, finish, tables_x86, total};
use crate::layout::{GROUP, LUT_ROWS, lut3, lut5};
use crate::prefetch::prefetch;

pub(in crate::kernel) const LUT2_FORM: Form = Form::Tables(tables_x86::LUT2);
pub(in crate::kernel) const LUT3_FORM: Form = Form::Tables(tables_x86::LUT3);
pub(in crate::kernel) const LUT3_VBMI_FORM: Form = Form::Tables(tables_x86::LUT3_MIRRORED);
pub(in crate::kernel) const LUT5_FORM: Form = Form::Tables(tables_x86::LUT5);

/// Registers that hold a byte of each row of a group.
const VECTORS: usize = LUT_ROWS / 64;

/// A byte of each row of a group.
type Rows = [__m512i; VECTORS];

/// The low and the high plane.
type Planes = [Rows; 2];

/// How a tile is looked up.
trait Lookup {
    const SHAPE: Shape;
    /// Bytes of the table of a run.
    const TABLE: usize;

    /// The sums of the planes over the runs of a tile, for each token.
    ///
    /// # Safety
    /// The machine has the instructions; the tile and its tables are readable.
    unsafe fn planes<const T: usize>(tile: *const u8, tables: [*const u8; T]) -> [Planes; T];
}

/// # Safety
/// The machine has AVX-512; the bytes are readable.
#[inline(always)]
unsafe fn load(bytes: *const u8) -> Rows {
    // SAFETY: the caller's promise.
    std::array::from_fn(|v| unsafe { _mm512_loadu_si512(bytes.add(64 * v).cast()) })
}

/// The bytes whose low nibbles are the indices of run `run` of a tile.
///
/// # Safety
/// The machine has AVX-512; the tile is readable.
#[inline(always)]
unsafe fn nibbles(tile: *const u8, run: usize) -> Rows {
    // SAFETY: the caller's promise.
    unsafe {
        let bytes = load(tile.add(LUT_ROWS * (run / 2)));
        if run.is_multiple_of(2) { bytes } else { bytes.map(|bytes| _mm512_srli_epi16::<4>(bytes)) }
    }
}

/// Two planes of 16 bytes, each four times repeated.
///
/// # Safety
/// The machine has AVX-512; the table is readable.
#[inline(always)]
unsafe fn repeat(table: *const u8) -> [__m512i; 2] {
    // SAFETY: the caller's promise.
    [0, 16].map(|at| unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(table.add(at).cast())) })
}

/// # Safety
/// The machine has AVX-512 BW.
#[inline(always)]
unsafe fn add(planes: &mut Planes, found: Planes) {
    for (sum, found) in planes.as_flattened_mut().iter_mut().zip(found.as_flattened()) {
        // SAFETY: the caller's promise.
        *sum = unsafe { _mm512_add_epi8(*sum, *found) };
    }
}

/// The planes of the sums that are not marked, and the negated planes of those that are.
///
/// # Safety
/// The machine has AVX-512 BW.
#[inline(always)]
unsafe fn negate(planes: Planes, marked: [__mmask64; VECTORS]) -> Planes {
    planes.map(|rows| {
        // SAFETY: the caller's promise.
        std::array::from_fn(|v| unsafe { _mm512_mask_sub_epi8(rows[v], marked[v], _mm512_setzero_si512(), rows[v]) })
    })
}

/// `vpshufb` or `vpermb`.
trait Shuffle {
    /// Looks the low nibbles of 64 bytes up in a table of 16 bytes, four times repeated.
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn find(table: __m512i, bytes: __m512i) -> __m512i;
}

struct Bw;

impl Shuffle for Bw {
    #[inline(always)]
    unsafe fn find(table: __m512i, bytes: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_shuffle_epi8(table, _mm512_and_si512(bytes, _mm512_set1_epi8(15))) }
    }
}

struct Vbmi;

impl Shuffle for Vbmi {
    /// `vpermb` looks at six bits; the table repeats every 16 bytes, so four of them count.
    #[inline(always)]
    unsafe fn find(table: __m512i, bytes: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_permutexvar_epi8(bytes, table) }
    }
}

struct Lut2<S>(S);

impl<S: Shuffle> Lookup for Lut2<S> {
    const SHAPE: Shape = LUT2;
    const TABLE: usize = 32;

    #[inline(always)]
    unsafe fn planes<const T: usize>(tile: *const u8, tables: [*const u8; T]) -> [Planes; T] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut planes = [[[_mm512_setzero_si512(); VECTORS]; 2]; T];
            for run in 0..LUT2.runs() {
                let bytes = nibbles(tile, run);
                for token in 0..T {
                    let table = repeat(tables[token].add(Self::TABLE * run));
                    add(&mut planes[token], table.map(|table| bytes.map(|bytes| S::find(table, bytes))));
                }
            }
            planes
        }
    }
}

/// Looks magnitudes up and negates.
struct Lut3;

impl Lookup for Lut3 {
    const SHAPE: Shape = LUT3;
    const TABLE: usize = 32;

    #[inline(always)]
    unsafe fn planes<const T: usize>(tile: *const u8, tables: [*const u8; T]) -> [Planes; T] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut planes = [[[_mm512_setzero_si512(); VECTORS]; 2]; T];
            let signs = load(tile.add(lut3::SIGNS));
            for run in 0..LUT3.runs() {
                let bytes = nibbles(tile, run);
                let bit = _mm512_set1_epi8((128u8 >> run) as i8);
                let negative = signs.map(|signs| _mm512_test_epi8_mask(signs, bit));
                for token in 0..T {
                    let table = repeat(tables[token].add(Self::TABLE * run));
                    let found = table.map(|table| bytes.map(|bytes| Bw::find(table, bytes)));
                    add(&mut planes[token], negate(found, negative));
                }
            }
            planes
        }
    }
}

/// Looks sign and magnitude up, five bits.
struct Lut3Vbmi;

impl Lookup for Lut3Vbmi {
    const SHAPE: Shape = LUT3;
    const TABLE: usize = 64;

    #[inline(always)]
    unsafe fn planes<const T: usize>(tile: *const u8, tables: [*const u8; T]) -> [Planes; T] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut planes = [[[_mm512_setzero_si512(); VECTORS]; 2]; T];
            let signs = load(tile.add(lut3::SIGNS));
            let fifth = _mm512_set1_epi8(16);
            macro_rules! runs {
                ($($run:literal $shift:expr;)*) => {$(
                    let bytes = nibbles(tile, $run);
                    // The fifth bit from the signs, the others from the magnitudes.
                    let index: Rows = std::array::from_fn(|v| {
                        let sign: __m512i = $shift(signs[v]);
                        _mm512_ternarylogic_epi32::<0xca>(fifth, sign, bytes[v])
                    });
                    for token in 0..T {
                        let table = tables[token].add(Self::TABLE * $run).cast::<__m256i>();
                        // `vpermb` looks at six bits, but each plane of 32 bytes is repeated.
                        let table = [0, 1].map(|at| _mm512_broadcast_i64x4(_mm256_loadu_si256(table.add(at))));
                        let found = table.map(|table| index.map(|index| _mm512_permutexvar_epi8(index, table)));
                        add(&mut planes[token], found);
                    }
                )*};
            }
            runs! {
                0 |signs| _mm512_srli_epi16::<3>(signs);
                1 |signs| _mm512_srli_epi16::<2>(signs);
                2 |signs| _mm512_srli_epi16::<1>(signs);
                3 |signs| signs;
                4 |signs| _mm512_slli_epi16::<1>(signs);
                5 |signs| _mm512_slli_epi16::<2>(signs);
                6 |signs| _mm512_slli_epi16::<3>(signs);
                7 |signs| _mm512_slli_epi16::<4>(signs);
            }
            planes
        }
    }
}

struct Lut5;

impl Lookup for Lut5 {
    const SHAPE: Shape = LUT5;
    const TABLE: usize = 256;

    #[inline(always)]
    unsafe fn planes<const T: usize>(tile: *const u8, tables: [*const u8; T]) -> [Planes; T] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut planes = [[[_mm512_setzero_si512(); VECTORS]; 2]; T];
            for run in 0..lut5::RUNS {
                // `vpermi2b` looks at the seven bits of the magnitude.
                let bytes = load(tile.add(LUT_ROWS * run));
                let negative = bytes.map(|bytes| _mm512_movepi8_mask(bytes));
                for token in 0..T {
                    let table = tables[token].add(Self::TABLE * run).cast::<__m512i>();
                    let table = [0, 2].map(|at| [0, 1].map(|half| _mm512_loadu_si512(table.add(at + half))));
                    let found = table.map(|[a, b]| bytes.map(|bytes| _mm512_permutex2var_epi8(a, bytes, b)));
                    add(&mut planes[token], negate(found, negative));
                }
            }
            planes
        }
    }
}

/// Defines kernels.
macro_rules! kernels {
    ($($(#[$meta:meta])* $name:ident = $lookup:ty, $features:literal;)*) => {$(
        $(#[$meta])*
        ///
        /// # Safety
        /// The machine has the instructions, and the block was checked.
        #[target_feature(enable = $features)]
        pub(in crate::kernel) fn $name(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
            // SAFETY: the instructions are there.
            unsafe { groups::<$lookup>(block, sums) }
        }
    )*};
}

kernels! {
    /// [`super::super::Kernel`] for [`crate::Layout::Lut2`].
    lut2 = Lut2<Bw>, "avx512f,avx512bw";
    /// [`super::super::Kernel`] for [`crate::Layout::Lut2`].
    lut2_vbmi = Lut2<Vbmi>, "avx512f,avx512bw,avx512vbmi";
    /// [`super::super::Kernel`] for [`crate::Layout::Lut3`].
    lut3 = Lut3, "avx512f,avx512bw";
    /// [`super::super::Kernel`] for [`crate::Layout::Lut3`].
    lut3_vbmi = Lut3Vbmi, "avx512f,avx512bw,avx512vbmi";
    /// [`super::super::Kernel`] for [`crate::Layout::Lut5`].
    lut5_vbmi = Lut5, "avx512f,avx512bw,avx512vbmi";
}

/// # Safety
/// The machine has the instructions of `L`.
#[inline(always)]
unsafe fn groups<L: Lookup>(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    let Operand::Tables { tables, stride } = block.operand else { unreachable!("the block was checked") };
    let groups = block.tiles.chunks_exact(block.group_bytes);
    for (tiles, sums) in groups.zip(sums.chunks_exact_mut(block.tokens * PARTS)) {
        // SAFETY: the caller's promise.
        unsafe {
            match block.tokens {
                1 => group::<L, 1>(tiles, tables, stride, block.prefetch, sums),
                2 => group::<L, 2>(tiles, tables, stride, block.prefetch, sums),
                _ => group::<L, TOKENS>(tiles, tables, stride, block.prefetch, sums),
            }
        }
    }
}

/// One group of rows with `T` tokens.
///
/// # Safety
/// The machine has the instructions of `L`.
#[inline(always)]
unsafe fn group<L: Lookup, const T: usize>(
    tiles: &[u8],
    tables: &[u8],
    stride: usize,
    ahead: usize,
    sums: &mut [[i32; GROUP]],
) {
    let shape = L::SHAPE;
    let (tile_bytes, tile_tables) = (shape.layout.tile_bytes(), L::TABLE * shape.runs());
    let count = tiles.len() / tile_bytes;
    assert!(tables.len() >= (T - 1) * stride + HEADER + count * tile_tables && sums.len() == T * PARTS);
    let each: [*const u8; T] = std::array::from_fn(|token| tables.as_ptr().wrapping_add(token * stride + HEADER));
    // SAFETY: the instructions are there; loads are of whole tiles and, by the assertion above, of tables in bounds, and
    // need no alignment; a store goes to an array of its size.
    unsafe {
        let join = _mm512_set1_epi16(i16::from_le_bytes([1, shape.radix as u8]));
        let parity = [_mm512_set1_epi32(1), _mm512_set1_epi32(1 << 16)];
        // Even and odd rows of the low and high halves of the lanes, by register of rows.
        let mut wide = [[[[_mm512_setzero_si512(); 2]; 2]; VECTORS]; T];
        for first in (0..count).step_by(shape.tiles()) {
            let mut narrow = [[[_mm512_setzero_si512(); 2]; VECTORS]; T];
            for t in first..count.min(first + shape.tiles()) {
                let tile = tiles.as_ptr().add(t * tile_bytes);
                (0..tile_bytes).step_by(64).for_each(|line| prefetch(tile.add(line), ahead));
                let planes = L::planes::<T>(tile, each.map(|table| table.add(t * tile_tables)));
                for token in 0..T {
                    for v in 0..VECTORS {
                        let (low, high) = (planes[token][0][v], planes[token][1][v]);
                        let pairs = [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)];
                        for (sum, pairs) in narrow[token][v].iter_mut().zip(pairs) {
                            *sum = _mm512_add_epi16(*sum, _mm512_maddubs_epi16(join, pairs));
                        }
                    }
                }
            }
            for (wide, narrow) in
                wide.as_flattened_mut().as_flattened_mut().iter_mut().zip(narrow.as_flattened().as_flattened())
            {
                for (sum, parity) in wide.iter_mut().zip(parity) {
                    *sum = _mm512_add_epi32(*sum, _mm512_madd_epi16(*narrow, parity));
                }
            }
        }
        for (token, wide) in wide.iter().enumerate() {
            let mut lanes: Lanes = [[[0; 4]; PARTS]; 4];
            for (v, halves) in wide.iter().enumerate() {
                for (i, &[even, odd]) in halves.iter().enumerate() {
                    let (low, high) = (_mm512_unpacklo_epi32(even, odd), _mm512_unpackhi_epi32(even, odd));
                    _mm512_storeu_si512(lanes[2 * i].as_mut_ptr().add(4 * v).cast(), low);
                    _mm512_storeu_si512(lanes[2 * i + 1].as_mut_ptr().add(4 * v).cast(), high);
                }
            }
            finish(&lanes, total(&tables[token * stride..]), &mut sums[token..], T);
        }
    }
}
