//! Random models of any shape, for benchmarks: the bytes and the arithmetic of a real model, not its words.
//!
//! A file is written as a stream, on all cores. The same shape and seed give the same weights in every encoding, so that
//! programs that read different encodings can be compared on one model.

use std::ops::ControlFlow;
use std::path::Path;

use half::f16;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Deserialize;

use crate::format::{Checkpoint, DType, Encoding, FormatError, GgufWriter, Metadata, TensorPlan, Value};
use crate::graph::RowOrder;
use crate::model::HALF_SPLIT;

/// The hyper-parameters of a model, in the names of Hugging Face's config.json.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// `bitnet-b1.58` (2B-4T: squared ReLU, sub-norms), `bitnet` (1bitLLM: SiLU, sub-norms), `llama` (SwiGLU) or `qwen3` (norms
    /// of heads).
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward network.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads of queries.
    pub num_attention_heads: usize,
    /// Heads of keys and values.
    pub num_key_value_heads: usize,
    /// Width of a head; without it, all heads together are as wide as the residual stream.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Whether each matrix has a norm of its own, as in BitNet embedding models.
    #[serde(default)]
    pub use_rms_norm: bool,
    /// Tokens.
    pub vocab_size: usize,
    /// Whether the head is the embedding.
    #[serde(default = "yes")]
    pub tie_word_embeddings: bool,
    /// Positions.
    #[serde(default = "default_context")]
    pub max_position_embeddings: usize,
    /// Base of the rotary frequencies.
    #[serde(default = "default_theta")]
    pub rope_theta: f64,
}

fn yes() -> bool {
    true
}

fn default_context() -> usize {
    4096
}

fn default_theta() -> f64 {
    500_000.0
}

/// Names of shapes, with: architecture, hidden, feed-forward, layers, heads, key-value heads, vocabulary, tied.
/// 2b-4t, 0.7b, 3b, 8b and embedding-0.6b are those of released models, the larger ones those of the bitnet.cpp report
/// (<https://arxiv.org/abs/2410.16144>).
type Preset = (&'static str, &'static str, usize, usize, usize, usize, usize, usize, bool);
const PRESETS: [Preset; 8] = [
    ("0.7b", "bitnet", 1536, 4096, 24, 16, 16, 32_002, true),
    ("2b-4t", "bitnet-b1.58", 2560, 6912, 30, 20, 5, 128_256, true),
    ("3b", "bitnet", 3200, 8640, 26, 32, 32, 32_002, true),
    ("8b", "llama", 4096, 14_336, 32, 32, 8, 128_256, false),
    ("30b", "bitnet", 6656, 16_384, 60, 52, 52, 32_002, true),
    ("70b", "bitnet", 8192, 24_576, 80, 64, 64, 32_002, true),
    ("100b", "bitnet", 8192, 45_568, 72, 64, 64, 32_002, true),
    ("embedding-0.6b", "qwen3", 1024, 3072, 28, 16, 8, 151_936, true),
];

