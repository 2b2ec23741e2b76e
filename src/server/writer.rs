//! From the events of answers to the pieces of a stream.

use std::collections::VecDeque;

use futures_util::stream::{self, Stream};

use super::answers::Answers;
use crate::engine::Event;

/// What an API writes into its streams.
pub(super) trait Writer: Send + 'static {
    /// A piece of a stream.
    type Piece: Send + 'static;

    /// In front of everything.
    fn begin(&mut self) -> Vec<Self::Piece>;

    /// For an event of the answer numbered `index`.
    fn event(&mut self, index: usize, event: Event) -> Vec<Self::Piece>;

    /// Behind everything.
    fn end(&mut self) -> Vec<Self::Piece>;
}

/// What is done of a stream.
struct Progress<W: Writer> {
    answers: Answers,
    writer: W,
    ready: VecDeque<W::Piece>,
    ended: bool,
}

/// The pieces of answers. Dropping them gives the answers up.
pub(super) fn pieces<W: Writer>(answers: Answers, mut writer: W) -> impl Stream<Item = W::Piece> + Send + 'static {
    let progress = Progress { answers, ready: writer.begin().into(), writer, ended: false };
    stream::unfold(progress, |mut progress| async move {
        while progress.ready.is_empty() && !progress.ended {
            match progress.answers.next().await {
                Some((index, event)) => progress.ready.extend(progress.writer.event(index, event)),
                None => {
                    progress.ended = true;
                    progress.ready.extend(progress.writer.end());
                }
            }
        }
        let piece = progress.ready.pop_front()?;
        Some((piece, progress))
    })
}
