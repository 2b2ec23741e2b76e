//! SentencePiece vocabularies (`tokenizer.ggml.model` = `llama`): tokens with scores, spaces as U+2581, byte tokens.
//!
//! llama.cpp merges the neighbouring pair whose union has the best score. The `tokenizers` crate merges by rank, so each
//! way to cut a token into two others becomes a merge, ranked by the token's score, as transformers converts them
//! (`convert_slow_tokenizer.py`, `generate_merges`).

use std::cmp::Reverse;
use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::vocabulary::Vocabulary;

/// llama.cpp's token types of pieces that text can be made of.
const NORMAL: i64 = 1;
const USER_DEFINED: i64 = 4;

/// A SentencePiece vocabulary; `types` may be empty (all tokens are normal).
pub(super) fn vocabulary<'a>(
    names: &'a [String],
    scores: &[f32],
    types: &[i64],
    unknown: usize,
    space_prefix: bool,
    added: Vec<Json>,
) -> Vocabulary<'a> {
    let replace = |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
    let mut normalizers = Vec::new();
    let mut decoders = vec![replace("\u{2581}", " "), json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
    if space_prefix {
        normalizers.push(json!({ "type": "Prepend", "prepend": "\u{2581}" }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    normalizers.push(replace(" ", "\u{2581}"));
    let rules = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added,
        "normalizer": { "type": "Sequence", "normalizers": normalizers },
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": names.get(unknown), "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
        },
    });
    Vocabulary { rules, names, merges: merges(names, scores, types) }
}

/// Every way to cut a token into two others; those of the best token first.
fn merges<'a>(tokens: &'a [String], scores: &[f32], types: &[i64]) -> Vec<(&'a str, &'a str)> {
    let is_piece = |id: usize| types.get(id).is_none_or(|kind| [NORMAL, USER_DEFINED].contains(kind));
    let ids: HashMap<&str, usize> =
        tokens.iter().enumerate().filter(|(id, _)| is_piece(*id)).map(|(id, token)| (token.as_str(), id)).collect();
    let mut merges = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|(id, _)| is_piece(*id)) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                merges.push((scores[id], left, right, l, r));
            }
        }
    }
    let characters = |piece: &str| piece.chars().count();
    merges.sort_by(|a, b| {
        let key = |m: &(f32, &str, &str, usize, usize)| (Reverse(characters(m.1)), Reverse(characters(m.2)), m.3, m.4);
        b.0.total_cmp(&a.0).then_with(|| key(a).cmp(&key(b)))
    });
    merges.into_iter().map(|(_, left, right, ..)| (left, right)).collect()
}