impl Shape {
    /// The names that [`Shape::named`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|preset| preset.0)
    }

    /// The shape of a well-known model; `bitnet-` in front of its name is left out of account.
    pub fn named(name: &str) -> Option<Shape> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_prefix("bitnet-").unwrap_or(&name);
        let &(_, architecture, hidden, ffn, layers, heads, kv_heads, vocab, tied) =
            PRESETS.iter().find(|preset| preset.0 == name)?;
        Some(Shape {
            architecture: architecture.into(),
            hidden_size: hidden,
            intermediate_size: ffn,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim: (architecture == "qwen3").then_some(128),
            use_rms_norm: architecture == "qwen3",
            vocab_size: vocab,
            tie_word_embeddings: tied,
            max_position_embeddings: default_context(),
            rope_theta: default_theta(),
        })
    }

    /// A checkpoint of this shape without weights, for what can be told from sizes alone.
    ///
    /// # Errors
    /// If the shape makes no sense.
    pub fn checkpoint(&self, name: &str) -> Result<Checkpoint, FormatError> {
        if let Some(problem) = self.problem() {
            return Err(FormatError::header(Path::new(name), "the shape", problem));
        }
        let plans: Vec<TensorPlan> = self.tensors(Encoding::I2S).into_iter().map(|(plan, _)| plan).collect();
        Checkpoint::without_data(name, self.metadata(Encoding::I2S), &plans)
    }

    /// Why this is no shape of a model, if it is none.
    fn problem(&self) -> Option<String> {
        let sizes = [
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 12),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("num_key_value_heads", self.num_key_value_heads, 1 << 12),
            ("vocab_size", self.vocab_size, 1 << 20),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 24),
        ];
        if let Some((name, size, most)) = sizes.iter().find(|(_, size, most)| *size == 0 || size > most) {
            return Some(format!("{name} is {size}, expected 1 to {most}"));
        }
        if !["bitnet-b1.58", "bitnet", "llama", "qwen3"].contains(&self.architecture.as_str()) {
            let found = &self.architecture;
            return Some(format!("architecture is {found:?}, expected bitnet-b1.58, bitnet, llama or qwen3"));
        }
        if self.architecture != "qwen3" && (self.head_dim.is_some() || self.use_rms_norm) {
            return Some("head_dim and use_rms_norm are for the architecture qwen3".into());
        }
        if let Some(dim) = self.head_dim.filter(|dim| *dim == 0 || !dim.is_multiple_of(2) || *dim > 1 << 12) {
            return Some(format!("head_dim is {dim}, expected an even number up to {}", 1 << 12));
        }
        if self.head_dim.is_none() && !self.hidden_size.is_multiple_of(2 * self.num_attention_heads) {
            return Some(format!("hidden_size {} gives no heads of even width", self.hidden_size));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Some(format!("num_key_value_heads {} divides no heads", self.num_key_value_heads));
        }
        if self.vocab_size < BYTES + MERGES.len() + 2 {
            return Some(format!("vocab_size is {}, expected {} at least", self.vocab_size, BYTES + MERGES.len() + 2));
        }
        None
    }

    /// Width of a head.
    fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// Whether the rows of q and k, which other encodings hold for interleaved rotary pairs, are put into the order in which
    /// the kernels read them. Heads must not reach from one chunk into the next.
    fn is_put_in_half_split_order(&self, encoding: Encoding) -> bool {
        let heads_are_whole = Encoding::ROWS.is_multiple_of(self.head_dim());
        self.architecture == "llama" && encoding.dtype().layout().is_some() && heads_are_whole
    }

    /// The tensors in the order of the file, with what fills them.
    fn tensors(&self, encoding: Encoding) -> Vec<(TensorPlan, Filling)> {
        let (hidden, ffn) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.head_dim() * self.num_attention_heads, self.head_dim() * self.num_key_value_heads);
        let sub_norms = self.architecture.starts_with("bitnet");
        let head_norms = self.architecture == "qwen3";
        let norm = |name: String, len| (TensorPlan { name, dtype: DType::F32, shape: vec![len] }, Filling::Ones);
        let dense = |name: &str| {
            let plan = TensorPlan { name: name.into(), dtype: DType::F16, shape: vec![self.vocab_size, hidden] };
            (plan, Filling::Normal)
        };
        let ternary = |name: String, rows, cols| {
            let plan = TensorPlan { name, dtype: encoding.dtype(), shape: vec![rows, cols] };
            (plan, Filling::Ternary(RowOrder::Natural))
        };
        let rotary = |name, rows| {
            let order = match self.is_put_in_half_split_order(encoding) {
                true => RowOrder::InterleavedHeads { head_dim: self.head_dim() },
                false => RowOrder::Natural,
            };
            (ternary(name, rows, hidden).0, Filling::Ternary(order))
        };
        let mut tensors = vec![dense("token_embd.weight")];
        for i in 0..self.num_hidden_layers {
            let name = |part: &str| format!("blk.{i}.{part}.weight");
            tensors.push(norm(name("attn_norm"), hidden));
            tensors.push(rotary(name("attn_q"), q));
            tensors.push(rotary(name("attn_k"), kv));
            tensors.push(ternary(name("attn_v"), kv, hidden));
            if head_norms {
                tensors.extend(["attn_q_norm", "attn_k_norm"].map(|part| norm(name(part), self.head_dim())));
            }
            if self.use_rms_norm {
                let inputs = ["attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"].map(|part| (part, hidden));
                for (part, cols) in inputs.into_iter().chain([("attn_output", q), ("ffn_down", ffn)]) {
                    tensors.push(norm(name(&format!("{part}_norm_in")), cols));
                }
            }
            tensors.extend(sub_norms.then(|| norm(name("attn_sub_norm"), q)));
            tensors.push(ternary(name("attn_output"), hidden, q));
            tensors.push(norm(name("ffn_norm"), hidden));
            tensors.push(ternary(name("ffn_gate"), ffn, hidden));
            tensors.push(ternary(name("ffn_up"), ffn, hidden));
            tensors.extend(sub_norms.then(|| norm(name("ffn_sub_norm"), ffn)));
            tensors.push(ternary(name("ffn_down"), hidden, ffn));
        }
        tensors.push(norm("output_norm.weight".into(), hidden));
        tensors.extend((!self.tie_word_embeddings).then(|| dense("output.weight")));
        tensors
    }

    fn metadata(&self, encoding: Encoding) -> Metadata {
        let mut metadata = Metadata::default();
        encoding.set_alignment(&mut metadata);
        let mut set = |key: String, value| metadata.entries.insert(key, value);
        set("general.architecture".into(), Value::String(self.architecture.clone()));
        set("general.name".into(), Value::String("random weights".into()));
        if self.is_put_in_half_split_order(encoding) {
            set(HALF_SPLIT.into(), Value::Bool(true));
        }
        let arch = &self.architecture;
        for (key, value) in [
            ("block_count", self.num_hidden_layers),
            ("context_length", self.max_position_embeddings),
            ("embedding_length", self.hidden_size),
            ("feed_forward_length", self.intermediate_size),
            ("attention.head_count", self.num_attention_heads),
            ("attention.head_count_kv", self.num_key_value_heads),
            ("rope.dimension_count", self.head_dim()),
            ("attention.key_length", self.head_dim()),
            ("attention.value_length", self.head_dim()),
            ("vocab_size", self.vocab_size),
        ] {
            set(format!("{arch}.{key}"), Value::U64(value as u64));
        }
        set(format!("{arch}.attention.layer_norm_rms_epsilon"), Value::F64(1e-5));
        set(format!("{arch}.rope.freq_base"), Value::F64(self.rope_theta));
        let mut set = |key: &str, value| metadata.entries.insert(format!("tokenizer.ggml.{key}"), value);
        let (tokens, types) = vocabulary(self.vocab_size);
        set("model", Value::String("gpt2".into()));
        set("pre", Value::String("llama-bpe".into()));
        set("tokens", Value::Strings(tokens));
        set("token_type", Value::Ints(types));
        set("merges", Value::Strings(MERGES.iter().map(|(a, b)| format!("{a} {b}")).collect()));
        set("bos_token_id", Value::U64(self.vocab_size as u64 - 2));
        set("eos_token_id", Value::U64(self.vocab_size as u64 - 1));
        metadata
    }
}

