//! A tokenizer of a Hugging Face folder in the metadata of a GGUF file.
//!
//! What GGUF's keys can say is a handful of pre-tokenizers and two kinds of vocabulary. Each is tried: the keys are turned
//! back into a tokenizer, which must be the original in its rules, its vocabulary and some texts. If none is, the file keeps
//! tokenizer.json itself, which other programs do not read.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value as Json;

use super::vocabulary::Vocabulary;
use super::{Tokenizer, TokenizerError, gguf, hf};
use crate::format::{Metadata, Value};

/// The key of a tokenizer.json in a GGUF file.
pub(super) const JSON: &str = "sterna.tokenizer.json";

/// The key of all tokens that end a text, where they are more than GGUF has keys for.
pub(super) const EOS_IDS: &str = "sterna.tokenizer.eos_token_ids";

/// The key of the token for what no token is made of.
const UNKNOWN_ID: &str = "tokenizer.ggml.unknown_token_id";

/// llama.cpp's token types.
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;
const BYTE: i64 = 6;

/// Keys for the tokens that end a text.
const EOS: [&str; 3] = ["eos_token_id", "eot_token_id", "eom_token_id"];

/// Texts that both tokenizers must cut alike.
const PROBES: [&str; 5] = [
    "   a    b     c      d       e         f\n\n\n\n\t\t\tg ------- ======== ........... hahahaha aaaaaaa",
    "Once upon a time, there's a king who'd 12345 coins.\n\n  He said: \"I'M HERE!\"\r\n\t",
    " naïve café — 你好，世界 \u{1F600} łódź Ωmega",
    "if (x1 == 0x7f) { return a[i++] / 2.5e-3; } // done\n    ",
    "",
];

impl Tokenizer {
    /// The keys `tokenizer.*` (and, if need be, `sterna.tokenizer.json`) of a GGUF file with this tokenizer, which was
    /// read from `tokenizer_json`, for a model of `vocab_size` tokens.
    ///
    /// # Errors
    /// If `tokenizer_json` is not what it was read from.
    pub fn to_gguf(&self, tokenizer_json: &[u8], vocab_size: usize) -> Result<Metadata, TokenizerError> {
        let original = hf::parse("tokenizer.json", tokenizer_json)?;
        let vocabularies = vocabularies(&original, vocab_size);
        let expressed = vocabularies.into_iter().map(|vocabulary| self.with_roles(vocabulary));
        match expressed.into_iter().find(|metadata| self.is_in(metadata, &original)) {
            Some(metadata) => Ok(metadata),
            None => {
                let text = String::from_utf8_lossy(tokenizer_json).into_owned();
                let mut metadata = Metadata::default();
                metadata.entries.insert("tokenizer.ggml.model".into(), Value::String("none".into()));
                metadata.entries.insert(JSON.into(), Value::String(text));
                Ok(self.with_roles(metadata))
            }
        }
    }

    /// The keys with the roles of tokens and the chat template.
    fn with_roles(&self, mut metadata: Metadata) -> Metadata {
        let mut set = |key: String, value| metadata.entries.insert(key, value);
        if let Some(bos) = self.bos {
            set("tokenizer.ggml.bos_token_id".into(), Value::U64(bos.into()));
        }
        // Whatever puts it there: the vocabulary's own rules, or this program.
        let adds_bos = self.encode("a", true).is_ok_and(|ids| ids.first().copied() == self.bos && self.bos.is_some());
        set("tokenizer.ggml.add_bos_token".into(), Value::Bool(adds_bos));
        // What is put behind a whole text is the first of them.
        let others = self.eos.iter().copied().filter(|&id| Some(id) != self.end);
        for (key, id) in EOS.iter().zip(self.end.into_iter().chain(others)) {
            set(format!("tokenizer.ggml.{key}"), Value::U64(id.into()));
        }
        if self.end.is_some() {
            set("tokenizer.ggml.add_eos_token".into(), Value::Bool(true));
        }
        if self.eos.len() > EOS.len() {
            set(EOS_IDS.into(), Value::Ints(self.eos.iter().map(|&id| id.into()).collect()));
        }
        if let Some(source) = self.chat_template.as_ref().and_then(super::ChatTemplate::source) {
            set("tokenizer.chat_template".into(), Value::String(source));
        }
        metadata
    }

