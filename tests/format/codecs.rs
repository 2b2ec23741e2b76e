//! Each encoding against bytes that other programs wrote, and small hand-made matrices.

use half::f16;
use safetensors::SafeTensors;
use sterna::format::{Checkpoint, Encoding, FormatError, I2sLayout, OpenOptions};
use sterna::{Isa, Layout};
use sterna_cpu::dense::dequantize_row;

use crate::builders::{
    Gguf, f16_bytes, f32_bytes, folder, gguf_string, gguf_tensor, open_folder, open_gguf, raw_value, safetensors_of,
};
use crate::common::data_path;
use crate::decode;

const DIVISOR: &str = r#"{"quantization_config": {"quant_method": "bitnet"}}"#;
const MULTIPLIER: &str = r#"{"quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear"}}"#;
const BITNET: &str = r#"{"architectures": ["BitnetForCausalLM"]}"#;
const PLAIN: &str = r#"{"architectures": ["LlamaForCausalLM"]}"#;

/// The 8 × 768 matrix of `codec_vectors.safetensors` with the bytes of the encoding `name`.
struct Vectors {
    ternary: Vec<i8>,
    scale: f32,
    encoded: Vec<u8>,
}

const ROWS: usize = 8;
const COLS: usize = 768;

fn vectors(name: &str) -> Vectors {
    let bytes = std::fs::read(data_path("fixtures/codec_vectors.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let scale = file.tensor("scale").unwrap().data().try_into().unwrap();
    Vectors {
        ternary: file.tensor("ternary").unwrap().data().iter().map(|&byte| byte as i8).collect(),
        scale: f32::from_le_bytes(scale),
        encoded: file.tensor(name).unwrap().data().to_vec(),
    }
}

/// Checks the encoding `name`, GGUF type `kind`.
fn check_gguf(name: &str, kind: u32) {
    let vectors = vectors(name);
    let tensor = gguf_tensor("w.weight", &[COLS as u64, ROWS as u64], kind, &vectors.encoded);
    let checkpoint = open_gguf(&Gguf::of(vec![tensor]).build()).unwrap();
    let matrix = checkpoint.ternary("w.weight", ROWS, COLS).unwrap();
    assert_eq!(matrix.scale(), vectors.scale);
    assert_eq!(decode(&matrix), vectors.ternary);
}

#[test]
fn tq1_0_decodes_what_ggml_wrote() {
    check_gguf("tq1_0", 34);
}

#[test]
fn tq2_0_decodes_what_ggml_wrote() {
    check_gguf("tq2_0", 35);
}

#[test]
fn q2_0_decodes_what_ggml_wrote_and_its_relatives_what_follows_from_their_description() {
    check_gguf("q2_0_g64", 42);
    check_gguf("pq2_0_g128", 142);
    // PrismML's first files: the same bytes under the number of Q2_0.
    check_gguf("pq2_0_g128", 42);
    check_gguf("ptq1_0_g128", 143);
}

#[test]
fn scales_of_groups_are_read_with_their_values() {
    let dims = [COLS as u64, ROWS as u64];
    // Bytes of a block, where its scale begins, its columns and those of the groups that are told.
    for (name, kind, bytes, at, block) in [
        ("tq1_0", 34, 54, 52, 256),
        ("tq2_0", 35, 66, 64, 256),
        ("q2_0_g64", 42, 18, 0, 64),
        ("pq2_0_g128", 142, 34, 0, 128),
        ("ptq1_0_g128", 143, 28, 26, 128),
    ] {
        let mut vectors = vectors(name);
        let scale = |index: usize| 0.25 + (index % 29) as f32 / 64.0;
        for (index, block) in vectors.encoded.chunks_exact_mut(bytes).enumerate() {
            block[at..at + 2].copy_from_slice(&f16::from_f32(scale(index)).to_le_bytes());
        }
        let open = |bytes: &[u8]| {
            let file = Gguf::of(vec![gguf_tensor("w", &dims, kind, bytes)]).build();
            open_gguf(&file).unwrap().grouped_ternary("w", ROWS, COLS).unwrap()
        };
        let check = |group: usize, scale: &dyn Fn(usize) -> f32, vectors: &Vectors| {
            let tensor = open(&vectors.encoded);
            assert_eq!(tensor.group(), group.max(block), "{name}");
            let (mut values, mut scales) = (vec![0; COLS], vec![0.0; COLS / group]);
            for row in 0..ROWS {
                tensor.read_row(row, group, &mut values, &mut scales).unwrap();
                assert_eq!(values, vectors.ternary[row * COLS..(row + 1) * COLS], "{name}");
                for (piece, &got) in scales.iter().enumerate() {
                    assert_eq!(got, scale((row * COLS + piece * group) / block), "{name}, row {row}, {piece}");
                }
            }
        };
        check(block, &scale, &vectors);
        if block > 64 {
            check(64, &scale, &vectors);
        } else {
            // Two blocks with the same scale are one group of 128.
            let twice = |index: usize| scale(index / 2);
            for (index, block) in vectors.encoded.chunks_exact_mut(bytes).enumerate() {
                block[at..at + 2].copy_from_slice(&f16::from_f32(twice(index)).to_le_bytes());
            }
            check(128, &twice, &vectors);
        }
        // A scale that is no number is told with the row.
        let start = 5 * (COLS / block) * bytes + at;
        vectors.encoded[start..start + 2].copy_from_slice(&f16::NAN.to_le_bytes());
        let tensor = open(&vectors.encoded);
        let (mut values, mut scales) = (vec![0; COLS], vec![0.0; COLS / 64]);
        assert!(tensor.read_row(4, 64, &mut values, &mut scales).is_ok());
        let error = tensor.read_row(5, 64, &mut values, &mut scales).unwrap_err();
        assert!(matches!(error, FormatError::Scale { .. }), "{error}");
    }
}

#[test]
fn floats_may_have_a_scale_for_each_group() {
    let scale = |row: usize, group: usize| 0.125 * (1 + row + 2 * group) as f32;
    let weight = |row: usize, col: usize| ((row * 31 + col * 17 + row * col) % 3) as f32 - 1.0;
    let values: Vec<f32> =
        (0..ROWS * COLS).map(|i| weight(i / COLS, i % COLS) * scale(i / COLS, i % COLS / 128)).collect();
    let open = |values: &[f32]| {
        let bytes = f16_bytes(values);
        let folder = open_folder(PLAIN, &safetensors_of(&[("w", "F16", &[ROWS, COLS], &bytes)])).unwrap();
        folder.grouped_ternary("w", ROWS, COLS)
    };
    let tensor = open(&values).unwrap();
    assert_eq!(tensor.group(), 128);
    let (mut ternary, mut scales) = (vec![0; COLS], vec![0.0; COLS / 128]);
    for row in 0..ROWS {
        tensor.read_row(row, 128, &mut ternary, &mut scales).unwrap();
        assert!((0..COLS).all(|col| f32::from(ternary[col]) * scales[col / 128] == values[row * COLS + col]));
    }
    let mut other = values;
    other[2 * COLS + 65] = 9.0;
    let error = open(&other).unwrap_err();
    assert!(matches!(error, FormatError::NotTernary { row: 2, .. }), "{error}");
}

#[test]
fn i2_s_decodes_what_bitnet_cpp_wrote() {
    check_gguf("i2_s", 36);
}

#[test]
fn packed_weights_decode_what_transformers_wrote() {
    let vectors = vectors("hf_packed_u8");
    let weight_scale = f32_bytes(&[3.25]);
    let model = safetensors_of(&[
        ("w.weight", "U8", &[ROWS / 4, COLS], &vectors.encoded),
        ("w.weight_scale", "F32", &[1], &weight_scale),
    ]);
    for (config, scale) in [(DIVISOR, 1.0 / 3.25), (MULTIPLIER, 3.25)] {
        let checkpoint = open_folder(config, &model).unwrap();
        let matrix = checkpoint.ternary("w.weight", ROWS, COLS).unwrap();
        assert_eq!(matrix.scale(), scale);
        assert_eq!(decode(&matrix), vectors.ternary);
    }
}

#[test]
fn packed_weights_need_their_scale_and_their_quantization_method() {
    let vectors = vectors("hf_packed_u8");
    let weight: (&str, &str, &[usize], &[u8]) = ("w.weight", "U8", &[ROWS / 4, COLS], &vectors.encoded);
    let without_scale = open_folder(DIVISOR, &safetensors_of(&[weight])).unwrap();
    let error = without_scale.ternary("w.weight", ROWS, COLS).unwrap_err();
    assert!(matches!(&error, FormatError::MissingTensor { tensor, .. } if tensor == "w.weight_scale"), "{error}");

    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-45] {
        let scale = f32_bytes(&[bad]);
        let model = safetensors_of(&[weight, ("w.weight_scale", "F32", &[1], &scale)]);
        let error = open_folder(DIVISOR, &model).unwrap().ternary("w.weight", ROWS, COLS).unwrap_err();
        assert!(matches!(error, FormatError::Scale { .. }), "{error}");
    }
    let scales = f32_bytes(&[1.0, 2.0]);
    let model = safetensors_of(&[weight, ("w.weight_scale", "F32", &[2], &scales)]);
    let error = open_folder(DIVISOR, &model).unwrap().ternary("w.weight", ROWS, COLS).unwrap_err();
    assert!(matches!(error, FormatError::GroupScales { .. }), "{error}");

    let error = open_folder(PLAIN, &model).unwrap().ternary("w.weight", ROWS, COLS).unwrap_err();
    assert!(error.to_string().contains("quant_method: bitnet"), "{error}");
    let error = open_folder(DIVISOR, &model).unwrap().ternary("w.weight", 2, COLS).unwrap_err();
    assert!(error.to_string().contains("2 rows cannot be packed"), "{error}");
    let error = open_folder(DIVISOR, &model).unwrap().ternary("w.weight", 12, COLS).unwrap_err();
    assert!(error.to_string().contains("should have shape [3, 768] but has [2, 768]"), "{error}");
}

#[test]
fn encoders_write_what_others_wrote() {
    for (name, encoding) in
        [("tq1_0", Encoding::Tq1_0), ("tq2_0", Encoding::Tq2_0), ("q2_0_g64", Encoding::Q2_0), ("i2_s", Encoding::I2S)]
    {
        let vectors = vectors(name);
        let mut bytes = Vec::new();
        encoding.encode(&vectors.ternary, COLS, vectors.scale, &mut bytes);
        encoding.finish(vectors.scale, &mut bytes);
        assert_eq!(bytes, vectors.encoded, "{name}");
    }
}

#[test]
fn tiles_are_read_where_they_are_or_row_by_row() {
    let Vectors { ternary, scale, .. } = vectors("i2_s");
    for (encoding, kind, layout) in [(Encoding::T16, "T16", Layout::T16), (Encoding::T16x5, "T16x5", Layout::T16x5)] {
        for (rows, cols) in [(ROWS, COLS), (17, 59)] {
            let ternary: Vec<i8> = ternary.iter().copied().take(rows * cols).collect();
            let mut bytes = Vec::new();
            encoding.encode(&ternary, cols, scale, &mut bytes);
            encoding.finish(scale, &mut bytes);
            assert_eq!(bytes.len(), layout.bytes(rows, cols) + 64);
            // The tensor begins at a multiple of 64, or 32 bytes behind one, behind a key of another length.
            let open = |bytes: &[u8]| {
                ["", "a value of thirty-two characters"].map(|text| {
                    let file = Gguf::of_own("w.weight", kind, rows as i64, cols as i64, bytes);
                    open_gguf(&file.with("pad", raw_value(8, &gguf_string(text.as_bytes()))).build()).unwrap()
                })
            };
            let mut in_place = 0;
            for checkpoint in open(&bytes) {
                let matrix = checkpoint.ternary("w.weight", rows, cols).unwrap();
                assert_eq!(matrix.scale(), scale);
                assert_eq!(decode(&matrix), ternary);
                assert!(Layout::ALL.into_iter().all(|other| other == layout || matrix.in_place(other).is_none()));
                if let Some(shared) = matrix.in_place(layout) {
                    in_place += 1;
                    drop((matrix, checkpoint));
                    let mut row = vec![0; cols];
                    shared.unpack_row(rows - 1, &mut row);
                    assert_eq!(row, ternary[(rows - 1) * cols..]);
                }
            }
            assert_eq!(in_place, 1, "one of the two is aligned");
            // The last byte of the last row's word in the first tile.
            let row = rows - 1;
            let at = row / 16 * layout.bytes(16, cols) + row % 16 * 4 + 3;
            bytes[at] = 255;
            for checkpoint in open(&bytes) {
                let matrix = checkpoint.ternary("w.weight", rows, cols).unwrap();
                let error = matrix.read_row(row, &mut vec![0; cols]).unwrap_err().to_string();
                assert!(error.contains(&format!("`w.weight` holds a code in row {row}")), "{error}");
            }
            let end = bytes.len() - 64;
            bytes[end..end + 4].copy_from_slice(&f32::NAN.to_le_bytes());
            let [checkpoint, _] = open(&bytes);
            assert!(matches!(checkpoint.ternary("w.weight", rows, cols), Err(FormatError::Scale { .. })));
        }
    }
}

/// Encodes `ternary` as I2_S in another layout; `place` gives byte and shift of an element.
fn encode_i2_s(ternary: &[i8], scale: f32, place: impl Fn(usize) -> (usize, u32)) -> Vec<u8> {
    let mut bytes = vec![0; ternary.len() / 4];
    for (index, &value) in ternary.iter().enumerate() {
        let (byte, shift) = place(index);
        bytes[byte] |= ((value + 1) as u8) << shift;
    }
    bytes.extend(scale.to_le_bytes());
    bytes.resize(bytes.len() + 28, 0);
    bytes
}

/// Ternary values without a pattern.
fn noise(len: usize) -> Vec<i8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 16) % 3) as i8 - 1
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn i2_s_reads_rows_that_do_not_begin_with_a_block() {
    let ternary = noise(32 * 20);
    let x86 = |i: usize| (i / 128 * 32 + i % 32, 6 - 2 * (i % 128 / 32) as u32);
    let tensor = gguf_tensor("w", &[20, 32], 36, &encode_i2_s(&ternary, 0.5, x86));
    let checkpoint = open_gguf(&Gguf::of(vec![tensor]).build()).unwrap();
    assert_eq!(decode(&checkpoint.ternary("w", 32, 20).unwrap()), ternary);
}

