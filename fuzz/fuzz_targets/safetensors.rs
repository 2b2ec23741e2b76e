//! Any bytes as the weights of a Hugging Face folder.
#![no_main]

#[path = "../../tests/format/builders.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with tests, which use more of it")]
mod builders;

use builders::{exercise, open_folder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for config in
        [r#"{"quantization_config": {"quant_method": "bitnet"}}"#, r#"{"architectures": ["BitnetForCausalLM"]}"#]
    {
        if let Ok(checkpoint) = open_folder(config, bytes) {
            exercise(&checkpoint);
        }
    }
});
