//! Text generation with mistral.rs, in this process: GGUF files, folders of safetensors, models of the Hugging Face hub.
//! The engine for a GPU (cargo features `cuda` and `metal`, with paged attention); on a processor it works, slower than
//! [`llama_cpp`](super::llama_cpp).
//!
//! What mistral.rs leaves open is kept here: prompts go to it as tokens of our own counting, so that no text of a user
//! is read as control; its channels have room for all that a sequence can say, as its engine waits for a full one, and
//! all other sequences with it; stop texts are held back here; the tokens are counted where they are sampled. It cannot
//! pause a sequence: one that is parked is generated to its end into its channel, and gives its slot back then.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use mistralrs::core::{
    AutoDeviceMapParams, DefaultSchedulerMethod, DeviceMapSetting, GGUFLoaderBuilder, GGUFSpecificConfig,
    MistralRsBuilder, SchedulerConfig, TokenSource,
};
use mistralrs::{
    Constraint, Device, Model, ModelDType, NormalRequest, Request, RequestMessage, Response, SamplingParams, Tensor,
    TextModelBuilder,
};
use parking_lot::Mutex;
use tokenizers::Tokenizer;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::chat::{ChatTemplate, Message, render};
use super::llama_cpp::Vocabulary;
use super::text::TextOut;
use super::{
    Demand, EngineLoad, FinishReason, Finished, Generator, ModelError, Prompt, Rejected, Segment, Sequence, Sink,
    Totals,
};

/// Whether it computes on the processor.
const ON_CPU: bool = !cfg!(any(feature = "cuda", feature = "metal"));
/// What a token of a prompt may take before its engine counts as hanging: a portable build computes 11 of them a second
/// on an old processor.
const PREFILL_ALLOWANCE: Duration = Duration::from_millis(500);
/// How often a sequence that says nothing is looked after.
const LOOK: Duration = Duration::from_millis(20);

/// What to load.
#[derive(Debug, Clone)]
pub struct MistralOptions {
    /// The GGUF file or the folder of safetensors.
    pub path: PathBuf,
    /// A model of the hub, instead.
    pub hub_id: String,
    /// The name it is known by.
    pub name: String,
    /// Sequences that run at once. On a processor one: mistral.rs batches none of different length there.
    pub slots: usize,
    /// Most tokens of one sequence, prompt and output together.
    pub context: usize,
}

/// A model in mistral.rs; see the module.
pub struct MistralRs {
    name: String,
    context: usize,
    slots: usize,
    tokens: Tokens,
    runtime: Mutex<Option<Runtime>>,
    shared: Arc<Shared>,
}

struct Shared {
    model: Model,
    made: Instant,
    slots: Semaphore,
    waiting: Mutex<VecDeque<Sequence>>,
    running: AtomicUsize,
    parked: AtomicUsize,
    dead: AtomicBool,
    stopped: AtomicBool,
    /// When something was computed last, in milliseconds since it was made; later than now while prompts are computed,
    /// of which it tells nothing.
    last_step: AtomicU64,
    next_id: AtomicUsize,
    prefill_tokens: AtomicU64,
    decode_tokens: AtomicU64,
}

/// The model's tokenizer, kept apart from mistral.rs.
enum Tokens {
    /// That of a GGUF file.
    Gguf(Vocabulary),
    /// A `tokenizer.json`: as it is, and one that takes the names of special tokens for text.
    Json { control: Box<Tokenizer>, text: Box<Tokenizer>, template: ChatTemplate },
}

