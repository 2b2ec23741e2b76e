//! The GPUs of a machine for `sterna doctor`: which there are, and what keeps Sterna from using them.

use std::path::{Path, PathBuf};

use serde::Serialize;

/// What was found.
#[derive(Default, Serialize)]
pub(super) struct Graphics {
    /// The adapters, a line each; absent in a build that cannot use GPUs.
    pub(super) adapters: Option<Vec<String>>,
    /// Whether one of them is a real GPU that Sterna can use.
    pub(super) usable: bool,
    /// Names of installed Vulkan drivers (Linux; other systems bring theirs along).
    pub(super) drivers: Vec<String>,
    /// Whether the library is there through which programs reach the drivers (Linux).
    pub(super) loader: bool,
    /// PCI vendors of the machine's graphics cards (Linux).
    pub(super) cards: Vec<String>,
    /// A device file that this user may not open (Linux).
    pub(super) forbidden: Option<PathBuf>,
}

impl Graphics {
    pub(super) fn gather() -> Graphics {
        let (adapters, usable) = adapters();
        Graphics {
            adapters,
            usable,
            drivers: vulkan_drivers(),
            loader: has_loader(),
            cards: cards(Path::new("/sys/bus/pci/devices")),
            forbidden: forbidden(),
        }
    }

    /// What would make a GPU of this machine usable.
    pub(super) fn advice(&self) -> Option<String> {
        let card = self.cards.first()?;
        let name = match card.as_str() {
            "0x1002" => "an AMD GPU",
            "0x8086" => "an Intel GPU",
            "0x10de" => "an NVIDIA GPU",
            // Emulated cards of virtual machines and servers' maintenance consoles among them.
            _ => return None,
        };
        if self.adapters.is_none() {
            return Some(format!("there is {name}, which this build cannot use: build it with the feature gpu"));
        }
        if self.usable {
            return None;
        }
        let remedy = if !self.loader {
            "the Vulkan loader is missing; Debian and Ubuntu: `apt-get install libvulkan1`, Fedora: vulkan-loader, Arch: \
             vulkan-icd-loader"
                .into()
        } else if let Some(file) = &self.forbidden {
            format!("you may not open {}: `sudo usermod -aG render $USER`, and log in anew", file.display())
        } else if card == "0x10de" {
            "its Vulkan driver is missing or does not start; install NVIDIA's driver with Vulkan (Debian: \
             `apt-get install nvidia-driver nvidia-vulkan-icd`)"
                .into()
        } else {
            "its Vulkan driver is missing or does not start; Debian, Ubuntu and Fedora: mesa-vulkan-drivers, Arch: \
             vulkan-radeon or vulkan-intel"
                .to_owned()
        };
        Some(format!("there is {name}, but Sterna cannot use it: {remedy}"))
    }
}

#[cfg(feature = "gpu")]
fn adapters() -> (Option<Vec<String>>, bool) {
    use sterna::backend::gpu::{adapters, verdicts};
    let found = adapters();
    let usable = found.iter().any(|found| found.summary.kind != "software" && found.summary.problem.is_none());
    let line = |(found, verdict): (&sterna::backend::gpu::Found, String)| {
        let a = &found.summary;
        format!("gpu={} {} ({}, {}, driver {}): {verdict}", a.index, a.name, a.kind, a.api, a.driver)
    };
    let verdicts = verdicts(&found);
    (Some(found.iter().zip(verdicts).map(line).collect()), usable)
}

#[cfg(not(feature = "gpu"))]
fn adapters() -> (Option<Vec<String>>, bool) {
    (None, false)
}

fn entries(folder: impl AsRef<Path>) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn vulkan_drivers() -> Vec<String> {
    let folders = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
    let mut names: Vec<String> = folders
        .iter()
        .flat_map(entries)
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Whether libvulkan.so.1 lies where Linux looks for libraries: next to the C library, in folders of the architecture, or
/// where `LD_LIBRARY_PATH` says.
fn has_loader() -> bool {
    let told = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let usual = ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/run/opengl-driver/lib"];
    let folders = usual.iter().map(PathBuf::from).chain(std::env::split_paths(&told));
    let of_architecture = entries("/usr/lib").filter(|path| path.to_string_lossy().contains("-linux-"));
    folders.chain(of_architecture).any(|folder| folder.join("libvulkan.so.1").exists())
}

/// Vendors of the display controllers (class 03) among PCI devices.
fn cards(devices: &Path) -> Vec<String> {
    let of = |device: &Path, what: &str| std::fs::read_to_string(device.join(what)).unwrap_or_default();
    let is_display = |device: &PathBuf| of(device, "class").starts_with("0x03");
    let mut cards: Vec<String> =
        entries(devices).filter(is_display).map(|device| of(&device, "vendor").trim().to_owned()).collect();
    cards.sort();
    cards
}

/// The first GPU of the kernel that this user may not open.
fn forbidden() -> Option<PathBuf> {
    let mut nodes = entries("/dev/dri").filter(|path| path.to_string_lossy().contains("renderD"));
    nodes.find(|path| {
        let opened = std::fs::OpenOptions::new().read(true).write(true).open(path);
        opened.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let machine = |card: &str| Graphics {
            adapters: Some(Vec::new()),
            loader: true,
            cards: vec![card.into()],
            ..Graphics::default()
        };
        let advice = |graphics: Graphics| graphics.advice().unwrap_or_default();
        assert!(advice(Graphics { loader: false, ..machine("0x1002") }).contains("libvulkan1"));
        assert!(advice(machine("0x8086")).contains("mesa-vulkan-drivers"));
        assert!(advice(machine("0x10de")).contains("nvidia-vulkan-icd"));
        let forbidden = Some("/dev/dri/renderD128".into());
        assert!(advice(Graphics { forbidden, ..machine("0x1002") }).contains("renderD128: `sudo usermod"));
        assert!(advice(Graphics { adapters: None, ..machine("0x1002") }).contains("feature gpu"));
        // Nothing to say of a GPU that works, of a virtual machine's card, of a machine without any.
        assert_eq!(advice(Graphics { usable: true, ..machine("0x1002") }), "");
        assert_eq!(advice(machine("0x1234")), "");
        assert_eq!(advice(Graphics::default()), "");
    }

    #[test]
    fn cards_are_display_controllers() {
        let folder = tempfile::tempdir().expect("a folder");
        for (device, class, vendor) in
            [("a", "0x030000", "0x1002"), ("b", "0x020000", "0x8086"), ("c", "0x030200", "0x10de")]
        {
            let path = folder.path().join(device);
            std::fs::create_dir(&path).expect("a folder");
            std::fs::write(path.join("class"), format!("{class}\n")).expect("a file");
            std::fs::write(path.join("vendor"), format!("{vendor}\n")).expect("a file");
        }
        assert_eq!(cards(folder.path()), ["0x1002", "0x10de"]);
        assert!(cards(&folder.path().join("none")).is_empty());
    }
}
