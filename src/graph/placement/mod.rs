//! Which backend serves which layer.

mod shares;

pub use shares::{Share, shares};

use std::ops::Range;

/// Runs of adjacent layers and the name of the backend of each, covering a whole graph in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    runs: Vec<(Range<usize>, String)>,
}

/// Why a text is no placement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "placement {text:?}: {reason}; write one backend (cpu), a map such as embed=cpu,0-19=gpu,20-=cpu,head=cpu, or blocks for \
     each such as gpu=0:20,gpu=1:10"
)]
pub struct PlacementError {
    text: String,
    reason: String,
}

impl Placement {
    /// All `layers` layers of a graph on one backend.
    pub fn single(backend: &str, layers: usize) -> Placement {
        Placement { runs: vec![(0..layers, backend.to_owned())] }
    }

    /// Reads the name of one backend (`cpu`, `gpu`, `gpu=1`), or a map of layers: `embed=cpu,0-19=gpu,20-=cpu,head=cpu` for
    /// a graph of `blocks` blocks. A layer that the map leaves out goes where its predecessor goes (the embedding: where
    /// block 0 goes). `gpu=0:20,gpu=1:10` gives the first 20 blocks to one GPU and the next 10 to another
    /// ([`Placement::of_shares`]).
    ///
    /// # Errors
    /// If an item is not `LAYERS=BACKEND`, or names a block that the graph does not have; for shares by memory, which have
    /// to be counted in blocks first.
    pub fn parse(text: &str, blocks: usize) -> Result<Placement, PlacementError> {
        let error = |reason: String| PlacementError { text: text.to_owned(), reason };
        if let Some(shares) = shares(text) {
            let count = |(name, share): (String, Share)| match share {
                Share::Blocks(count) => Ok((name, count)),
                Share::Memory(_) => Err(error("shares by memory cannot be had here".into())),
            };
            return Placement::of_shares(&shares?.into_iter().map(count).collect::<Result<Vec<_>, _>>()?, blocks, text);
        }
        let is_name = |text: &str| text.starts_with("gpu=") && text.len() > 4 && !text.contains(',');
        if !text.is_empty() && (!text.contains('=') || is_name(text)) {
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
        let mut last = backends.iter().flatten().next().copied().unwrap_or("cpu");
        Ok(Placement::of_layers(backends.into_iter().map(|backend| {
            last = backend.unwrap_or(last);
            last
        })))
    }

    /// The placement that has each layer on the backend named for it.
    pub fn of_layers<'a>(backends: impl IntoIterator<Item = &'a str>) -> Placement {
        let mut placement = Placement { runs: Vec::new() };
        for (layer, backend) in backends.into_iter().enumerate() {
            match placement.runs.last_mut() {
                Some((run, name)) if name == backend => run.end = layer + 1,
                _ => placement.runs.push((layer..layer + 1, backend.to_owned())),
            }
        }
        placement
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

    /// The same placement with another name for a backend.
    #[must_use]
    pub fn renamed(&self, from: &str, to: &str) -> Placement {
        let runs = self.runs.iter().map(|(run, name)| (run.clone(), if name == from { to } else { name }));
        Placement::of_layers(runs.flat_map(|(run, name)| std::iter::repeat_n(name, run.len())))
    }

    /// The backends, each once, in the order of their first layers.
    pub fn backends(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for (_, name) in &self.runs {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }

    /// The backend of a layer.
    pub fn backend_of(&self, layer: usize) -> Option<&str> {
        self.runs.iter().find(|(run, _)| run.contains(&layer)).map(|(_, name)| name.as_str())
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

impl std::fmt::Display for Placement {
    /// The name of the backend if there is only one, else a map that [`Placement::parse`] reads.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let layers = self.runs.last().map_or(0, |(run, _)| run.end);
        if let [(_, backend), rest @ ..] = &self.runs[..]
            && rest.iter().all(|(_, name)| name == backend)
        {
            return f.write_str(backend);
        }
        let mut comma = "";
        for (run, backend) in &self.runs {
            let blocks = run.start.max(1)..run.end.min(layers - 1);
            if run.start == 0 {
                write!(f, "{comma}embed={backend}")?;
                comma = ",";
            }
            match blocks.len() {
                0 => {}
                1 => write!(f, "{comma}{}={backend}", blocks.start - 1)?,
                _ => write!(f, "{comma}{}-{}={backend}", blocks.start - 1, blocks.end - 2)?,
            }
            comma = ",";
            if run.end == layers {
                write!(f, "{comma}head={backend}")?;
            }
        }
        Ok(())
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
        assert_eq!(runs("gpu=1", 4), [(0, 6, "gpu=1".into())]);
    }

    #[test]
    fn maps_cover_every_layer_and_merge_neighbours() {
        let expected = [(0, 1, "cpu".into()), (1, 3, "gpu".into()), (3, 6, "cpu".into())];
        assert_eq!(runs("embed=cpu,0-1=gpu,2-=cpu,head=cpu", 4), expected);
        assert_eq!(runs("1=gpu,2=cpu", 3), [(0, 3, "gpu".to_owned()), (3, 5, "cpu".to_owned())]);
        assert_eq!(runs("0-1=gpu=1,2-=cpu", 3), [(0, 3, "gpu=1".to_owned()), (3, 5, "cpu".to_owned())]);
        assert_eq!(runs("gpu=0:2,gpu=1:1", 3), [(0, 3, "gpu=0".to_owned()), (3, 5, "gpu=1".to_owned())]);
    }

    #[test]
    fn bad_maps_are_refused() {
        for text in ["", "0-9=cpu", "x=cpu", "2-1=cpu", "0=", "embed=cpu,1", "gpu=", "gpu:9", "gpu:1G"] {
            assert!(Placement::parse(text, 4).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["cpu", "gpu=1", "embed=cpu,0-1=gpu,2-3=cpu,head=cpu", "embed=gpu,0=cpu,1-3=gpu=7,head=cpu"] {
            let placement = Placement::parse(text, 4).expect(text);
            assert_eq!(placement.to_string(), text);
            assert_eq!(Placement::parse(&placement.to_string(), 4), Ok(placement));
        }
        assert_eq!(Placement::single("cpu", 6).cut_after(2).to_string(), "cpu");
    }

    #[test]
    fn cuts_keep_the_backend() {
        let placement = Placement::single("cpu", 5).cut_after(1).cut_after(4).cut_after(1);
        assert_eq!(placement.runs, [(0..2, "cpu".to_owned()), (2..5, "cpu".to_owned())]);
    }
}
