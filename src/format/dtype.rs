//! The types of tensor elements: their names, their numbers in GGUF and their sizes.

use std::borrow::Cow;
use std::fmt;

use sterna_cpu::Layout;

/// Bytes that an I2_S tensor has after its codes: the `f32` scale and 28 unused bytes.
pub(super) const I2S_TAIL: u64 = 32;

/// Bytes that a tensor of tiles has after them: the `f32` scale and 60 unused bytes, so that what follows is aligned.
pub(super) const TILES_TAIL: u64 = 64;

/// The GGUF type number of TL2 in bitnet.cpp, which is that of MXFP4 elsewhere.
pub(super) const GGUF_TL2: u32 = 39;

/// Columns that share a scale in a tensor of Sterna's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// 64 columns.
    G64,
    /// 128 columns.
    G128,
}

impl Group {
    /// The number of columns.
    pub const fn cols(self) -> usize {
        match self {
            Group::G64 => 64,
            Group::G128 => 128,
        }
    }
}

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// 64-bit floats.
    F64,
    /// 32-bit floats.
    F32,
    /// IEEE half-precision floats.
    F16,
    /// bfloat16.
    Bf16,
    /// Signed bytes.
    I8,
    /// 16-bit integers.
    I16,
    /// 32-bit integers.
    I32,
    /// 64-bit integers.
    I64,
    /// Bytes; as a weight of a Hugging Face checkpoint four packed ternary rows.
    U8,
    /// GGUF Q4_0: blocks of 32 four-bit values with an `f16` scale.
    Q4_0,
    /// GGUF Q5_0: blocks of 32 five-bit values with an `f16` scale.
    Q5_0,
    /// GGUF Q8_0: blocks of 32 signed bytes with an `f16` scale.
    Q8_0,
    /// GGUF Q6_K: blocks of 256 six-bit values with 16 scales.
    Q6K,
    /// GGUF TQ1_0: ternary, 256 values in 54 bytes.
    Tq1_0,
    /// GGUF TQ2_0: ternary, 256 values in 66 bytes.
    Tq2_0,
    /// GGUF Q2_0: ternary, 64 values in 18 bytes.
    Q2_0,
    /// GGUF PQ2_0, and Q2_0 of PrismML's first files: ternary, 128 values in 34 bytes.
    Pq2_0,
    /// GGUF PTQ1_0: ternary, 128 values in 28 bytes.
    Ptq1_0,
    /// I2_S of bitnet.cpp: ternary, 2 bits, one `f32` scale for the tensor.
    I2S,
    /// TL1 of bitnet.cpp: ternary, 2 bits, in the order of a kernel for ARM.
    Tl1,
    /// TL2 of bitnet.cpp: ternary, 1.67 bits, in the order of a kernel for AVX2.
    Tl2,
    /// Sterna's own: ternary, 2 bits, in the tiles that the kernels read, one `f32` scale for the tensor.
    T16,
    /// Sterna's own: ternary, 1.6 bits, likewise.
    T16x5,
    /// Sterna's own: ternary, 2 bits, in the blocks that the kernels read, with an `f16` scale for each group of columns.
    T16Grouped(Group),
    /// A GGUF type, by its number, that is listed but cannot be used.
    Unknown(u32),
    /// A safetensors type, by its name, that is listed but cannot be used.
    Other(&'static str),
}

