//! A Hugging Face directory: `config.json`, one or several safetensors files, and side files.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::checkpoint::{Source, TensorInfo};
use super::storage::{Storage, TensorData};
use super::{FormatError, safetensors, tensor_list};

/// What a path should hold, for messages.
pub(super) const EXPECTED: &str = "expected a .gguf file or a Hugging Face folder with config.json and *.safetensors";

/// Largest `config.json` that is read. Real ones have a few kilobytes.
const MAX_CONFIG: u64 = 1 << 20;

/// Largest `model.safetensors.index.json` that is read. Those of the largest models have a few megabytes.
const MAX_INDEX: u64 = 32 << 20;

/// Largest side file: tokenizers have up to 35 MB.
const MAX_SIDE_FILE: u64 = 256 << 20;

/// The file that describes the model.
pub(super) const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Where the files of the directory are.
pub(super) enum Files {
    /// On disk.
    Directory(PathBuf),
    /// In the program, by name.
    Static(BTreeMap<String, &'static [u8]>),
}

/// What the directory holds.
pub(super) struct Contents {
    /// `config.json`.
    pub(super) config: serde_json::Value,
    /// The safetensors files.
    pub(super) sources: Vec<Source>,
    /// The tensors of all of them, file by file.
    pub(super) tensors: Vec<TensorInfo>,
}

impl Files {
    /// Reads the side file `name` whole, `None` if there is none.
    pub(super) fn read(&self, name: &str) -> Result<Option<TensorData>, FormatError> {
        self.read_limited(name, MAX_SIDE_FILE)
    }

    fn read_limited(&self, name: &str, limit: u64) -> Result<Option<TensorData>, FormatError> {
        let storage = match self {
            Files::Directory(directory) => {
                if !is_plain_name(name) {
                    return Err(FormatError::header(directory, format_args!("`{name}`"), "this is no file name"));
                }
                Storage::read(&directory.join(name), limit)?
            }
            Files::Static(files) => files.get(name).map(|bytes| Storage::Static(bytes)),
        };
        Ok(storage.map(TensorData::whole))
    }

    /// Opens the safetensors file `name` without reading it, `None` if there is none.
    fn open(&self, root: &Path, name: &str) -> Result<Option<Source>, FormatError> {
        let path = root.join(name);
        let storage = match self {
            Files::Directory(_) if !path.is_file() => None,
            Files::Directory(_) => Some(Storage::map(&path)?),
            Files::Static(files) => files.get(name).map(|bytes| Storage::Static(bytes)),
        };
        Ok(storage.map(|storage| Source { path: path.into(), storage: Arc::new(storage) }))
    }

