//! The tokenizer files of a Hugging Face folder.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;

use super::{Roles, Tokenizer, TokenizerError};

/// A vocabulary has fewer tokens than this; an id beyond is damage.
const MAX_VOCAB: u64 = 1 << 24;

/// Parses a JSON file.
pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<Json, TokenizerError> {
    serde_json::from_slice(bytes)
        .map_err(|e| TokenizerError::Invalid { what: file.into(), reason: format!("not valid JSON: {e}") })
}

/// A description in the canonical form of the `tokenizers` crate.
pub(super) fn canonical(source: &str, mut description: Json) -> Result<Json, TokenizerError> {
    match tokenizers::canonicalize_value(&mut description) {
        Ok(()) => Ok(description),
        Err(e) => Err(TokenizerError::Invalid { what: source.into(), reason: e.to_string() }),
    }
}

/// Number of tokens of a description: one more than the largest id.
pub(super) fn vocab_size(source: &str, description: &Json) -> Result<usize, TokenizerError> {
    let invalid = |reason: String| TokenizerError::Invalid { what: source.into(), reason };
    let mut size = 0;
    let mut see = |token: &str, id: &Json| match id.as_u64() {
        Some(id) if id < MAX_VOCAB => {
            size = size.max(id + 1);
            Ok(())
        }
        _ => Err(invalid(format!("the token {token:?} has the id {id}, which is none"))),
    };
    match &description["model"]["vocab"] {
        Json::Object(vocab) => vocab.iter().try_for_each(|(token, id)| see(token, id))?,
        // Unigram: the position is the id.
        Json::Array(vocab) => see("last", &Json::from(vocab.len().saturating_sub(1)))?,
        _ => return Err(invalid("model.vocab is missing".into())),
    }
    for token in description["added_tokens"].as_array().into_iter().flatten() {
        see(token["content"].as_str().unwrap_or_default(), &token["id"])?;
    }
    Ok(size as usize)
}

/// Ids of the special tokens of a description.
pub(super) fn special_tokens(description: &Json) -> HashSet<u32> {
    let added = description["added_tokens"].as_array().into_iter().flatten();
    added
        .filter(|token| token["special"] == true)
        .filter_map(|token| token["id"].as_u64())
        .map(|id| id as u32)
        .collect()
}

/// The ids of all tokens of a description by name; added tokens win.
pub(super) fn ids(description: &Json) -> HashMap<String, u32> {
    let id = |id: &Json| id.as_u64().map(|id| id as u32);
    let mut ids: HashMap<String, u32> = match &description["model"]["vocab"] {
        Json::Object(vocab) => vocab.iter().filter_map(|(token, n)| Some((token.clone(), id(n)?))).collect(),
        Json::Array(vocab) => {
            vocab.iter().zip(0..).filter_map(|(piece, n)| Some((piece[0].as_str()?.to_owned(), n))).collect()
        }
        _ => HashMap::new(),
    };
    let added = description["added_tokens"].as_array().into_iter().flatten();
    ids.extend(added.filter_map(|token| Some((token["content"].as_str()?.to_owned(), id(&token["id"])?))));
    ids
}

/// BOS, EOS and the chat template from the files beside tokenizer.json.
pub(super) fn roles(
    tokenizer: &Tokenizer,
    tokenizer_config: Option<&[u8]>,
    generation_config: Option<&[u8]>,
    config: Option<&[u8]>,
    chat_template_jinja: Option<&[u8]>,
) -> Result<Roles, TokenizerError> {
    let read = |file, bytes: Option<&[u8]>| bytes.map_or(Ok(Json::Null), |bytes| parse(file, bytes));
    let tokenizer_config = read("tokenizer_config.json", tokenizer_config)?;
    let generation = read("generation_config.json", generation_config)?;
    let config = read("config.json", config)?;

    // A token is a string, or an object with its content.
    let named = |role: &str| {
        let token = &tokenizer_config[role];
        token.as_str().or_else(|| token["content"].as_str()).and_then(|token| tokenizer.token_to_id(token))
    };
    let ids = |file: &Json, key: &str| -> Vec<u32> {
        let one = |id: &Json| id.as_u64().filter(|&id| id < tokenizer.vocab_size as u64).map(|id| id as u32);
        match &file[key] {
            Json::Array(ids) => ids.iter().filter_map(one).collect(),
            id => one(id).into_iter().collect(),
        }
    };
    let bos = named("bos_token")
        .or_else(|| ids(&generation, "bos_token_id").first().copied())
        .or_else(|| ids(&config, "bos_token_id").first().copied());
    let mut eos = ids(&generation, "eos_token_id");
    eos.extend(ids(&config, "eos_token_id"));
    eos.extend(named("eos_token"));

    let chat_template = match chat_template_jinja {
        Some(bytes) => Some(String::from_utf8(bytes.to_vec()).map_err(|_| TokenizerError::Invalid {
            what: "chat_template.jinja".into(),
            reason: "it is not UTF-8".into(),
        })?),
        None => match &tokenizer_config["chat_template"] {
            Json::String(template) => Some(template.clone()),
            // Several templates by name.
            Json::Array(templates) => templates
                .iter()
                .find(|t| t["name"] == "default")
                .or(templates.first())
                .and_then(|t| t["template"].as_str())
                .map(str::to_owned),
            _ => None,
        },
    };
    let end = named("eos_token").filter(|_| tokenizer_config["add_eos_token"] == true);
    Ok(Roles { bos, eos, add_bos: tokenizer_config["add_bos_token"] == true, end, chat_template })
}
