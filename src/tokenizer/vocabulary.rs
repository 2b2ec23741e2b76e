//! A BPE vocabulary with its rules, and the tokenizer that the `tokenizers` crate makes of it.

use serde_json::{Map, Value as Json, json};
use tokenizers::models::bpe::{BpeConfig, PipelineBPE, Vocab};
use tokenizers::pipeline::{PipelineModel, PipelineNormalizer, PipelinePostProcessor, PipelineTokenizer};

use super::{TokenizerError, built, hf};

/// A vocabulary whose long lists stay where they are: LLaMA 3's has 128 thousand names and 280 thousand merges.
pub(super) struct Vocabulary<'a> {
    /// The rest of the description, in the form of tokenizer.json.
    pub(super) rules: Json,
    /// The tokens by number. Of equal names the first counts.
    pub(super) names: &'a [String],
    /// Pairs of tokens that become one, in the order in which that is done.
    pub(super) merges: Vec<(&'a str, &'a str)>,
}

impl Vocabulary<'_> {
    /// The tokenizer. The crate reads the rules as JSON; the lists go to its model as they are, since writing and reading
    /// them as text takes longer than all the rest of opening a model. Errors name `source`.
    pub(super) fn pipeline(&self, source: &str) -> Result<PipelineTokenizer, TokenizerError> {
        let invalid = |reason: String| TokenizerError::Invalid { what: source.into(), reason };
        let mut rules = hf::canonical(source, self.rules.clone())?;
        let model = rules["model"].take();
        let flag = |name: &str| model[name].as_bool().unwrap_or_default();
        // From the end: the last of equal names stays.
        let vocab: Vocab = self.names.iter().enumerate().rev().map(|(id, name)| (name.clone(), id as u32)).collect();
        // Only vocabularies of characters have tokens that no text is made of and that share a name.
        if flag("byte_level") && vocab.len() < self.names.len() {
            let reason = format!("{} of the tokens appear twice", self.names.len() - vocab.len());
            return Err(TokenizerError::Invalid { what: format!("{source}.tokens"), reason });
        }
        let longest = self.names.iter().map(String::len).max().unwrap_or(0);
        if let Some((left, right)) = self.merges.iter().find(|(left, right)| left.len() + right.len() > longest) {
            let reason = format!("{left:?} and {right:?} make a token that there is not");
            return Err(TokenizerError::Invalid { what: format!("{source}.merges"), reason });
        }
        // An added token gets the id that the model has for its name: this stand-in for the model knows those, and one token
        // more, for the crate panics where there is none.
        let added = rules["added_tokens"].as_array().into_iter().flatten();
        let known = added.filter_map(|token| token["content"].as_str()).chain(self.names.first().map(String::as_str));
        let known: Map<String, Json> =
            known.filter_map(|name| Some((name.to_owned(), (*vocab.get(name)?).into()))).collect();
        rules["model"] = json!({ "type": "BPE", "byte_level": false, "vocab": known, "merges": [] });
        let ruled = built(source, || tokenizers::from_json(&rules.to_string()))?;

        let config = BpeConfig {
            vocab,
            merges: self.merges.iter().map(|&(left, right)| (left.to_owned(), right.to_owned())).collect(),
            byte_level: flag("byte_level"),
            unk_token: model["unk_token"].as_str().map(str::to_owned),
            fuse_unk: flag("fuse_unk"),
            byte_fallback: flag("byte_fallback"),
            ignore_merges: flag("ignore_merges"),
            ..BpeConfig::default()
        };
        let bpe = built(source, || PipelineBPE::from_config(config))?;
        let normalizers = ruled.get_normalizers().iter().map(copy).collect::<Result<_, _>>().map_err(invalid)?;
        Ok(PipelineTokenizer::from_parts(
            ruled.get_added_vocabulary().clone(),
            normalizers,
            ruled.get_pre_tokenizer().clone(),
            PipelineModel::BPE(bpe),
            PipelinePostProcessor::default(),
            ruled.get_decoder().cloned(),
            ruled.get_role_to_token().clone(),
            None,
            None,
        ))
    }
}

/// A copy of one of the normalizers that vocabularies of GGUF files have.
fn copy(normalizer: &PipelineNormalizer) -> Result<PipelineNormalizer, String> {
    match normalizer {
        PipelineNormalizer::Prepend(prepend) => Ok(PipelineNormalizer::Prepend(prepend.clone())),
        PipelineNormalizer::Replace(replace) => Ok(PipelineNormalizer::Replace(replace.clone())),
        other => Err(format!("no vocabulary of a GGUF file has the normalizer {other:?}")),
    }
}
