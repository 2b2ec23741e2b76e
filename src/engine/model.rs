//! The public face of the library: open a model, hold sessions with it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sterna_cpu::kv::{KvType, PAGE_LEN};
use sterna_cpu::{Isa, Kernels, Layout, Tuning};

use super::{Engine, Error, GenerateOptions, Generation, Sampler, Sampling, SequenceId, Work, devices};
#[cfg(feature = "gpu")]
use crate::backend::gpu::GpuOptions;
use crate::backend::{Device, HeadKind, KvOptions, LogitsFor, Progress, free_memory};
use crate::format::{self, Checkpoint, Description, I2sLayout, KernelConfig, Metadata};
use crate::graph::planner::Workload;
use crate::graph::{Graph, Output};
use crate::model::{ActivationKind, ModelConfig, build_graph};
use crate::source;
use crate::tokenizer::{DecodeStream, Message, Tokenizer};

/// How a model is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Threads; `None` for one per core.
    pub threads: Option<usize>,
    /// Keeps each thread on a core of its own.
    pub pin: bool,
    /// Whether weights that a file has as the kernels read them stay there (`true`), or are copied to memory, whose pages are
    /// read faster; `None`: they are copied if they take at most half of the free memory.
    pub mmap: Option<bool>,
    /// What the inputs of ternary matrices are rounded to; `None` for what the model was trained with, as far as the file tells.
    pub activations: Option<ActivationKind>,
    /// The order of weights in I2_S tensors of a GGUF file.
    pub i2s_layout: I2sLayout,
    /// How the matrices of TL1 and TL2 tensors of a GGUF file are cut.
    pub kernel_config: KernelConfig,
    /// Instruction set; `None` for `STERNA_ISA` or the best one.
    pub isa: Option<Isa>,
    /// Layout of the packed weights; `None` for that of the file, so that nothing is packed, or the preferred one.
    pub layout: Option<Layout>,
    /// Layout of weights that have to be packed; `None` for the best one for the instruction set.
    pub preferred_layout: Option<Layout>,
    /// What suits this machine; see [`crate::tune`].
    pub tuning: Tuning,
    /// Positions of one sequence; `None` for what the model was trained for, at most 8192.
    pub context: Option<usize>,
    /// Sequences that fit into the key-value cache at full length.
    pub sequences: usize,
    /// Positions that the key-value cache has for all sequences together; `None` for what [`OpenOptions::sequences`] says.
    pub cache_positions: Option<usize>,
    /// Most bytes of the key-value cache, if [`OpenOptions::cache_positions`] says nothing; one sequence fits always.
    pub cache_bytes: Option<u64>,
    /// Number type of the key-value cache.
    pub kv: KvType,
    /// How the best logits are found.
    pub head: HeadKind,
    /// Tokens of one pass through the layers.
    pub chunk: usize,
    /// The device that all layers run on.
    pub device: Device,
    /// Which backend serves which layer, instead of one device for all: as [`crate::graph::Placement::parse`] reads it, or
    /// shares by memory such as `gpu=0:6G,gpu=1:4G`, or `auto`.
    pub placement: Option<String>,
    /// The same for prompts only. What they leave in the key-value cache is handed over to where generated tokens are
    /// computed.
    pub placement_prefill: Option<String>,
    /// The same for generated tokens only.
    pub placement_decode: Option<String>,
    /// So many layers on the GPU of [`OpenOptions::device`], from the last block on; see
    /// [`crate::graph::Placement::last_layers`]. Placements go before it.
    pub gpu_layers: Option<usize>,
    /// What the fastest placement is found for.
    pub workload: Workload,
    /// Where measured times of blocks are kept (see [`crate::plan`]); `None` for nowhere.
    pub tuning_file: Option<PathBuf>,
    /// How a GPU is used; [`OpenOptions::device`] may say which.
    #[cfg(feature = "gpu")]
    pub gpu: GpuOptions,
    /// Blocks (or, as `None`, the embedding) behind which the hidden state can be seen.
    pub taps: Vec<Option<usize>>,
    /// Whether texts are embedded: [`OpenOptions::for_embedding`].
    pub embedding: bool,
    /// The same, if the model was trained for it.
    pub embedding_if_trained: bool,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            threads: None,
            pin: false,
            mmap: None,
            activations: None,
            i2s_layout: I2sLayout::default(),
            kernel_config: KernelConfig::default(),
            isa: None,
            layout: None,
            preferred_layout: None,
            tuning: Tuning::default(),
            context: None,
            sequences: 1,
            cache_positions: None,
            cache_bytes: None,
            kv: KvType::F16,
            head: HeadKind::default(),
            chunk: 512,
            device: Device::Cpu,
            placement: None,
            placement_prefill: None,
            placement_decode: None,
            gpu_layers: None,
            workload: Workload::default(),
            tuning_file: None,
            #[cfg(feature = "gpu")]
            gpu: GpuOptions::default(),
            taps: Vec::new(),
            embedding: false,
            embedding_if_trained: false,
        }
    }
}