#[test]
fn i2_s_layouts_that_the_file_does_not_name_are_options() {
    const COLS: usize = 192;
    let ternary = noise(8 * COLS);
    let arm = |i: usize| (i / 64 * 16 + i % 16, 6 - 2 * (i % 64 / 16) as u32);
    let interleaved = |i: usize| (i / COLS / 4 * COLS + i % COLS, 6 - 2 * (i / COLS % 4) as u32);
    for (i2s_layout, bytes) in [
        (I2sLayout::Arm, encode_i2_s(&ternary, 0.5, arm)),
        (I2sLayout::RowInterleaved, encode_i2_s(&ternary, 0.5, interleaved)),
    ] {
        let file = Gguf::of(vec![gguf_tensor("w", &[COLS as u64, 8], 36, &bytes)]).build();
        let folder = folder(&[("m.gguf", &file)]);
        let path = folder.path().join("m.gguf");
        let checkpoint = Checkpoint::open_with(&path, OpenOptions { i2s_layout, ..OpenOptions::default() }).unwrap();
        assert_eq!(decode(&checkpoint.ternary("w", 8, COLS).unwrap()), ternary);
    }
}

#[test]
fn code_three_is_an_error_that_names_the_row() {
    let mut i2_s = vectors("i2_s").encoded;
    i2_s[5 * COLS / 4 + 7] |= 0b11_0000;
    let mut tq2_0 = vectors("tq2_0").encoded;
    tq2_0[5 * 198 + 70] |= 0b1100;
    let mut packed = vectors("hf_packed_u8").encoded;
    packed[COLS + 100] |= 0b11_0000;

    let dims = [COLS as u64, ROWS as u64];
    let scale = f32_bytes(&[1.0]);
    let file = Gguf::of(vec![gguf_tensor("a", &dims, 36, &i2_s), gguf_tensor("b", &dims, 35, &tq2_0)]).build();
    let gguf = open_gguf(&file).unwrap();
    let model = safetensors_of(&[("c", "U8", &[2, COLS], &packed), ("c_scale", "F32", &[], &scale)]);
    let folder = open_folder(DIVISOR, &model).unwrap();
    for (checkpoint, name) in [(&gguf, "a"), (&gguf, "b"), (&folder, "c")] {
        let matrix = checkpoint.ternary(name, ROWS, COLS).unwrap();
        let mut out = vec![0; COLS];
        for row in 0..ROWS {
            match matrix.read_row(row, &mut out) {
                Ok(()) => assert_ne!(row, 5),
                Err(FormatError::Code { tensor, row: 5, .. }) => assert_eq!(tensor, name),
                Err(error) => panic!("{error}"),
            }
        }
        for (row, len) in [(ROWS, COLS), (0, COLS - 1), (0, COLS + 1)] {
            let error = matrix.read_row(row, &mut vec![0; len]).unwrap_err();
            assert!(matches!(error, FormatError::Row { .. }), "{error}");
        }
    }
}