    /// Whether `metadata` stand for this tokenizer, which was made from `original`.
    fn is_in(&self, metadata: &Metadata, original: &Json) -> bool {
        let Ok(vocabulary) = gguf::vocabulary(metadata) else { return false };
        if !is_same(original, &vocabulary) {
            return false;
        }
        let Ok(other) = Tokenizer::from_gguf(metadata) else { return false };
        // GGUF's unknown token is no text, and stands for what no token is made of.
        let unknown = metadata.u64(UNKNOWN_ID);
        let special = |tokenizer: &Tokenizer| -> BTreeSet<u32> {
            tokenizer.special.iter().copied().filter(|&id| Some(u64::from(id)) != unknown).collect()
        };
        let (ours, theirs) = (special(self), special(&other));
        let special: String = ours.iter().filter_map(|&id| self.id_to_token(id)).take(64).collect();
        let texts = PROBES.into_iter().chain([special.as_str()]);
        let same_texts = texts.into_iter().all(|text| match (self.encode(text, true), other.encode(text, true)) {
            (Ok(ours), Ok(theirs)) => ours == theirs,
            _ => false,
        });
        same_texts && self.bos == other.bos && self.eos == other.eos && ours == theirs
    }
}

/// All ways in which GGUF might say what `original` says.
fn vocabularies(original: &Json, vocab_size: usize) -> Vec<Metadata> {
    let Some(tokens) = tokens(original, vocab_size) else { return Vec::new() };
    let merges = merges(&original["model"]["merges"]);
    let names = Value::Strings(tokens.iter().map(|(name, _)| name.clone()).collect());
    let base = |model: &str, pre: &str, types: Vec<i64>| {
        let mut metadata = Metadata::default();
        let mut set = |key: &str, value| metadata.entries.insert(format!("tokenizer.ggml.{key}"), value);
        set("model", Value::String(model.into()));
        set("pre", Value::String(pre.into()));
        set("tokens", names.clone());
        set("token_type", Value::Ints(types));
        metadata
    };
    let mut ways = Vec::new();
    if let Some(merges) = &merges {
        for pre in ["llama-bpe", "qwen2", "gpt-2"] {
            let mut metadata = base("gpt2", pre, tokens.iter().map(|&(_, kind)| kind).collect());
            metadata.entries.insert("tokenizer.ggml.merges".into(), Value::Strings(merges.clone()));
            ways.push(metadata);
        }
    }
    // SentencePiece: what is merged first has the best score.
    let unknown = original["model"]["unk_token"].as_str();
    let unknown = unknown.and_then(|unknown| tokens.iter().position(|(name, _)| name == unknown));
    if let (Some(unknown), Some(merges)) = (unknown, &merges) {
        let scores = scores(&tokens, merges);
        let kind = |(id, (name, kind)): (usize, &(String, i64))| match () {
            () if id == unknown => UNKNOWN,
            () if name.len() == 6 && name.starts_with("<0x") && name.ends_with('>') => BYTE,
            () => *kind,
        };
        for space_prefix in [true, false] {
            let mut metadata = base("llama", "default", tokens.iter().enumerate().map(kind).collect());
            metadata.entries.insert("tokenizer.ggml.scores".into(), Value::Floats(scores.clone()));
            metadata.entries.insert(UNKNOWN_ID.into(), Value::U64(unknown as u64));
            metadata.entries.insert("tokenizer.ggml.add_space_prefix".into(), Value::Bool(space_prefix));
            ways.push(metadata);
        }
    }
    ways
}

/// The tokens by number with their types, filled up to `vocab_size`; `None` if they are more, or no list of names.
fn tokens(original: &Json, vocab_size: usize) -> Option<Vec<(String, i64)>> {
    let mut by_id: BTreeMap<usize, (String, i64)> = BTreeMap::new();
    for (name, id) in original["model"]["vocab"].as_object()? {
        by_id.insert(usize::try_from(id.as_u64()?).ok()?, (name.clone(), NORMAL));
    }
    for token in original["added_tokens"].as_array().into_iter().flatten() {
        let kind = if token["special"] == true { CONTROL } else { USER_DEFINED };
        by_id.insert(usize::try_from(token["id"].as_u64()?).ok()?, (token["content"].as_str()?.into(), kind));
    }
    if by_id.keys().next_back().is_none_or(|&last| last >= vocab_size) {
        return None;
    }
    let token = |id| by_id.remove(&id).unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED));
    Some((0..vocab_size).map(token).collect())
}

