//! The graph: the short list of layers that a ternary transformer is.
//!
//! `Embed`, N × `Block`, `Head`; each names its tensors and leaves them in the file. A backend turns a run of adjacent
//! layers into a [`crate::backend::Stage`], reading the weights through [`Graph::linear`] and its siblings; the
//! [`Executor`] runs the stages in order; [`Placement`] says which backend serves which layer, and the [`planner`] finds
//! the fastest one.

mod executor;
mod placement;
pub mod planner;
mod spec;

pub use executor::{Executor, ExecutorError, Output, Phase, StageTime, Trace};
pub use placement::{Placement, PlacementError, Share, shares};
pub use spec::{AttentionSpec, BlockSpec, FfnSpec, GraphParts, LinearSpec, RowOrder};

use std::collections::HashSet;
use std::sync::Arc;

use sterna_cpu::dense::DenseType;
use sterna_cpu::grouped::GroupedMatrix;
use sterna_cpu::head::Int8Rows;
use sterna_cpu::{Layout, Readers, TernaryMatrix};

use crate::format::{Checkpoint, DenseTensor, FormatError, GroupedTensor};
use crate::model::{ActivationKind, ModelConfig, ModelError, ROPE_LONG, ROPE_SHORT};

/// Names of the tensors of an int8 copy of the head: the values, and the bounds of the rows.
pub const HEAD_VALUES: &str = "sterna.head.int8";
/// The bounds of [`HEAD_VALUES`].
pub const HEAD_BOUNDS: &str = "sterna.head.bounds";

/// One layer of the graph. Layer 0 is the embedding, layers 1..=N the blocks, layer N + 1 the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer<'a> {
    /// Token ids to the residual stream.
    Embed,
    /// A transformer block and its number, from 0.
    Block(usize, &'a BlockSpec),
    /// Final norm and vocabulary matrix: residual stream to logits.
    Head,
}

/// A packed ternary matrix and the scale of its values: W = t · scale.
#[derive(Clone, Debug)]
pub struct Linear {
    /// The values.
    pub weight: TernaryMatrix,
    /// Multiplier of the integer product.
    pub scale: f32,
}

/// A ternary matrix with a scale for each group of columns, still encoded.
#[derive(Debug)]
pub struct GroupedLinear<'a> {
    /// What it is in the graph.
    pub spec: &'a LinearSpec,
    /// The matrix in the file.
    pub tensor: GroupedTensor,
    /// Columns of the groups in which it is packed.
    pub group: usize,
}

/// The embedding, or the matrix of the head.
#[derive(Debug)]
pub enum Vocabulary {
    /// Numbers of some type.
    Dense(DenseTensor),
    /// -1, 0 and 1 with a scale for each group of columns.
    Ternary(GroupedTensor),
}

/// The layers of a model and the checkpoint that holds their weights.
#[derive(Clone, Debug)]
pub struct Graph {
    checkpoint: Arc<Checkpoint>,
    parts: GraphParts,
}

impl Graph {
    /// Columns of a group at most: with more, few activations that are large spoil the rounding of many.
    pub const MAX_GROUP: usize = 128;

    /// A graph of `parts` over `checkpoint`. Nothing is read yet.
    pub fn new(checkpoint: Arc<Checkpoint>, parts: GraphParts) -> Graph {
        Graph { checkpoint, parts }
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &ModelConfig {
        &self.parts.config
    }

    /// Says what the inputs of the ternary matrices are rounded to.
    pub(crate) fn set_activations(&mut self, activations: ActivationKind) {
        self.parts.config.activations = activations;
    }

    /// The file behind the graph.
    pub fn checkpoint(&self) -> &Arc<Checkpoint> {
        &self.checkpoint
    }

    /// Number of layers: the blocks, the embedding and the head.
    pub fn len(&self) -> usize {
        self.parts.blocks.len() + 2
    }

    /// Whether the graph has no block.
    pub fn is_empty(&self) -> bool {
        self.parts.blocks.is_empty()
    }

    /// Layer `index` of [`Graph::len`].
    pub fn layer(&self, index: usize) -> Layer<'_> {
        match index {
            0 => Layer::Embed,
            i if i <= self.parts.blocks.len() => Layer::Block(i - 1, &self.parts.blocks[i - 1]),
            _ => Layer::Head,
        }
    }