/// The context is not set longer than this unless it is asked for: its cache takes memory.
const DEFAULT_CONTEXT: usize = 8192;

impl OpenOptions {
    /// How files are read.
    pub(super) fn files(&self) -> format::OpenOptions {
        format::OpenOptions {
            i2s_layout: self.i2s_layout,
            kernel_config: self.kernel_config.clone(),
            copy_up_to: match self.mmap {
                Some(true) => 0,
                Some(false) => u64::MAX,
                None => free_memory().unwrap_or(0) / 2,
            },
        }
    }

    /// These options for [`Model::embed`]: the hidden state behind the last block is shown, and nothing is made of the head.
    pub fn for_embedding(mut self) -> OpenOptions {
        self.embedding = true;
        self.head = HeadKind::Exact;
        self
    }

    /// These options with a tap behind the last of so many blocks, if that is what is embedded.
    fn with_taps(&self, blocks: usize) -> OpenOptions {
        let mut options = self.clone();
        options.taps.extend(self.embedding.then(|| blocks.checked_sub(1)));
        options
    }

    /// Positions of a sequence of a model, and the cache for all sequences.
    pub(super) fn cache_of(&self, config: &ModelConfig) -> (usize, KvOptions) {
        let context = self.context.unwrap_or(config.max_position_embeddings.min(DEFAULT_CONTEXT)).max(1);
        let of_one = context.div_ceil(PAGE_LEN);
        let page_bytes = (config.kv_bytes_per_position(self.kv) * PAGE_LEN).max(1) as u64;
        let fitting = self.cache_bytes.map_or(usize::MAX, |bytes| (bytes / page_bytes) as usize);
        let pages = match self.cache_positions {
            Some(positions) => positions.div_ceil(PAGE_LEN),
            None => (of_one * self.sequences.max(1)).min(fitting),
        };
        // One sequence fits always.
        let pages = pages.max(of_one);
        (context, KvOptions { kind: self.kv, pages })
    }
}

/// A model, ready to run. Clones share weights and cache.
#[derive(Clone, Debug)]
pub struct Model {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    graph: Graph,
    tokenizer: Option<Arc<Tokenizer>>,
    engine: Mutex<Engine>,
    context: usize,
    backend: String,
    kernels: Kernels,
    placement: String,
    /// The norm in front of the head, if texts are embedded.
    final_norm: Option<Vec<f32>>,
    sampling: Sampling,
    end_tokens: Vec<u32>,
}

impl Model {
    /// Opens a GGUF file, a Hugging Face folder, or whatever else [`source::open`] knows by name: `demo` is the embedded model.
    ///
    /// # Errors
    /// If the checkpoint cannot be read or is no model that this version runs, or a device fails.
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Model, Error> {
        Model::open_with_progress(path, options, |_| ())
    }