    /// The names of all files, sorted.
    fn names(&self) -> Result<Vec<String>, FormatError> {
        match self {
            Files::Static(files) => Ok(files.keys().cloned().collect()),
            Files::Directory(directory) => {
                let mut names = Vec::new();
                for entry in std::fs::read_dir(directory).map_err(FormatError::io(directory))? {
                    names.extend(entry.map_err(FormatError::io(directory))?.file_name().into_string());
                }
                names.sort();
                Ok(names)
            }
        }
    }
}

/// Reads what the directory `root` holds. `only` is the one safetensors file to use if the user named one that is
/// not part of the directory's model.
pub(super) fn read(root: &Path, files: &Files, only: Option<&str>) -> Result<Contents, FormatError> {
    let names = files.names()?;
    if !names.iter().any(|name| name == CONFIG) {
        return Err(no_config(root, &names));
    }
    let config = files.read_limited(CONFIG, MAX_CONFIG)?.unwrap_or_else(|| TensorData::whole(Storage::Static(b"")));
    let config = parse(&root.join(CONFIG), &config)?;

    let index: Option<WeightMap> = match files.read_limited(INDEX, MAX_INDEX)? {
        Some(bytes) => Some(parse::<Index>(&root.join(INDEX), &bytes)?.weight_map),
        None => None,
    };
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let only = only.filter(|&only| {
        only != SINGLE && !index.as_ref().is_some_and(|index| index.0.iter().any(|(_, shard)| shard == only))
    });
    // As transformers does, a single file goes before an index.
    let (shards, index) = match (only, index) {
        (Some(only), _) => (vec![only.to_owned()], None),
        (None, _) if has(SINGLE) => (vec![SINGLE.to_owned()], None),
        (None, Some(index)) => (index.shards(&root.join(INDEX))?, Some(index)),
        (None, None) => (vec![lone_safetensors(root, &names)?], None),
    };

    let mut sources = Vec::new();
    let mut tensors = Vec::new();
    for shard in &shards {
        let source = files.open(root, shard)?.ok_or_else(|| {
            FormatError::not_a_checkpoint(root, format_args!("the weights file `{shard}` is missing; download it"))
        })?;
        tensors.extend(safetensors::read(&source.path, &source.storage, sources.len())?);
        sources.push(source);
    }
    if let Some(index) = index {
        index.check(&root.join(INDEX), &shards, &tensors)?;
    }
    Ok(Contents { config, sources, tensors })
}

/// The error for a directory without `config.json`, with what can be said about the directory.
fn no_config(root: &Path, names: &[String]) -> FormatError {
    let gguf: Vec<&str> = names.iter().filter(|name| name.ends_with(".gguf")).map(String::as_str).collect();
    let reason = match (gguf.as_slice(), names.is_empty()) {
        (_, true) => format!("the folder is empty; {EXPECTED}"),
        ([], false) => format!("the folder has no config.json; {EXPECTED}"),
        (files, _) => format!("the folder has no config.json; give the path of one of its files: {}", files.join(", ")),
    };
    FormatError::not_a_checkpoint(root, reason)
}

/// The only safetensors file among `names`.
fn lone_safetensors(root: &Path, names: &[String]) -> Result<String, FormatError> {
    let mut candidates = names.iter().filter(|name| name.ends_with(".safetensors"));
    let reason = match (candidates.next(), candidates.next()) {
        (Some(only), None) => return Ok(only.clone()),
        (Some(_), Some(_)) => format!("several .safetensors files, but neither {SINGLE} nor {INDEX}; name one file"),
        (None, _) if names.iter().any(|name| name.ends_with(".bin") || name.ends_with(".pt")) => {
            "the weights are in PyTorch's pickle format, which is not read; convert them to safetensors".to_owned()
        }
        (None, _) => format!("the folder has no weights; {EXPECTED}"),
    };
    Err(FormatError::not_a_checkpoint(root, reason))
}

/// Whether `name` names a file in a directory and nothing outside of it.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
        && !name.contains(['\\', ':', '\0'])
}

/// Parses the JSON file `bytes`.
fn parse<'a, T: Deserialize<'a>>(file: &Path, bytes: &'a [u8]) -> Result<T, FormatError> {
    serde_json::from_slice(bytes).map_err(|reason| FormatError::Json { file: file.into(), reason })
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// Which file holds which tensor, in the order of the index.
struct WeightMap(Vec<(String, String)>);

impl WeightMap {
    /// The names of the files, each once, in order.
    fn shards(&self, file: &Path) -> Result<Vec<String>, FormatError> {
        let mut shards: Vec<String> = self.0.iter().map(|(_, shard)| shard.clone()).collect();
        shards.sort();
        shards.dedup();
        match shards.iter().find(|shard| !is_plain_name(shard)) {
            Some(bad) => Err(FormatError::header(file, format_args!("`{bad}`"), "a file outside of the folder")),
            None if shards.is_empty() => Err(FormatError::header(file, "`weight_map`", "it is empty")),
            None => Ok(shards),
        }
    }

    /// Refuses an index whose tensors are not where it says.
    fn check(&self, file: &Path, shards: &[String], tensors: &[TensorInfo]) -> Result<(), FormatError> {
        let mut found: Vec<(&str, &str)> =
            tensors.iter().map(|tensor| (tensor.name.as_str(), shards[tensor.source].as_str())).collect();
        found.sort_unstable();
        for (name, shard) in &self.0 {
            if found.binary_search(&(name, shard)).is_err() {
                let reason = format!("it is not in `{shard}`, where the index has it; download that file again");
                return Err(FormatError::header(file, format_args!("tensor `{name}`"), reason));
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WeightMap, D::Error> {
        struct WeightMapVisitor;
        impl<'de> Visitor<'de> for WeightMapVisitor {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from tensor names to file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    if pairs.len() as u64 == tensor_list::MAX_TENSORS {
                        return Err(A::Error::custom("too many tensors"));
                    }
                    pairs.push(pair);
                }
                Ok(WeightMap(pairs))
            }
        }
        deserializer.deserialize_map(WeightMapVisitor)
    }
}
