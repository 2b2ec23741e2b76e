//! TL1 and TL2 against what bitnet.cpp's converter packed (see `tests/data/make/tl_vectors.py`).

use std::path::PathBuf;

use proptest::prelude::*;
use safetensors::SafeTensors;
use sterna::format::{Checkpoint, DType, FormatError, KernelConfig, OpenOptions};

use crate::builders::{Gguf, GgufTensor, f32_bytes, folder, gguf_tensor};
use crate::common::data_path;
use crate::decode;

/// A packed matrix.
struct Vectors {
    ternary: Vec<i8>,
    codes: Vec<u8>,
    rows: usize,
    cols: usize,
    /// `bm`, `bk`, `bmm`.
    cut: [i32; 3],
}

impl Vectors {
    fn read(name: &str) -> Vectors {
        let bytes = std::fs::read(data_path("tl_vectors.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let ternary = file.tensor(&format!("{name}.ternary")).unwrap();
        let cut = file.tensor(&format!("{name}.cut")).unwrap();
        let cut: Vec<i32> = cut.data().chunks(4).map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap())).collect();
        Vectors {
            rows: ternary.shape()[0],
            cols: ternary.shape()[1],
            ternary: ternary.data().iter().map(|&byte| byte as i8).collect(),
            codes: file.tensor(&format!("{name}.codes")).unwrap().data().to_vec(),
            cut: cut.try_into().unwrap(),
        }
    }

    fn ini(&self) -> String {
        let [bm, bk, bmm] = self.cut;
        format!("[Kernels_0]\nm = {}\nk = {}\nbm = {bm}\nbk = {bk}\nbmm = {bmm}\n", self.rows, self.cols)
    }

    fn kind(&self, name: &str) -> u32 {
        if name.starts_with("tl1") { 38 } else { 39 }
    }
}

/// Opens a GGUF file of these tensors with a `kernel_config.ini`, if there is one.
fn open(tensors: Vec<GgufTensor>, ini: Option<&str>) -> Checkpoint {
    let file = Gguf::of(tensors).build();
    let folder = folder(&[("m.gguf", &file), ("k.ini", ini.unwrap_or_default().as_bytes())]);
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let kernel_config = ini.map_or_else(KernelConfig::default, |_| KernelConfig::read(&path("k.ini")).unwrap());
    Checkpoint::open_with(&path("m.gguf"), OpenOptions { kernel_config, ..OpenOptions::default() }).unwrap()
}

#[test]
fn tl1_and_tl2_decode_what_bitnet_cpp_packed() {
    for name in ["tl1_32", "tl1_64", "tl2_even", "tl2_rest"] {
        let vectors = Vectors::read(name);
        let (rows, cols, kind) = (vectors.rows, vectors.cols, vectors.kind(name));
        let dims = [cols as u64, rows as u64];
        let scale = f32_bytes(&[0.75]);
        // The scale as a tensor that comes next, as the converter has it; before the matrix; behind its codes.
        let matrix = || gguf_tensor("w.weight", &dims, kind, &vectors.codes);
        let apart = || gguf_tensor("w.weight_scale", &[], 0, &scale);
        let mut behind = vectors.codes.clone();
        behind.resize(behind.len().next_multiple_of(32), 0);
        behind.extend(&scale);
        behind.resize(behind.len() + 28, 0);
        let other = || gguf_tensor("x.weight", &[1], 0, &scale);
        for tensors in [
            vec![matrix(), apart(), other()],
            vec![apart(), other(), matrix()],
            vec![gguf_tensor("w.weight", &dims, kind, &behind), other()],
            vec![gguf_tensor("w.weight", &dims, kind, &behind)],
        ] {
            let checkpoint = open(tensors, Some(&vectors.ini()));
            let expected = if kind == 38 { DType::Tl1 } else { DType::Tl2 };
            assert_eq!(checkpoint.tensor("w.weight").unwrap().dtype, expected);
            let tensor = checkpoint.ternary("w.weight", rows, cols).unwrap();
            assert_eq!(tensor.scale(), 0.75);
            assert_eq!(decode(&tensor), vectors.ternary, "{name}");
        }
    }
}

