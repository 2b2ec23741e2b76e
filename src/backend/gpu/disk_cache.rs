//! Compiled kernels kept on disk, so that the next start need not compile them.
//!
//! wgpu keeps the driver's own data, on Vulkan. A file is a line that names the format, a checksum, and that data; wgpu puts
//! in front of it which adapter and driver it is from. What is damaged, foreign or of another driver is left unused.

use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::GpuError;
use super::device::Gpu;

/// The first bytes of a file.
const FORMAT: &[u8] = b"sterna pipelines 1\n";

/// The pipelines of an adapter, in the driver's form, and the file they go to.
#[derive(Debug)]
pub(super) struct DiskCache {
    pipelines: wgpu::PipelineCache,
    file: PathBuf,
    /// Whether there are pipelines that the file lacks.
    changed: AtomicBool,
}

impl DiskCache {
    /// Reads what `folder` holds for the adapter; `None` where wgpu or the driver keeps nothing.
    pub(super) fn open(gpu: &Gpu, info: &wgpu::AdapterInfo, folder: &Path) -> Result<Option<DiskCache>, GpuError> {
        let has_feature = gpu.device().features().contains(wgpu::Features::PIPELINE_CACHE);
        let Some(key) = wgpu::util::pipeline_cache_key(info).filter(|_| has_feature) else { return Ok(None) };
        let file = folder.join(key);
        let data = read(&file);
        let pipelines = gpu.checked(|device| {
            let descriptor =
                wgpu::PipelineCacheDescriptor { label: Some("pipelines"), data: data.as_deref(), fallback: true };
            // SAFETY: the data is what `get_data` gave for an adapter of this key: only `save` writes such files, and the
            // checksum tells that they are as it left them. Data of another driver is refused by wgpu, which compares its
            // header, and an empty cache is then made (`fallback`).
            unsafe { device.create_pipeline_cache(&descriptor) }
        })?;
        Ok(Some(DiskCache { pipelines, file, changed: AtomicBool::new(false) }))
    }

    /// What pipelines are made with. They count as new.
    pub(super) fn pipelines(&self) -> &wgpu::PipelineCache {
        self.changed.store(true, Ordering::Relaxed);
        &self.pipelines
    }

    /// Writes what was compiled since it was read. That it cannot be written is no error: the next start takes longer.
    pub(super) fn save(&self) {
        if self.changed.swap(false, Ordering::Relaxed)
            && let Some(data) = self.pipelines.get_data()
            && let Err(error) = write(&self.file, &data)
        {
            tracing::debug!("{}: {error}; compiled kernels are not kept", self.file.display());
        }
    }
}

/// Tells damaged files. Another version of the standard library may compute another number: then kernels are compiled once
/// more.
fn checksum(data: &[u8]) -> [u8; 8] {
    let mut hasher = DefaultHasher::new();
    hasher.write(data);
    hasher.finish().to_le_bytes()
}

/// The data in a file, if there is one and it is whole.
fn read(file: &Path) -> Option<Vec<u8>> {
    let content = match std::fs::read(file) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::debug!("{}: {error}", file.display());
            return None;
        }
    };
    let data = content
        .strip_prefix(FORMAT)
        .and_then(|rest| rest.split_first_chunk::<8>())
        .filter(|(sum, data)| **sum == checksum(data))
        .map(|(_, data)| data.to_vec());
    if data.is_none() {
        tracing::debug!("{}: damaged, or not ours; left unused", file.display());
    }
    data
}

/// Writes a file under another name first, so that no reader sees half of it.
fn write(file: &Path, data: &[u8]) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let content = [FORMAT, &checksum(data), data].concat();
    let unfinished = file.with_extension(std::process::id().to_string());
    let written = std::fs::write(&unfinished, content).and_then(|()| std::fs::rename(&unfinished, file));
    if written.is_err() {
        // It may not even be there.
        let _ = std::fs::remove_file(&unfinished);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("deeper/pipelines");
        assert_eq!(read(&file), None);
        write(&file, b"some data").expect("a new file");
        assert_eq!(read(&file).as_deref(), Some(&b"some data"[..]));
        let whole = std::fs::read(&file).expect("the file");
        for damage in [0, FORMAT.len() + 3, whole.len() - 1] {
            let mut content = whole.clone();
            content[damage] ^= 1;
            std::fs::write(&file, content).expect("a damaged file");
            assert_eq!(read(&file), None, "byte {damage}");
        }
        for length in [0, FORMAT.len() + 4, whole.len() - 1] {
            std::fs::write(&file, &whole[..length]).expect("a short file");
            assert_eq!(read(&file), None, "{length} bytes");
        }
        write(&file, b"").expect("a new file");
        assert_eq!(read(&file).as_deref(), Some(&b""[..]));
        assert_eq!(std::fs::read_dir(file.parent().expect("a folder")).expect("a folder").count(), 1);
    }
}
