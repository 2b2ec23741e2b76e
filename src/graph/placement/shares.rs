//! Placements by number of blocks or by memory: `gpu=0:20,gpu=1:10`, `gpu=0:6G,gpu=1:4G`.

use super::{Placement, PlacementError};
use crate::size;

/// How much of a model a backend gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// So many blocks.
    Blocks(usize),
    /// As many blocks as fit into so many bytes.
    Memory(u64),
}

/// The backends of a text such as `gpu=0:20,gpu=1:6G` and what each gets; `None` for a text without a colon.
///
/// # Errors
/// If an item is not `BACKEND:BLOCKS` or `BACKEND:SIZE`.
pub fn shares(text: &str) -> Option<Result<Vec<(String, Share)>, PlacementError>> {
    let item = |item: &str| {
        let share = item.rsplit_once(':').filter(|(backend, _)| !backend.is_empty()).and_then(|(backend, share)| {
            let share = match share.parse() {
                Ok(blocks) => Share::Blocks(blocks),
                Err(_) => Share::Memory(size::parse(share).ok()?),
            };
            Some((backend.to_owned(), share))
        });
        let reason = || format!("{item:?} is neither BACKEND:BLOCKS nor BACKEND:SIZE");
        share.ok_or_else(|| PlacementError { text: text.to_owned(), reason: reason() })
    };
    text.contains(':').then(|| text.split(',').map(item).collect())
}

impl Placement {
    /// The first blocks on the first backend, and so on; what is left over goes to the CPU. The embedding is where the
    /// first block is, the head where the last one is. `text` is what the user wrote.
    ///
    /// # Errors
    /// If there are fewer blocks than the shares say.
    pub fn of_shares(shares: &[(String, usize)], blocks: usize, text: &str) -> Result<Placement, PlacementError> {
        let wanted: usize = shares.iter().map(|(_, count)| count).sum();
        if wanted > blocks {
            let reason = format!("it has {wanted} blocks, the model {blocks}");
            return Err(PlacementError { text: text.to_owned(), reason });
        }
        let named = shares.iter().flat_map(|(name, count)| std::iter::repeat_n(name.as_str(), *count));
        let of_blocks: Vec<&str> = named.chain(std::iter::repeat("cpu")).take(blocks).collect();
        let (first, last) = (of_blocks.first().copied().unwrap_or("cpu"), of_blocks.last().copied().unwrap_or("cpu"));
        Ok(Placement::of_layers(std::iter::once(first).chain(of_blocks.iter().copied()).chain([last])))
    }

    /// The last `count` layers on `backend`, as llama.cpp's `--gpu-layers` has it: up to the number of blocks they are the
    /// last blocks; one more is the head too, and more than that is everything.
    pub fn last_layers(count: usize, blocks: usize, backend: &str) -> Placement {
        let there = |layer: usize| match layer {
            0 => count > blocks + 1,
            layer if layer <= blocks => layer + count > blocks,
            _ => count > blocks,
        };
        Placement::of_layers((0..blocks + 2).map(|layer| if there(layer) { backend } else { "cpu" }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_blocks_or_memory() {
        assert_eq!(shares("gpu"), None);
        let read = |text: &str| shares(text).expect("there is a colon").ok();
        let pair = |name: &str, share| (name.to_owned(), share);
        assert_eq!(
            read("gpu=0:20,gpu=1:1.5G"),
            Some(vec![pair("gpu=0", Share::Blocks(20)), pair("gpu=1", Share::Memory(3 << 29))])
        );
        for text in ["gpu:", ":3", "gpu:20,cpu", "gpu:x"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn shares_take_blocks_from_the_first_on() {
        let text = |shares: &[(&str, usize)]| {
            let shares: Vec<_> = shares.iter().map(|&(name, count)| (name.to_owned(), count)).collect();
            Placement::of_shares(&shares, 30, "").map(|placement| placement.to_string())
        };
        assert_eq!(text(&[("gpu=0", 20), ("gpu=1", 10)]), Ok("embed=gpu=0,0-19=gpu=0,20-29=gpu=1,head=gpu=1".into()));
        assert_eq!(text(&[("gpu=0", 1)]), Ok("embed=gpu=0,0=gpu=0,1-29=cpu,head=cpu".into()));
        assert_eq!(text(&[("gpu=0", 0), ("gpu=1", 30)]), Ok("gpu=1".into()));
        assert!(text(&[("gpu=0", 20), ("gpu=1", 11)]).is_err_and(|error| error.to_string().contains("31 blocks")));
    }

    #[test]
    fn layers_are_counted_from_the_end_as_llama_cpp_does() {
        let text = |count| Placement::last_layers(count, 4, "gpu").to_string();
        assert_eq!(text(0), "cpu");
        assert_eq!(text(1), "embed=cpu,0-2=cpu,3=gpu,head=cpu");
        assert_eq!(text(4), "embed=cpu,0-3=gpu,head=cpu");
        assert_eq!(text(5), "embed=cpu,0-3=gpu,head=gpu");
        assert_eq!((text(6), text(99)), ("gpu".into(), "gpu".into()));
    }
}
