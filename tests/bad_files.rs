//! Damaged checkpoints: each is a clear error, never a panic, a hang or a large allocation.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use assert_cmd::Command;
use common::fixture;
use predicates::prelude::*;
use sterna::{Model, OpenOptions};

/// Counts what is allocated, to bound it.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's contract is that of the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `pointer` came from `alloc` above, that is, from the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time, so that the counts are its own.
static ALONE: Mutex<()> = Mutex::new(());

/// Opening a model may take this much beyond what the intact fixture takes.
const SLACK: usize = 4 << 20;

fn options() -> OpenOptions {
    OpenOptions { threads: Some(1), context: Some(64), ..OpenOptions::default() }
}

/// The error of opening `path`, or `None` if it opens; a panic and a large allocation fail the test.
fn open_error(path: &Path, limit: usize, what: &str) -> Option<String> {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = catch_unwind(AssertUnwindSafe(|| Model::open(path, &options()).map(drop)));
    let taken = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    assert!(taken <= limit, "{what}: {taken} bytes were allocated");
    let result = result.unwrap_or_else(|_| panic!("{what}: panicked"));
    result.err().map(|error| error.to_string())
}

/// What opening the intact file takes.
fn intact(path: &Path) -> usize {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    drop(Model::open(path, &options()).unwrap());
    PEAK.load(Ordering::Relaxed) - before
}

struct Scratch {
    folder: tempfile::TempDir,
    file: PathBuf,
}

/// A copy of a fixture whose file `name` can be damaged.
fn scratch(model: &str, name: &str) -> (Scratch, Vec<u8>) {
    let source = fixture(model);
    let folder = tempfile::tempdir().unwrap();
    if name.ends_with(".gguf") {
        fs::copy(source.join(name), folder.path().join(name)).unwrap();
    } else {
        for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            fs::copy(source.join(file), folder.path().join(file)).unwrap();
        }
    }
    let file = folder.path().join(name);
    let bytes = fs::read(&file).unwrap();
    (Scratch { folder, file }, bytes)
}

impl Scratch {
    /// What is opened: the GGUF file, or the folder.
    fn path(&self) -> &Path {
        if self.file.extension().is_some_and(|e| e == "gguf") { &self.file } else { self.folder.path() }
    }
}

/// A repeatable sequence of numbers.
fn numbers(mut state: u64) -> impl Iterator<Item = u64> {
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    })
}

#[test]
fn truncated_files_are_refused() {
    let _alone = ALONE.lock();
    for (model, name) in [
        ("bitnet_a", "model-i2_s.gguf"),
        ("llama_a", "model-tq1_0.gguf"),
        ("bitnet_c_awkward", "model.safetensors"),
        ("bitnet_c_awkward", "tokenizer.json"),
        ("bitnet_c_awkward", "config.json"),
    ] {
        let (scratch, bytes) = scratch(model, name);
        let limit = intact(scratch.path()) + SLACK;
        // The header is a small part of the file: half of the cuts go there.
        let places = numbers(42).take(50).enumerate().map(|(i, n)| {
            let range = if i % 2 == 0 { bytes.len().min(16 << 10) } else { bytes.len() };
            n as usize % range
        });
        for len in places.chain([0, 1, bytes.len() - 1]) {
            fs::write(&scratch.file, &bytes[..len]).unwrap();
            let what = format!("{model}/{name} cut to {len} of {} bytes", bytes.len());
            let error = open_error(scratch.path(), limit, &what);
            let error = error.unwrap_or_else(|| panic!("{what}: opened"));
            assert!(error.contains(name.split('.').next().unwrap()), "{what}: the file is not named: {error}");
        }
    }
}