impl MistralRs {
    /// Loads a model. Blocks while it loads.
    ///
    /// # Errors
    /// [`ModelError::Load`] with the file and what is wrong.
    pub fn load(options: &MistralOptions) -> Result<Arc<Self>, ModelError> {
        let shown = if options.hub_id.is_empty() { options.path.display().to_string() } else { options.hub_id.clone() };
        let failed = |reason: String| ModelError::Load(format!("mistral.rs cannot load the model {shown}: {reason}"));
        let slots = if ON_CPU { 1 } else { options.slots.max(1) };
        let gguf = options.hub_id.is_empty() && options.path.is_file();
        // Before mistral.rs sees the file: a damaged header can end the process.
        let vocabulary = if gguf { Some(Vocabulary::load(&options.path)?) } else { None };
        if options.hub_id.is_empty() && !gguf && !options.path.is_dir() {
            return Err(failed("there is neither a GGUF file nor a folder of safetensors".to_owned()));
        }
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).thread_name("mistralrs").enable_all().build();
        let runtime = runtime.map_err(|error| failed(error.to_string()))?;
        let load = async {
            match gguf {
                true => load_gguf(&options.path, slots).await,
                false if options.hub_id.is_empty() => {
                    load_safetensors(&options.path.display().to_string(), slots).await
                }
                false => load_safetensors(&options.hub_id, slots).await,
            }
        };
        let load = AssertUnwindSafe(load).catch_unwind();
        let model = match runtime.block_on(load) {
            Ok(Ok(model)) => model,
            Ok(Err(reason)) => return Err(failed(reason)),
            Err(_) => {
                return Err(failed(
                    "it panicked; the file may be damaged, or of an architecture it does not know".into(),
                ));
            }
        };
        let tokens = match vocabulary {
            Some(vocabulary) => Tokens::Gguf(vocabulary),
            None if options.hub_id.is_empty() => Tokens::json(&options.path).map_err(failed)?,
            None => Tokens::json(&hub_folder(&options.hub_id).map_err(failed)?).map_err(failed)?,
        };
        let most = model.config().ok().and_then(|config| config.max_seq_len).unwrap_or(usize::MAX);
        let shared = Shared {
            model,
            made: Instant::now(),
            slots: Semaphore::new(slots),
            waiting: Mutex::default(),
            running: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            dead: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            last_step: AtomicU64::new(0),
            next_id: AtomicUsize::new(1),
            prefill_tokens: AtomicU64::new(0),
            decode_tokens: AtomicU64::new(0),
        };
        Ok(Arc::new(Self {
            name: options.name.clone(),
            context: options.context.min(most),
            slots,
            tokens,
            runtime: Mutex::new(Some(runtime)),
            shared: Arc::new(shared),
        }))
    }
}

/// Loads a GGUF file, with the tokenizer in it.
async fn load_gguf(path: &Path, slots: usize) -> Result<Model, String> {
    let text = |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).map(str::to_owned);
    // A folder that does not exist would make it ask the hub.
    let folder = text(path.parent().map(Path::as_os_str)).ok_or("its folder's name is no text")?;
    let file = text(path.file_name()).ok_or("its name is no text")?;
    if !ON_CPU {
        let paged = mistralrs::PagedAttentionMetaBuilder::default().build().map_err(|error| error.to_string())?;
        let builder = mistralrs::GgufModelBuilder::new(folder, vec![file]);
        let builder = builder.with_token_source(TokenSource::None).with_max_num_seqs(slots).with_paged_attn(paged);
        return builder.build().await.map_err(|error| format!("{error:#}"));
    }
    let config = GGUFSpecificConfig { topology: None };
    let loader = GGUFLoaderBuilder::new(None, None, folder, vec![file], config, false, None).build();
    // Its attention in half precision is scalar on a processor.
    let mapping = DeviceMapSetting::Auto(AutoDeviceMapParams::default_text());
    let pipeline = loader
        .load_model_from_hf(None, TokenSource::None, &ModelDType::F32, &Device::Cpu, true, mapping, None, None)
        .map_err(|error| format!("{error:#}"))?;
    let slots = std::num::NonZeroUsize::new(slots).ok_or("no slots")?;
    let scheduler = SchedulerConfig::DefaultScheduler { method: DefaultSchedulerMethod::Fixed(slots) };
    // Its prefix cache is never emptied on a processor.
    let runner = MistralRsBuilder::new(pipeline, scheduler, false, None).with_no_prefix_cache(true).build().await;
    Ok(Model::new(runner))
}

/// Loads safetensors from a folder or the hub.
async fn load_safetensors(id: &str, slots: usize) -> Result<Model, String> {
    let builder = TextModelBuilder::new(id).with_max_num_seqs(slots);
    let builder = if ON_CPU {
        builder.with_force_cpu().with_dtype(ModelDType::F32).with_prefix_cache_n(None)
    } else {
        let paged = mistralrs::PagedAttentionMetaBuilder::default().build().map_err(|error| error.to_string())?;
        builder.with_paged_attn(paged)
    };
    let builder = if Path::new(id).is_dir() { builder.with_token_source(TokenSource::None) } else { builder };
    builder.build().await.map_err(|error| format!("{error:#}"))
}

