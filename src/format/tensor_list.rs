//! Checks on the list of tensors that both file formats need, and similar names for messages.

use std::path::Path;

use super::FormatError;
use super::checkpoint::TensorInfo;

/// Tensors of a file: more than any model has, and no more than fit in memory. A record of a tensor takes less room
/// in a file than in memory, so that the file's own length is not limit enough.
pub(super) const MAX_TENSORS: u64 = 1 << 20;

/// Refuses tensors, sorted by offset, that reach beyond a file of `file_len` bytes or share bytes with the next one.
pub(super) fn check_ranges(file: &Path, tensors: &[TensorInfo], file_len: u64) -> Result<(), FormatError> {
    for (index, tensor) in tensors.iter().enumerate() {
        let end = tensor.offset.checked_add(tensor.nbytes).filter(|&end| end <= file_len);
        let Some(end) = end else {
            return Err(FormatError::Truncated {
                file: file.into(),
                what: format!("tensor `{}` at offset {}", tensor.name, tensor.offset),
                needed: tensor.nbytes,
                available: file_len.saturating_sub(tensor.offset),
            });
        };
        if let Some(next) = tensors.get(index + 1)
            && next.offset < end
        {
            let reason = format!("its bytes overlap those of tensor `{}`", next.name);
            return Err(FormatError::header(file, format_args!("tensor `{}`", tensor.name), reason));
        }
    }
    Ok(())
}

/// Indices of `tensors` sorted by name, or the index of a tensor whose name another one has already.
pub(super) fn index_names(tensors: &[TensorInfo]) -> Result<Vec<usize>, usize> {
    let mut by_name: Vec<usize> = (0..tensors.len()).collect();
    by_name.sort_by(|&a, &b| tensors[a].name.cmp(&tensors[b].name));
    match by_name.windows(2).find(|pair| tensors[pair[0]].name == tensors[pair[1]].name) {
        Some(pair) => Err(pair[1]),
        None => Ok(by_name),
    }
}

/// Up to three names similar to `wanted`, best first.
pub(super) fn near_names<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    /// More names, or longer ones, are not worth the time of a message.
    const MAX_NAMES: usize = 4096;
    const MAX_LENGTH: usize = 128;
    if wanted.len() > MAX_LENGTH {
        return Vec::new();
    }
    let mut near: Vec<(usize, &str)> = names
        .take(MAX_NAMES)
        .filter(|name| name.len() <= MAX_LENGTH)
        .map(|name| (edit_distance(wanted.as_bytes(), name.as_bytes()), name))
        .filter(|&(distance, _)| distance <= wanted.len() / 3)
        .collect();
    near.sort();
    near.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

/// The number of insertions, deletions and replacements of bytes that turn `a` into `b`.
fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, &byte) in a.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, &other) in b.iter().enumerate() {
            let replace = diagonal + usize::from(byte != other);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
