//! Which GPU the name of a backend stands for in a combination, and what feeds it.

#[cfg(feature = "gpu")]
use std::cell::OnceCell;

use super::{Options, Spec};
#[cfg(feature = "gpu")]
use crate::backend::Device;
#[cfg(feature = "gpu")]
use crate::backend::gpu::{AdapterChoice, Found, GpuError, adapters, choose};

/// The GPUs of this machine, looked for when they are first asked for.
#[derive(Debug, Default)]
pub(super) struct Gpus {
    #[cfg(feature = "gpu")]
    found: OnceCell<Vec<Found>>,
}

/// What takes the energy of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Consumer {
    /// The processors' packages: the CPU, or a GPU that is part of one or software.
    Package,
    /// A GPU with a supply of its own.
    #[cfg(feature = "gpu")]
    Board {
        /// Its name.
        name: String,
        /// Where it is on the PCI bus, if its driver tells.
        pci: Option<String>,
    },
}

#[cfg(feature = "gpu")]
impl Gpus {
    fn found(&self) -> &[Found] {
        self.found.get_or_init(adapters)
    }

    /// The GPU that a backend of a combination is.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn of(&self, options: &Options, spec: &Spec, backend: &str) -> Result<&Found, GpuError> {
        choose(self.found(), &choice(options, spec, backend))
    }

    /// What feeds a backend of a combination.
    pub(super) fn consumer(&self, options: &Options, spec: &Spec, backend: &str) -> Consumer {
        if backend == "cpu" {
            return Consumer::Package;
        }
        // A backend that computes has its GPU.
        self.of(options, spec, backend).map_or(Consumer::Package, consumer)
    }

    /// Whether a GPU with a supply of its own may compute something.
    pub(super) fn have_boards(&self, options: &Options, specs: &[Spec]) -> bool {
        let is_board = |found: &Found| consumer(found) != Consumer::Package;
        specs.iter().any(|spec| match (&spec.placement, &spec.device) {
            (None, Device::Cpu) => false,
            (None, Device::Gpu(_)) => self.of(options, spec, "gpu").is_ok_and(is_board),
            (Some(placement), _) if !placement.contains("gpu") => false,
            _ => self.found().iter().any(is_board),
        })
    }
}

#[cfg(not(feature = "gpu"))]
impl Gpus {
    pub(super) fn consumer(&self, _options: &Options, _spec: &Spec, _backend: &str) -> Consumer {
        Consumer::Package
    }
}

/// The GPU that a backend's name means; `gpu` is that of the combination's device.
#[cfg(feature = "gpu")]
fn choice(options: &Options, spec: &Spec, backend: &str) -> AdapterChoice {
    let which = match (backend, &spec.device) {
        ("gpu", Device::Gpu(which) | Device::Auto(which)) => which.as_deref(),
        ("gpu", Device::Cpu) => None,
        (other, _) => Some(other.strip_prefix("gpu=").unwrap_or(other)),
    };
    // Any text is a choice.
    which.map_or_else(|| options.gpu.adapter.clone(), |which| which.parse().unwrap_or_default())
}

#[cfg(feature = "gpu")]
fn consumer(found: &Found) -> Consumer {
    match found.summary.kind {
        "software" | "integrated" => Consumer::Package,
        _ => Consumer::Board { name: found.summary.name.clone(), pci: found.summary.pci.clone() },
    }
}

#[cfg(all(test, feature = "gpu"))]
mod tests {
    use super::super::spec::tests::options;
    use super::*;

    #[test]
    fn names_of_backends_are_those_of_the_engine() {
        let mut options = options();
        options.gpu.adapter = AdapterChoice::Index(3);
        let spec = Spec { device: Device::Cpu, ..options.specs().swap_remove(0) };
        let on = |device: &str| Spec { device: device.parse().expect("a device"), ..spec.clone() };
        assert_eq!(choice(&options, &spec, "gpu"), AdapterChoice::Index(3));
        assert_eq!(choice(&options, &on("gpu"), "gpu"), AdapterChoice::Index(3));
        assert_eq!(choice(&options, &on("gpu=1"), "gpu"), AdapterChoice::Index(1));
        assert_eq!(choice(&options, &on("auto=radeon"), "gpu"), AdapterChoice::Name("radeon".into()));
        assert_eq!(choice(&options, &on("software"), "gpu"), AdapterChoice::Software);
        // What a placement names is itself, whatever the device.
        assert_eq!(choice(&options, &on("gpu=1"), "gpu=2"), AdapterChoice::Index(2));
        assert_eq!(choice(&options, &on("gpu=1"), "software"), AdapterChoice::Software);
    }

    #[test]
    fn the_cpu_and_software_have_no_board() {
        let options = options();
        let gpus = Gpus { found: OnceCell::from(Vec::new()) };
        let spec = options.specs().swap_remove(0);
        assert_eq!(gpus.consumer(&options, &spec, "cpu"), Consumer::Package);
        assert!(!gpus.have_boards(&options, &options.specs()), "there is no GPU");
    }
}