/// What a tensor is filled with.
#[derive(Clone, Copy)]
enum Filling {
    Ones,
    /// Numbers of variance 1 / 50², about normal.
    Normal,
    /// -1, 0 and 1, a third each; the rows of a chunk in this order.
    Ternary(RowOrder),
}

/// Tokens of single bytes.
const BYTES: usize = 256;

/// Some merges, since a vocabulary without any is no BPE.
const MERGES: [(&str, &str); 4] = [("t", "h"), ("th", "e"), ("Ġ", "a"), ("i", "n")];

/// The bytes in the alphabet of byte-level BPE, the merges, names without meaning, BOS and EOS; with their types.
fn vocabulary(size: usize) -> (Vec<String>, Vec<i64>) {
    const NORMAL: i64 = 1;
    const CONTROL: i64 = 3;
    // GPT-2's alphabet: printable bytes stand for themselves, the others are moved up behind U+0100.
    let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut moved = 0x100..;
    let letters = (0..256).map(|b| if printable(b) { Some(b) } else { moved.next() });
    let mut tokens: Vec<String> = letters.flatten().filter_map(char::from_u32).map(String::from).collect();
    tokens.extend(MERGES.iter().map(|(a, b)| format!("{a}{b}")));
    tokens.extend((tokens.len()..size - 2).map(|id| format!("<{id}>")));
    tokens.extend(["<s>".into(), "</s>".into()]);
    let types = (0..size).map(|id| if id < size - 2 { NORMAL } else { CONTROL }).collect();
    (tokens, types)
}

/// Rows that one random stream fills; the unit of parallel work.
const CHUNK_ROWS: usize = Encoding::ROWS;

