//! What TL1 and TL2 of bitnet.cpp have in common: where their scale is, and pairs of weights in four bits.

use super::FormatError;
use super::checkpoint::Checkpoint;
use super::dtype::DType;
use super::storage::TensorData;
use super::ternary::Site;

/// What the scale behind the codes is aligned to, and the bytes that are kept for it.
pub(super) const TAIL: u64 = 32;

/// The codes of a matrix and its scale. That is the tensor `<name>_scale`; where there is none, it is behind the codes, which
/// is where bitnet.cpp reads it in either case.
pub(super) fn split(
    site: &Site,
    checkpoint: &Checkpoint,
    dtype: DType,
    data: &TensorData,
) -> Result<(TensorData, f32), FormatError> {
    let elements = site.elements().and_then(|elements| u64::try_from(elements).ok());
    let codes = elements.and_then(|elements| usize::try_from(dtype.bytes(elements, site.cols as u64)?).ok());
    let Some(codes) = codes.filter(|&codes| codes <= data.len()) else {
        site.check_length(dtype, data, codes)?;
        return Err(site.invalid(format!("{dtype} has no such shape")));
    };
    let name = format!("{}_scale", site.name);
    let behind = || data.get(codes.next_multiple_of(TAIL as usize)..)?.first_chunk().copied().map(f32::from_le_bytes);
    let owner = checkpoint.require(&site.name)?;
    match checkpoint.scale_tensor(&name, owner)?.or_else(behind) {
        Some(scale) => Ok((data.part(0..codes), site.check_scale(scale)?)),
        None => {
            Err(site
                .invalid(format!("its scale is missing: there is no tensor `{name}`, and no room behind the codes")))
        }
    }
}

/// Decodes the pair of weights `3 a + b + 4`; says whether the code is that of one.
pub(super) fn decode_pair(code: u8, out: &mut [i8; 2]) -> bool {
    *out = [(code / 3) as i8 - 1, (code % 3) as i8 - 1];
    code < 9
}