#[test]
fn flipped_bits_never_panic() {
    let _alone = ALONE.lock();
    for (model, name) in [
        ("bitnet_a", "model-i2_s.gguf"),
        ("llama_a", "model-tq2_0.gguf"),
        ("bitnet_c_awkward", "model.safetensors"),
        ("bitnet_c_awkward", "tokenizer.json"),
        ("bitnet_c_awkward", "config.json"),
    ] {
        let (scratch, bytes) = scratch(model, name);
        let limit = intact(scratch.path()) * 4 + (16 << 20);
        for (i, n) in numbers(7).take(150).enumerate() {
            let mut damaged = bytes.clone();
            let range = if i % 3 == 0 { bytes.len() } else { bytes.len().min(12 << 10) };
            let place = (n >> 8) as usize % range;
            damaged[place] ^= 1 << (n & 7);
            fs::write(&scratch.file, &damaged).unwrap();
            // A flip in a weight is another model; what counts is that nothing breaks.
            open_error(scratch.path(), limit, &format!("{model}/{name} bit {} of byte {place}", n & 7));
        }
    }
}

/// Replaces the first occurrence of `from` (of the same length) in a file and gives the error.
fn replaced(model: &str, name: &str, from: &[u8], to: &[u8]) -> String {
    let (scratch, mut bytes) = scratch(model, name);
    let at = bytes.windows(from.len()).position(|w| w == from).expect("the text to replace");
    bytes.splice(at..at + from.len(), to.iter().copied());
    fs::write(&scratch.file, bytes).unwrap();
    let what = String::from_utf8_lossy(to).into_owned();
    open_error(scratch.path(), usize::MAX, &what).unwrap_or_else(|| panic!("{what}: opened"))
}

