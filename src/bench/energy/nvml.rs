//! NVIDIA's GPUs: what the driver's management library (NVML), loaded where it is there, counts or measures.

use std::fmt;
use std::rc::Rc;

use super::Found;
use super::sensor::Reading;

/// What is asked of NVML.
pub(super) trait Nvml: fmt::Debug {
    /// Number of GPUs.
    fn count(&self) -> Found<u32>;

    /// The name of a GPU, and where it is on the PCI bus.
    fn describe(&self, index: u32) -> Found<(String, String)>;

    /// Millijoules since the driver was loaded; GPUs before Volta have no such counter.
    fn millijoules(&self, index: u32) -> Option<u64>;

    /// Milliwatts that it takes now, or the mean of the last second.
    fn milliwatts(&self, index: u32) -> Option<u32>;
}

/// The library.
#[derive(Debug)]
pub(super) struct Library(nvml_wrapper::Nvml);

impl Library {
    /// Loads it, or says why that fails.
    pub(super) fn open() -> Found<Library> {
        nvml_wrapper::Nvml::init().map(Library).map_err(describe)
    }
}

fn describe(error: nvml_wrapper::error::NvmlError) -> String {
    use nvml_wrapper::error::NvmlError;
    match error {
        NvmlError::LibloadingError(error) => format!("NVML: NVIDIA's driver has no library for it here ({error})"),
        error => format!("NVML: {error}"),
    }
}

impl Nvml for Library {
    fn count(&self) -> Found<u32> {
        self.0.device_count().map_err(describe)
    }

    fn describe(&self, index: u32) -> Found<(String, String)> {
        let device = self.0.device_by_index(index).map_err(describe)?;
        Ok((device.name().map_err(describe)?, device.pci_info().map_err(describe)?.bus_id))
    }

    fn millijoules(&self, index: u32) -> Option<u64> {
        self.0.device_by_index(index).ok()?.total_energy_consumption().ok()
    }

    fn milliwatts(&self, index: u32) -> Option<u32> {
        self.0.device_by_index(index).ok()?.power_usage().ok()
    }
}

/// A GPU that NVML measures.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) name: String,
    nvml: Rc<dyn Nvml>,
    index: u32,
    pci: String,
    has_counter: bool,
}

/// The GPUs that NVML measures, or why there are none.
pub(super) fn boards(nvml: Rc<dyn Nvml>) -> Found<Vec<Board>> {
    let mut boards = Vec::new();
    for index in 0..nvml.count()? {
        // One that is not for this user, or has fallen off the bus, is none.
        let Ok((name, pci)) = nvml.describe(index) else { continue };
        let has_counter = nvml.millijoules(index).is_some();
        if has_counter || nvml.milliwatts(index).is_some() {
            boards.push(Board { name, nvml: Rc::clone(&nvml), index, pci, has_counter });
        }
    }
    if boards.is_empty() { Err("NVML: it measures no GPU here".into()) } else { Ok(boards) }
}

impl Board {
    pub(super) fn sensor_name(&self) -> String {
        format!("nvml:{}", self.index)
    }

    /// The counter, or the power where there is none.
    pub(super) fn read(&self) -> Option<Reading> {
        match self.has_counter {
            true => self.nvml.millijoules(self.index).map(|count| Reading::Counters(vec![count])),
            false => self.nvml.milliwatts(self.index).map(|milliwatts| Reading::Watts(f64::from(milliwatts) / 1e3)),
        }
    }

    /// Joules between two states of the counter. `None` if it began anew, as it does with the driver.
    pub(super) fn joules(before: &[u64], after: &[u64]) -> Option<f64> {
        let differences = before.iter().zip(after).map(|(before, after)| after.checked_sub(*before));
        Some(differences.sum::<Option<u64>>()? as f64 / 1e3)
    }
}

/// The one of `boards` that is the GPU with this name and place on the PCI bus. Where the driver does not tell the place, the
/// name must be that of one board only.
pub(super) fn matching<'a>(
    boards: impl Iterator<Item = (usize, &'a Board)>,
    name: &str,
    pci: Option<&str>,
) -> Option<usize> {
    let place = pci.and_then(place);
    let is_it = |board: &Board| match place {
        Some(_) => self::place(&board.pci) == place,
        None => board.name.eq_ignore_ascii_case(name),
    };
    let mut alike = boards.filter(|(_, board)| is_it(board)).map(|(index, _)| index);
    alike.next().filter(|_| alike.next().is_none())
}

/// Domain, bus and device of a text such as `0000:01:00.0` or `00000000:01:00.0`.
fn place(text: &str) -> Option<[u32; 3]> {
    let (place, _function) = text.split_once('.')?;
    let mut numbers = place.split(':').map(|number| u32::from_str_radix(number, 16).ok());
    let place = [numbers.next()??, numbers.next()??, numbers.next()??];
    numbers.next().is_none().then_some(place)
}
