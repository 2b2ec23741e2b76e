//! The vocabulary in the metadata of a GGUF file, with the rules that tokenizer.json would have for it.

use serde_json::{Value as Json, json};

use super::export::EOS_IDS;
use super::vocabulary::Vocabulary;
use super::{Roles, Tokenizer, TokenizerError, spm};
use crate::format::Metadata;

/// The pre-tokenizer of LLaMA 3.
const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The pre-tokenizer of Qwen 2 and 3: digits one by one.
const QWEN2_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";

/// llama.cpp's `llama_token_type`.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

fn invalid(key: &str, reason: impl Into<String>) -> TokenizerError {
    TokenizerError::Invalid { what: key.into(), reason: reason.into() }
}

/// The vocabulary in `metadata`.
pub(super) fn vocabulary(metadata: &Metadata) -> Result<Vocabulary<'_>, TokenizerError> {
    let tokens = metadata
        .strings(TOKENS)
        .ok_or(TokenizerError::MissingKey { key: TOKENS, expected: "the names of the tokens" })?;
    if tokens.is_empty() {
        return Err(invalid(TOKENS, "it is empty"));
    }
    let types = metadata.ints(TYPES).unwrap_or_default();
    if !types.is_empty() && types.len() != tokens.len() {
        return Err(invalid(TYPES, format!("{} types for {} tokens", types.len(), tokens.len())));
    }
    let added = added_tokens(tokens, types);
    match metadata.str(MODEL) {
        Some("gpt2") => byte_level(metadata, tokens, added),
        Some("llama") => {
            let scores = metadata
                .floats(SCORES)
                .ok_or(TokenizerError::MissingKey { key: SCORES, expected: "a score for each token" })?;
            if scores.len() != tokens.len() {
                return Err(invalid(SCORES, format!("{} scores for {} tokens", scores.len(), tokens.len())));
            }
            let unknown = token_id(metadata, "tokenizer.ggml.unknown_token_id", tokens.len())?.unwrap_or(0);
            let space_prefix = metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
            Ok(spm::vocabulary(tokens, scores, types, unknown as usize, space_prefix, added))
        }
        Some(other) => {
            Err(invalid(MODEL, format!("the kind {other:?} is not supported; supported are gpt2 and llama")))
        }
        None => Err(TokenizerError::MissingKey { key: MODEL, expected: "gpt2 or llama" }),
    }
}

/// Control and user-defined tokens: they are found in a text before it is split.
fn added_tokens(tokens: &[String], types: &[i64]) -> Vec<Json> {
    let kinds = types.iter().zip(tokens).enumerate();
    kinds
        .filter(|(_, (kind, token))| [CONTROL, USER_DEFINED].contains(kind) && !token.is_empty())
        .map(|(id, (kind, token))| {
            json!({
                "id": id, "content": token, "special": *kind == CONTROL,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect()
}

/// Byte-level BPE.
fn byte_level<'a>(
    metadata: &'a Metadata,
    names: &'a [String],
    added: Vec<Json>,
) -> Result<Vocabulary<'a>, TokenizerError> {
    let merges = metadata
        .strings(MERGES)
        .ok_or(TokenizerError::MissingKey { key: MERGES, expected: "the merges of the vocabulary" })?;
    // 2B-4T's published file names no pre-tokenizer; like every ternary family with this kind of vocabulary it has
    // LLaMA 3's.
    let (split, ignore_merges) = match metadata.str(PRE) {
        None | Some("llama-bpe" | "llama3" | "llama-v3" | "falcon3") => (Some(LLAMA3_SPLIT), true),
        Some("qwen2") => (Some(QWEN2_SPLIT), false),
        Some("gpt-2" | "default") => (None, false),
        Some(other) => {
            return Err(invalid(
                PRE,
                format!(
                    "the pre-tokenizer {other:?} is not supported; supported are llama-bpe, llama3, llama-v3, falcon3, qwen2, gpt-2 and default"
                ),
            ));
        }
    };
    let mut pairs = Vec::with_capacity(merges.len());
    for (index, merge) in merges.iter().enumerate() {
        match merge.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() => pairs.push((left, right)),
            _ => return Err(invalid(MERGES, format!("merge {index} is {merge:?}, expected two tokens"))),
        }
    }
    let byte_level = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
    let pre_tokenizer = match split {
        None => byte_level(true),
        Some(pattern) => json!({
            "type": "Sequence",
            "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false },
                byte_level(false),
            ],
        }),
    };
    let rules = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges,
        },
    });
    Ok(Vocabulary { rules, names, merges: pairs })
}

/// A token id under `key`; -1 and 2^32 - 1 mean none.
fn token_id(metadata: &Metadata, key: &str, tokens: usize) -> Result<Option<u32>, TokenizerError> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    match metadata.u64(key) {
        Some(id) if id < tokens as u64 => Ok(Some(id as u32)),
        Some(id) if id == u64::from(u32::MAX) => Ok(None),
        None if metadata.f64(key) == Some(-1.0) => Ok(None),
        _ => Err(invalid(key, format!("{value:?} is not the id of one of the {tokens} tokens"))),
    }
}

/// BOS, EOS and the chat template.
pub(super) fn roles(tokenizer: &Tokenizer, metadata: &Metadata) -> Result<Roles, TokenizerError> {
    let id = |key: &str| token_id(metadata, key, tokenizer.vocab_size);
    let bos = id("tokenizer.ggml.bos_token_id")?;
    let text_end = id("tokenizer.ggml.eos_token_id")?;
    let eos = [text_end, id("tokenizer.ggml.eot_token_id")?, id("tokenizer.ggml.eom_token_id")?];
    let more = metadata.ints(EOS_IDS).unwrap_or_default().iter().filter_map(|&id| u32::try_from(id).ok());
    let more = more.filter(|&id| (id as usize) < tokenizer.vocab_size);
    // llama.cpp adds BOS to SentencePiece vocabularies and LLaMA 3's unless told otherwise.
    let by_default = !matches!(metadata.str(PRE), Some("qwen2" | "gpt-2" | "default"));
    Ok(Roles {
        bos,
        eos: eos.into_iter().flatten().chain(more).collect(),
        add_bos: metadata.bool("tokenizer.ggml.add_bos_token").unwrap_or(by_default),
        end: text_end.filter(|_| metadata.bool("tokenizer.ggml.add_eos_token") == Some(true)),
        chat_template: metadata.str("tokenizer.chat_template").map(str::to_owned),
    })
}