/// Names of GGUF types that are not read, for messages. Numbers collide between forks of ggml.
const GGUF_NAMES: &[(u32, &str)] = &[
    (3, "Q4_1"),
    (7, "Q5_1"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (29, "IQ1_M"),
    (GGUF_TL2, "MXFP4 or TL2"),
    (40, "NVFP4"),
    (41, "Q1_0"),
    (134, "IQ1_BN"),
    (135, "IQ2_BN"),
];

/// Names of safetensors types that are not read.
const SAFETENSORS_OTHER: &[&str] = &[
    "BOOL",
    "F4",
    "F6_E2M3",
    "F6_E3M2",
    "F8_E5M2",
    "F8_E4M3",
    "F8_E8M0",
    "F8_E4M3FNUZ",
    "F8_E5M2FNUZ",
    "U16",
    "U32",
    "U64",
    "C64",
];

impl DType {
    /// The type of a GGUF type number.
    pub(super) fn from_gguf(id: u32) -> DType {
        match id {
            0 => DType::F32,
            1 => DType::F16,
            2 => DType::Q4_0,
            6 => DType::Q5_0,
            8 => DType::Q8_0,
            14 => DType::Q6K,
            24 => DType::I8,
            25 => DType::I16,
            26 => DType::I32,
            27 => DType::I64,
            28 => DType::F64,
            30 => DType::Bf16,
            34 => DType::Tq1_0,
            35 => DType::Tq2_0,
            36 => DType::I2S,
            38 => DType::Tl1,
            42 => DType::Q2_0,
            142 => DType::Pq2_0,
            143 => DType::Ptq1_0,
            other => DType::Unknown(other),
        }
    }

    /// The GGUF type number, for the types that can be written. Sterna's own have none: see `own_types`.
    pub(super) fn gguf_id(self) -> Option<u32> {
        (0..256).find(|&id| DType::from_gguf(id) == self)
    }

    /// The type of a safetensors type name, or `None` for a name that the format does not define.
    pub(super) fn from_safetensors(name: &str) -> Option<DType> {
        Some(match name {
            "F64" => DType::F64,
            "F32" => DType::F32,
            "F16" => DType::F16,
            "BF16" => DType::Bf16,
            "I8" => DType::I8,
            "I16" => DType::I16,
            "I32" => DType::I32,
            "I64" => DType::I64,
            "U8" => DType::U8,
            _ => DType::Other(SAFETENSORS_OTHER.iter().find(|&&other| other == name)?),
        })
    }

    /// The layout of the kernels that a type holds.
    pub fn layout(self) -> Option<Layout> {
        match self {
            DType::T16 => Some(Layout::T16),
            DType::T16x5 => Some(Layout::T16x5),
            _ => None,
        }
    }

    /// Whether a type holds -1, 0 and 1 with a scale for each block.
    pub fn is_ternary_blocks(self) -> bool {
        use DType::{Pq2_0, Ptq1_0, Q2_0, T16Grouped, Tq1_0, Tq2_0};
        matches!(self, Tq1_0 | Tq2_0 | Q2_0 | Pq2_0 | Ptq1_0 | T16Grouped(_))
    }

    /// The name, as the file formats write it; for an unknown GGUF type its number and, if known, its name.
    pub fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            DType::F64 => "F64",
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::Bf16 => "BF16",
            DType::I8 => "I8",
            DType::I16 => "I16",
            DType::I32 => "I32",
            DType::I64 => "I64",
            DType::U8 => "U8",
            DType::Q4_0 => "Q4_0",
            DType::Q5_0 => "Q5_0",
            DType::Q8_0 => "Q8_0",
            DType::Q6K => "Q6_K",
            DType::Tq1_0 => "TQ1_0",
            DType::Tq2_0 => "TQ2_0",
            DType::Q2_0 => "Q2_0",
            DType::Pq2_0 => "PQ2_0",
            DType::Ptq1_0 => "PTQ1_0",
            DType::I2S => "I2_S",
            DType::Tl1 => "TL1",
            DType::Tl2 => "TL2",
            DType::T16 => "T16",
            DType::T16x5 => "T16x5",
            DType::T16Grouped(Group::G64) => "T16 g64",
            DType::T16Grouped(Group::G128) => "T16 g128",
            DType::Other(name) => name,
            DType::Unknown(id) => {
                return Cow::Owned(match GGUF_NAMES.iter().find(|(known, _)| *known == id) {
                    Some((_, name)) => format!("{id} ({name})"),
                    None => format!("{id} (unknown)"),
                });
            }
        })
    }

    /// Elements and bytes of one block, `None` where a tensor's length does not follow from blocks.
    pub(super) fn block(self) -> Option<(u64, u64)> {
        Some(match self {
            DType::F64 | DType::I64 => (1, 8),
            DType::F32 | DType::I32 => (1, 4),
            DType::F16 | DType::Bf16 | DType::I16 => (1, 2),
            DType::I8 | DType::U8 => (1, 1),
            DType::Q4_0 => (32, 18),
            DType::Q5_0 => (32, 22),
            DType::Q8_0 => (32, 34),
            DType::Q6K => (256, 210),
            DType::Tq1_0 => (256, 54),
            DType::Tq2_0 => (256, 66),
            DType::Q2_0 => (64, 18),
            DType::Pq2_0 => (128, 34),
            DType::Ptq1_0 => (128, 28),
            DType::Tl1 => (4, 1),
            DType::I2S
            | DType::Tl2
            | DType::T16
            | DType::T16x5
            | DType::T16Grouped(_)
            | DType::Unknown(_)
            | DType::Other(_) => return None,
        })
    }

    /// Bytes of `elements` elements in rows of `columns`, `None` if the type is unknown, if a row is not a whole
    /// number of blocks, or on overflow.
    pub(super) fn bytes(self, elements: u64, columns: u64) -> Option<u64> {
        if self == DType::I2S {
            return if elements.is_multiple_of(4) { (elements / 4).checked_add(I2S_TAIL) } else { None };
        }
        if let DType::T16Grouped(group) = self {
            // 128 rows of a group: two bits for each value, two bytes for each scale.
            let (rows, group) = (elements.checked_div(columns)?, group.cols() as u64);
            return rows.div_ceil(128).checked_mul(columns.div_ceil(group))?.checked_mul(128 * (group / 4 + 2));
        }
        if self == DType::Tl2 {
            // As bitnet.cpp counts them: for 256 columns more room than pairs or threes take, whatever the cut.
            let rows = elements.checked_div(columns)?;
            let threes = columns.checked_sub(256)?.checked_mul(rows)? / 3;
            return (threes.checked_mul(5)? / 8).checked_add(rows.checked_mul(64)?);
        }
        if let Some(layout) = self.layout() {
            let (rows, tile) = (elements.checked_div(columns)?, layout.tile_cols() as u64);
            let tiles = rows.div_ceil(layout.group_rows() as u64).checked_mul(columns.div_ceil(tile))?;
            return tiles.checked_mul(layout.tile_bytes() as u64)?.checked_add(TILES_TAIL);
        }
        let (block, bytes) = self.block()?;
        if columns.is_multiple_of(block) { (elements / block).checked_mul(bytes) } else { None }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}