fn assert_names(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn headers_that_make_no_sense_are_explained() {
    let _alone = ALONE.lock();
    let gguf = |from: &[u8], to: &[u8]| replaced("bitnet_a", "model-i2_s.gguf", from, to);
    assert_names(&gguf(b"GGUF", b"GGML"), &["model-i2_s.gguf"]);
    assert_names(&gguf(b"GGUF\x03", b"GGUF\x63"), &["99"]);
    assert_names(&gguf(b"bitnet-b1.58", b"bitnet-zzzzz"), &["bitnet-zzzzz", "not supported"]);
    assert_names(&gguf(b"blk.1.attn_q.weight", b"blk.1.attn_x.weight"), &["blk.1.attn_q.weight"]);
    assert_names(&gguf(b"blk.0.attn_norm.weight", b"blk.0.attn_n\xff\xfem.weight"), &["UTF-8"]);
    assert_names(
        &gguf(
            b"bitnet-b1.58.attention.head_count\x04\0\0\0\x04\0\0\0",
            b"bitnet-b1.58.attention.head_count\x04\0\0\0\0\0\0\0",
        ),
        &["attention.head_count", "from 1"],
    );
    assert_names(
        &gguf(b"bitnet-b1.58.block_count\x04\0\0\0\x03\0\0\0", b"bitnet-b1.58.block_count\x04\0\0\0\xff\xff\xff\x00"),
        &["block_count", "at most"],
    );

    let config = |from: &str, to: &str| replaced("bitnet_a", "config.json", from.as_bytes(), to.as_bytes());
    assert_names(&config("\"hidden_size\": 256", "\"hidden_size\": 128"), &["model.embed_tokens.weight", "[512, 128]"]);
    assert_names(&config("\"hidden_size\": 256", "\"hidden_size\": -1"), &["hidden_size is -1"]);
    assert_names(
        &config("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"),
        &["num_key_value_heads is 3", "divisor"],
    );
    assert_names(&config("\"relu2\"", "\"gelu_\""), &["hidden_act", "gelu_"]);
    assert_names(&config("BitNetForCausalLM", "GPTBigCodeForCausalLM"), &["GPTBigCodeForCausalLM"]);
    assert_names(&config("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2"), &["model.layers.2", "not part of"]);
    assert_names(&config("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4"), &["model.layers.3"]);
    assert_names(&config("{", "["), &["config.json"]);
    let llama = replaced("llama_a", "config.json", b"\"quant_method\": \"bitnet\"", b"\"quant_method\": \"gptq\"");
    assert_names(&llama, &["quant_method", "gptq", "bitnet"]);
    // Known architectures that are not run: with the reason and what would run.
    for (from, to, reason) in [
        ("LlamaForCausalLM", "MapleForCausalLM", "mixture of experts"),
        ("LlamaForCausalLM", "Qwen3_5ForCausalLM", "delta networks"),
        ("LlamaForCausalLM", "MiniCPM3ForCausalLM", "latent"),
    ] {
        let error = replaced("llama_a", "config.json", from.as_bytes(), to.as_bytes());
        assert_names(&error, &[to, reason]);
    }
    assert_names(&replaced("llama_a", "model-i2_s.gguf", b"llama", b"maple"), &["maple", "mixture of experts"]);
    let gemma = |from: &str, to: &str| replaced("embed_gemma3", "config.json", from.as_bytes(), to.as_bytes());
    assert_names(&gemma("\"sliding_window\": 24", "\"sliding_window\": 0"), &["sliding_window is 0"]);
    assert_names(&gemma("\"sliding_attention\",", "\"chunked_attention\","), &["layer_types", "full_attention"]);
    assert_names(&gemma("\"query_pre_attn_scalar\": 64", "\"query_pre_attn_scalar\": -1"), &["query_pre_attn_scalar"]);
    let bidirectional = gemma("\"use_bidirectional_attention\": false", "\"use_bidirectional_attention\": true");
    assert_names(&bidirectional, &["use_bidirectional_attention"]);
    let qwen3 = |from: &str, to: &str| replaced("qwen3_bitlinear", "config.json", from.as_bytes(), to.as_bytes());
    assert_names(&qwen3("\"use_sliding_window\": false", "\"use_sliding_window\": true"), &["use_sliding_window"]);
    assert_names(&qwen3("\"factor\": 4.0", "\"factor\": -4.0"), &["rope", "factor"]);
    let minicpm = |from: &str, to: &str| replaced("minicpm_bitlinear", "config.json", from.as_bytes(), to.as_bytes());
    assert_names(&minicpm("\"scale_depth\": 1.4", "\"scale_depth\": 0"), &["scale_depth is 0"]);
    assert_names(&minicpm("\"scale_emb\": 12,", ""), &["scale_emb", "missing"]);
    assert_names(&minicpm("\"long_factor\": [", "\"long_factor\": [1.0,"), &["long_factor", "12 positive"]);
}

#[test]
fn bad_scales_are_refused() {
    let _alone = ALONE.lock();
    // The f32 scale of I2_S stands behind the packed rows of its tensor.
    let (scratch, bytes) = scratch("bitnet_a", "model-i2_s.gguf");
    let checkpoint = sterna::format::Checkpoint::open(&scratch.file).unwrap();
    let tensor = checkpoint.data("blk.1.ffn_down.weight").unwrap();
    let at = bytes.windows(tensor.len()).position(|w| w == &tensor[..]).unwrap() + 256 * 768 / 4;
    drop((checkpoint, tensor));
    for scale in [f32::NAN, f32::INFINITY, -1.0, 0.0] {
        let mut damaged = bytes.clone();
        damaged[at..at + 4].copy_from_slice(&scale.to_le_bytes());
        fs::write(&scratch.file, damaged).unwrap();
        let error = open_error(&scratch.file, usize::MAX, "scale").expect("a bad scale");
        assert_names(&error, &["blk.1.ffn_down.weight", "scale"]);
    }
}

#[test]
fn places_without_a_model_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let run = |path: &Path| {
        let output = Command::cargo_bin("sterna").unwrap().arg("run").arg(path).arg("x").assert().failure();
        let text = String::from_utf8(output.get_output().stderr.clone()).unwrap();
        assert!(predicate::str::contains("panicked").not().eval(&text), "{text}");
        text
    };
    assert_names(&run(folder.path()), &["config.json"]);
    assert_names(&run(&folder.path().join("none.gguf")), &["none.gguf"]);
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    assert_names(&run(folder.path()), &["safetensors"]);
    fs::write(folder.path().join("text.txt"), "hello").unwrap();
    assert_names(&run(&folder.path().join("text.txt")), &["text.txt"]);
    fs::write(folder.path().join("empty.gguf"), "").unwrap();
    assert_names(&run(&folder.path().join("empty.gguf")), &["empty.gguf"]);
}
