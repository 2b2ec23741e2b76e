//! What a block consists of: the names and shapes of its tensors and the order in which they act.

use crate::model::ModelConfig;

/// Everything an architecture says about a model.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphParts {
    /// Hyper-parameters.
    pub config: ModelConfig,
    /// Name of the embedding tensor.
    pub embed: String,
    /// The blocks, in order.
    pub blocks: Vec<BlockSpec>,
    /// Name of the norm in front of the head.
    pub final_norm: String,
    /// Added to the weight of each norm of the residual stream and of heads: 1 where the file has what is beyond 1 (Gemma).
    pub norm_offset: f32,
    /// Name of the vocabulary matrix; the embedding's where they are tied.
    pub head: String,
}

/// One transformer block: attention, then feed-forward, each added to the residual stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockSpec {
    /// `h += post_norm(o(sub_norm(attention(norm(h)))))`
    pub attention: AttentionSpec,
    /// `h += post_norm(down(sub_norm(act(gate(norm(h))) · up(norm(h)))))`
    pub ffn: FfnSpec,
}

impl BlockSpec {
    /// The seven ternary matrices.
    pub fn linears(&self) -> impl Iterator<Item = &LinearSpec> {
        let (a, f) = (&self.attention, &self.ffn);
        [&a.q, &a.k, &a.v, &a.o, &f.gate, &f.up, &f.down].into_iter()
    }

    /// Whether products are not added to the residual stream as they are, or inputs are normalised twice.
    pub fn has_rows_beside_hidden(&self, config: &ModelConfig) -> bool {
        let (a, f) = (&self.attention, &self.ffn);
        let has_norms = a.post_norm.is_some() || f.post_norm.is_some() || a.input_norms.is_some();
        has_norms || f.input_norms.is_some() || config.scales.residual != 1.0
    }

    /// The weights of the norms, with their lengths.
    pub fn norms(&self, config: &ModelConfig) -> impl Iterator<Item = (&str, usize)> {
        let (a, f) = (&self.attention, &self.ffn);
        let (hidden, head) = (config.hidden_size, config.head_dim);
        let always = [(&a.norm, hidden), (&f.norm, hidden)].into_iter();
        let optional = [
            (&a.q_norm, head),
            (&a.k_norm, head),
            (&a.sub_norm, config.q_size()),
            (&a.post_norm, hidden),
            (&f.sub_norm, config.intermediate_size),
            (&f.post_norm, hidden),
        ];
        let optional = optional.into_iter().filter_map(|(name, len)| Some((name.as_ref()?, len)));
        let inputs =
            a.input_norms.iter().flatten().chain(f.input_norms.iter().flatten()).map(move |name| (name, hidden));
        always.chain(optional).chain(inputs).map(|(name, len)| (name.as_str(), len))
    }
}

/// The attention half of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionSpec {
    /// RMSNorm in front; its output is quantized once for q, k and v, unless there are `input_norms`.
    pub norm: String,
    /// RMSNorms of q, k and v, each of which quantizes an input of its own then.
    pub input_norms: Option<[String; 3]>,
    /// Query projection.
    pub q: LinearSpec,
    /// Key projection.
    pub k: LinearSpec,
    /// Value projection.
    pub v: LinearSpec,
    /// RMSNorm over each head of the queries, `[head_dim]`, before they turn.
    pub q_norm: Option<String>,
    /// RMSNorm over each head of the keys, `[head_dim]`, before they turn.
    pub k_norm: Option<String>,
    /// RMSNorm over all heads together, in front of `o`.
    pub sub_norm: Option<String>,
    /// Output projection.
    pub o: LinearSpec,
    /// RMSNorm behind `o`, before the residual stream.
    pub post_norm: Option<String>,
    /// Whether only the latest positions are seen, with other rotary frequencies:
    /// [`LocalAttention`](crate::model::LocalAttention).
    pub is_local: bool,
}

/// The feed-forward half of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FfnSpec {
    /// RMSNorm in front; its output is quantized once for gate and up, unless there are `input_norms`.
    pub norm: String,
    /// RMSNorms of gate and up, each of which quantizes an input of its own then.
    pub input_norms: Option<[String; 2]>,
    /// Gate projection.
    pub gate: LinearSpec,
    /// Up projection.
    pub up: LinearSpec,
    /// RMSNorm in front of `down`.
    pub sub_norm: Option<String>,
    /// Down projection.
    pub down: LinearSpec,
    /// RMSNorm behind `down`, before the residual stream.
    pub post_norm: Option<String>,
}

/// A BitLinear: a ternary matrix `[rows, cols]` that multiplies int8 activations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearSpec {
    /// Name of the tensor.
    pub name: String,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// How the file orders the rows.
    pub order: RowOrder,
}

impl LinearSpec {
    /// A matrix under `name`.
    pub fn new(name: String, rows: usize, cols: usize, order: RowOrder) -> LinearSpec {
        LinearSpec { name, rows, cols, order }
    }

    /// Bytes of the matrix in layout T16.
    pub fn packed_bytes(&self) -> u64 {
        (self.rows.div_ceil(16) * self.cols.div_ceil(16) * 64) as u64
    }
}

/// Order of a matrix's rows in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// As the kernels want them.
    Natural,
    /// llama.cpp's order for interleaved rotary pairs: row `2i + j` of a head is row `j · head_dim / 2 + i` of the
    /// half-split order that the kernels use.
    InterleavedHeads {
        /// Rows of one head.
        head_dim: usize,
    },
}

impl RowOrder {
    /// The row of the half-split order that row `row` of the file holds.
    pub fn kernel_row(self, row: usize) -> usize {
        match self {
            RowOrder::Natural => row,
            RowOrder::InterleavedHeads { head_dim } => {
                let (head, r) = (row / head_dim, row % head_dim);
                head * head_dim + r % 2 * (head_dim / 2) + r / 2
            }
        }
    }

    /// The row of the file that holds row `row` of the half-split order.
    pub fn source_row(self, row: usize) -> usize {
        match self {
            RowOrder::Natural => row,
            RowOrder::InterleavedHeads { head_dim } => {
                let (head, r) = (row / head_dim, row % head_dim);
                let (j, i) = (r / (head_dim / 2), r % (head_dim / 2));
                head * head_dim + 2 * i + j
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_order_is_undone() {
        // llama.cpp: reshape [heads, 2, hd/2] and swap the last two: new row 2i + j = old row j * hd/2 + i.
        let (heads, head_dim) = (3, 8);
        let half_split: Vec<usize> = (0..heads * head_dim).collect();
        let mut file = vec![0; heads * head_dim];
        for head in 0..heads {
            for i in 0..head_dim / 2 {
                for j in 0..2 {
                    file[head * head_dim + 2 * i + j] = half_split[head * head_dim + j * head_dim / 2 + i];
                }
            }
        }
        let order = RowOrder::InterleavedHeads { head_dim };
        let read: Vec<usize> = (0..heads * head_dim).map(|row| file[order.source_row(row)]).collect();
        assert_eq!(read, half_split);
        assert!((0..heads * head_dim).all(|row| order.kernel_row(order.source_row(row)) == row));
    }
}
