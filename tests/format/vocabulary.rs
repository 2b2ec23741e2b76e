//! Vocabularies in the metadata of GGUF files that make no sense: an error, never a panic.

use proptest::prelude::*;
use sterna::format::{Metadata, Value};
use sterna::tokenizer::Tokenizer;

/// The character that stands for a byte in vocabularies in the manner of GPT-2: itself if it can be seen, else one from 256 on.
fn byte_character(byte: u8) -> char {
    let is_seen = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let code =
        if is_seen(&byte) { u32::from(byte) } else { 256 + (0..byte).filter(|before| !is_seen(before)).count() as u32 };
    char::from_u32(code).unwrap()
}

/// A small vocabulary that is in order, of the kind `gpt2` or `llama`.
fn intact(is_byte_level: bool) -> Metadata {
    let words: &[&str] =
        if is_byte_level { &["ab", "abc", "Ġa"] } else { &["▁", "a", "b", "c", "ab", "abc", "▁a"] };
    let words = ["<unk>", "<s>", "</s>"].iter().chain(words).map(|&word| word.to_owned());
    let bytes = (0..=255u8).map(|byte| match is_byte_level {
        true => byte_character(byte).to_string(),
        false => format!("<0x{byte:02X}>"),
    });
    let tokens: Vec<String> = words.chain(bytes).collect();
    // Control, byte, normal.
    let kind_of = |(id, token): (usize, &String)| match id {
        0..3 => 3,
        _ if token.starts_with("<0x") => 6,
        _ => 1,
    };
    let types = tokens.iter().enumerate().map(kind_of).collect();
    let scores = (0..tokens.len()).map(|id| -(id as f32)).collect();
    let kind = if is_byte_level { "gpt2" } else { "llama" };
    let mut metadata = Metadata::default();
    for (key, value) in [
        ("model", Value::String(kind.into())),
        ("tokens", Value::Strings(tokens)),
        ("token_type", Value::Ints(types)),
        ("scores", Value::Floats(scores)),
        ("merges", Value::Strings(["a b", "ab c", "Ġ a"].map(str::to_owned).into())),
        ("pre", Value::String("llama-bpe".into())),
        ("bos_token_id", Value::U64(1)),
        ("eos_token_id", Value::U64(2)),
        ("unknown_token_id", Value::U64(0)),
        ("add_bos_token", Value::Bool(true)),
        ("add_space_prefix", Value::Bool(true)),
    ] {
        metadata.entries.insert(format!("tokenizer.ggml.{key}"), value);
    }
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}";
    metadata.entries.insert("tokenizer.chat_template".into(), Value::String(template.into()));
    metadata
}

/// Values as a damaged file, or one of a careless program, may have them.
fn value() -> impl Strategy<Value = Value> {
    let text = || prop_oneof![Just(String::new()), "[a-c ▁Ġ<>/s]{0,6}", any::<String>()];
    prop_oneof![
        any::<u64>().prop_map(Value::U64),
        (0..300u64).prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
        any::<bool>().prop_map(Value::Bool),
        text().prop_map(Value::String),
        prop::sample::select(vec!["gpt2", "llama", "bert", "qwen2", "gpt-2", "default"])
            .prop_map(|s| Value::String(s.into())),
        prop::collection::vec(text(), 0..20).prop_map(Value::Strings),
        prop::collection::vec(any::<f32>(), 0..20).prop_map(Value::Floats),
        prop::collection::vec(prop_oneof![any::<i64>(), 0..8i64], 0..20).prop_map(Value::Ints),
    ]
}

/// One change: a key gets another value or goes, or an element of an array is replaced.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, Value),
    Remove(prop::sample::Index),
    Element(prop::sample::Index, prop::sample::Index, String, f32, i64),
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<prop::sample::Index>;
    let element = (index(), index(), "[a-c ▁Ġ<>/s]{0,5}", any::<f32>(), any::<i64>());
    prop_oneof![
        (index(), value()).prop_map(|(key, value)| Change::Set(key, value)),
        index().prop_map(Change::Remove),
        element.prop_map(|(key, at, text, float, int)| Change::Element(key, at, text, float, int)),
    ]
}

fn apply(metadata: &mut Metadata, change: Change) {
    let keys: Vec<String> = metadata.entries.keys().cloned().collect();
    if keys.is_empty() {
        return;
    }
    match change {
        Change::Set(key, value) => drop(metadata.entries.insert(key.get(&keys).clone(), value)),
        Change::Remove(key) => drop(metadata.entries.remove(key.get(&keys))),
        Change::Element(key, at, text, float, int) => match metadata.entries.get_mut(key.get(&keys)) {
            Some(Value::Strings(all)) if !all.is_empty() => *at.get_mut(all) = text,
            Some(Value::Floats(all)) if !all.is_empty() => *at.get_mut(all) = float,
            Some(Value::Ints(all)) if !all.is_empty() => *at.get_mut(all) = int,
            _ => {}
        },
    }
}

#[test]
fn the_intact_vocabularies_are_read() {
    for is_byte_level in [true, false] {
        let tokenizer = Tokenizer::from_gguf(&intact(is_byte_level)).unwrap();
        assert_eq!(tokenizer.encode("abc", true).unwrap().first(), Some(&1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn changed_vocabularies_do_not_panic(is_byte_level: bool, changes in prop::collection::vec(change(), 1..5)) {
        let mut metadata = intact(is_byte_level);
        changes.into_iter().for_each(|change| apply(&mut metadata, change));
        if let Ok(tokenizer) = Tokenizer::from_gguf(&metadata) {
            for text in ["", "a abc <s> cab\n", "Żółw 学习"] {
                if let Ok(ids) = tokenizer.encode(text, true) {
                    // Unknown ids are an error as well.
                    let _ = tokenizer.decode(&ids, true);
                }
            }
            let _ = tokenizer.decode(&[0, 1, 299, u32::MAX], false);
        }
    }
}