#[test]
fn blocks_may_be_zero_but_not_of_different_scales() {
    let zero = f16::ZERO.to_le_bytes();
    let other = f16::from_f32(0.5).to_le_bytes();
    let dims = [COLS as u64, ROWS as u64];
    for (name, kind, bytes) in [("tq1_0", 34, 54), ("tq2_0", 35, 66)] {
        let mut vectors = vectors(name);
        // Block 4 is columns 256 to 512 of row 1.
        vectors.encoded[5 * bytes - 2..5 * bytes].copy_from_slice(&zero);
        vectors.ternary[COLS + 256..COLS + 512].fill(0);
        let file = Gguf::of(vec![gguf_tensor("w", &dims, kind, &vectors.encoded)]).build();
        let matrix = open_gguf(&file).unwrap().ternary("w", ROWS, COLS).unwrap();
        assert_eq!((decode(&matrix), matrix.scale()), (vectors.ternary, vectors.scale));

        vectors.encoded[5 * bytes - 2..5 * bytes].copy_from_slice(&other);
        let file = Gguf::of(vec![gguf_tensor("w", &dims, kind, &vectors.encoded)]).build();
        let error = open_gguf(&file).unwrap().ternary("w", ROWS, COLS).unwrap_err();
        assert!(matches!(error, FormatError::GroupScales { row: 1, other: 0.5, .. }), "{error}");

        // A matrix of zeros has no scale at all.
        vectors.encoded.fill(0);
        let file = Gguf::of(vec![gguf_tensor("w", &dims, kind, &vectors.encoded)]).build();
        let matrix = open_gguf(&file).unwrap().ternary("w", ROWS, COLS).unwrap();
        assert_eq!((decode(&matrix), matrix.scale()), (vec![0; ROWS * COLS], 1.0));
    }
}

