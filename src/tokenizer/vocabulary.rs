//! A BPE vocabulary and its rules, written as the description that the `tokenizers` crate reads.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value as Json};

use super::{TokenizerError, hf};

/// A vocabulary whose long lists stay where they are: LLaMA 3's has 128 thousand names and 280 thousand merges.
pub(super) struct Vocabulary<'a> {
    /// The rest of the description, in the form of tokenizer.json.
    pub(super) rules: Json,
    /// The tokens by number. Of equal names the first counts.
    pub(super) names: &'a [String],
    /// Pairs of tokens that become one, in the order in which that is done.
    pub(super) merges: Vec<(&'a str, &'a str)>,
}

/// The whole description.
#[derive(Serialize)]
struct Description<'a> {
    #[serde(flatten)]
    rules: Map<String, Json>,
    model: Model<'a>,
}

#[derive(Serialize)]
struct Model<'a> {
    #[serde(flatten)]
    rules: Map<String, Json>,
    #[serde(serialize_with = "numbered")]
    vocab: &'a [String],
    merges: &'a [(&'a str, &'a str)],
}

/// Names with their numbers, from the end: who reads them keeps the last of equal ones.
fn numbered<S: Serializer>(names: &&[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(names.iter().enumerate().rev().map(|(id, name)| (name, id)))
}

impl Vocabulary<'_> {
    /// The text of the description in the crate's canonical form. Errors name `source`.
    pub(super) fn description(&self, source: &str) -> Result<String, TokenizerError> {
        let invalid = |reason: String| TokenizerError::Invalid { what: source.into(), reason };
        let mut rules = hf::canonical(source, self.rules.clone())?;
        let take = |from: &mut Json, key: &str| from.as_object_mut().and_then(|fields| fields.shift_remove(key));
        let mut model = take(&mut rules, "model").unwrap_or_default();
        let fields = |of: &mut Json| of.as_object_mut().map(std::mem::take).unwrap_or_default();
        let model = Model { rules: fields(&mut model), vocab: self.names, merges: &self.merges };
        let description = Description { rules: fields(&mut rules), model };
        serde_json::to_string(&description).map_err(|e| invalid(e.to_string()))
    }
}
