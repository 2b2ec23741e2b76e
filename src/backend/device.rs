//! Which device a model should run on, as users say it.

use std::fmt;
use std::str::FromStr;

/// The device for all layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// A GPU: the best one, or the one with this number or name; `software` for one that is emulated by the CPU.
    Gpu(Option<String>),
    /// What is fastest by measurement, layer by layer, of the CPU and the GPUs that are no software, or of the CPU and the
    /// GPU with this number or name; the CPU takes over when a GPU fails.
    Auto(Option<String>),
}

/// The text names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown device {0:?}: expected auto, auto=WHICH, cpu, gpu, gpu=NUMBER, gpu=NAME or software")]
pub struct UnknownDevice(String);

impl FromStr for Device {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Device, UnknownDevice> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Device::Auto(None)),
            "cpu" => Ok(Device::Cpu),
            "gpu" => Ok(Device::Gpu(None)),
            software @ "software" => Ok(Device::Gpu(Some(software.into()))),
            lower => match lower.split_once('=').filter(|(_, which)| !which.is_empty()) {
                Some(("gpu", which)) => Ok(Device::Gpu(Some(which.to_owned()))),
                Some(("auto", which)) => Ok(Device::Auto(Some(which.to_owned()))),
                _ => Err(UnknownDevice(text.to_owned())),
            },
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Gpu(None) => f.write_str("gpu"),
            Device::Gpu(Some(which)) => write!(f, "gpu={which}"),
            Device::Auto(None) => f.write_str("auto"),
            Device::Auto(Some(which)) => write!(f, "auto={which}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_and_written() {
        for (text, device) in [
            ("auto", Device::Auto(None)),
            ("auto=software", Device::Auto(Some("software".into()))),
            ("cpu", Device::Cpu),
            ("gpu", Device::Gpu(None)),
            ("gpu=1", Device::Gpu(Some("1".into()))),
            ("gpu=radeon rx", Device::Gpu(Some("radeon rx".into()))),
        ] {
            assert_eq!(text.parse(), Ok(device.clone()));
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("software".parse(), Ok(Device::Gpu(Some("software".into()))));
        for text in ["", "gpu=", "auto=", "tpu", "tpu=1", "gpu1"] {
            assert!(text.parse::<Device>().is_err(), "{text:?}");
        }
    }
}