    /// As [`Model::open`]; `progress` is given the bytes that will be packed and returns what is told of each part.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_with_progress<P: Progress>(
        path: impl AsRef<Path>,
        options: &OpenOptions,
        progress: impl FnOnce(u64) -> P,
    ) -> Result<Model, Error> {
        let checkpoint = Arc::new(source::open_with(path.as_ref(), options.files())?);
        let mut graph = build_graph(Arc::clone(&checkpoint))?;
        match (options.activations, graph.config().activations) {
            // Of models with scales of groups, int8 has them too.
            (Some(ActivationKind::Int8), ActivationKind::Float) => graph.set_activations(ActivationKind::GroupedInt8),
            (Some(activations), _) => graph.set_activations(activations),
            (None, _) => {}
        }
        let config = graph.config();
        let (context, kv) = options.cache_of(config);
        let mut options = options.clone();
        if options.embedding_if_trained && graph.is_trained_to_embed() {
            options = options.for_embedding();
        }
        let options = &options.with_taps(graph.blocks().len());
        let packed = (0..graph.blocks().len()).map(|block| graph.block_bytes(block)).sum();
        // A large vocabulary takes longer than to map the weights.
        let (tokenizer, opened) = std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| load_tokenizer(&checkpoint));
            let opened = devices::open(&graph, options, kv, &progress(packed));
            (tokenizer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), opened)
        });
        let (tokenizer, opened) = (tokenizer?.map(Arc::new), opened?);
        let final_norm = options.embedding.then(|| graph.final_norm()).transpose()?;
        let mut engine = Engine::new(opened.executor, config.vocab_size, kv.pages, context, options.chunk);
        engine.set_fallback(opened.fallback);
        Ok(Model {
            shared: Arc::new(Shared {
                sampling: default_sampling(&checkpoint)?,
                end_tokens: tokenizer.as_ref().map_or_else(Vec::new, |t| t.eos().to_vec()),
                tokenizer,
                engine: Mutex::new(engine),
                context,
                backend: opened.description,
                kernels: opened.kernels,
                placement: opened.placement,
                final_norm,
                graph,
            }),
        })
    }

    /// A new, empty session. Sessions of one model take turns on the device and share the key-value cache.
    pub fn session(&self) -> Session {
        let sequence = self.engine().create();
        Session { model: self.clone(), sequence }
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &ModelConfig {
        self.shared.graph.config()
    }

    /// The layers and the checkpoint behind them.
    pub fn graph(&self) -> &Graph {
        &self.shared.graph
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// If the checkpoint has none.
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>, Error> {
        self.shared.tokenizer.as_ref().ok_or_else(|| no_tokenizer(self.shared.graph.checkpoint()))
    }

    /// The norm in front of the head, `[hidden]`.
    ///
    /// # Errors
    /// If the model was not opened to embed texts.
    pub(super) fn final_norm(&self) -> Result<&[f32], Error> {
        self.shared.final_norm.as_deref().ok_or(Error::BadOption {
            option: "OpenOptions::embedding",
            found: "false".into(),
            expected: "true: open the model with OpenOptions::for_embedding",
        })
    }

    /// Whether the model was opened to embed texts.
    pub fn embeds(&self) -> bool {
        self.shared.final_norm.is_some()
    }

    /// What computes, for people.
    pub fn backend(&self) -> &str {
        &self.shared.backend
    }

    /// The matrix kernels of the CPU.
    pub fn kernels(&self) -> &Kernels {
        &self.shared.kernels
    }

    /// Which backend serves which layer.
    pub fn placement(&self) -> &str {
        &self.shared.placement
    }

    /// Positions that a session may hold.
    pub fn context(&self) -> usize {
        self.shared.context
    }

    /// The sampling that the checkpoint recommends (generation_config.json); without a recommendation, temperature
    /// 0.7, top-k 40, top-p 0.95.
    pub fn default_sampling(&self) -> &Sampling {
        &self.shared.sampling
    }

    /// A sampler for answers of this model.
    ///
    /// # Errors
    /// If an option makes no sense.
    pub fn sampler(&self, options: &Sampling) -> Result<Sampler, Error> {
        let vocab_size = self.config().vocab_size;
        match options.logit_bias.iter().find(|(id, _)| *id as usize >= vocab_size) {
            Some(&(id, _)) => Err(Error::TokenOutOfRange { id, vocab_size }),
            None => Sampler::new(options.clone()),
        }
    }

    /// What turns tokens of an answer into text: nothing, if the model has no tokenizer.
    pub(super) fn decode_stream(&self) -> DecodeStream {
        match &self.shared.tokenizer {
            Some(tokenizer) => DecodeStream::new(Arc::clone(tokenizer)),
            None => DecodeStream::without_text(),
        }
    }

    /// Whether token `id` ends an answer.
    pub fn is_end(&self, id: u32) -> bool {
        self.shared.end_tokens.contains(&id)
    }

    /// Sequences, cache and stages, locked for this caller.
    pub fn engine(&self) -> MutexGuard<'_, Engine> {
        // A panic in another session leaves at worst a sequence whose last tokens are not counted: nothing is torn.
        self.shared.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One conversation or text with a model: a sequence of tokens whose keys and values are cached.
#[derive(Debug)]
pub struct Session {
    model: Model,
    sequence: SequenceId,
}

impl Session {
    /// The sequence of the engine.
    pub(super) fn id(&self) -> SequenceId {
        self.sequence
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Tokens whose keys and values are cached.
    pub fn len(&self) -> usize {
        self.model.engine().tokens(self.sequence).len()
    }

    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Continues `prompt`. Text that the session already holds is not computed again.
    ///
    /// # Errors
    /// If the model has no tokenizer, an option makes no sense, or the prompt does not fit.
    pub fn generate(&mut self, prompt: &str, options: GenerateOptions) -> Result<Generation<'_>, Error> {
        let tokens = self.model.tokenizer()?.encode(prompt, true)?;
        self.generate_tokens(tokens, options)
    }

    /// Answers the last of `messages` in the words of the model's chat template.
    ///
    /// # Errors
    /// As [`Session::generate`], or if the model has no chat template.
    pub fn chat(&mut self, messages: &[Message], options: GenerateOptions) -> Result<Generation<'_>, Error> {
        let tokens = self.model.tokenizer()?.encode_chat(messages, true)?;
        self.generate_tokens(tokens, options)
    }

    /// Continues a sequence of tokens. The longest prefix that the session already holds is not computed again.
    ///
    /// # Errors
    /// As [`Session::generate`].
    pub fn generate_tokens(&mut self, tokens: Vec<u32>, options: GenerateOptions) -> Result<Generation<'_>, Error> {
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        let context = self.model.context();
        if tokens.len() > context {
            return Err(Error::ContextFull { needed: tokens.len(), context });
        }
        let cached = {
            let mut engine = self.model.engine();
            let common = engine.tokens(self.sequence).iter().zip(&tokens).take_while(|(a, b)| a == b).count();
            // The last token is always computed: its logits are what comes next.
            let cached = common.min(tokens.len() - 1);
            engine.truncate(self.sequence, cached);
            cached
        };
        let stream = self.model.decode_stream();
        Generation::new(self, tokens, cached, options, stream)
    }

    /// Appends `tokens`; calls `sink` with each token's index and its logits, `[vocab]`.
    ///
    /// # Errors
    /// If the tokens do not fit or are not in the vocabulary, or a device fails.
    pub fn logits(&mut self, tokens: &[u32], mut sink: impl FnMut(usize, &[f32])) -> Result<(), Error> {
        let work = [Work { sequence: self.sequence, tokens, logits: LogitsFor::All }];
        self.model.engine().forward(
            &work,
            &mut |_, token, output| output.all().map(|row| sink(token, row)).map_err(Error::from),
            None,
        )
    }

    /// As [`Session::logits`]; `trace` is also given the hidden state, `[tokens, hidden]`, behind each of
    /// [`OpenOptions::taps`] (layer 0 is the embedding, block `i` is layer `i + 1`), pass by pass.
    ///
    /// # Errors
    /// As [`Session::logits`].
    pub fn trace(
        &mut self,
        tokens: &[u32],
        mut sink: impl FnMut(usize, &[f32]),
        mut trace: impl FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        let work = [Work { sequence: self.sequence, tokens, logits: LogitsFor::All }];
        let mut sink = |_: usize, token: usize, output: &mut Output<'_>| {
            output.all().map(|row| sink(token, row)).map_err(Error::from)
        };
        self.model.engine().forward(&work, &mut sink, Some(&mut trace))
    }

    /// Appends `tokens` and gives what the head says about the last to `f`: again, if a device fails meanwhile and another
    /// takes over.
    pub(super) fn forward_last<T>(
        &mut self,
        tokens: &[u32],
        logits: LogitsFor<'_>,
        mut f: impl FnMut(&mut Output<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let work = [Work { sequence: self.sequence, tokens, logits }];
        let mut result = Err(Error::EmptyPrompt);
        self.model.engine().forward(
            &work,
            &mut |_, _, output| match f(output) {
                // Another device may take over, and this is called again.
                Err(error @ Error::Executor(_)) => Err(error),
                other => {
                    result = other;
                    Ok(())
                }
            },
            None,
        )?;
        result
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.model.engine().truncate(self.sequence, 0);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.model.engine().release(self.sequence);
    }
}

