//! Fixtures and comparisons that several test binaries share.
#![allow(clippy::unwrap_used, dead_code, reason = "tests fail by panicking; not every binary uses every helper")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use lzma_rust2::XzReader;
use safetensors::SafeTensors;
use sterna::{GenerateOptions, Model, Sampling};

/// The tokens of an answer to a fixed prompt.
pub(crate) fn tokens(model: &Model, sampling: &Sampling, count: usize) -> Vec<u32> {
    let vocab = model.config().vocab_size as u32;
    let prompt = (0..12).map(|i| (i * i * 31 + 3) % vocab).collect();
    let options = GenerateOptions {
        max_tokens: Some(count),
        sampling: sampling.clone(),
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    model.session().generate_tokens(prompt, options).unwrap().map(|token| token.unwrap().id).collect()
}

/// The path of a file of `tests/data`.
pub(crate) fn data_path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(relative)
}

/// The folder of a fixture model with its files unpacked.
pub(crate) fn fixture(model: &str) -> PathBuf {
    static LOCK: Mutex<()> = Mutex::new(());
    let _guard = LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let packed = data_path("fixtures").join(model);
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fixtures").join(model);
    fs::create_dir_all(&unpacked).unwrap();
    for entry in fs::read_dir(&packed).unwrap_or_else(|e| panic!("{}: {e}", packed.display())) {
        let source = entry.unwrap().path();
        let name = source.file_name().unwrap().to_str().unwrap();
        let target = unpacked.join(name.trim_end_matches(".xz"));
        if target.exists() {
            continue;
        }
        // Other test binaries may unpack at the same time: the rename makes the file appear whole.
        let partial = unpacked.join(format!("{name}.{}.partial", std::process::id()));
        let mut out = fs::File::create(&partial).unwrap();
        let mut file = fs::File::open(&source).unwrap();
        if name.ends_with(".xz") {
            std::io::copy(&mut XzReader::new(file, true), &mut out).unwrap();
        } else {
            std::io::copy(&mut file, &mut out).unwrap();
        }
        fs::rename(&partial, &target).unwrap();
    }
    unpacked
}

/// A tensor of a safetensors file.
pub(crate) struct Tensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<f64>,
}

impl Tensor {
    pub(crate) fn f32(&self) -> Vec<f32> {
        self.data.iter().map(|&v| v as f32).collect()
    }

    pub(crate) fn ids(&self) -> Vec<u32> {
        self.data.iter().map(|&v| v as u32).collect()
    }
}

/// All tensors of a safetensors file, as f64 (exact for every type in the fixtures).
pub(crate) fn read_tensors(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, view)| {
            let raw = view.data();
            let data = match view.dtype() {
                safetensors::Dtype::F32 => {
                    raw.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect()
                }
                safetensors::Dtype::I64 => {
                    raw.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect()
                }
                safetensors::Dtype::I32 => {
                    raw.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()).into()).collect()
                }
                safetensors::Dtype::I8 => raw.iter().map(|&b| f64::from(b as i8)).collect(),
                safetensors::Dtype::U8 => raw.iter().map(|&b| f64::from(b)).collect(),
                other => panic!("{name}: unexpected type {other:?}"),
            };
            (name.to_owned(), Tensor { shape: view.shape().to_vec(), data })
        })
        .collect()
}

/// Largest absolute difference.
pub(crate) fn max_abs_diff(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) })
}

/// The first of the largest values.
pub(crate) fn argmax(row: &[f32]) -> usize {
    (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

/// ln of the softmax.
pub(crate) fn log_softmax(row: &[f32]) -> Vec<f64> {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
    row.iter().map(|&x| f64::from(x - max) - sum.ln()).collect()
}
