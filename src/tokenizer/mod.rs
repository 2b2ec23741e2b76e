//! Text to tokens and back, and chat templates.
//!
//! Every vocabulary becomes a pipeline of the `tokenizers` crate: tokenizer.json is its description already (`hf`), the
//! tokens and merges of a GGUF file (`gguf`, with `spm` for SentencePiece vocabularies) are given to it (`vocabulary`).
//! `stream` gives text as tokens come, `export` puts a tokenizer.json into a GGUF file, `chat` renders the model's template.

mod chat;
mod error;
mod export;
mod gguf;
mod hf;
mod spm;
mod stream;
mod vocabulary;

pub use chat::{ChatTemplate, Message};
pub use error::TokenizerError;
pub use stream::DecodeStream;

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use tokenizers::pipeline::{EncodeOptions, Override, PipelineTokenizer};

use crate::format::Metadata;

/// A vocabulary with its rules, the special tokens of a model and its chat template.
pub struct Tokenizer {
    pipeline: PipelineTokenizer,
    vocab_size: usize,
    special: HashSet<u32>,
    /// The tokens by name, when they are asked for.
    ids: OnceLock<HashMap<String, u32>>,
    bos: Option<u32>,
    eos: Vec<u32>,
    /// Put BOS in front, whatever the vocabulary's own rules do.
    add_bos: bool,
    /// What is put behind a whole text, whatever the vocabulary's own rules do.
    end: Option<u32>,
    chat_template: Option<ChatTemplate>,
}

/// What a source says beside the vocabulary itself.
#[derive(Default)]
struct Roles {
    bos: Option<u32>,
    eos: Vec<u32>,
    add_bos: bool,
    end: Option<u32>,
    chat_template: Option<String>,
}

/// Special tokens that end an answer, whether or not a configuration lists them: models stop on the end of a turn as
/// well as on the end of a text.
const END_OF_TURN: [&str; 7] =
    ["<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>"];

impl Tokenizer {
    /// Reads the files of a Hugging Face folder; all but `tokenizer.json` may be absent.
    ///
    /// # Errors
    /// If a file is not what it should be, or describes something that the `tokenizers` crate does not know.
    pub fn from_hf(
        tokenizer_json: &[u8],
        tokenizer_config: Option<&[u8]>,
        generation_config: Option<&[u8]>,
        config: Option<&[u8]>,
        chat_template_jinja: Option<&[u8]>,
    ) -> Result<Tokenizer, TokenizerError> {
        let roles = |tokenizer: &Tokenizer| {
            hf::roles(tokenizer, tokenizer_config, generation_config, config, chat_template_jinja)
        };
        Tokenizer::from_description("tokenizer.json", tokenizer_json, roles)
    }

    /// Whether the metadata of a GGUF file hold a vocabulary.
    pub fn is_in_gguf(metadata: &Metadata) -> bool {
        metadata.get(export::JSON).is_some() || metadata.str("tokenizer.ggml.model").is_some_and(|kind| kind != "none")
    }

    /// Reads the vocabulary in the metadata of a GGUF file.
    ///
    /// # Errors
    /// If a key is missing or makes no sense, or names a kind of vocabulary that is not supported.
    pub fn from_gguf(metadata: &Metadata) -> Result<Tokenizer, TokenizerError> {
        let roles = |tokenizer: &Tokenizer| gguf::roles(tokenizer, metadata);
        if let Some(json) = metadata.str(export::JSON) {
            return Tokenizer::from_description(export::JSON, json.as_bytes(), roles);
        }
        let source = "tokenizer.ggml";
        let vocabulary = gguf::vocabulary(metadata)?;
        let special = hf::special_tokens(&vocabulary.rules);
        Tokenizer::new(vocabulary.pipeline(source)?, vocabulary.names.len(), special, roles)
    }

    /// Reads a tokenizer.json.
    fn from_description(
        source: &'static str,
        json: &[u8],
        roles: impl FnOnce(&Tokenizer) -> Result<Roles, TokenizerError>,
    ) -> Result<Tokenizer, TokenizerError> {
        let description = hf::parse(source, json)?;
        let (vocab_size, special) = (hf::vocab_size(source, &description)?, hf::special_tokens(&description));
        let description = hf::canonical(source, description)?.to_string();
        let pipeline = built(source, || tokenizers::from_json(&description))?;
        Tokenizer::new(pipeline, vocab_size, special, roles)
    }

