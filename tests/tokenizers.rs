//! LLaMA 3's tokenizer and one of the SentencePiece kind (as LLaMA 2's; this one is Mistral's), in both forms:
//! tokenizer.json, and the vocabulary of a GGUF file.
//!
//! Their licences do not allow to ship them: tests/data/external/fetch.sh installs them, and without them these tests say
//! that they are skipped (with `STERNA_REQUIRE_EXTERNAL=1`, as in CI, they fail instead).
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use common::data_path;
use serde_json::{Value as Json, json};
use sterna::format::{Metadata, Value};
use sterna::tokenizer::{DecodeStream, Tokenizer};

/// A file of an external tokenizer.
fn external(family: &str, file: &str) -> Option<Vec<u8>> {
    let path = data_path("external").join(family).join(file);
    let bytes = std::fs::read(&path).ok();
    if bytes.is_none() {
        let message = format!("{} is not installed: run tests/data/external/fetch.sh", path.display());
        assert!(std::env::var_os("STERNA_REQUIRE_EXTERNAL").is_none(), "{message}");
        println!("SKIPPED: {message}");
    }
    bytes
}

/// The tokenizer of a family as Hugging Face ships it, and the same as a GGUF converter writes it.
fn both_forms(family: &str) -> Option<[Tokenizer; 2]> {
    let (json, config) = (external(family, "tokenizer.json")?, external(family, "tokenizer_config.json")?);
    let hf = Tokenizer::from_hf(&json, Some(&config), None, None, None).unwrap();
    let gguf = Tokenizer::from_gguf(&gguf_metadata(&serde_json::from_slice(&json).unwrap())).unwrap();
    Some([hf, gguf])
}

/// What llama.cpp's converter writes for a tokenizer.json: tokens by id with their types; merges of byte-level
/// vocabularies, scores of SentencePiece ones (which are minus the rank).
fn gguf_metadata(tokenizer: &Json) -> Metadata {
    const NORMAL: i64 = 1;
    const UNKNOWN: i64 = 2;
    const CONTROL: i64 = 3;
    const BYTE: i64 = 6;
    let mut tokens: Vec<(u64, String, i64)> = Vec::new();
    let sentencepiece = tokenizer["model"]["byte_fallback"] == true;
    for (token, id) in tokenizer["model"]["vocab"].as_object().unwrap() {
        let kind = if sentencepiece && token.starts_with("<0x") { BYTE } else { NORMAL };
        tokens.push((id.as_u64().unwrap(), token.clone(), kind));
    }
    for added in tokenizer["added_tokens"].as_array().unwrap() {
        let (id, token) = (added["id"].as_u64().unwrap(), added["content"].as_str().unwrap().to_owned());
        let kind = if token == "<unk>" { UNKNOWN } else { CONTROL };
        tokens.retain(|(known, ..)| *known != id);
        tokens.push((id, token, kind));
    }
    tokens.sort_unstable();
    assert!(tokens.iter().enumerate().all(|(i, (id, ..))| i as u64 == *id));
    let id_of = |name: &str| tokens.iter().find(|(_, token, _)| token == name).map(|(id, ..)| *id);
    let bos = id_of("<|begin_of_text|>").or(id_of("<s>")).unwrap();
    let mut metadata = Metadata::default();
    let mut set = |key: &str, value| metadata.entries.insert(format!("tokenizer.ggml.{key}"), value);
    set("bos_token_id", Value::U64(bos));
    if sentencepiece {
        let first_piece = tokens.iter().filter(|(.., kind)| *kind != NORMAL).count() as f32;
        set("model", Value::String("llama".into()));
        // Runs of spaces have the lowest score: they are made last.
        let score = |(id, token, _): &(u64, String, i64)| match token.trim_matches('\u{2581}').is_empty() {
            true if token.chars().count() > 1 => -1e9,
            _ => (first_piece - *id as f32).min(0.0),
        };
        set("scores", Value::Floats(tokens.iter().map(score).collect()));
    } else {
        let merge = |pair: &Json| match pair {
            Json::String(pair) => pair.clone(),
            pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        };
        set("model", Value::String("gpt2".into()));
        set("pre", Value::String("llama-bpe".into()));
        set("merges", Value::Strings(tokenizer["model"]["merges"].as_array().unwrap().iter().map(merge).collect()));
    }
    set("token_type", Value::Ints(tokens.iter().map(|(.., kind)| *kind).collect()));
    set("tokens", Value::Strings(tokens.into_iter().map(|(_, token, _)| token).collect()));
    metadata
}

