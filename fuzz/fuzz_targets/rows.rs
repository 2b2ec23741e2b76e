//! Any bytes as the codes of a ternary matrix: whatever is read is ternary.
#![no_main]

#[path = "../../tests/format/builders.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with tests, which use more of it")]
mod builders;

use builders::{Gguf, f32_bytes, folder, gguf_tensor};
use libfuzzer_sys::fuzz_target;
use sterna::format::{Checkpoint, I2sLayout, KernelConfig, OpenOptions};

fuzz_target!(|bytes: &[u8]| {
    let Some((&[kind, layout, m, k, bm, bk, bmm], codes)) = bytes.split_first_chunk() else { return };
    let kind = [34, 35, 36, 38, 39][usize::from(kind) % 5];
    // Steps that the encodings take, so that most sizes are possible.
    let (rows, cols) = (16 * (1 + usize::from(m) % 8), 32 * (1 + usize::from(k) % 32));
    let (bm, bk, bmm) = (16 * usize::from(bm), 8 * usize::from(bk), 16 * usize::from(bmm % 6));
    let matrix = gguf_tensor("w", &[cols as u64, rows as u64], kind, codes);
    let scale = gguf_tensor("w_scale", &[1], 0, &f32_bytes(&[1.0]));
    let file = Gguf::of(vec![matrix, scale]).build();
    let ini = format!("[a]\nm={rows}\nk={cols}\nbm={bm}\nbk={bk}\nbmm={bmm}\n");
    let folder = folder(&[("m.gguf", &file), ("k.ini", ini.as_bytes())]);
    let options = OpenOptions {
        i2s_layout: [I2sLayout::X86, I2sLayout::Arm, I2sLayout::RowInterleaved][usize::from(layout) % 3],
        kernel_config: KernelConfig::read(&folder.path().join("k.ini")).unwrap_or_default(),
        ..OpenOptions::default()
    };
    let Ok(checkpoint) = Checkpoint::open_with(&folder.path().join("m.gguf"), options) else { return };
    let Ok(matrix) = checkpoint.ternary("w", rows, cols) else { return };
    let mut row = vec![0; cols];
    for index in 0..rows {
        if matrix.read_row(index, &mut row).is_ok() {
            assert!(row.iter().all(|value| (-1..=1).contains(value)));
        }
    }
});
