//! Puts a shader together: constants, the pieces of `shaders/lib` that it uses, the kernel.
//!
//! A file says what it uses in its comments: `// #use linear, dot`. A name may stand for one of several files (`dot` for
//! `dot_packed` or `dot_plain`); the variant decides.

use std::fmt::Write as _;

/// Every file of `shaders`, by name.
macro_rules! sources {
    ($($name:literal),* ; $($lib:literal),*) => {
        &[
            $(($name, include_str!(concat!("../../../shaders/", $name, ".wgsl"))),)*
            $(($lib, include_str!(concat!("../../../shaders/lib/", $lib, ".wgsl"))),)*
        ]
    };
}

const SOURCES: &[(&str, &str)] = sources!(
    "answer", "attention", "attention_tile", "best", "candidates", "classes", "combine", "embed", "final_norm", "gemm", "gemv",
    "gemv_norm", "head", "head_input", "intervals", "probe_int8", "probe_read", "quantize",
    "rescore";
    "cached_f16", "cached_f32", "dot_packed", "dot_plain", "exp", "gemv_lib", "head_lib", "kv", "linear", "normed", "order",
    "out_gated", "out_qkv", "out_residual", "outputs", "quantize_lib", "question", "reduce_subgroup", "reduce_workgroup",
    "rounded", "rows_bf16", "rows_f16", "rows_f32", "search"
);

/// A constant of a shader.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Constant {
    /// `u32`
    Int(u32),
    /// `f32`
    Float(f32),
    /// `bool`
    Bool(bool),
}

/// The text of kernel `name`. `choices` says which file stands for a name that has several.
///
/// # Panics
/// If there is no such kernel, or it uses what there is not; the tests put every variant together.
pub fn assemble(name: &str, choices: &[(&str, &str)], constants: &[(&str, Constant)]) -> String {
    let mut text = String::new();
    for (name, value) in constants {
        // Writing to a string cannot fail.
        let _ = match value {
            Constant::Int(value) => writeln!(text, "const {name} = {value}u;"),
            Constant::Float(value) => writeln!(text, "const {name} = {value:e}f;"),
            Constant::Bool(value) => writeln!(text, "const {name} = {value};"),
        };
    }
    let mut included = Vec::new();
    include(name, choices, &mut included);
    included.iter().for_each(|source| text += source);
    text
}

/// Appends a file behind all that it uses, each once.
fn include(name: &str, choices: &[(&str, &str)], included: &mut Vec<&'static str>) {
    let file = choices.iter().find(|(choice, _)| *choice == name).map_or(name, |(_, file)| file);
    let source = SOURCES.iter().find(|(source, _)| *source == file);
    let &(_, source) = source.unwrap_or_else(|| panic!("there is no shader {file:?}"));
    if included.contains(&source) {
        return;
    }
    let used = source.lines().filter_map(|line| line.strip_prefix("// #use ")).flat_map(|names| names.split(','));
    used.for_each(|name| include(name.trim(), choices, included));
    included.push(source);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_follow_what_they_use_and_come_once() {
        let choices = [("dot", "dot_plain"), ("reduce", "reduce_workgroup"), ("output", "out_gated")];
        let text = assemble("gemv", &choices, &[("WG", Constant::Int(64)), ("EPS", Constant::Float(1e-5))]);
        assert!(text.starts_with("const WG = 64u;\nconst EPS = 1e-5f;\n"));
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} is missing"));
        assert!(at("struct Linear") < at("fn tile_sums") && at("fn tile_sums") < at("fn main"));
        assert!(at("fn dot_rows") < at("fn main") && at("fn exp_exact") < at("fn emit"));
        assert_eq!(text.matches("struct Linear").count(), 1);
        assert!(!text.contains("dot4I8Packed"));
    }

    #[test]
    fn every_file_is_embedded() {
        for folder in ["shaders", "shaders/lib"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            for entry in std::fs::read_dir(path).expect("a folder of shaders") {
                let path = entry.expect("an entry").path();
                let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
                assert!(path.is_dir() || SOURCES.iter().any(|(known, _)| *known == name), "{name} is not embedded");
            }
        }
    }
}
