//! What blocks cost, kept in the tuning file beside the settings.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::BlockCost;
use crate::tune::{self, BLOCKS, TuneError, machine_name};

/// A cost and the machine that it was measured on.
#[derive(Serialize, Deserialize)]
struct Entry {
    machine: String,
    #[serde(flatten)]
    cost: BlockCost,
}

/// The cost of a block of `shape` on `device` of this machine, if the file has it.
///
/// # Errors
/// If the file cannot be read, or is no tuning file.
pub fn load(file: &Path, device: &str, shape: &str) -> Result<Option<BlockCost>, TuneError> {
    let machine = machine_name();
    let is_it = |entry: &Entry| entry.machine == machine && entry.cost.device == device && entry.cost.shape == shape;
    Ok(entries(&tune::read(file)?.unwrap_or_default(), file)?.into_iter().find(is_it).map(|entry| entry.cost))
}

/// Keeps a cost in the place of what the file had for the same device and shape. The rest of the file stays.
///
/// # Errors
/// If the file cannot be read or written.
pub fn save(file: &Path, cost: &BlockCost) -> Result<(), TuneError> {
    let mut content = tune::read(file)?.unwrap_or_default();
    let machine = machine_name();
    let mut entries = entries(&content, file)?;
    entries.retain(|e| e.machine != machine || e.cost.device != cost.device || e.cost.shape != cost.shape);
    entries.push(Entry { machine, cost: cost.clone() });
    let entries = serde_json::to_value(entries).map_err(|e| TuneError::Io { file: file.into(), reason: e.into() })?;
    content.insert(BLOCKS.into(), entries);
    tune::write(file, &content)
}

fn entries(content: &serde_json::Map<String, Value>, file: &Path) -> Result<Vec<Entry>, TuneError> {
    let Some(entries) = content.get(BLOCKS) else { return Ok(Vec::new()) };
    let invalid = |reason: String| TuneError::Invalid { file: file.into(), reason: format!("{BLOCKS}: {reason}") };
    let entries: Vec<Entry> = serde_json::from_value(entries.clone()).map_err(|e| invalid(e.to_string()))?;
    let is_time = |x: f64| x.is_finite() && x >= 0.0;
    let is_sound = |cost: &BlockCost| {
        let link = cost.link.is_none_or(|link| is_time(link.latency) && link.bytes_per_second > 0.0);
        is_time(cost.block.prefill) && is_time(cost.block.decode) && cost.bytes > 0 && link
    };
    match entries.iter().all(|entry| is_sound(&entry.cost)) {
        true => Ok(entries),
        false => Err(invalid("a number is out of range".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::planner::{Link, Seconds};
    use crate::tune::Tuned;
    use sterna_cpu::{Isa, Layout, Tuning};

    fn cost(device: &str, decode: f64) -> BlockCost {
        BlockCost {
            device: device.into(),
            shape: "a shape".into(),
            bytes: 1000,
            block: Seconds { prefill: 1e-5, decode },
            link: (device != "cpu").then_some(Link { latency: 2e-5, bytes_per_second: 1e10 }),
        }
    }

    #[test]
    fn costs_and_settings_share_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("deep").join("tuning.json");
        assert_eq!(load(&file, "gpu", "a shape").expect("no file is no error"), None);
        save(&file, &cost("gpu", 0.5)).expect("a place to write");
        save(&file, &cost("cpu", 0.25)).expect("a place to write");
        save(&file, &cost("gpu", 0.75)).expect("a place to write");
        let get = |device: &str| load(&file, device, "a shape").expect("a file");
        assert_eq!((get("gpu"), get("cpu")), (Some(cost("gpu", 0.75)), Some(cost("cpu", 0.25))));
        assert_eq!(load(&file, "gpu", "another shape").expect("a file"), None);
        // A file without settings has none; writing settings keeps the costs, and the other way round.
        assert_eq!(Tuned::load(&file, Isa::Scalar).expect("a file"), None);
        let Tuning { prefetch, task_bytes, block_bytes } = Tuning::default();
        let (isa, layout) = (Isa::Scalar.name().to_owned(), Layout::T16.name().to_owned());
        let tuned = Tuned { machine: machine_name(), isa, layout, threads: 2, prefetch, task_bytes, block_bytes };
        tuned.save(&file).expect("a place to write");
        assert_eq!(get("cpu"), Some(cost("cpu", 0.25)));
        save(&file, &cost("gpu", 1.0)).expect("a place to write");
        assert_eq!(Tuned::load(&file, Isa::Scalar).expect("a file"), Some(tuned));
        // What makes no sense is explained.
        save(&file, &cost("gpu", -1.0)).expect("a place to write");
        let message = load(&file, "gpu", "a shape").expect_err("a negative time").to_string();
        assert!(message.contains("blocks") && message.contains("sterna tune"), "{message}");
    }
}