/// The folder of the hub's cache that a model was loaded into.
fn hub_folder(id: &str) -> Result<PathBuf, String> {
    let cache = mistralrs::core::hf_hub_cache_dir().ok_or("the cache of the hub has no folder")?;
    let model = cache.join(format!("models--{}", id.replace('/', "--")));
    let revision = std::fs::read_to_string(model.join("refs/main"))
        .map_err(|error| format!("its tokenizer is not in {}: {error}", model.display()))?;
    Ok(model.join("snapshots").join(revision.trim()))
}

impl Tokens {
    fn json(folder: &Path) -> Result<Self, String> {
        let path = folder.join("tokenizer.json");
        let load = || Tokenizer::from_file(&path).map(Box::new).map_err(|error| format!("{}: {error}", path.display()));
        let (control, mut text) = (load()?, load()?);
        text.set_encode_special_tokens(true);
        // The template is in a file of its own or among the tokenizer's settings.
        let jinja = std::fs::read_to_string(folder.join("chat_template.jinja"));
        let settings = || std::fs::read_to_string(folder.join("tokenizer_config.json"));
        let jinja = jinja.or_else(|_| settings()).ok();
        Ok(Self::Json { control, text, template: ChatTemplate::detect(jinja.as_deref()) })
    }

    fn template(&self) -> ChatTemplate {
        match self {
            Self::Gguf(vocabulary) => vocabulary.template(),
            Self::Json { template, .. } => *template,
        }
    }

    fn encode(&self, segments: &[Segment]) -> Vec<i32> {
        let (control, text) = match self {
            Self::Gguf(vocabulary) => return vocabulary.tokenize(segments),
            Self::Json { control, text, .. } => (control, text),
        };
        let mut tokens = Vec::new();
        for segment in segments {
            let encoding = match segment {
                Segment::Control(segment) => control.encode_fast(segment.as_str(), false),
                Segment::Text(segment) => text.encode_fast(segment.as_str(), false),
            };
            if let Ok(encoding) = encoding {
                tokens.extend(encoding.get_ids().iter().filter_map(|id| i32::try_from(*id).ok()));
            }
        }
        tokens
    }
}

impl Generator for MistralRs {
    fn name(&self) -> &str {
        &self.name
    }

    fn context(&self) -> usize {
        self.context
    }

    fn prompt(&self, conversation: &[Message]) -> Prompt {
        Prompt::Tokens(self.tokens.encode(&render(self.tokens.template(), conversation)))
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.tokens.encode(&[Segment::Text(text.to_owned())]).len()
    }

    fn start(&self, sequence: Sequence) -> Result<(), Rejected> {
        if let Err(error) = sequence.fits(self.context) {
            return Err(sequence.rejected(error));
        }
        if !matches!(&sequence.prompt, Prompt::Tokens(tokens) if !tokens.is_empty()) {
            let reason = "a model in this process takes a prompt of at least one token".to_owned();
            return Err(sequence.rejected(ModelError::Engine(reason)));
        }
        let runtime = self.runtime.lock();
        let works = !self.shared.stopped.load(Ordering::Relaxed) && self.alive();
        let Some(runtime) = runtime.as_ref().filter(|_| works) else {
            return Err(sequence.rejected(ModelError::Stopped));
        };
        self.shared.waiting.lock().push_back(sequence);
        let shared = Arc::clone(&self.shared);
        runtime.spawn(async move { shared.next().await });
        Ok(())
    }

    fn load(&self) -> EngineLoad {
        let parked = self.shared.parked.load(Ordering::Relaxed);
        EngineLoad {
            running: self.shared.running.load(Ordering::Relaxed),
            parked,
            waiting: self.shared.waiting.lock().len(),
            slots: self.slots,
            ..EngineLoad::default()
        }
    }

    fn totals(&self) -> Totals {
        Totals {
            prefill_tokens: self.shared.prefill_tokens.load(Ordering::Relaxed),
            decode_tokens: self.shared.decode_tokens.load(Ordering::Relaxed),
            ..Totals::default()
        }
    }

    fn alive(&self) -> bool {
        !self.shared.dead.load(Ordering::Relaxed)
    }

