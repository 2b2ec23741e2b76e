//! Rows of the embedding, and logits.

use half::{bf16, f16};
use sterna::KvType;
use sterna::backend::gpu::{Kernel, RowType};
use sterna::model::Gate;
use sterna_cpu::dense::{DenseMatrix, DenseType, dequantize_row, logits};
use sterna_cpu::{AlignedBuf, Isa, Pool};

use crate::support::{Bench, Random, benches, config, padded_rows, relative_diff, shape, turn};

/// Rows in the bytes of a file.
fn bytes(ty: DenseType, values: &[f32]) -> Vec<u8> {
    let of = |x: &f32| match ty {
        DenseType::F16 => f16::from_f32(*x).to_le_bytes().to_vec(),
        DenseType::Bf16 => bf16::from_f32(*x).to_le_bytes().to_vec(),
        _ => x.to_le_bytes().to_vec(),
    };
    values.iter().flat_map(of).collect()
}

fn check(bench: &Bench, (ty, row_type): (DenseType, RowType), vocab: usize, cols: usize, tokens: usize) {
    let what = format!("{} {ty:?} {vocab}x{cols}, {tokens} tokens", bench.name);
    let mut random = Random(23);
    let (values, x) = (random.units(vocab * cols), random.units(tokens * cols));
    let file = bytes(ty, &values);
    let matrix = DenseMatrix { ty, rows: vocab, cols, bytes: &file };
    let mut want = vec![0.0; tokens * vocab];
    logits(&Pool::new(1), Isa::detect(), matrix, &x, &mut AlignedBuf::default(), &mut want);

    let row_bytes = file.len() / vocab;
    let stride = row_bytes.next_multiple_of(16);
    let padded: Vec<u8> = file
        .chunks_exact(row_bytes)
        .flat_map(|row| row.iter().copied().chain(std::iter::repeat(0)).take(stride))
        .collect();
    let shape = shape(&config(1, 1, 16, cols, Gate::Relu2), KvType::F32);
    let mut inputs = padded_rows(&x, cols);
    inputs.resize(inputs.len() + 8 * cols.next_multiple_of(16), 5.0);
    let (inputs, out) = (bench.put(&inputs), bench.put(&vec![0.0f32; tokens * vocab]));
    let range = bench.uniform([0u32, tokens as u32]);
    let tokens_at_once = [1u32, 4, 8].into_iter().find(|&most| most as usize >= tokens).unwrap_or(8);
    // In two buffers, as a device with a small limit needs it.
    let first_rows = vocab.div_ceil(2);
    for (first, rows) in [(0, first_rows), (first_rows, vocab - first_rows)] {
        let params = bench.uniform([rows as u32, first as u32, (stride / 16) as u32, vocab as u32]);
        let piece = bench.put(&padded[first * stride..(first + rows) * stride]);
        let grid = [rows.div_ceil(4), 1, tokens.div_ceil(tokens_at_once as usize)];
        bench.run(Kernel::Head(row_type, tokens_at_once), &shape, &[&params, &range, &piece, &inputs, &out], grid);
    }
    let diff = relative_diff(&bench.get::<f32>(&out)[..want.len()], &want);
    // Sums in another order.
    assert!(diff <= 2e-6, "{what}: {diff}");

    // The embedding gives each number as it is.
    let ids: Vec<u32> = (0..tokens).map(|i| (i * 31 % vocab) as u32).collect();
    let infos: Vec<[u32; 4]> = ids.iter().map(|&id| [id, 0, 0, 0]).collect();
    let hidden_stride = cols.next_multiple_of(16);
    let (infos, hidden) = (bench.put(&infos), bench.put(&vec![0.0f32; tokens * hidden_stride]));
    for (first, rows) in [(0, first_rows), (first_rows, vocab - first_rows)] {
        let params = bench.uniform([rows as u32, first as u32, (stride / 16) as u32, (hidden_stride / 4) as u32]);
        let piece = bench.put(&padded[first * stride..(first + rows) * stride]);
        bench.run(Kernel::Embed(row_type), &shape, &[&params, &piece, &infos, &hidden], [tokens, 1, 1]);
    }
    for (got, id) in bench.get::<f32>(&hidden).chunks_exact(hidden_stride).zip(&ids) {
        let mut row = vec![0.0; cols];
        dequantize_row(Isa::Scalar, ty, &file[*id as usize * row_bytes..][..row_bytes], &mut row);
        assert!(got[..cols] == row && got[cols..].iter().all(|x| *x == 0.0), "{what}: embedding of {id}");
    }
}

#[test]
fn logits_and_embeddings_are_those_of_the_cpu() {
    let _turn = turn();
    let types = [(DenseType::F16, RowType::F16), (DenseType::Bf16, RowType::Bf16), (DenseType::F32, RowType::F32)];
    for bench in benches() {
        for ty in types {
            for (vocab, cols, tokens) in [(2, 1, 1), (7, 20, 3), (331, 200, 9), (100, 2560, 1), (509, 384, 17)] {
                check(&bench, ty, vocab, cols, tokens);
            }
        }
    }
}
