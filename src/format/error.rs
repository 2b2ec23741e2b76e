//! What can be wrong with a checkpoint, said in one sentence with a remedy where there is one.

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Why a checkpoint, or a tensor of it, cannot be read.
///
/// Every variant names the file; those about one tensor name the tensor, what was expected and what was found. A message
/// is complete in itself: no variant has a `source` that would say the same once more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The operating system refused to open, map or read the file.
    #[error("{}: {reason}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// The path holds something else than a checkpoint that this crate reads.
    #[error("{}: {reason}", file.display())]
    NotACheckpoint {
        /// The path that was opened.
        file: PathBuf,
        /// What is there instead, and what was expected.
        reason: String,
    },
    /// The file ends, or its header says that it ends, before something that should be in it.
    #[error(
        "{}: {what} needs {needed} bytes where the file has {available}; the file is cut short or damaged, \
         download it again", file.display()
    )]
    Truncated {
        /// The file.
        file: PathBuf,
        /// What does not fit.
        what: String,
        /// How many bytes it would take.
        needed: u64,
        /// How many there are.
        available: u64,
    },
    /// A header is not what the format allows.
    #[error("{}: {what}: {reason}", file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// The part of the header, such as a key or a tensor.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A JSON file or header cannot be parsed.
    #[error("{}: the JSON is not valid: {reason}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// The parser's reason, with line and column.
        reason: serde_json::Error,
    },
    /// A name is used twice.
    #[error("{}: the {kind} `{name}` appears twice", file.display())]
    Duplicate {
        /// The file, the second one if the two are in different files.
        file: PathBuf,
        /// "tensor" or "key".
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// Text is not UTF-8.
    #[error("{}: {what} is not valid UTF-8", file.display())]
    Utf8 {
        /// The file.
        file: PathBuf,
        /// Which text, with its index in an array.
        what: String,
    },
    /// The checkpoint does not have a tensor of this name.
    #[error("{}: there is no tensor `{tensor}`{}", file.display(), near_names(near))]
    MissingTensor {
        /// The checkpoint.
        file: PathBuf,
        /// The name that was asked for.
        tensor: String,
        /// Similar names that do exist, best first.
        near: Vec<String>,
    },
    /// A tensor has another shape than the model needs.
    #[error("{}: tensor `{tensor}` should have shape {expected:?} but has {found:?}", file.display())]
    Shape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape that the model needs, outermost dimension first.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor has a type that is not usable in its place.
    #[error("{}: tensor `{tensor}` has type {found}, expected {expected}", file.display())]
    Type {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The types that are usable, and what to do about it.
        expected: &'static str,
        /// The type in the file.
        found: String,
    },
    /// A tensor has another byte length than its type and shape require.
    #[error(
        "{}: tensor `{tensor}` of type {dtype} should take {expected} bytes but takes {found}; the file is damaged \
         or was written by a program with another layout", file.display()
    )]
    Size {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
        /// The byte length that type and shape require.
        expected: u64,
        /// The byte length in the file.
        found: u64,
    },
    /// A weight scale is not a positive finite number.
    #[error("{}: the scale of tensor `{tensor}` is {value}; a scale must be positive and finite", file.display())]
    Scale {
        /// The file.
        file: PathBuf,
        /// The tensor that the scale belongs to.
        tensor: String,
        /// The scale found.
        value: f32,
    },
    /// A matrix has several scales.
    #[error(
        "{}: tensor `{tensor}` has several scales ({first} and {other} in row {row}); activations of int8 need one \
         scale for the matrix (--activations float takes several)", file.display()
    )]
    GroupScales {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The first scale.
        first: f32,
        /// A scale that differs from it.
        other: f32,
        /// The row of the differing scale, or of the differing scale's index in a scale tensor.
        row: usize,
    },
    /// A number that must be finite is not.
    #[error("{}: tensor `{tensor}` holds {value} at element {index}; the file is damaged", file.display())]
    NotFinite {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Index of the first such element in row-major order.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// A packed code stands for no ternary value.
    #[error(
        "{}: tensor `{tensor}` holds a code in row {row} that stands for none of -1, 0, 1; the file is damaged, or its \
         layout is another one than was assumed", file.display()
    )]
    Code {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The row of the matrix.
        row: usize,
    },
    /// A matrix of floats in the place of a ternary one holds more than one magnitude.
    #[error(
        "{}: tensor `{tensor}` is not ternary: element ({row}, {column}) is {value} where only 0 and ±{scale} are \
         possible; Sterna runs ternary models only", file.display()
    )]
    NotTernary {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The row of the first offending element.
        row: usize,
        /// Its column.
        column: usize,
        /// Its value.
        value: f32,
        /// The magnitude of the first element that is not zero.
        scale: f32,
    },
    /// Whoever watches the writing of a file had it stopped.
    #[error("{}: stopped before it was complete; nothing is left of it", file.display())]
    Stopped {
        /// The file.
        file: PathBuf,
    },
    /// The caller asked for a row that is not there, or gave an output of another length than a row.
    #[error(
        "{}: row {row} of tensor `{tensor}` was asked for with room for {length} values; it has {rows} rows of {columns}",
        file.display()
    )]
    Row {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The row that was asked for.
        row: usize,
        /// The length of the output.
        length: usize,
        /// The number of rows.
        rows: usize,
        /// The length of a row.
        columns: usize,
    },
}

impl FormatError {
    /// A function that wraps an I/O error about `file`.
    pub(super) fn io(file: &Path) -> impl FnOnce(std::io::Error) -> FormatError {
        move |reason| FormatError::Io { file: file.to_path_buf(), reason }
    }

    /// A `Header` error.
    pub(crate) fn header(file: &Path, what: impl Display, reason: impl Display) -> FormatError {
        FormatError::Header { file: file.to_path_buf(), what: what.to_string(), reason: reason.to_string() }
    }

    /// A `NotACheckpoint` error.
    pub(super) fn not_a_checkpoint(file: &Path, reason: impl Display) -> FormatError {
        FormatError::NotACheckpoint { file: file.to_path_buf(), reason: reason.to_string() }
    }
}

/// The tail of the message for a missing tensor.
fn near_names(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!(" (similar names: `{}`)", near.join("`, `")) }
}
