//! How bitnet.cpp cut the matrices of a TL1 or TL2 file: its `kernel_config.ini`, or what its set-up takes for known shapes.
//!
//! The file itself says nothing of it, and the bytes of one cut are valid in another: a wrong one gives garbage.

use std::path::Path;
use std::sync::Arc;

use configparser::ini::Ini;

use super::FormatError;
use super::dtype::DType;
use super::ternary::Site;

/// Largest `kernel_config.ini` that is read. Real ones have a few hundred bytes.
const MAX_FILE: u64 = 1 << 20;

/// How a matrix is cut into blocks, and these into groups of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiling {
    /// Rows of the matrix: `m`.
    rows: usize,
    /// Columns of the matrix: `k`.
    cols: usize,
    /// Rows of a block: `bm`.
    pub(super) block_rows: usize,
    /// Columns of a block: `bk`.
    pub(super) block_cols: usize,
    /// Rows of a group: `bmm`.
    pub(super) group_rows: usize,
}

/// The cuts for TL1 that bitnet.cpp's set-up asks its code generator for: bitnet_b1_58-large, bitnet_b1_58-3B, Llama3-8B.
const TL1: &[[usize; 5]] = &[
    [1536, 4096, 256, 128, 32],
    [1536, 1536, 128, 64, 64],
    [4096, 1536, 256, 128, 32],
    [3200, 8640, 160, 64, 32],
    [3200, 3200, 320, 128, 64],
    [8640, 3200, 320, 64, 32],
    [14336, 4096, 256, 128, 32],
    [4096, 14336, 128, 64, 64],
    [1024, 4096, 256, 128, 32],
    [4096, 4096, 128, 64, 64],
];

/// Those for TL2.
const TL2: &[[usize; 5]] = &[
    [1536, 4096, 256, 96, 32],
    [1536, 1536, 128, 192, 32],
    [4096, 1536, 256, 96, 32],
    [3200, 8640, 160, 96, 32],
    [3200, 3200, 320, 96, 32],
    [8640, 3200, 320, 96, 32],
    [14336, 4096, 256, 96, 32],
    [4096, 14336, 128, 96, 32],
    [1024, 4096, 256, 96, 32],
    [4096, 4096, 128, 96, 32],
];

/// The cuts of the matrices of a file. By default those that bitnet.cpp's `setup_env.py` takes for the models that it knows, by
/// the shapes of their matrices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelConfig {
    /// `None` for the known shapes.
    tilings: Option<Arc<[Tiling]>>,
}

impl KernelConfig {
    /// Reads a `kernel_config.ini`: a section for each shape, with the keys `m`, `k`, `bm`, `bk` and `bmm`.
    ///
    /// # Errors
    /// If the file cannot be read, or a section lacks one of the keys.
    pub fn read(file: &Path) -> Result<KernelConfig, FormatError> {
        let length = std::fs::metadata(file).map_err(FormatError::io(file))?.len();
        let invalid = |reason: String| FormatError::header(file, "kernel_config.ini", reason);
        if length > MAX_FILE {
            return Err(invalid(format!("{length} bytes exceed the limit of {MAX_FILE}")));
        }
        let text = std::fs::read_to_string(file).map_err(FormatError::io(file))?;
        let sections = Ini::new().read(text).map_err(invalid)?;
        let mut tilings = Vec::new();
        for (section, keys) in &sections {
            let number = |key: &str| {
                let text = keys.get(key).and_then(Option::as_deref);
                let number = text.and_then(|text| text.trim().parse().ok()).filter(|&number: &usize| number > 0);
                number.ok_or_else(|| {
                    FormatError::header(
                        file,
                        format_args!("section `{section}`"),
                        format!("`{key}` is no positive number"),
                    )
                })
            };
            tilings.push(Tiling {
                rows: number("m")?,
                cols: number("k")?,
                block_rows: number("bm")?,
                block_cols: number("bk")?,
                group_rows: number("bmm")?,
            });
        }
        match tilings.is_empty() {
            true => Err(invalid("it has no section such as [Kernels_0]".into())),
            false => Ok(KernelConfig { tilings: Some(tilings.into()) }),
        }
    }