#[test]
fn tl_files_without_a_cut_or_with_another_one_are_refused() {
    for name in ["tl1_32", "tl2_rest"] {
        let vectors = Vectors::read(name);
        let (rows, cols) = (vectors.rows, vectors.cols);
        let tensors = || {
            let dims = [cols as u64, rows as u64];
            let matrix = gguf_tensor("w", &dims, vectors.kind(name), &vectors.codes);
            vec![matrix, gguf_tensor("w_scale", &[1], 0, &f32_bytes(&[0.75]))]
        };
        let error = |ini: Option<&str>| open(tensors(), ini).ternary("w", rows, cols).unwrap_err().to_string();
        assert!(error(None).contains("--kernel-config"), "{}", error(None));
        let [bm, bk, bmm] = vectors.cut;
        let with = |bm, bk, bmm| error(Some(&Vectors { cut: [bm, bk, bmm], ..Vectors::read(name) }.ini()));
        for text in
            [with(bm + 32, bk, bmm), with(bm, bk + 1, bmm), with(bm, bk, bmm + 1), with(1, bk, bmm), with(bm, 1, bmm)]
        {
            assert!(text.contains("bm"), "{text}");
        }
    }
}

#[test]
fn damaged_tl_matrices_are_refused() {
    let vectors = Vectors::read("tl2_rest");
    let (rows, cols) = (vectors.rows, vectors.cols);
    let dims = [cols as u64, rows as u64];
    let scale = |value: f32| gguf_tensor("w_scale", &[1], 0, &f32_bytes(&[value]));
    // A magnitude of 15, of a number of row 5.
    let mut codes = vectors.codes.clone();
    codes[5] |= 0xf0;
    let checkpoint = open(vec![gguf_tensor("w", &dims, 39, &codes), scale(1.0)], Some(&vectors.ini()));
    let tensor = checkpoint.ternary("w", rows, cols).unwrap();
    let bad: Vec<usize> = (0..rows).filter(|&row| tensor.read_row(row, &mut vec![0; cols]).is_err()).collect();
    assert_eq!(bad, [5]);
    // Without a scale, and with one that can be none.
    let matrix = || gguf_tensor("w", &dims, 39, &vectors.codes);
    let error = |tensors| open(tensors, Some(&vectors.ini())).ternary("w", rows, cols).unwrap_err();
    assert!(
        error(vec![matrix(), gguf_tensor("x", &[1], 0, &f32_bytes(&[1.0]))]).to_string().contains("scale is missing")
    );
    assert!(matches!(error(vec![matrix(), scale(-1.0)]), FormatError::Scale { .. }));
}

#[test]
fn mxfp4_has_the_number_of_tl2_and_is_listed_as_such() {
    // 17 bytes for 32 values.
    let mxfp4 = gguf_tensor("w", &[512, 64], 39, &vec![0; 512 * 64 / 32 * 17]);
    let checkpoint = open(vec![mxfp4, gguf_tensor("x", &[1], 0, &[0; 4])], None);
    assert_eq!(checkpoint.tensor("w").unwrap().dtype, DType::Unknown(39));
    let error = checkpoint.ternary("w", 64, 512).unwrap_err().to_string();
    assert!(error.contains("MXFP4"), "{error}");
}

proptest! {
    #[test]
    fn any_cut_of_any_bytes_is_read_or_refused(
        is_tl1: bool,
        (m, k) in (1..5usize, 0..9usize),
        (bm, bk, bmm) in (1..5usize, 1..9usize, 1..5usize),
        odd in any::<prop::sample::Index>(),
        mut codes in prop::collection::vec(any::<u8>(), 20_000),
    ) {
        // Sizes that fit now and then: multiples of what the kernels take, and one number beside it.
        let mut numbers = [32 * m, 256 + 32 * k, 32 * bm, 24 * bk, 32 * bmm];
        if is_tl1 {
            numbers[3] = 8 * bk;
        }
        if odd.index(4) == 0 {
            numbers[2 + odd.index(3)] += 1;
        }
        let [m, k, bm, bk, bmm] = numbers;
        let length = if is_tl1 { m * k / 4 } else { (k - 256) * m / 3 * 5 / 8 + 64 * m };
        codes.truncate(length);
        let matrix = gguf_tensor("w", &[k as u64, m as u64], if is_tl1 { 38 } else { 39 }, &codes);
        let scale = gguf_tensor("w_scale", &[1], 0, &f32_bytes(&[1.0]));
        let ini = format!("[Kernels_0]\nm={m}\nk={k}\nbm={bm}\nbk={bk}\nbmm={bmm}\n");
        if let Ok(tensor) = open(vec![matrix, scale], Some(&ini)).ternary("w", m, k) {
            let mut row = vec![7; k];
            for index in 0..m {
                if tensor.read_row(index, &mut row).is_ok() {
                    prop_assert!(row.iter().all(|value| (-1..=1).contains(value)));
                }
            }
        }
    }
}