#[test]
fn a_scale_tensor_of_gguf_multiplies() {
    let vectors = vectors("tq2_0");
    let tensor = gguf_tensor("blk.0.attn_q.weight", &[COLS as u64, ROWS as u64], 35, &vectors.encoded);
    let scale = gguf_tensor("blk.0.attn_q.scale", &[1], 0, &f32_bytes(&[0.25]));
    let checkpoint = open_gguf(&Gguf::of(vec![tensor, scale]).build()).unwrap();
    let matrix = checkpoint.ternary("blk.0.attn_q.weight", ROWS, COLS).unwrap();
    assert_eq!(matrix.scale(), 0.25 * vectors.scale);
}

#[test]
fn floats_that_are_ternary_are_taken_as_they_are() {
    let values = [0.0, 0.375, -0.375, -0.0, 0.375, 0.0];
    let expected = [0, 1, -1, 0, 1, 0];
    let bf16: Vec<u8> = values.iter().flat_map(|&value| half::bf16::from_f32(value).to_le_bytes()).collect();
    for (kind, name, bytes) in [(0, "F32", f32_bytes(&values)), (1, "F16", f16_bytes(&values)), (30, "BF16", bf16)] {
        let gguf = open_gguf(&Gguf::of(vec![gguf_tensor("w", &[3, 2], kind, &bytes)]).build()).unwrap();
        let folder = open_folder(PLAIN, &safetensors_of(&[("w", name, &[2, 3], &bytes)])).unwrap();
        for checkpoint in [gguf, folder] {
            let matrix = checkpoint.ternary("w", 2, 3).unwrap();
            assert_eq!((decode(&matrix).as_slice(), matrix.scale()), (&expected[..], 0.375));
        }
    }
    let bytes = f16_bytes(&[0.0, 0.5, -0.5, 0.5, 0.25, 0.0]);
    let error = open_gguf(&Gguf::of(vec![gguf_tensor("w", &[3, 2], 1, &bytes)]).build()).unwrap();
    let error = error.ternary("w", 2, 3).unwrap_err();
    assert!(matches!(error, FormatError::NotTernary { row: 1, column: 1, value: 0.25, scale: 0.5, .. }), "{error}");
}