    /// The blocks.
    pub fn blocks(&self) -> &[BlockSpec] {
        &self.parts.blocks
    }

    /// Whether the model was trained to embed texts: the linears of such models have norms of their own.
    pub fn is_trained_to_embed(&self) -> bool {
        self.blocks().iter().any(|block| block.attention.input_norms.is_some())
    }

    /// Name of the embedding tensor.
    pub fn embedding_name(&self) -> &str {
        &self.parts.embed
    }

    /// Name of the norm in front of the head.
    pub fn final_norm_name(&self) -> &str {
        &self.parts.final_norm
    }

    /// Name of the head's tensor: the embedding's where they are tied.
    pub fn head_name(&self) -> &str {
        &self.parts.head
    }

    /// Whether the head shares the matrix of the embedding.
    pub fn is_tied(&self) -> bool {
        self.parts.head == self.parts.embed
    }

    /// The embedding, `[vocab, hidden]`, which may be ternary.
    pub fn embedding_matrix(&self) -> Result<Vocabulary, FormatError> {
        self.vocabulary(&self.parts.embed)
    }

    /// The matrix of the head, `[vocab, hidden]`, which may be ternary.
    pub fn head_matrix(&self) -> Result<Vocabulary, FormatError> {
        self.vocabulary(&self.parts.head)
    }

    fn vocabulary(&self, name: &str) -> Result<Vocabulary, FormatError> {
        let (rows, cols) = (self.config().vocab_size, self.config().hidden_size);
        match self.is_ternary(name) {
            true => Ok(Vocabulary::Ternary(self.checkpoint.grouped_ternary(name, rows, cols)?)),
            false => Ok(Vocabulary::Dense(self.checkpoint.dense(name, rows, cols)?)),
        }
    }

    fn is_ternary(&self, name: &str) -> bool {
        self.checkpoint.tensor(name).is_some_and(|tensor| tensor.dtype.is_ternary_blocks())
    }

    /// Whether the head's matrix is ternary.
    pub fn head_is_ternary(&self) -> bool {
        self.is_ternary(&self.parts.head)
    }

    /// The embedding, `[vocab, hidden]`, as the file holds it.
    pub fn embedding(&self) -> Result<DenseTensor, FormatError> {
        let config = self.config();
        self.checkpoint.dense(&self.parts.embed, config.vocab_size, config.hidden_size)
    }

    /// The vocabulary matrix of the head, `[vocab, hidden]`, as the file holds it.
    pub fn head(&self) -> Result<DenseTensor, FormatError> {
        let config = self.config();
        self.checkpoint.dense(&self.parts.head, config.vocab_size, config.hidden_size)
    }

    /// The number type of the embedding.
    pub fn embedding_type(&self) -> Result<DenseType, FormatError> {
        let config = self.config();
        self.checkpoint.dense_type(&self.parts.embed, config.vocab_size, config.hidden_size)
    }

    /// The number type of the head's matrix.
    pub fn head_type(&self) -> Result<DenseType, FormatError> {
        let config = self.config();
        self.checkpoint.dense_type(&self.parts.head, config.vocab_size, config.hidden_size)
    }

    /// The weight of the norm in front of the head, `[hidden]`, times the scale of the logits.
    pub fn final_norm(&self) -> Result<Vec<f32>, FormatError> {
        let mut weight = self.norm(&self.parts.final_norm, self.config().hidden_size)?;
        weight.iter_mut().for_each(|weight| *weight *= self.config().scales.logits);
        Ok(weight)
    }

