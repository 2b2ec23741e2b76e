//! Any bytes as a GGUF file.
#![no_main]

#[path = "../../tests/format/builders.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with tests, which use more of it")]
mod builders;

use builders::{exercise, open_gguf};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(checkpoint) = open_gguf(bytes) {
        exercise(&checkpoint);
    }
});
