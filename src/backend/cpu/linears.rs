//! The products of a block on the CPU: activations of 8 bits with matrices of one scale, or activations that are as good as
//! floats with matrices that have a scale for each group of columns.

use sterna_cpu::activation::Gate;
use sterna_cpu::grouped::{self, GroupedActivations, GroupedJob, GroupedMatrix, Precision, Rounding, ScaleType};
use sterna_cpu::linear::MAX_JOBS;
use sterna_cpu::{Activations, Kernels, Layout, LinearJob, Pool, Readers, TernaryMatrix, linear};

use crate::backend::BackendError;
use crate::graph::{Graph, Linear, LinearSpec};
use crate::model::ActivationKind;

/// A packed matrix.
pub(super) enum Weights {
    /// One scale, for [`ActivationKind::Int8`].
    Int8(Linear),
    /// A scale for each group, for the other kinds.
    Grouped(GroupedMatrix, Precision),
}

impl Weights {
    /// Reads the matrices that share an input and packs them, near to the threads of `pool`.
    pub(super) fn build<const N: usize>(
        graph: &Graph,
        pool: &Pool,
        layout: Layout,
        specs: [&LinearSpec; N],
    ) -> Result<[Weights; N], BackendError> {
        let all = specs.iter().map(|spec| spec.rows).sum();
        let mut before = 0;
        let mut readers = |spec: &LinearSpec| {
            let readers = Readers { pool, before, all };
            before += spec.rows;
            readers
        };
        let weights: Vec<Weights> = match graph.config().activations {
            ActivationKind::Int8 => {
                let pack = |spec: &&LinearSpec| Ok(Weights::Int8(graph.linear(spec, layout, readers(spec))?));
                specs.iter().map(pack).collect::<Result<_, BackendError>>()?
            }
            ActivationKind::Float | ActivationKind::GroupedInt8 => {
                let opened = graph.open_grouped(&specs)?;
                let precision = match graph.config().activations {
                    ActivationKind::GroupedInt8 => Precision::Int8,
                    _ => Precision::Float,
                };
                let pack = |tensor| Ok(Weights::Grouped(graph.grouped(tensor, readers(tensor.spec))?, precision));
                opened.iter().map(pack).collect::<Result<_, BackendError>>()?
            }
        };
        Ok(weights.try_into().unwrap_or_else(|_| unreachable!("there are as many matrices as specifications")))
    }

    /// Bytes that the matrix of `spec` will take.
    pub(super) fn bytes_of(graph: &Graph, layout: Layout, spec: &LinearSpec) -> usize {
        match graph.config().activations {
            ActivationKind::Int8 => layout.bytes(spec.rows, spec.cols),
            ActivationKind::Float | ActivationKind::GroupedInt8 => {
                GroupedMatrix::bytes_of(spec.rows, spec.cols, Graph::MAX_GROUP, ScaleType::F16)
            }
        }
    }

    /// Bytes that a pass reads.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Weights::Int8(linear) => linear.weight.bytes(),
            Weights::Grouped(matrix, _) => matrix.bytes(),
        }
    }
}

/// The rounded input of some matrices; of which kind, the last call tells.
#[derive(Default)]
pub(super) struct Inputs {
    int8: Activations,
    grouped: GroupedActivations,
}

/// The threads, and the kernels for each kind of matrices.
#[derive(Clone, Copy)]
pub(super) struct Engine<'a> {
    pub(super) pool: &'a Pool,
    pub(super) kernels: &'a Kernels,
    pub(super) grouped_kernels: &'a Kernels,
}

/// Those kernels of the instruction set of `kernels` that grouped matrices are packed for.
pub(super) fn grouped_kernels(kernels: &Kernels) -> Kernels {
    Kernels::with(kernels.isa(), Layout::T16).tuned(kernels.tuning())
}

fn rounding(matrix: &GroupedMatrix, precision: Precision) -> Rounding {
    Rounding { group: matrix.group(), precision }
}

impl Inputs {
    /// Rounds the rows of `x`, of `cols` numbers, for products with `weights` and matrices built with it, after an RMSNorm
    /// if there is one.
    pub(super) fn quantize(
        &mut self,
        engine: Engine<'_>,
        weights: &Weights,
        x: &[f32],
        cols: usize,
        norm: Option<(&[f32], f32)>,
    ) {
        match weights {
            Weights::Int8(_) => self.int8.quantize(engine.pool, engine.kernels, x, cols, norm),
            Weights::Grouped(matrix, precision) => {
                let rounding = rounding(matrix, *precision);
                self.grouped.quantize(engine.pool, engine.grouped_kernels, x, cols, rounding, norm);
            }
        }
    }

    /// Rounds `function(gate) · up`, likewise; `gate` is overwritten.
    #[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
    pub(super) fn quantize_gated(
        &mut self,
        engine: Engine<'_>,
        weights: &Weights,
        function: Gate,
        gate: &mut [f32],
        up: &[f32],
        cols: usize,
        norm: Option<(&[f32], f32)>,
    ) {
        let Engine { pool, kernels, grouped_kernels } = engine;
        match weights {
            Weights::Int8(_) => self.int8.quantize_gated(pool, kernels, function, gate, up, cols, norm),
            Weights::Grouped(matrix, precision) => {
                let rounding = rounding(matrix, *precision);
                self.grouped.quantize_gated(pool, grouped_kernels, function, gate, up, cols, rounding, norm);
            }
        }
    }

    /// Products with matrices that were built together, in one parallel region. `add`: onto what the outputs hold. `next`
    /// are the matrices of the region behind it.
    pub(super) fn multiply<const N: usize>(
        &self,
        engine: Engine<'_>,
        jobs: [(&Weights, &mut [f32]); N],
        add: bool,
        next: &[&Weights],
    ) {
        /// Jobs of a call, and matrices of the next.
        type Few<T> = smallvec::SmallVec<[T; MAX_JOBS]>;
        let (mut int8, mut grouped) = (Few::<LinearJob<'_>>::new(), Few::<GroupedJob<'_>>::new());
        for (weights, out) in jobs {
            match weights {
                Weights::Int8(Linear { weight, scale }) => int8.push(LinearJob { weight, scale: *scale, out, add }),
                Weights::Grouped(weight, _) => grouped.push(GroupedJob { weight, out, add }),
            }
        }
        if !grouped.is_empty() {
            grouped::linear(engine.pool, engine.grouped_kernels, &self.grouped, &mut grouped);
            return;
        }
        let next: Few<&TernaryMatrix> = next
            .iter()
            .filter_map(|weights| match weights {
                Weights::Int8(linear) => Some(&linear.weight),
                Weights::Grouped(..) => None,
            })
            .collect();
        linear(engine.pool, engine.kernels, &self.int8, &mut int8, &next);
    }

    /// The input as int8, if that is what the last matrices were multiplied with.
    pub(super) fn int8(&self, weights: &Weights) -> Option<&Activations> {
        match weights {
            Weights::Int8(_) => Some(&self.int8),
            Weights::Grouped(..) => None,
        }
    }
}