    /// The weight of a norm of the residual stream or of heads, `[len]`.
    pub fn norm(&self, name: &str, len: usize) -> Result<Vec<f32>, FormatError> {
        let mut weight = self.checkpoint.vector(name, len)?;
        weight.iter_mut().for_each(|weight| *weight += self.parts.norm_offset);
        Ok(weight)
    }

    /// The weight of a norm that belongs to a matrix (sub-norms and input norms), `[len]`.
    pub fn norm_of_linear(&self, name: &str, len: usize) -> Result<Vec<f32>, FormatError> {
        self.checkpoint.vector(name, len)
    }

    /// What is added to the weights of the norms that [`Graph::norm`] reads.
    pub fn norm_offset(&self) -> f32 {
        self.parts.norm_offset
    }

    /// The int8 copy of the head that the file holds, if it does.
    ///
    /// # Errors
    /// If it is not one of the head's matrix.
    pub fn head_copy(&self) -> Result<Option<Int8Rows>, FormatError> {
        let config = self.config();
        self.checkpoint.int8_rows(HEAD_VALUES, HEAD_BOUNDS, config.vocab_size, config.hidden_size)
    }

    /// The layout of the kernels in which the file holds the ternary matrices, if it is one.
    pub fn stored_layout(&self) -> Option<Layout> {
        let first = self.parts.blocks.first()?.linears().next()?;
        self.checkpoint.tensor(&first.name)?.dtype.layout()
    }

    /// Reads a ternary matrix and packs it to `layout`, on all cores, near to `readers`; one that the file holds in this
    /// layout stays where it is, or is copied if the checkpoint was opened so.
    pub fn linear(&self, spec: &LinearSpec, layout: Layout, readers: Readers<'_>) -> Result<Linear, FormatError> {
        let source = self.checkpoint.ternary(&spec.name, spec.rows, spec.cols)?;
        if spec.order == RowOrder::Natural
            && let Some(weight) = source.in_place(layout)
        {
            let scale = source.scale();
            if !self.checkpoint.copies() {
                return Ok(Linear { weight, scale });
            }
            let weight = weight.copied_near(readers);
            self.checkpoint.release(&spec.name);
            return Ok(Linear { weight, scale });
        }
        let weight = TernaryMatrix::pack_near(readers, layout, spec.rows, spec.cols, |row, out| {
            source.read_row(spec.order.source_row(row), out)
        })?;
        // What was packed is not needed twice.
        self.checkpoint.release(&spec.name);
        Ok(Linear { weight, scale: source.scale() })
    }

