//! Which files of a repository make a model that runs here.

use super::HubError;

/// Encodings of ternary weights that GGUF files have in their names, best first: those that open at once, then those that
/// are packed at start.
const ENCODINGS: &[&str] = &["t16x5", "t16", "i2_s", "tq2_0", "tq1_0", "pq2_0", "q2_0"];

/// Files beside the weights that a Hugging Face folder may have and that are read.
const SIDE_FILES: &[&str] = &[
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
];

const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";

/// What to take of a repository.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// One file, which is the model.
    Gguf {
        /// The file.
        file: String,
        /// GGUF files that were not taken.
        others: Vec<String>,
    },
    /// A Hugging Face folder: `config.json`, weights and what lies beside them.
    Folder(Vec<String>),
}

/// Takes the model of a repository that has `files`, or its file `wanted`.
///
/// # Errors
/// If `wanted` is not there, or none or several files may be meant.
pub(super) fn select(repository: &str, files: &[String], wanted: Option<&str>) -> Result<Selection, HubError> {
    let unclear = |reason, files: Vec<String>| HubError::Unclear { repository: repository.to_owned(), reason, files };
    let ggufs: Vec<String> = files.iter().filter(|file| file.ends_with(".gguf")).cloned().collect();
    if let Some(wanted) = wanted {
        if !files.iter().any(|file| file == wanted) {
            return Err(unclear("it has no such file", [ggufs, folder(files)].concat()));
        }
        if !wanted.ends_with(".gguf") {
            return Err(unclear("only .gguf files are models by themselves; name the repository alone", ggufs));
        }
        return Ok(Selection::Gguf { file: wanted.to_owned(), others: Vec::new() });
    }
    let candidates: Vec<&String> = ggufs.iter().filter(|file| !is_part(file) && !is_projector(file)).collect();
    let best = candidates.iter().map(|file| rank(file)).min().unwrap_or(ENCODINGS.len());
    let bests: Vec<&&String> = candidates.iter().filter(|file| rank(file) == best).collect();
    match bests[..] {
        [file] if best < ENCODINGS.len() || candidates.len() == 1 => {
            let others = ggufs.iter().filter(|&other| other != *file).cloned().collect();
            return Ok(Selection::Gguf { file: file.to_string(), others });
        }
        // No encoding in the names, or the same in several.
        [_, ..] if best < ENCODINGS.len() => {
            let reason = "several files may be meant; name one of them: owner/repository/file";
            return Err(unclear(reason, ggufs));
        }
        _ => {}
    }
    let folder = folder(files);
    let has = |suffix: &str| folder.iter().any(|file| file.ends_with(suffix));
    if has(CONFIG) && has(".safetensors") {
        return Ok(Selection::Folder(folder));
    }
    let reason = match (ggufs.is_empty(), files.iter().any(|file| file.ends_with(".bin") || file.ends_with(".pt"))) {
        (false, _) => {
            "no file says in its name that it holds ternary weights (I2_S, TQ1_0, TQ2_0); name one: owner/repository/file"
        }
        (true, true) => "its weights are in PyTorch's pickle format, which is not read; safetensors or GGUF is needed",
        (true, false) => "it has neither GGUF files nor config.json with safetensors",
    };
    Err(unclear(reason, ggufs))
}

/// Files of the repository itself, not of its folders, that make a Hugging Face folder.
fn folder(files: &[String]) -> Vec<String> {
    let single = files.iter().any(|file| file == SINGLE);
    let is_weights = |file: &str| {
        if single { file == SINGLE } else { file.ends_with(".safetensors") && !file.starts_with("consolidated") }
    };
    let top = files.iter().filter(|file| !file.contains('/'));
    top.filter(|file| SIDE_FILES.contains(&file.as_str()) || is_weights(file)).cloned().collect()
}

/// The place of the encoding that a file has in its name, or their number if it has none.
fn rank(file: &str) -> usize {
    let name = file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase();
    let is_word = |encoding: &str| {
        let letter = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        name.match_indices(encoding).any(|(start, word)| {
            !letter(name[..start].chars().next_back()) && !letter(name[start + word.len()..].chars().next())
        })
    };
    ENCODINGS.iter().position(|encoding| is_word(encoding)).unwrap_or(ENCODINGS.len())
}

