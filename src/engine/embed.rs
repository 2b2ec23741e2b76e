//! Embeddings: the normalised hidden state of the last token of a text, of length 1.
//!
//! Texts go through the layers together, as many as a pass and the cache have room for. What a text gives does not depend on the
//! others.

use sterna_cpu::kv::PAGE_LEN;
use sterna_cpu::norm::rms_norm;

use super::scheduler::FEW_TOKENS;
use super::{Error, Model, Work};
use crate::backend::LogitsFor;

impl Model {
    /// The embeddings of some texts, `[hidden]` each: the state of the last token behind the final norm, divided by its length.
    /// The model's end of a text is that last token where its tokenizer puts one behind a text.
    ///
    /// # Errors
    /// If the model was not opened with [`OpenOptions::for_embedding`](super::OpenOptions::for_embedding) or has no tokenizer, a
    /// text is empty or longer than the context, or a device fails.
    pub fn embed<T: AsRef<str>>(&self, texts: &[T]) -> Result<Vec<Vec<f32>>, Error> {
        let tokenizer = self.tokenizer()?;
        let tokens = texts.iter().map(|text| tokenizer.encode_whole(text.as_ref()));
        self.embed_tokens(&tokens.collect::<Result<Vec<_>, _>>()?)
    }

    /// As [`Model::embed`], of texts that are tokens already.
    ///
    /// # Errors
    /// As [`Model::embed`].
    pub fn embed_tokens(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Error> {
        if texts.iter().any(Vec::is_empty) {
            return Err(Error::EmptyPrompt);
        }
        let norm = self.final_norm()?;
        let mut embeddings = Vec::with_capacity(texts.len());
        while embeddings.len() < texts.len() {
            let rest = &texts[embeddings.len()..];
            let together = &rest[..self.together(rest)];
            for last in self.last_states(together)? {
                embeddings.push(self.embedding_of(&last, norm));
            }
        }
        Ok(embeddings)
    }

    /// How many of the first `texts` go through the layers in one pass: at least one, which may take several.
    fn together(&self, texts: &[Vec<u32>]) -> usize {
        let engine = self.engine();
        let (mut tokens, mut pages) = (0, 0);
        let is_short = |text: &Vec<u32>| text.len() <= FEW_TOKENS;
        let fits = |text: &&Vec<u32>| {
            tokens += text.len();
            pages += text.len().div_ceil(PAGE_LEN);
            // Short texts may have other stages than long ones.
            tokens <= engine.chunk() && pages <= engine.available_pages() && is_short(text) == is_short(&texts[0])
        };
        texts.iter().take_while(fits).count().max(1)
    }

    /// The hidden state of the last token of each text behind the last block.
    fn last_states(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Error> {
        let sessions: Vec<_> = texts.iter().map(|_| self.session()).collect();
        let work: Vec<Work<'_>> = sessions
            .iter()
            .zip(texts)
            .map(|(session, tokens)| Work { sequence: session.id(), tokens, logits: LogitsFor::None })
            .collect();
        let (last_block, width) = (self.graph().len() - 2, self.config().hidden_size);
        // Those of the last pass: with several texts there is one only. A pass that failed is made again.
        let mut rows: Vec<f32> = Vec::new();
        let mut trace = |layer: usize, states: &[f32]| {
            if layer == last_block {
                rows.clear();
                rows.extend_from_slice(states);
            }
        };
        self.engine().forward(&work, &mut |_, _, _| Ok(()), Some(&mut trace))?;
        let last = |row: usize| rows[row * width..][..width].to_vec();
        if texts.len() == 1 {
            return Ok(vec![last(rows.len() / width - 1)]);
        }
        let mut end = 0;
        Ok(texts
            .iter()
            .map(|text| {
                end += text.len();
                last(end - 1)
            })
            .collect())
    }

    /// The embedding that a hidden state gives.
    fn embedding_of(&self, state: &[f32], norm: &[f32]) -> Vec<f32> {
        let mut embedding = vec![0.0; state.len()];
        rms_norm(self.kernels().isa(), state, norm, self.config().rms_norm_eps, &mut embedding);
        let length = embedding.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt().max(1e-12);
        embedding.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
        embedding
    }
}