/// The reference cases of LLaMA 3, by tiktoken.
fn llama3_cases() -> Json {
    serde_json::from_slice(&std::fs::read(data_path("fixtures/tokenizer_llama3_cases.json")).unwrap()).unwrap()
}

fn ids(list: &Json) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Text of every kind.
fn texts() -> Vec<String> {
    let cases = llama3_cases();
    cases["cases"].as_array().unwrap().iter().map(|case| case["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn llama3_agrees_with_tiktoken() {
    let Some(forms) = both_forms("llama3") else { return };
    let cases = llama3_cases();
    let cases = cases["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 133);
    for (form, tokenizer) in forms.iter().enumerate() {
        assert_eq!(tokenizer.vocab_size(), 128_256);
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let got = match case["special"] == true {
                true => tokenizer.encode(text, false),
                false => tokenizer.encode_ordinary(text),
            };
            assert_eq!(got.unwrap(), ids(&case["ids"]), "form {form}: {text:?}");
            assert_eq!(tokenizer.decode(&ids(&case["ids"]), false).unwrap(), text, "form {form}");
        }
    }
    // The package's tokenizer.json is LLaMA 3's without its rule for BOS; a GGUF file has BOS in its metadata.
    assert_eq!(forms[1].encode("Hello", true).unwrap(), [128_000, 9906]);
}

#[test]
fn tokens_are_found_by_name() {
    for family in ["llama3", "sentencepiece"] {
        let Some(forms) = both_forms(family) else { return };
        let json: Json = serde_json::from_slice(&external(family, "tokenizer.json").unwrap()).unwrap();
        let vocab = json["model"]["vocab"].as_object().unwrap();
        let added = json["added_tokens"].as_array().unwrap().iter();
        let added = added.map(|token| (token["content"].as_str().unwrap(), &token["id"]));
        for tokenizer in &forms {
            for (name, id) in vocab.iter().map(|(name, id)| (name.as_str(), id)).step_by(61).chain(added.clone()) {
                let id = id.as_u64().unwrap() as u32;
                assert_eq!(tokenizer.token_to_id(name), Some(id), "{family}: {name:?}");
                assert_eq!(tokenizer.id_to_token(id).as_deref(), Some(name), "{family}: {id}");
            }
            assert_eq!(tokenizer.token_to_id("no token at all"), None);
        }
    }
}

#[test]
fn vocabularies_without_sense_are_refused() {
    let byte = |byte: u8| char::from(byte).to_string();
    // The printable ones of ASCII stand for themselves; the others are missing.
    let ascii: Vec<String> = (b'!'..=b'~').map(byte).collect();
    let error = |names: &[String], merges: &[&str]| {
        let mut metadata = Metadata::default();
        let mut set = |key: &str, value| metadata.entries.insert(format!("tokenizer.ggml.{key}"), value);
        set("model", Value::String("gpt2".into()));
        set("tokens", Value::Strings(names.to_vec()));
        set("merges", Value::Strings(merges.iter().map(|&merge| merge.to_owned()).collect()));
        Tokenizer::from_gguf(&metadata).unwrap_err().to_string()
    };
    let twice: Vec<String> = ascii.iter().cloned().chain([byte(b'a'), byte(b'b')]).collect();
    let refused = error(&twice, &[]);
    assert!(refused.contains("tokenizer.ggml.tokens") && refused.contains("2 of the tokens appear twice"), "{refused}");
    let refused = error(&[], &[]);
    assert!(refused.contains("tokenizer.ggml.tokens") && refused.contains("it is empty"), "{refused}");
    let refused = error(&ascii, &["a b", "ab"]);
    assert!(refused.contains("tokenizer.ggml.merges") && refused.contains("merge 1 is \"ab\""), "{refused}");
    let refused = error(&ascii, &["a b"]);
    assert!(
        refused.contains("tokenizer.ggml.merges") && refused.contains("make a token that there is not"),
        "{refused}"
    );
    let long: Vec<String> = ascii.iter().cloned().chain(["abc".into()]).collect();
    let refused = error(&long, &["a b"]);
    assert!(refused.contains("tokenizer.ggml") && refused.contains("`ab` out of vocabulary"), "{refused}");
    let refused = error(&ascii, &[]);
    assert!(refused.contains("no token for bytes 0x00"), "{refused}");
}

#[test]
fn a_description_that_the_crate_fails_on_is_refused() {
    let description = |vocab: Json, merges: Json| {
        let model = json!({ "type": "BPE", "vocab": vocab, "merges": merges });
        let json = json!({ "version": "1.0", "added_tokens": [], "model": model }).to_string();
        Tokenizer::from_hf(json.as_bytes(), None, None, None, None)
    };
    for (vocab, merges) in [(json!({}), json!([])), (json!({ "a": 0, "b": 1 }), json!(["a b"]))] {
        let refused = description(vocab, merges).unwrap_err().to_string();
        assert!(refused.contains("tokenizer.json") && refused.contains("download it again"), "{refused}");
    }
    assert!(description(json!({ "a": 0, "b": 1, "ab": 2 }), json!(["a b"])).is_ok());
}

#[test]
fn llama3_characters_over_several_tokens_come_whole() {
    let Some(forms) = both_forms("llama3") else { return };
    for tokenizer in forms.map(std::sync::Arc::new) {
        for case in llama3_cases()["decode_pieces"].as_array().unwrap() {
            let pieces = case["bytes_hex"].as_array().unwrap().iter().map(|piece| piece.as_str().unwrap());
            let bytes = pieces.collect::<String>();
            let bytes = (0..bytes.len()).step_by(2).map(|i| u8::from_str_radix(&bytes[i..i + 2], 16).unwrap());
            let want = String::from_utf8(bytes.collect()).unwrap();
            let mut stream = DecodeStream::new(tokenizer.clone());
            let mut got = String::new();
            for id in ids(&case["ids"]) {
                let new = stream.push(id).unwrap().unwrap_or_default();
                assert!(!new.contains(char::REPLACEMENT_CHARACTER));
                got += &new;
            }
            got += &stream.finish().unwrap().unwrap_or_default();
            assert_eq!(got, want);
        }
    }
}

#[test]
fn sentencepiece_is_the_same_from_both_files() {
    let Some([hf, gguf]) = both_forms("sentencepiece") else { return };
    assert_eq!((hf.vocab_size(), gguf.vocab_size()), (32_000, 32_000));
    assert_eq!(hf.encode("Hello, world!", true).unwrap(), [1, 22557, 28725, 1526, 28808]);
    for text in texts() {
        let want = hf.encode(&text, true).unwrap();
        assert_eq!(gguf.encode(&text, true).unwrap(), want, "{text:?}");
        assert_eq!(gguf.decode(&want, true).unwrap(), hf.decode(&want, true).unwrap(), "{text:?}");
    }
}

#[test]
fn converted_vocabularies_are_the_original_ones() {
    for (family, kind) in [("llama3", "gpt2"), ("sentencepiece", "llama")] {
        let (Some(json), Some([hf, _])) = (external(family, "tokenizer.json"), both_forms(family)) else { return };
        let metadata = hf.to_gguf(&json, hf.vocab_size() + 5).unwrap();
        assert_eq!(metadata.str("tokenizer.ggml.model"), Some(kind), "{family}");
        let converted = Tokenizer::from_gguf(&metadata).unwrap();
        assert_eq!((converted.bos(), converted.eos()), (hf.bos(), hf.eos()));
        for text in texts() {
            let want = hf.encode(&text, true).unwrap();
            assert_eq!(converted.encode(&text, true).unwrap(), want, "{family}: {text:?}");
            assert_eq!(converted.decode(&want, true).unwrap(), hf.decode(&want, true).unwrap(), "{family}: {text:?}");
        }
    }
}

#[test]
fn streams_give_what_decoding_at_once_gives() {
    for family in ["llama3", "sentencepiece"] {
        let Some(forms) = both_forms(family) else { return };
        let text = texts().concat();
        for tokenizer in forms.map(std::sync::Arc::new) {
            let ids = tokenizer.encode_ordinary(&text).unwrap();
            let mut stream = DecodeStream::new(tokenizer.clone());
            let mut got = String::new();
            for &id in &ids {
                got += &stream.push(id).unwrap().unwrap_or_default();
            }
            got += &stream.finish().unwrap().unwrap_or_default();
            assert!(got == tokenizer.decode(&ids, true).unwrap(), "{family}");
        }
    }
}
