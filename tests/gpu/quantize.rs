//! Norms and the quantization of activations.

use sterna::backend::gpu::{Kernel, Output};
use sterna::model::Gate;
use sterna_cpu::kv::KvType;
use sterna_cpu::norm::rms_norm;
use sterna_cpu::quant::quantize_row;
use sterna_cpu::{Isa, Layout, TernaryMatrix};

use crate::support::{Bench, Random, benches, config, padded_rows, shape, turn};

/// Rows with zeros, halves and magnitudes far apart.
fn rows(tokens: usize, cols: usize, random: &mut Random) -> Vec<f32> {
    let mut rows = random.units(tokens * cols);
    for (token, row) in rows.chunks_exact_mut(cols).enumerate() {
        match token {
            1 => row.fill(0.0),
            // The scale is 1: every quarter is a tie or next to one.
            2 => row.iter_mut().enumerate().for_each(|(i, x)| *x = (i % 509) as f32 * 0.5 - 127.0),
            3 => row.iter_mut().for_each(|x| *x *= 1e-7),
            4 => row.iter_mut().for_each(|x| *x = x.powi(9) * 1e4),
            _ => {}
        }
    }
    rows
}

/// Whether two quantizations of `x` agree: the scales to three units in the last place, the integers wherever rounding is
/// not a matter of those.
fn assert_quantized(what: &str, x: &[f32], q: &[i8], scale: f32, sum: i32) {
    let mut want = vec![0; x.len()];
    let (want_scale, _) = quantize_row(Isa::Scalar, x, &mut want);
    assert!((scale - want_scale).abs() <= 4e-7 * want_scale, "{what}: scale {scale} {want_scale}");
    assert_eq!(sum, q.iter().map(|&q| i32::from(q)).sum::<i32>(), "{what}: sum");
    for (i, ((x, q), want)) in x.iter().zip(q).zip(&want).enumerate() {
        let exact = x * want_scale;
        let distance = ((exact - exact.floor()) - 0.5).abs();
        let is_tie = distance <= 2e-6 * exact.abs().max(1.0);
        assert!(q == want || (is_tie && q.abs_diff(*want) <= 1), "{what}[{i}]: {q} instead of {want} for {exact}");
    }
}

fn check(bench: &Bench, tokens: usize, cols: usize, norm: bool) {
    let mut random = Random(7);
    let (x, weight) = (rows(tokens, cols, &mut random), random.units(cols));
    let shape = shape(&config(1, 1, 16, 16, Gate::Relu2), KvType::F32);
    let tiles = cols.div_ceil(16);
    let (source, weights) = (bench.put(&padded_rows(&x, cols)), bench.put(&padded_rows(&weight, cols)));
    let acts = bench.put(&vec![0x55u8; tokens * tiles * 16]);
    let scales = bench.put(&vec![0u32; 2 * tokens]);
    let width = bench.uniform([cols as u32, tiles as u32]);
    bench.run(Kernel::Quantize { norm }, &shape, &[&width, &source, &weights, &acts, &scales], [tokens, 1, 1]);
    let (q, scales): (Vec<i8>, Vec<[u32; 2]>) = (bench.get(&acts), bench.get(&scales));
    for (token, x) in x.chunks_exact(cols).enumerate() {
        let what = format!("{} {tokens}x{cols} norm {norm} token {token}", bench.name);
        let mut normed = x.to_vec();
        if norm {
            rms_norm(Isa::Scalar, x, &weight, 1e-5, &mut normed);
        }
        let q = &q[token * tiles * 16..][..tiles * 16];
        assert!(q[cols..].iter().all(|&q| q == 0), "{what}: padding");
        let [scale, sum] = scales[token];
        assert_quantized(&what, &normed, &q[..cols], f32::from_bits(scale), sum as i32);
    }
}

#[test]
fn rows_are_quantized_as_on_the_cpu() {
    let _turn = turn();
    for bench in benches() {
        for (tokens, cols) in [(1, 1), (5, 16), (6, 33), (5, 200), (3, 2560), (5, 6912)] {
            for norm in [false, true] {
                check(&bench, tokens, cols, norm);
            }
        }
    }
}

#[test]
fn a_product_that_normalises_is_the_two_kernels_in_one() {
    let _turn = turn();
    for bench in benches() {
        for (rows, cols, tokens) in [(16, 16, 1), (40, 200, 2), (100, 2560, 8), (33, 4100, 1), (70, 300, 5)] {
            let shape = shape(&config(1, 1, 16, cols, Gate::Relu2), KvType::F32);
            let mut random = Random(3);
            let (x, weight) = (random.units(tokens * cols), random.units(cols));
            let matrix = TernaryMatrix::pack(Layout::T16, rows, cols, |row, out| {
                out.iter_mut().enumerate().for_each(|(col, w)| *w = ((row * 7 + col * 5 + row * col) % 3) as i8 - 1);
                Ok::<(), ()>(())
            })
            .unwrap();
            let tiles = cols.div_ceil(16);
            let groups = matrix.row_groups();
            let batch = bench.uniform([tokens as u32, 1]);
            let params = bench.uniform([groups as u32, 0, tiles as u32, groups as u32 * 4, 1f32.to_bits(), 0, 0, 0]);
            let (weights, norm) = (bench.put(matrix.tiles()), bench.put(&padded_rows(&weight, cols)));
            let source = bench.put(&padded_rows(&x, cols));
            let outs = [0; 2].map(|_| bench.put(&vec![0.0f32; tokens * groups * 16]));
            let fused = [&batch, &params, &weights, &source, &norm, &outs[0]];
            bench.run(Kernel::GemvNorm(Output::Residual), &shape, &fused, [groups, 1, 1]);
            // The other kernels take eight tokens' room.
            let (acts, scales) = (bench.put(&vec![0u8; 8 * tiles * 16]), bench.put(&[0u32; 16]));
            let width = bench.uniform([cols as u32, tiles as u32]);
            let quantize = [&width, &source, &norm, &acts, &scales];
            bench.run(Kernel::Quantize { norm: true }, &shape, &quantize, [tokens, 1, 1]);
            let plain = [&batch, &params, &weights, &acts, &scales, &outs[1]];
            let most = tokens.next_power_of_two() as u32;
            bench.run(Kernel::Gemv(Output::Residual, most), &shape, &plain, [groups, 1, 1]);
            let [fused, plain] = outs.each_ref().map(|out| bench.get::<f32>(out));
            assert!(plain.iter().any(|v| *v != 0.0));
            // The sums are exact; the scales may differ in the order in which workgroups of two sizes add squares.
            for (token, (fused, plain)) in
                fused.chunks_exact(groups * 16).zip(plain.chunks_exact(groups * 16)).enumerate()
            {
                let diff = crate::support::relative_diff(&fused[..rows], &plain[..rows]);
                assert!(diff <= 1e-6, "{} {rows}x{cols} token {token}: {diff}", bench.name);
            }
        }
    }
}