    fn step_time(&self) -> Duration {
        if self.shared.running.load(Ordering::Relaxed) == 0 {
            return Duration::ZERO;
        }
        let last = Duration::from_millis(self.shared.last_step.load(Ordering::Relaxed));
        self.shared.made.elapsed().saturating_sub(last)
    }

    fn take_waiting(&self) -> Vec<Sequence> {
        self.shared.waiting.lock().drain(..).collect()
    }

    fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        for mut sequence in self.take_waiting() {
            sequence.sink.finish(Err(ModelError::Stopped));
        }
        // Those that run hear it within a step.
        let until = Instant::now() + Duration::from_secs(10);
        while self.shared.running.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
        self.abandon();
    }

    fn abandon(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for MistralRs {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl Shared {
    /// Runs the sequence that waits longest, once a slot is free.
    async fn next(self: Arc<Self>) {
        let Ok(permit) = self.slots.acquire().await else { return };
        // One may have been taken away meanwhile.
        let Some(Sequence { prompt, sampling, max_tokens, stop, mut sink, .. }) = self.waiting.lock().pop_front()
        else {
            return;
        };
        let prompt = match prompt {
            Prompt::Tokens(tokens) => tokens,
            Prompt::Messages { .. } => Vec::new(),
        };
        if sink.demand() == Demand::Stop || max_tokens == 0 {
            let reason = if max_tokens == 0 { FinishReason::Length } else { FinishReason::Cancelled };
            return sink.finish(Ok(Finished::unbegun(reason)));
        }
        self.step(PREFILL_ALLOWANCE.saturating_mul(u32::try_from(prompt.len()).unwrap_or(u32::MAX)));
        self.running.fetch_add(1, Ordering::Relaxed);
        sink.started();
        let sampling = SamplingParams {
            temperature: Some(f64::from(sampling.temperature)).filter(|temperature| *temperature > 0.0),
            // Without a temperature it would draw as with 1.0.
            top_k: (sampling.temperature <= 0.0).then_some(1),
            top_p: Some(f64::from(sampling.top_p)).filter(|_| sampling.temperature > 0.0),
            repetition_penalty: Some(sampling.repeat_penalty).filter(|penalty| *penalty != 1.0),
            presence_penalty: Some(sampling.presence_penalty).filter(|penalty| *penalty != 0.0),
            frequency_penalty: Some(sampling.frequency_penalty).filter(|penalty| *penalty != 0.0),
            max_len: Some(max_tokens),
            logits_bias: None::<HashMap<u32, f32>>,
            ..SamplingParams::neutral()
        };
        let work = self.generate(prompt, sampling, max_tokens, TextOut::new(stop), permit, &mut *sink);
        let result = AssertUnwindSafe(work).catch_unwind().await;
        sink.finish(result.unwrap_or_else(|_| Err(ModelError::Engine("its sequence panicked".to_owned()))));
    }

    /// Something is computed, and the next thing may take so long beyond what a step may take.
    fn step(&self, allowance: Duration) {
        let until = u64::try_from((self.made.elapsed() + allowance).as_millis()).unwrap_or(u64::MAX);
        match allowance.is_zero() {
            true => self.last_step.store(until, Ordering::Relaxed),
            false => drop(self.last_step.fetch_max(until, Ordering::Relaxed)),
        }
    }

    async fn generate(
        self: &Arc<Self>,
        prompt: Vec<i32>,
        sampling: SamplingParams,
        max_tokens: usize,
        mut out: TextOut,
        permit: tokio::sync::SemaphorePermit<'_>,
        sink: &mut dyn Sink,
    ) -> Result<Finished, ModelError> {
        let prompt_tokens = prompt.len();
        let mut slot = Some(Slot { shared: Arc::clone(self), _permit: permit });
        // Called once for each token that is chosen.
        let generated = Arc::new(AtomicUsize::new(0));
        let count = {
            let (generated, shared) = (Arc::clone(&generated), Arc::clone(self));
            move |logits: &Tensor, _: &[u32]| {
                if generated.fetch_add(1, Ordering::Relaxed) == 0 {
                    shared.prefill_tokens.fetch_add(prompt_tokens as u64, Ordering::Relaxed);
                }
                shared.decode_tokens.fetch_add(1, Ordering::Relaxed);
                shared.step(Duration::ZERO);
                Ok(logits.clone())
            }
        };
        let dead = |reason: String| {
            self.dead.store(true, Ordering::Relaxed);
            ModelError::Engine(reason)
        };
        let (sender, mut receiver) = tokio::sync::mpsc::channel(max_tokens + 8);
        let prompt = prompt.into_iter().filter_map(|token| u32::try_from(token).ok()).collect();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let request = NormalRequest {
            is_streaming: true,
            constraint: Constraint::None,
            logits_processors: Some(vec![Arc::new(count)]),
            ..NormalRequest::new_simple(RequestMessage::CompletionTokens(prompt), sampling, sender, id, None, None)
        };
        let engine = self.model.inner().get_sender(None).map_err(|error| dead(error.to_string()))?;
        let sent = engine.send(Request::Normal(Box::new(request))).await;
        sent.map_err(|_| dead("mistral.rs has ended".to_owned()))?;

        // What it said and its readers have not taken.
        let mut ahead = VecDeque::new();
        let mut reason = None;
        let mut parked = Parked { shared: self, is: false };
        loop {
            match sink.demand() {
                Demand::Stop => {
                    return Ok(finished(FinishReason::Cancelled, prompt_tokens, generated.load(Ordering::Relaxed)));
                }
                _ if self.stopped.load(Ordering::Relaxed) => return Err(ModelError::Stopped),
                Demand::Park => parked.set(slot.is_none()),
                Demand::Run => {
                    parked.set(false);
                    if let Some(text) = ahead.pop_front() {
                        let text: String = text;
                        let (text, stopped) = out.push(text.as_bytes());
                        if !text.is_empty() {
                            sink.text(&text);
                        }
                        if stopped {
                            reason = Some(FinishReason::Stop);
                            break;
                        }
                        continue;
                    }
                    if reason.is_some() {
                        break;
                    }
                }
            }
            if reason.is_some() {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            match tokio::time::timeout(LOOK, receiver.recv()).await {
                Err(_) => {}
                Ok(Some(Response::CompletionChunk(chunk))) => {
                    for choice in chunk.choices {
                        ahead.push_back(choice.text);
                        reason = choice.finish_reason.as_deref().map(|reason| match reason {
                            "length" => FinishReason::Length,
                            _ => FinishReason::Stop,
                        });
                    }
                    if reason.is_some() {
                        slot = None;
                    }
                }
                Ok(Some(Response::CompletionDone(_))) => reason = reason.or(Some(FinishReason::Stop)),
                Ok(Some(Response::InternalError(error) | Response::ValidationError(error))) => {
                    return Err(ModelError::Engine(format!("mistral.rs: {error}")));
                }
                Ok(Some(Response::CompletionModelError(error, _) | Response::ModelError(error, _))) => {
                    return Err(ModelError::Engine(format!("mistral.rs: {error}")));
                }
                Ok(Some(_)) => {}
                // The last chunk can be missing, but not the first.
                Ok(None) if generated.load(Ordering::Relaxed) == 0 => {
                    return Err(dead("mistral.rs ended the sequence before its first token".to_owned()));
                }
                Ok(None) => {
                    let full = generated.load(Ordering::Relaxed) >= max_tokens;
                    reason = Some(if full { FinishReason::Length } else { FinishReason::Stop });
                    slot = None;
                }
            }
        }
        let rest = out.finish();
        if !rest.is_empty() {
            sink.text(&rest);
        }
        let tokens = generated.load(Ordering::Relaxed).min(max_tokens);
        Ok(finished(reason.unwrap_or(FinishReason::Stop), prompt_tokens, tokens))
    }
}

/// A place in mistral.rs; dropped when the sequence is generated.
struct Slot<'p> {
    shared: Arc<Shared>,
    _permit: tokio::sync::SemaphorePermit<'p>,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.shared.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a sequence is counted as parked.
struct Parked<'s> {
    shared: &'s Shared,
    is: bool,
}

impl Parked<'_> {
    fn set(&mut self, parked: bool) {
        match (std::mem::replace(&mut self.is, parked), parked) {
            (false, true) => self.shared.parked.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.shared.parked.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}

fn finished(reason: FinishReason, prompt_tokens: usize, completion_tokens: usize) -> Finished {
    Finished { reason, prompt_tokens, cached_prompt_tokens: 0, completion_tokens, estimated: false }
}
