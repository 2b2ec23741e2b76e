//! Which backend serves which layer.

use std::ops::Range;

/// Runs of adjacent layers and the name of the backend of each, covering a whole graph in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    runs: Vec<(Range<usize>, String)>,
}

/// Why a text is no placement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("placement {text:?}: {reason}; write one backend (cpu) or a map such as embed=cpu,0-19=cpu,20-=cpu,head=cpu")]
pub struct PlacementError {
    text: String,
    reason: String,
}

impl Placement {
    /// All `layers` layers of a graph on one backend.
    pub fn single(backend: &str, layers: usize) -> Placement {
        Placement { runs: vec![(0..layers, backend.to_owned())] }
    }

    /// Reads the name of one backend, or a map of layers: `embed=cpu,0-19=gpu,20-=cpu,head=cpu` for a graph of
    /// `blocks` blocks. A layer that the map leaves out goes where its predecessor goes (the embedding: where block 0
    /// goes).
    ///
    /// # Errors
    /// If an item is not `LAYERS=BACKEND`, or names a block that the graph does not have.
    pub fn parse(text: &str, blocks: usize) -> Result<Placement, PlacementError> {
        let error = |reason: String| PlacementError { text: text.to_owned(), reason };
        if !text.contains('=') && !text.is_empty() {
            return Ok(Placement::single(text, blocks + 2));
        }
        let mut backends: Vec<Option<&str>> = vec![None; blocks + 2];
        for item in text.split(',') {
            let (layers, backend) =
                item.split_once('=').ok_or_else(|| error(format!("{item:?} is not LAYERS=BACKEND")))?;
            let number = |n: &str| match n.parse::<usize>() {
                Ok(n) if n < blocks => Ok(n),
                _ => Err(error(format!("{n:?} is not a block from 0 to {}", blocks.saturating_sub(1)))),
            };
            let range = match layers.split_once('-') {
                _ if layers == "embed" => 0..1,
                _ if layers == "head" => blocks + 1..blocks + 2,
                Some((first, "")) => number(first)? + 1..blocks + 1,
                Some((first, last)) => number(first)? + 1..number(last)? + 2,
                None => number(layers)? + 1..number(layers)? + 2,
            };
            if range.is_empty() || backend.is_empty() {
                return Err(error(format!("{item:?} is empty")));
            }
            backends[range].fill(Some(backend));
        }
        let first = backends.iter().flatten().next().copied().unwrap_or("cpu");
        let mut placement = Placement { runs: Vec::new() };
        for (layer, backend) in backends.into_iter().enumerate() {
            let backend = backend.unwrap_or_else(|| placement.runs.last().map_or(first, |(_, name)| name)).to_owned();
            match placement.runs.last_mut() {
                Some((run, name)) if *name == backend => run.end = layer + 1,
                _ => placement.runs.push((layer..layer + 1, backend)),
            }
        }
        Ok(placement)
    }

    /// The same placement with a stage boundary after `layer`, where its hidden state can be seen.
    #[must_use]
    pub fn cut_after(mut self, layer: usize) -> Placement {
        if let Some(i) = self.runs.iter().position(|(run, _)| run.start <= layer && layer + 1 < run.end) {
            let (run, backend) = self.runs[i].clone();
            self.runs[i].0.end = layer + 1;
            self.runs.insert(i + 1, (layer + 1..run.end, backend));
        }
        self
    }

    /// Whether a layer is on this backend.
    pub fn names(&self, backend: &str) -> bool {
        self.runs.iter().any(|(_, name)| name == backend)
    }

    /// The runs, in order.
    pub fn runs(&self) -> &[(Range<usize>, String)] {
        &self.runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(text: &str, blocks: usize) -> Vec<(usize, usize, String)> {
        let placement = Placement::parse(text, blocks).expect(text);
        placement.runs.into_iter().map(|(run, name)| (run.start, run.end, name)).collect()
    }

    #[test]
    fn one_backend_is_one_run() {
        assert_eq!(runs("gpu", 4), [(0, 6, "gpu".into())]);
    }

    #[test]
    fn maps_cover_every_layer_and_merge_neighbours() {
        let expected = [(0, 1, "cpu".into()), (1, 3, "gpu".into()), (3, 6, "cpu".into())];
        assert_eq!(runs("embed=cpu,0-1=gpu,2-=cpu,head=cpu", 4), expected);
        assert_eq!(runs("1=gpu,2=cpu", 3), [(0, 3, "gpu".to_owned()), (3, 5, "cpu".to_owned())]);
    }

    #[test]
    fn bad_maps_are_refused() {
        for text in ["", "0-9=cpu", "x=cpu", "2-1=cpu", "0=", "embed=cpu,1"] {
            assert!(Placement::parse(text, 4).is_err(), "{text:?}");
        }
    }

    #[test]
    fn cuts_keep_the_backend() {
        let placement = Placement::single("cpu", 5).cut_after(1).cut_after(4).cut_after(1);
        assert_eq!(placement.runs, [(0..2, "cpu".to_owned()), (2..5, "cpu".to_owned())]);
    }
}
