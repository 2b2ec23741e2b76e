//! Text as tokens come, in whole characters.

use std::sync::Arc;

use super::{Tokenizer, TokenizerError};

/// Turns tokens into text one by one. What it gives, taken together, is what decoding all tokens at once would give.
///
/// A character may be spread over several tokens (bytes), and a decoder may look at neighbours (SentencePiece drops the
/// first space), so the text of a window of tokens is decoded anew for each token, and what is new in it is handed out
/// once it does not end in an incomplete character.
#[derive(Clone, Debug)]
pub struct DecodeStream {
    tokenizer: Option<Arc<Tokenizer>>,
    window: Vec<u32>,
    /// Bytes of the window's text that were handed out.
    given: usize,
}

/// The window is cut to `KEEP` tokens when it has grown beyond `LONG`.
const LONG: usize = 48;
const KEEP: usize = 16;

impl DecodeStream {
    /// A stream of the text of ordinary tokens; special tokens have none.
    pub fn new(tokenizer: Arc<Tokenizer>) -> DecodeStream {
        DecodeStream { tokenizer: Some(tokenizer), window: Vec::new(), given: 0 }
    }

    /// A stream for a model without a vocabulary: no token has text.
    pub fn without_text() -> DecodeStream {
        DecodeStream { tokenizer: None, window: Vec::new(), given: 0 }
    }

    /// Takes the next token; gives the text that is complete with it.
    ///
    /// # Errors
    /// If the decoder of the vocabulary fails.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TokenizerError> {
        let Some(tokenizer) = &self.tokenizer else { return Ok(None) };
        self.window.push(id);
        let text = tokenizer.decode(&self.window, true)?;
        // An unfinished character shows as U+FFFD at the end.
        if text.ends_with(char::REPLACEMENT_CHARACTER) && self.window.len() < 2 * LONG {
            return Ok(None);
        }
        let new = text.get(self.given..).unwrap_or_default().to_owned();
        self.given = text.len();
        if self.window.len() > LONG {
            let kept = tokenizer.decode(&self.window[self.window.len() - KEEP..], true)?;
            // A window without text would let the decoder take the next token for the first.
            if !kept.is_empty() {
                self.window.drain(..self.window.len() - KEEP);
                self.given = kept.len();
            }
        }
        Ok(Some(new).filter(|new| !new.is_empty()))
    }

    /// What is left when no more tokens come: an incomplete character is U+FFFD.
    ///
    /// # Errors
    /// If the decoder of the vocabulary fails.
    pub fn finish(&mut self) -> Result<Option<String>, TokenizerError> {
        let Some(tokenizer) = &self.tokenizer else { return Ok(None) };
        let text = tokenizer.decode(&self.window, true)?;
        let rest = text.get(self.given..).unwrap_or_default().to_owned();
        self.window.clear();
        self.given = 0;
        Ok(Some(rest).filter(|rest| !rest.is_empty()))
    }
}
