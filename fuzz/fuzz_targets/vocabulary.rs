//! Any bytes as a GGUF file with a vocabulary. Building one is slow without optimization.
#![no_main]

#[path = "../../tests/format/builders.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with tests, which use more of it")]
mod builders;
mod panics;

use builders::open_gguf;
use libfuzzer_sys::fuzz_target;
use sterna::format::Description;
use sterna::tokenizer::Tokenizer;

fuzz_target!(init: panics::allow_caught(), |bytes: &[u8]| {
    let Ok(checkpoint) = open_gguf(bytes) else { return };
    let Description::Gguf { metadata, .. } = checkpoint.description() else { return };
    if let Ok(tokenizer) = Tokenizer::from_gguf(metadata) {
        let _ = tokenizer.encode("a abc <s> cab\n1234 Żółw", true).map(|ids| tokenizer.decode(&ids, true));
    }
});