    /// The cut of the matrix at `site`, whose type is TL1 or TL2.
    pub(super) fn tiling(&self, site: &Site, dtype: DType) -> Result<Tiling, FormatError> {
        let is_for = |tiling: &Tiling| (tiling.rows, tiling.cols) == (site.rows, site.cols);
        let found = match &self.tilings {
            Some(tilings) => tilings.iter().copied().find(is_for),
            None => {
                let known = if dtype == DType::Tl1 { TL1 } else { TL2 };
                let all = known.iter().map(|&[rows, cols, block_rows, block_cols, group_rows]| Tiling {
                    rows,
                    cols,
                    block_rows,
                    block_cols,
                    group_rows,
                });
                all.clone().find(is_for)
            }
        };
        found.ok_or_else(|| {
            let (rows, cols) = (site.rows, site.cols);
            let reason = match &self.tilings {
                Some(_) => format!("the kernel_config.ini has no section for {rows} x {cols} (m x k)"),
                None => format!(
                    "{dtype} files do not say how their matrices are cut, and none of the models that bitnet.cpp knows has \
                     one of {rows} x {cols}: give the kernel_config.ini that the file was made with (--kernel-config), or make \
                     the file again as I2_S or TQ2_0, or from its safetensors with `sterna convert`"
                ),
            };
            site.invalid(reason)
        })
    }
}

impl Tiling {
    /// Refuses a cut that leaves rests: of rows, or of `cols` columns in parts of `part`.
    pub(super) fn check(&self, site: &Site, cols: usize, part: usize) -> Result<(), FormatError> {
        let Tiling { block_rows, block_cols, group_rows, .. } = *self;
        let divides = site.rows.is_multiple_of(block_rows)
            && block_rows.is_multiple_of(group_rows)
            && cols.is_multiple_of(block_cols)
            && block_cols.is_multiple_of(part);
        if divides {
            return Ok(());
        }
        Err(site.invalid(format!(
            "bm = {block_rows}, bk = {block_cols}, bmm = {group_rows} do not divide {} x {}, or not each other; is this the \
             kernel_config.ini that the file was made with?",
            site.rows, site.cols
        )))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<KernelConfig, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kernel_config.ini");
        std::fs::write(&file, text).unwrap();
        KernelConfig::read(&file).map_err(|error| error.to_string())
    }

    fn site(rows: usize, cols: usize) -> Site {
        Site { file: Path::new("f").into(), name: "t".into(), rows, cols }
    }

    #[test]
    fn the_file_of_bitnet_cpp_is_read() {
        // As Python's configparser writes it, and with the capitals of the generator.
        let config = read(
            "[Kernels_0]\nm = 64\nk = 96\nbm = 32\nbk = 96\nbmm = 32\n\n[Kernels_1]\nM=8\nK=9\nBM=1\nBK=2\nbmm=3\n",
        );
        let config = config.unwrap();
        let found = config.tiling(&site(64, 96), DType::Tl2).unwrap();
        assert_eq!((found.block_rows, found.block_cols, found.group_rows), (32, 96, 32));
        assert_eq!(config.tiling(&site(8, 9), DType::Tl1).unwrap().group_rows, 3);
        let error = config.tiling(&site(1536, 1536), DType::Tl1).unwrap_err().to_string();
        assert!(error.contains("no section for 1536 x 1536"), "{error}");
    }

    #[test]
    fn files_that_are_none_are_refused() {
        assert!(read("").unwrap_err().contains("no section"));
        for text in
            ["[Kernels_0]\nm = 64\n", "[a]\nm=0\nk=1\nbm=1\nbk=1\nbmm=1\n", "[a]\nm=x\nk=1\nbm=1\nbk=1\nbmm=1\n"]
        {
            assert!(read(text).unwrap_err().contains("is no positive number"), "{text}");
        }
        assert!(read("]\u{1}[").is_err());
        assert!(KernelConfig::read(Path::new("no/such.ini")).is_err());
    }

    #[test]
    fn known_shapes_need_no_file_and_their_cuts_divide() {
        let config = KernelConfig::default();
        for ([rows, cols, ..], dtype) in TL1.iter().map(|t| (t, DType::Tl1)).chain(TL2.iter().map(|t| (t, DType::Tl2)))
        {
            let site = site(*rows, *cols);
            let tiling = config.tiling(&site, dtype).unwrap();
            let (cut, part) = match dtype {
                DType::Tl1 => (*cols, 256 / tiling.group_rows),
                _ => (cols - cols % tiling.block_cols, 24),
            };
            tiling.check(&site, cut, part).unwrap();
        }
        let error = config.tiling(&site(2560, 2560), DType::Tl2).unwrap_err().to_string();
        assert!(error.contains("--kernel-config") && error.contains("2560 x 2560"), "{error}");
    }
}
