//! What a header claims is not allocated before the file has been found to hold it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, unreachable_pub, reason = "the builders are shared with another test")]

#[path = "format/builders.rs"]
mod builders;
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use builders::{Gguf, array_value, exercise, folder, gguf_string, gguf_tensor, raw_value, safetensors, strings_value};
use common::fixture;
use sterna::format::Checkpoint;

/// The system's allocator, with a count of the bytes in use and of the most that ever were.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls are passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let in_use = IN_USE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(in_use, Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MIB: usize = 1 << 20;

/// Opens `path` and, if that succeeds, reads everything; returns the most bytes that were allocated for it at once.
fn peak_of(path: &Path) -> usize {
    let before = IN_USE.load(Relaxed);
    PEAK.store(before, Relaxed);
    if let Ok(checkpoint) = Checkpoint::open(path) {
        exercise(&checkpoint);
    }
    PEAK.load(Relaxed) - before
}

/// As [`peak_of`], for the bytes of a GGUF file.
fn peak_of_gguf(bytes: &[u8]) -> usize {
    let folder = folder(&[("model.gguf", bytes)]);
    peak_of(&folder.path().join("model.gguf"))
}

// One test, since the count is of all threads.
#[test]
fn memory_follows_the_file_and_not_its_claims() {
    // Threads of the pool start once and for all.
    exercise(&Checkpoint::open(&fixture("bitnet_bf16_online")).unwrap());

    let small = || Gguf::of(vec![gguf_tensor("w", &[4, 2], 0, &[0; 32])]);
    let claims = [u64::MAX, i64::MAX as u64, 1 << 40, 1 << 32, 1 << 24, 1 << 16];
    let mut liars: Vec<Gguf> = Vec::new();
    for claim in claims {
        liars.push(Gguf { tensor_count: Some(claim), ..small() });
        liars.push(Gguf { pair_count: Some(claim), ..small() });
        liars.push(small().with("k", raw_value(8, &claim.to_le_bytes())));
        for kind in 0..13 {
            liars.push(small().with("k", array_value(kind, claim, &[0; 64])));
        }
        for kind in [0, 1, 8, 14, 34, 35, 36, 38, 39] {
            for dims in [&[claim][..], &[claim, 1], &[256, claim], &[claim, claim]] {
                liars.push(Gguf::of(vec![gguf_tensor("w", dims, kind, &[0; 1024])]));
            }
        }
    }
    for liar in liars {
        let bytes = liar.build();
        let peak = peak_of_gguf(&bytes);
        assert!(peak <= bytes.len() + MIB / 4, "{peak} bytes for a file of {}", bytes.len());
    }

    for header in [
        r#"{"w":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,18446744073709551608]}}"#,
        r#"{"w":{"dtype":"U8","shape":[1099511627776],"data_offsets":[0,1099511627776]}}"#,
    ] {
        let folder = folder(&[("config.json", b"{}"), ("model.safetensors", &safetensors(header, &[]))]);
        assert!(peak_of(folder.path()) <= MIB / 4);
    }

    // Entries that are really there: their count is limited as well, since some take more room in memory.
    let empty_strings = strings_value(&vec![&b""[..]; 1 << 16]);
    let booleans = array_value(7, 1 << 20, &vec![1; 1 << 20]);
    let too_many = array_value(7, (1 << 22) + 1, &vec![1; (1 << 22) + 1]);
    for (value, limit) in [(empty_strings, 2 * MIB), (booleans, 9 * MIB), (too_many, MIB / 4)] {
        let peak = peak_of_gguf(&small().with("k", value).build());
        assert!(peak <= limit, "{peak} bytes, expected {limit} at most");
    }

    // All contents of real files. A vector is a copy, master weights are decoded row by row.
    for (model, file) in
        [("llama_a", "model-tq1_0.gguf"), ("bitnet_a", "model-i2_s.gguf"), ("bitnet_bf16_online", "model.safetensors")]
    {
        let path = fixture(model).join(file);
        let (peak, length) = (peak_of(&path), std::fs::metadata(&path).unwrap().len() as usize);
        assert!(peak <= length / 4 + MIB / 4, "{file}: {peak} bytes for a file of {length}");
    }

    // A string as long as the file is copied once.
    let long = raw_value(8, &gguf_string(&vec![b'a'; 8 * MIB]));
    assert!(peak_of_gguf(&small().with("k", long).build()) <= 8 * MIB + MIB / 4);
}
