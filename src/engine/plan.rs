//! What opening a model would make of a machine, without opening it.

use std::path::Path;
use std::sync::Arc;

use super::{Error, OpenOptions, devices};
use crate::format::FormatError;
use crate::model::build_graph;
use crate::plan::{AssumedDevice, Report};
use crate::source;
use crate::synth::Shape;

/// The plan for a model under `path`, with the devices of this machine or, if there are any, with the CPU and `assumed` ones.
/// Some blocks are run on each device whose times are not in [`OpenOptions::tuning_file`] yet.
///
/// # Errors
/// If the model cannot be read, the placement that is asked for makes no sense, or the model fits nowhere.
pub fn plan_model(path: impl AsRef<Path>, options: &OpenOptions, assumed: &[AssumedDevice]) -> Result<Report, Error> {
    let path = path.as_ref();
    let graph = build_graph(Arc::new(source::open_with(path, options.files())?))?;
    let (_, kv) = options.cache_of(graph.config());
    devices::plan(&graph, options, kv, path.display().to_string(), assumed, true)
}

/// The plan for a model of this shape, of which there are no weights. Times of devices are those of the tuning file, or the
/// least that the CPU can take.
///
/// # Errors
/// As [`plan_model`].
pub fn plan_shape(
    name: &str,
    shape: &Shape,
    options: &OpenOptions,
    assumed: &[AssumedDevice],
) -> Result<Report, Error> {
    let checkpoint = shape.checkpoint(name).map_err(|error: FormatError| Error::from(error))?;
    let graph = build_graph(Arc::new(checkpoint))?;
    let (_, kv) = options.cache_of(graph.config());
    devices::plan(&graph, options, kv, name.to_owned(), assumed, false)
}