/// Scores of pieces that are merged in the order of `merges`. Those that are no result of a merge need none.
fn scores(tokens: &[(String, i64)], merges: &[String]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, merge) in merges.iter().enumerate() {
        ranks.entry(merge.replacen(' ', "", 1)).or_insert(rank);
    }
    tokens.iter().map(|(name, _)| ranks.get(name).map_or(0.0, |&rank| -(rank as f32) - 1.0)).collect()
}

/// The merges as GGUF has them: two tokens with a space between.
fn merges(merges: &Json) -> Option<Vec<String>> {
    let merge = |merge: &Json| match merge {
        Json::String(merge) => Some(merge.clone()),
        Json::Array(pair) => match &pair[..] {
            [Json::String(left), Json::String(right)] if !left.contains(' ') && !right.contains(' ') => {
                Some(format!("{left} {right}"))
            }
            _ => None,
        },
        _ => None,
    };
    merges.as_array()?.iter().map(merge).collect()
}

/// Merges, of which those that follow each other and make the same token, whose order scores do not tell, are sorted. (It
/// matters in runs of one character only, of which the texts to compare have some.)
fn grouped(mut merges: Vec<String>) -> Vec<String> {
    let token = |merge: &String| merge.replacen(' ', "", 1);
    merges.chunk_by_mut(|a, b| token(a) == token(b)).for_each(<[String]>::sort_unstable);
    merges
}

/// Whether a description and a vocabulary say the same of how a text is cut. The second may have more tokens, of which no
/// text is made.
fn is_same(original: &Json, made: &Vocabulary<'_>) -> bool {
    let (model, other) = (&original["model"], &made.rules["model"]);
    let rules = ["normalizer", "pre_tokenizer"];
    let flags = ["byte_fallback", "ignore_merges"];
    let names = ["continuing_subword_prefix", "end_of_word_suffix", "unk_token"];
    let flag = |model: &Json, name: &str| model[name].as_bool().unwrap_or(false);
    let name = |model: &Json, name: &str| model[name].as_str().unwrap_or_default().to_owned();
    let is_exact = |token: &Json| {
        ["single_word", "lstrip", "rstrip"].iter().all(|flag| token[flag] != true)
            && (token["normalized"] != true || original["normalizer"].is_null())
    };
    let ids: HashMap<&str, usize> = made.names.iter().enumerate().rev().map(|(id, name)| (name.as_str(), id)).collect();
    let ids_agree = |(name, id): (&String, &u32)| ids.get(name.as_str()) == Some(&(*id as usize));
    let made_merges = || made.merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    model["type"] == other["type"]
        && rules.iter().all(|rule| plain(&original[rule]) == plain(&made.rules[rule]))
        && decoder(&original["decoder"]) == decoder(&made.rules["decoder"])
        && flags.iter().all(|&of| flag(model, of) == flag(other, of))
        && names.iter().all(|&of| name(model, of) == name(other, of))
        && (model["unk_token"].is_null() || flag(model, "fuse_unk") == flag(other, "fuse_unk"))
        && model["dropout"].as_f64().unwrap_or(0.0) == 0.0
        && merges(&model["merges"]).is_some_and(|merges| grouped(merges) == grouped(made_merges()))
        && hf::ids(original).iter().all(ids_agree)
        && original["added_tokens"].as_array().into_iter().flatten().all(is_exact)
}

/// A decoder; that of bytes has settings of the pre-tokenizer of the same name, which mean nothing here.
fn decoder(rule: &Json) -> Json {
    if rule["type"] == "ByteLevel" { rule["type"].clone() } else { plain(rule) }
}

/// A rule without what has no influence on tokens: offsets, and names of absent values.
fn plain(rule: &Json) -> Json {
    match rule {
        Json::Object(fields) => {
            let kept = fields.iter().filter(|(key, value)| *key != "trim_offsets" && !value.is_null());
            Json::Object(kept.map(|(key, value)| (key.clone(), plain(value))).collect())
        }
        Json::Array(items) => Json::Array(items.iter().map(plain).collect()),
        other => other.clone(),
    }
}