/// Writes a random model of this shape as a GGUF file; `progress` is told of bytes as they are written and may stop it.
///
/// # Errors
/// If the shape makes no sense or does not fit the encoding, the file exists and `overwrite` is not set, the disk fails, or
/// `progress` stops it.
pub fn write(
    path: &Path,
    shape: &Shape,
    encoding: Encoding,
    seed: u64,
    overwrite: bool,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<(), FormatError> {
    if let Some(problem) = shape.problem() {
        return Err(FormatError::header(path, "the shape", problem));
    }
    let tensors = shape.tensors(encoding);
    let plans: Vec<TensorPlan> = tensors.iter().map(|(plan, _)| plan.clone()).collect();
    let mut writer = GgufWriter::create(path, &shape.metadata(encoding), &plans, overwrite)?;
    for (index, (plan, filling)) in tensors.iter().enumerate() {
        let (rows, cols) = match plan.shape[..] {
            [rows, cols] => (rows, cols),
            _ => (1, plan.shape.iter().product()),
        };
        if matches!(filling, Filling::Ternary(_)) && !encoding.fits(rows, cols) {
            let reason = format!("a matrix of {rows} x {cols} cannot be stored as {}", encoding.dtype());
            return Err(FormatError::header(path, format_args!("tensor `{}`", plan.name), reason));
        }
        // Outputs of variance 1 for inputs of variance 1, in a number that f16 holds exactly.
        let scale = f16::from_f32((1.5 / cols as f32).sqrt()).to_f32();
        let chunk = |chunk: usize| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream((index as u64) << 32 | chunk as u64);
            let rows = CHUNK_ROWS.min(rows - chunk * CHUNK_ROWS);
            Ok(fill(*filling, rows, cols, scale, encoding, &mut rng))
        };
        writer.write_parts(rows.div_ceil(CHUNK_ROWS), chunk, progress)?;
        if matches!(filling, Filling::Ternary(_)) {
            let mut tail = Vec::new();
            encoding.finish(scale, &mut tail);
            writer.write(&tail)?;
        }
    }
    writer.finish()
}

/// The bytes of `rows` of `cols` numbers.
fn fill(filling: Filling, rows: usize, cols: usize, scale: f32, encoding: Encoding, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let count = rows * cols;
    match filling {
        Filling::Ones => (0..count).flat_map(|_| 1f32.to_le_bytes()).collect(),
        Filling::Normal => {
            // The sum of four uniform numbers, one of 1021, is near enough to a normal one.
            let value = |sum: u32| f16::from_f32((sum as f32 - 510.0) / 148.0 / 50.0).to_le_bytes();
            let values: Vec<[u8; 2]> = (0..=4 * 255).map(value).collect();
            let (mut random, mut bytes) = (vec![0; 4 * count], vec![0; 2 * count]);
            rng.fill_bytes(&mut random);
            for (out, random) in bytes.as_chunks_mut().0.iter_mut().zip(random.as_chunks::<4>().0) {
                *out = values[random.iter().map(|&byte| usize::from(byte)).sum::<usize>()];
            }
            bytes
        }
        Filling::Ternary(order) => {
            let mut random = vec![0; count.div_ceil(4)];
            rng.fill_bytes(&mut random);
            let fours: Vec<[i8; 4]> = random.iter().map(|&byte| FOUR_TRITS[usize::from(byte)]).collect();
            let mut weights = fours.into_flattened();
            weights.truncate(count);
            if order != RowOrder::Natural {
                let source = |row| order.source_row(row) * cols;
                weights = (0..rows).flat_map(|row| weights[source(row)..source(row) + cols].iter().copied()).collect();
            }
            let mut bytes = Vec::with_capacity(count / 2);
            encoding.encode(&weights, cols, scale, &mut bytes);
            bytes
        }
    }
}

/// A byte to four trits: 256 values for 81 combinations, so that some are a little likelier than others.
static FOUR_TRITS: [[i8; 4]; 256] = {
    let mut table = [[0; 4]; 256];
    let mut byte = 0;
    while byte < 256 {
        let combination = byte * 81 / 256;
        let mut digit = 0;
        let mut rest = combination;
        while digit < 4 {
            table[byte][digit] = (rest % 3) as i8 - 1;
            rest /= 3;
            digit += 1;
        }
        byte += 1;
    }
    table
};
