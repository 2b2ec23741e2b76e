//! Tensors in the kernels' own layouts within a GGUF file.
//!
//! To other programs they are bytes (type I8, one dimension), so that all of them can read such a file; three keys say which
//! tensors these are, in which layout, and of which shape.

use std::collections::HashMap;
use std::path::Path;

use super::FormatError;
use super::checkpoint::TensorInfo;
use super::dtype::{DType, Group};
use super::gguf_writer::TensorPlan;
use super::metadata::{Metadata, Value};

const NAMES: &str = "sterna.tensors.names";
const TYPES: &str = "sterna.tensors.types";
/// Rows and columns of each.
const SHAPES: &str = "sterna.tensors.shapes";

/// The keys, which hold for the tensors of their own file only.
pub(crate) const OWN_TYPE_KEYS: [&str; 3] = [NAMES, TYPES, SHAPES];

/// The types.
const OWN: [DType; 4] = [DType::T16, DType::T16x5, DType::T16Grouped(Group::G64), DType::T16Grouped(Group::G128)];

/// Whether a type is one of them.
pub(super) fn is_own(dtype: DType) -> bool {
    OWN.contains(&dtype)
}

/// What the keys say of `tensors`; nothing if none is of such a type.
pub(super) fn describe(tensors: &[TensorPlan]) -> Vec<(&'static str, Value)> {
    let own = || tensors.iter().filter(|tensor| is_own(tensor.dtype));
    if own().next().is_none() {
        return Vec::new();
    }
    vec![
        (NAMES, Value::Strings(own().map(|tensor| tensor.name.clone()).collect())),
        (TYPES, Value::Strings(own().map(|tensor| tensor.dtype.name().into_owned()).collect())),
        (SHAPES, Value::Ints(own().flat_map(|tensor| tensor.shape.iter().map(|&dim| dim as i64)).collect())),
    ]
}

/// Gives the tensors that the keys list their types and shapes.
///
/// # Errors
/// If the keys do not fit each other, or a tensor is missing or does not have the bytes of its type and shape.
pub(super) fn restore(file: &Path, metadata: &Metadata, tensors: &mut [TensorInfo]) -> Result<(), FormatError> {
    let Some(names) = metadata.strings(NAMES) else { return Ok(()) };
    let (types, shapes) = (metadata.strings(TYPES).unwrap_or_default(), metadata.ints(SHAPES).unwrap_or_default());
    if types.len() != names.len() || shapes.len() != 2 * names.len() {
        let reason = format!("{} types and {} dimensions for {} names", types.len(), shapes.len(), names.len());
        return Err(FormatError::header(file, format_args!("`{NAMES}`"), reason));
    }
    let places: HashMap<String, usize> =
        tensors.iter().enumerate().map(|(place, tensor)| (tensor.name.clone(), place)).collect();
    for ((name, kind), shape) in names.iter().zip(types).zip(shapes.as_chunks::<2>().0) {
        let bad = |reason: String| FormatError::header(file, format_args!("tensor `{name}` of `{NAMES}`"), reason);
        let Some(dtype) = OWN.into_iter().find(|dtype| dtype.name() == *kind) else {
            return Err(bad(format!("the type {kind:?} is unknown; a newer version may have written the file")));
        };
        let Some(tensor) = places.get(name).map(|&place| &mut tensors[place]) else {
            return Err(bad("there is no such tensor".into()));
        };
        let sizes = shape.map(|dim| usize::try_from(dim).ok());
        let [Some(rows), Some(cols)] = sizes else { return Err(bad(format!("its shape is {shape:?}"))) };
        let expected = rows.checked_mul(cols).and_then(|elements| dtype.bytes(elements as u64, cols as u64));
        if tensor.dtype != DType::I8 || expected != Some(tensor.nbytes) {
            let (stored, nbytes) = (tensor.dtype, tensor.nbytes);
            return Err(bad(format!("{nbytes} bytes of {stored} are no matrix of {rows} x {cols} in {dtype}")));
        }
        (tensor.dtype, tensor.shape) = (dtype, vec![rows, cols]);
    }
    Ok(())
}
