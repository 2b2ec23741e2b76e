//! What can be wrong with a vocabulary or a chat template.

/// Why a tokenizer cannot be built or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file or a metadata key does not hold what it should.
    #[error("{what}: {reason}")]
    Invalid {
        /// The file or the key.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// A metadata key is absent.
    #[error("the metadata key {key} is missing (expected {expected})")]
    MissingKey {
        /// The key.
        key: &'static str,
        /// What it should hold.
        expected: &'static str,
    },
    /// A text that the vocabulary cannot express.
    #[error("the text cannot be encoded: {reason}")]
    Encode {
        /// The reason of the `tokenizers` crate.
        reason: String,
    },
    /// Tokens that cannot be turned into text.
    #[error("the tokens cannot be decoded: {reason}")]
    Decode {
        /// The reason of the `tokenizers` crate.
        reason: String,
    },
    /// The model is not made for conversations.
    #[error("the model has no chat template: it continues texts (sterna run), it does not answer questions")]
    NoChatTemplate,
    /// The chat template is no valid template.
    #[error("the chat template is not valid: {reason}")]
    BadTemplate {
        /// Where and why.
        reason: String,
    },
    /// The chat template refuses these messages.
    #[error("the chat template cannot render these messages: {reason}")]
    Render {
        /// Where and why.
        reason: String,
    },
}