    /// Finds the special tokens' roles for a pipeline.
    fn new(
        pipeline: PipelineTokenizer,
        vocab_size: usize,
        special: HashSet<u32>,
        roles: impl FnOnce(&Tokenizer) -> Result<Roles, TokenizerError>,
    ) -> Result<Tokenizer, TokenizerError> {
        let mut tokenizer = Tokenizer {
            pipeline,
            vocab_size,
            special,
            ids: OnceLock::new(),
            bos: None,
            eos: Vec::new(),
            add_bos: false,
            end: None,
            chat_template: None,
        };
        let Roles { bos, mut eos, add_bos, end, chat_template } = roles(&tokenizer)?;
        let ends_turn = |id: &u32| tokenizer.id_to_token(*id).is_some_and(|name| END_OF_TURN.contains(&&*name));
        eos.extend(tokenizer.special.iter().copied().filter(ends_turn));
        eos.sort_unstable();
        eos.dedup();
        let name = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id)).unwrap_or_default();
        let (bos_token, eos_token) = (name(bos), name(eos.first().copied()));
        tokenizer.chat_template =
            chat_template.map(|source| ChatTemplate::new(&source, &bos_token, &eos_token)).transpose()?;
        (tokenizer.bos, tokenizer.eos, tokenizer.add_bos, tokenizer.end) = (bos, eos, add_bos, end);
        Ok(tokenizer)
    }

    /// The tokens of `text`. Names of special tokens in it become those tokens. `add_special` puts in front what the
    /// model wants there (BOS, and never twice).
    ///
    /// # Errors
    /// If the text holds something that the vocabulary cannot express.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.encode_with(text, add_special, false)?;
        if let Some(bos) = self.bos.filter(|_| add_special) {
            if self.add_bos && ids.first() != Some(&bos) {
                ids.insert(0, bos);
            }
            if ids.starts_with(&[bos, bos]) {
                ids.remove(0);
            }
        }
        Ok(ids)
    }

    /// The tokens of a whole text: as [`Tokenizer::encode`] with `add_special`, and behind them the end of a text where the model
    /// wants it (and never twice).
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_whole(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.encode(text, true)?;
        if let Some(end) = self.end.filter(|end| ids.last() != Some(end)) {
            ids.push(end);
        }
        Ok(ids)
    }

    /// The tokens of `text` as mere text: names of special tokens in it have no power.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_ordinary(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_with(text, false, true)
    }

    fn encode_with(
        &self,
        text: &str,
        add_special_tokens: bool,
        encode_special_tokens: bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        let options = EncodeOptions {
            add_special_tokens,
            encode_special_tokens,
            padding: Override::Off,
            truncation: Override::Off,
        };
        let mut tokens = Vec::new();
        self.pipeline
            .encode_into(text, &options, &mut tokens)
            .map_err(|e| TokenizerError::Encode { reason: e.to_string() })?;
        Ok(tokens.iter().map(|token| token.id()).collect())
    }

    /// The text of `ids`; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// If the decoder of the vocabulary fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        self.pipeline.decode(ids, skip_special).map_err(|e| TokenizerError::Decode { reason: e.to_string() })
    }

    /// Number of tokens, special ones included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of a token by its name in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        let name = |id| Some((self.id_to_token(id)?, id));
        // From the end: of equal names the first counts.
        let ids = || (0..self.vocab_size as u32).rev().filter_map(name).collect();
        let added = self.pipeline.get_added_vocabulary().token_to_id(token);
        added.or_else(|| self.ids.get_or_init(ids).get(token).copied())
    }

    /// The name of a token in the vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.pipeline.decode_tokens(&[id], false).pop()
    }

    /// The token in front of a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The tokens that end a text or an answer, in order.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Whether a token is a special one, which text does not contain.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// The chat template.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    /// The tokens of a conversation, rendered by the chat template; `add_generation_prompt` opens the next answer.
    ///
    /// # Errors
    /// If there is no template, it fails, or the text cannot be encoded.
    pub fn encode_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<u32>, TokenizerError> {
        let template = self.chat_template.as_ref().ok_or(TokenizerError::NoChatTemplate)?;
        let text = template.render(messages, add_generation_prompt)?;
        // Templates write BOS themselves where they want it; `encode` adds it where they do not.
        self.encode(&text, true)
    }
}

/// What the `tokenizers` crate makes of `source`. It panics on some that make no sense, such as merges to tokens that there
/// are not.
fn built<T>(source: &str, build: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, TokenizerError> {
    let reason = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(build)) {
        Ok(Ok(made)) => return Ok(made),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the `tokenizers` crate failed on it: it is damaged, download it again".into(),
    };
    Err(TokenizerError::Invalid { what: source.into(), reason })
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}