#[test]
fn master_weights_are_ternarized_by_their_mean_magnitude() {
    // Mean magnitude 1: half of it rounds to even, which is zero.
    let values = [0.5, -0.5, 1.5, -1.5, 0.75, -0.25, 2.0, 1.0];
    let bytes = f16_bytes(&values);
    let checkpoint = open_folder(DIVISOR, &safetensors_of(&[("w", "F16", &[2, 4], &bytes)])).unwrap();
    let matrix = checkpoint.ternary("w", 2, 4).unwrap();
    assert_eq!(matrix.scale(), 1.0);
    assert_eq!(decode(&matrix), [0, 0, 1, -1, 1, 0, 1, 1]);

    let bytes = f32_bytes(&[0.0; 8]);
    let checkpoint = open_folder(BITNET, &safetensors_of(&[("w", "F32", &[2, 4], &bytes)])).unwrap();
    let matrix = checkpoint.ternary("w", 2, 4).unwrap();
    assert_eq!(decode(&matrix), [0; 8]);
    assert!((matrix.scale() - 1e-5).abs() < 1e-11);

    let bytes = f32_bytes(&[0.0, 1.0, 1.0, 1.0, 1.0, f32::NAN, 1.0, 1.0]);
    let checkpoint = open_folder(BITNET, &safetensors_of(&[("w", "F32", &[2, 4], &bytes)])).unwrap();
    let error = checkpoint.ternary("w", 2, 4).unwrap_err();
    assert!(matches!(error, FormatError::NotFinite { index: 5, .. }), "{error}");

    let model = safetensors_of(&[("w", "F32", &[2, 4], &bytes), ("w_scale", "F32", &[1], &bytes[4..8])]);
    let error = open_folder(DIVISOR, &model).unwrap().ternary("w", 2, 4).unwrap_err().to_string();
    assert!(error.contains("since there is a weight_scale"), "{error}");
}

