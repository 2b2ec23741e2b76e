//! Stop strings: text that ends an answer and is not part of it.

/// Holds back text that may be the start of a stop string.
#[derive(Clone, Debug, Default)]
pub(super) struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

/// What became of a piece of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StopResult {
    /// This much is certain; the answer goes on.
    Text(String),
    /// A stop string came; this is the text in front of it.
    Stopped(String),
}

impl StopMatcher {
    /// A matcher for `stops`; empty strings are left out.
    pub(super) fn new(stops: &[String]) -> StopMatcher {
        StopMatcher { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Takes the next piece of text.
    pub(super) fn push(&mut self, text: &str) -> StopResult {
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return StopResult::Stopped(std::mem::take(&mut self.held));
        }
        let starts_a_stop = |tail: &str| self.stops.iter().any(|stop| stop.starts_with(tail));
        let certain = self
            .held
            .char_indices()
            .map(|(at, _)| at)
            .find(|&at| starts_a_stop(&self.held[at..]))
            .unwrap_or(self.held.len());
        let rest = self.held.split_off(certain);
        StopResult::Text(std::mem::replace(&mut self.held, rest))
    }

    /// The text that was held back, when no more comes.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut matcher = StopMatcher::new(&stops.iter().map(|s| s.to_string()).collect::<Vec<_>>());
        let mut out = String::new();
        for piece in pieces {
            match matcher.push(piece) {
                StopResult::Text(text) => out += &text,
                StopResult::Stopped(text) => return (out + &text, true),
            }
        }
        (out + &matcher.finish(), false)
    }

    #[test]
    fn a_stop_string_may_be_cut_anywhere() {
        assert_eq!(run(&["END"], &["one E", "N", "D two"]), ("one ".into(), true));
        assert_eq!(run(&["END"], &["one E", "N", "T two"]), ("one ENT two".into(), false));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("a".into(), true));
    }

    #[test]
    fn the_first_of_several_wins() {
        assert_eq!(run(&["b", "é"], &["aé", "b"]), ("a".into(), true));
        assert_eq!(run(&["xyz", "y"], &["x", "y"]), ("x".into(), true));
    }

    #[test]
    fn an_unfinished_one_is_text() {
        assert_eq!(run(&["END"], &["the EN"]), ("the EN".into(), false));
        assert_eq!(run(&[""], &["text"]), ("text".into(), false));
    }
}