/// The tokenizer of a checkpoint.
///
/// # Errors
/// If it has none, or one that cannot be read.
pub fn tokenizer_of(checkpoint: &Checkpoint) -> Result<Tokenizer, Error> {
    load_tokenizer(checkpoint)?.ok_or_else(|| no_tokenizer(checkpoint))
}

fn no_tokenizer(checkpoint: &Checkpoint) -> Error {
    Error::NoTokenizer {
        file: checkpoint.path().display().to_string(),
        looked_for: match checkpoint.description() {
            Description::Gguf { .. } => "the metadata key tokenizer.ggml.model",
            Description::HuggingFace { .. } => "tokenizer.json",
        },
    }
}

/// The tokenizer of a checkpoint, if it has one.
pub(crate) fn load_tokenizer(checkpoint: &Checkpoint) -> Result<Option<Tokenizer>, Error> {
    match checkpoint.description() {
        Description::Gguf { metadata, .. } if Tokenizer::is_in_gguf(metadata) => {
            Ok(Some(Tokenizer::from_gguf(metadata)?))
        }
        Description::Gguf { .. } => Ok(None),
        Description::HuggingFace { .. } => {
            let Some(json) = checkpoint.file("tokenizer.json")? else { return Ok(None) };
            let file = |name| checkpoint.file(name);
            Ok(Some(Tokenizer::from_hf(
                &json,
                file("tokenizer_config.json")?.as_deref(),
                file("generation_config.json")?.as_deref(),
                file("config.json")?.as_deref(),
                file("chat_template.jinja")?.as_deref(),
            )?))
        }
    }
}