    /// Opens matrices that share an input, and so the groups of its columns: the smallest of theirs, and at most 128.
    pub fn open_grouped<'a>(&self, specs: &[&'a LinearSpec]) -> Result<Vec<GroupedLinear<'a>>, FormatError> {
        let open = |spec: &&'a LinearSpec| self.checkpoint.grouped_ternary(&spec.name, spec.rows, spec.cols);
        let tensors = specs.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let group = tensors.iter().map(GroupedTensor::group).fold(Graph::MAX_GROUP, usize::min);
        Ok(specs.iter().zip(tensors).map(|(&spec, tensor)| GroupedLinear { spec, tensor, group }).collect())
    }

    /// Packs a matrix, on all cores, near to `readers`.
    pub fn grouped(&self, linear: &GroupedLinear<'_>, readers: Readers<'_>) -> Result<GroupedMatrix, FormatError> {
        let GroupedLinear { spec, tensor, group } = linear;
        let order = |row| spec.order.source_row(row);
        let matrix = tensor.pack(*group, readers, (spec.order != RowOrder::Natural).then_some(&order))?;
        // What was packed is not needed twice.
        if !matrix.is_shared() {
            self.checkpoint.release(&spec.name);
        }
        Ok(matrix)
    }

    /// Reads several ternary matrices of the same width and packs them to one of `rows` rows in `layout`, on all cores.
    /// `place` says which row of which matrix comes where; `None` is a row of zeros. Returns the scales of the matrices, in
    /// their order.
    pub fn join(
        &self,
        specs: &[&LinearSpec],
        rows: usize,
        layout: Layout,
        place: &(dyn Fn(usize) -> Option<(usize, usize)> + Sync),
    ) -> Result<(TernaryMatrix, Vec<f32>), FormatError> {
        let open = |spec: &&LinearSpec| self.checkpoint.ternary(&spec.name, spec.rows, spec.cols);
        let sources = specs.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let cols = specs.first().map_or(0, |spec| spec.cols);
        let weight = TernaryMatrix::pack(layout, rows, cols, |row, out| match place(row) {
            Some((part, row)) => sources[part].read_row(specs[part].order.source_row(row), out),
            None => Ok(()),
        })?;
        specs.iter().for_each(|spec| self.checkpoint.release(&spec.name));
        Ok((weight, sources.iter().map(|source| source.scale()).collect()))
    }

    /// Bytes that the weights of block `index` take in layout T16; the measure of progress for all layouts.
    pub fn block_bytes(&self, index: usize) -> u64 {
        self.parts.blocks[index].linears().map(LinearSpec::packed_bytes).sum()
    }

    /// Ternary weights in all blocks.
    pub fn ternary_parameters(&self) -> u64 {
        self.parts.blocks.iter().flat_map(BlockSpec::linears).map(|l| (l.rows * l.cols) as u64).sum()
    }

    /// Checks that every tensor of the graph is in the file, in the right shape, and that the file holds no others.
    ///
    /// # Errors
    /// [`FormatError`] for a missing or misshapen tensor, [`ModelError::UnexpectedTensors`] for surplus ones.
    pub fn check_tensors(&self) -> Result<(), ModelError> {
        let mut known: HashSet<&str> = HashSet::new();
        for (name, shape) in self.expected_tensors() {
            self.checkpoint.check_shape(name, &shape)?;
            known.insert(name);
        }
        let mut surplus = self.checkpoint.tensors().map(|t| t.name.as_str()).filter(|name| {
            // Scales belong to the tensor whose name they extend; the others repeat what the configuration says or,
            // for a tied head, what the embedding holds.
            let companion = [name.strip_suffix("_scale"), name.strip_suffix(".scale")];
            let is_scale = companion
                .into_iter()
                .flatten()
                .any(|stem| known.contains(stem) || self.checkpoint.tensor(&format!("{stem}.weight")).is_some());
            let is_derived = name.ends_with("rotary_emb.inv_freq")
                || ["rope_freqs.weight", ROPE_LONG, ROPE_SHORT].contains(name)
                || (self.is_tied() && *name == "lm_head.weight")
                || [HEAD_VALUES, HEAD_BOUNDS].contains(name);
            !known.contains(name) && !is_scale && !is_derived
        });
        match surplus.next() {
            None => Ok(()),
            Some(first) => Err(ModelError::UnexpectedTensors {
                file: self.checkpoint.path().into(),
                architecture: self.config().architecture.clone(),
                first: first.to_owned(),
                count: surplus.count() + 1,
            }),
        }
    }

    /// Names and logical shapes of all tensors.
    fn expected_tensors(&self) -> Vec<(&str, Vec<usize>)> {
        let config = self.config();
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let mut expected: Vec<(&str, Vec<usize>)> = vec![
            (&self.parts.embed, vec![vocab, hidden]),
            (&self.parts.final_norm, vec![hidden]),
            (&self.parts.head, vec![vocab, hidden]),
        ];
        for block in &self.parts.blocks {
            expected.extend(block.linears().map(|l| (l.name.as_str(), vec![l.rows, l.cols])));
            expected.extend(block.norms(config).map(|(name, len)| (name, vec![len])));
        }
        expected
    }
}