#[test]
fn dense_types_decode_as_gguf_py_does() {
    let bytes = std::fs::read(data_path("dense_vectors.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (name, kind) in [("q4_0", 2), ("q5_0", 6), ("q8_0", 8), ("q6_k", 14)] {
        let encoded = file.tensor(name).unwrap();
        let values = file.tensor(&format!("{name}_values")).unwrap();
        let expected: Vec<f32> =
            values.data().chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        let gguf = Gguf::of(vec![gguf_tensor("w", &[256, 2], kind, encoded.data())]).build();
        let matrix = open_gguf(&gguf).unwrap().dense("w", 2, 256).unwrap();
        let mut out = [0.0; 256];
        for (row, expected) in expected.chunks(256).enumerate() {
            dequantize_row(Isa::Scalar, matrix.ty, matrix.row(row), &mut out);
            for (found, expected) in out.iter().zip(expected) {
                assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{name}: {found} for {expected}");
            }
        }
    }

    let values = [1.5, -2.0, 0.0, 65504.0, -6e-8, 1e-3];
    for (kind, bytes) in [(0, f32_bytes(&values)), (1, f16_bytes(&values))] {
        let gguf = Gguf::of(vec![gguf_tensor("w", &[3, 2], kind, &bytes)]).build();
        let matrix = open_gguf(&gguf).unwrap().dense("w", 2, 3).unwrap();
        let mut out = [0.0; 3];
        dequantize_row(Isa::Scalar, matrix.ty, matrix.row(1), &mut out);
        let expected = values[3..].iter().map(|&value| if kind == 0 { value } else { f16::from_f32(value).to_f32() });
        assert!(expected.eq(out));
    }
}