/// The keys of a GGUF file that recommend a sampling; what they leave open is as in `fallback`.
fn sampling_in(metadata: &Metadata, fallback: Sampling) -> Result<Sampling, Error> {
    let number = |name: &str| metadata.f64(&format!("general.sampling.{name}")).map(|number| number as f32);
    let sampling = Sampling {
        temperature: number("temp").unwrap_or(fallback.temperature),
        top_k: number("top_k").map_or(fallback.top_k, |k| k as usize),
        top_p: number("top_p").unwrap_or(fallback.top_p),
        min_p: number("min_p").unwrap_or(fallback.min_p),
        repeat_penalty: number("penalty_repeat").unwrap_or(fallback.repeat_penalty),
        ..fallback
    };
    sampling.validate()?;
    Ok(sampling)
}

/// What the checkpoint recommends: generation_config.json, or keys of a GGUF file. Hugging Face's default is greedy.
pub(crate) fn default_sampling(checkpoint: &Checkpoint) -> Result<Sampling, Error> {
    let fallback = Sampling { temperature: 0.7, top_k: 40, top_p: 0.95, ..Sampling::default() };
    if let Description::Gguf { metadata, .. } = checkpoint.description() {
        return sampling_in(metadata, fallback);
    }
    let Some(file) = checkpoint.file("generation_config.json")? else { return Ok(fallback) };
    let config: serde_json::Value = serde_json::from_slice(&file).map_err(|e| Error::BadOption {
        option: "generation_config.json",
        found: e.to_string(),
        expected: "a JSON object",
    })?;
    if config["do_sample"] != true {
        return Ok(Sampling::default());
    }
    let number = |name: &str, default: f64| config[name].as_f64().unwrap_or(default) as f32;
    let sampling = Sampling {
        temperature: number("temperature", 1.0),
        top_k: config["top_k"].as_u64().unwrap_or(50) as usize,
        top_p: number("top_p", 1.0),
        min_p: number("min_p", 0.0),
        repeat_penalty: number("repetition_penalty", 1.0),
        ..Sampling::default()
    };
    sampling.validate()?;
    Ok(sampling)
}
