//! The portable look-up kernels: one 16-bit sum at a time.

use super::super::{Block, Form, Operand};
use super::{HEADER, PARTS, tables, total};
use crate::layout::{GROUP, LUT_ROWS, Layout, lut3};

pub(in crate::kernel) const LUT2: Form = Form::Tables(tables::LUT2_SUMS);
pub(in crate::kernel) const LUT3: Form = Form::Tables(tables::LUT3_SUMS);
pub(in crate::kernel) const LUT5: Form = Form::Tables(tables::LUT5_SUMS);

/// [`super::super::Kernel`] for [`Layout::Lut2`].
pub(in crate::kernel) fn lut2(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    multiply::<16>(Layout::Lut2, super::LUT2.runs(), block, sums, |tile, run, row| {
        ((tile[LUT_ROWS * (run / 2) + row] >> (run % 2 * 4) & 15).into(), false)
    });
}

/// [`super::super::Kernel`] for [`Layout::Lut3`].
pub(in crate::kernel) fn lut3(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    multiply::<16>(Layout::Lut3, super::LUT3.runs(), block, sums, |tile, run, row| {
        let negative = tile[lut3::SIGNS + row] << run & 128 != 0;
        ((tile[LUT_ROWS * (run / 2) + row] >> (run % 2 * 4) & 15).into(), negative)
    });
}

/// [`super::super::Kernel`] for [`Layout::Lut5`].
pub(in crate::kernel) fn lut5(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    multiply::<128>(Layout::Lut5, super::LUT5.runs(), block, sums, |tile, run, row| {
        let byte = tile[LUT_ROWS * run + row];
        ((byte & 127).into(), byte > 127)
    });
}

/// `index` gives the entry of a table of `N`, and whether it is negated, for a run and row of a tile.
#[inline(always)]
fn multiply<const N: usize>(
    layout: Layout,
    runs: usize,
    block: Block<'_>,
    sums: &mut [[i32; GROUP]],
    index: impl Fn(&[u8], usize, usize) -> (usize, bool),
) {
    let Operand::Tables { tables, stride } = block.operand else { unreachable!("the block was checked") };
    let groups = block.tiles.chunks_exact(block.group_bytes);
    for (tiles, sums) in groups.zip(sums.chunks_exact_mut(block.tokens * PARTS)) {
        for token in 0..block.tokens {
            let table = &tables[token * stride..];
            let mut here = [total(table); LUT_ROWS];
            let tables = table[HEADER..].as_chunks::<2>().0.as_chunks::<N>().0;
            for (tile, tables) in tiles.chunks_exact(layout.tile_bytes()).zip(tables.chunks_exact(runs)) {
                for (run, table) in tables.iter().enumerate() {
                    for (row, sum) in here.iter_mut().enumerate() {
                        let (index, negative) = index(tile, run, row);
                        let value = i32::from(i16::from_ne_bytes(table[index]));
                        *sum += if negative { -value } else { value };
                    }
                }
            }
            let sums = sums[token..].iter_mut().step_by(block.tokens);
            sums.zip(here.as_chunks().0).for_each(|(sums, here)| *sums = *here);
        }
    }
}