/// Whether a file is one of several parts, such as `model-00001-of-00003.gguf`, which are not read.
fn is_part(file: &str) -> bool {
    let stem = file.trim_end_matches(".gguf");
    stem.rsplit_once("-of-").is_some_and(|(_, count)| count.len() == 5 && count.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether a file belongs to the eyes of a model.
fn is_projector(file: &str) -> bool {
    file.rsplit('/').next().is_some_and(|name| name.starts_with("mmproj"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    fn choose(files: &[&str], wanted: Option<&str>) -> Result<Selection, HubError> {
        let files: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
        select("a/b", &files, wanted)
    }

    fn gguf(file: &str, others: &[&str]) -> Selection {
        Selection::Gguf { file: file.into(), others: others.iter().map(|&file| file.to_owned()).collect() }
    }

    #[test]
    fn the_best_encoding_is_taken() {
        let published = choose(&["README.md", "data_summary_card.md", "ggml-model-i2_s.gguf"], None).unwrap();
        assert_eq!(published, gguf("ggml-model-i2_s.gguf", &[]));
        let several = choose(&["m-Q4_K_M.gguf", "m-TQ1_0.gguf", "m-TQ2_0.gguf", "m-F16.gguf"], None).unwrap();
        assert_eq!(several, gguf("m-TQ2_0.gguf", &["m-Q4_K_M.gguf", "m-TQ1_0.gguf", "m-F16.gguf"]));
        let bonsai =
            choose(&["B-8B-F16.gguf", "B-8B-PQ2_0.gguf", "B-8B-Q2_0.gguf", "B-8B-Q2_0_g64.gguf"], None).unwrap();
        assert!(matches!(bonsai, Selection::Gguf { file, .. } if file == "B-8B-PQ2_0.gguf"));
        assert_eq!(choose(&["any.gguf", "mmproj-any.gguf"], None).unwrap(), gguf("any.gguf", &["mmproj-any.gguf"]));
        let preferred = choose(&["config.json", "model.safetensors", "x-i2_s.gguf"], None).unwrap();
        assert_eq!(preferred, gguf("x-i2_s.gguf", &[]));
        assert_eq!(choose(&["a.gguf", "b.gguf"], Some("b.gguf")).unwrap(), gguf("b.gguf", &[]));
    }

    #[test]
    fn a_folder_is_its_configuration_tokenizer_and_weights() {
        let sharded = choose(
            &[
                ".gitattributes",
                "config.json",
                "chat_template.jinja",
                "generation_config.json",
                "tokenizer.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "onnx/model.safetensors",
                "pytorch_model.bin",
                "x-Q4_0.gguf",
                "y-Q8_0.gguf",
            ],
            None,
        );
        let Selection::Folder(files) = sharded.unwrap() else { panic!("a folder") };
        assert_eq!(
            files,
            [
                "config.json",
                "chat_template.jinja",
                "generation_config.json",
                "tokenizer.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
            ]
        );
        let single = choose(&["config.json", "model.safetensors", "other.safetensors"], None).unwrap();
        assert_eq!(single, Selection::Folder(vec!["config.json".into(), "model.safetensors".into()]));
    }

    #[test]
    fn what_is_not_clear_is_told_with_the_files() {
        let error = |files: &[&str], wanted| choose(files, wanted).unwrap_err().to_string();
        let several = error(&["a-i2_s.gguf", "b-i2_s.gguf"], None);
        assert!(several.contains("several files") && several.contains("a-i2_s.gguf"), "{several}");
        let unknown = error(&["a-Q4_0.gguf", "b-Q8_0.gguf"], None);
        assert!(unknown.contains("no file says") && unknown.contains("b-Q8_0.gguf"), "{unknown}");
        let parts = error(&["m-i2_s-00001-of-00002.gguf", "m-i2_s-00002-of-00002.gguf"], None);
        assert!(parts.contains("00002-of-00002"), "{parts}");
        assert!(error(&["config.json", "pytorch_model.bin"], None).contains("pickle"));
        assert!(error(&["README.md"], None).contains("neither GGUF"));
        assert!(error(&["a.gguf"], Some("b.gguf")).contains("no such file"));
        assert!(error(&["a.gguf", "config.json"], Some("config.json")).contains("only .gguf"));
    }
}
