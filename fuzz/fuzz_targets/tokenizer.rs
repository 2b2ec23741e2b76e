//! Any bytes as the tokenizer.json of a Hugging Face folder.
#![no_main]

mod panics;

use libfuzzer_sys::fuzz_target;
use sterna::tokenizer::Tokenizer;

fuzz_target!(init: panics::allow_caught(), |bytes: &[u8]| {
    if let Ok(tokenizer) = Tokenizer::from_hf(bytes, None, None, None, None) {
        let _ = tokenizer.encode("a abc <s> cab\n1234 Żółw", true).map(|ids| tokenizer.decode(&ids, true));
    }
});
