//! Text generation with llama.cpp: any GGUF model of a causal language model, in this process.
//!
//! [`LlamaCpp`] is the [`Generator`]. Behind it one thread owns the key-value cache and batches sequences
//! continuously (`engine`); what the wrapper crate is asked for is all in `model`; `gguf` looks at a file before
//! llama.cpp does; `sampler` turns logits into tokens. Nothing here knows of actors or
//! of HTTP, and the engine never waits for a reader: a [`Sink`](super::Sink) must not block.

mod engine;
mod gguf;
mod model;
mod sampler;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use self::model::Model;
use super::chat::{ChatTemplate, Message, render};
use super::{EngineLoad, Generator, ModelError, Prompt, Rejected, Segment, Sequence, Totals};

/// What to load, and how to run it.
#[derive(Debug, Clone)]
pub struct LlamaOptions {
    /// The GGUF file.
    pub path: PathBuf,
    /// The name it is known by.
    pub name: String,
    /// Sequences that run at once; each has a place in the key-value cache.
    pub slots: usize,
    /// Most tokens of one sequence, prompt and output together. What the model was trained on is the upper limit.
    pub context_per_slot: usize,
    /// Most tokens computed in one step.
    pub batch_tokens: usize,
    /// Use llama.cpp's fused attention.
    pub flash_attention: bool,
    /// Threads that compute.
    pub threads: usize,
}

impl LlamaOptions {
    /// The usual measure: 8 slots of 2,048 tokens, 512 tokens a step, one thread a core.
    pub fn new(path: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            name: name.into(),
            slots: 8,
            context_per_slot: 2048,
            batch_tokens: 512,
            flash_attention: false,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// A loaded model with its engine; see the module. Dropping it ends the engine: sequences that run or wait hear
/// [`ModelError::Stopped`], and the drop returns when the step at hand is done.
pub struct LlamaCpp {
    options: LlamaOptions,
    context: usize,
    template: ChatTemplate,
    model: Arc<Model>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the engine's thread shares with those who use it.
struct Shared {
    made: Instant,
    queue: Mutex<Queue>,
    /// Signalled when the queue has become non-empty, or is to stop.
    filled: Condvar,
    running: AtomicUsize,
    parked: AtomicUsize,
    /// When the step at hand began, in milliseconds since the engine was made, and one more; 0 between steps.
    step_began: AtomicU64,
    context_used: AtomicUsize,
    prefill_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    decode_tokens: AtomicU64,
    steps: AtomicU64,
    busy_nanos: AtomicU64,
}

impl Shared {
    fn new() -> Self {
        Self {
            made: Instant::now(),
            queue: Mutex::default(),
            filled: Condvar::new(),
            running: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            step_began: AtomicU64::new(0),
            context_used: AtomicUsize::new(0),
            prefill_tokens: AtomicU64::new(0),
            cached_tokens: AtomicU64::new(0),
            decode_tokens: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            busy_nanos: AtomicU64::new(0),
        }
    }
}

/// The sequences that have not begun. It outlives a panic of the engine's thread, so that they can be handed over.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Sequence>,
    /// The engine is to end.
    stop: bool,
    /// The engine's thread has ended. Changed under the queue's lock: a sequence is either handed over or refused.
    dead: bool,
}

impl LlamaCpp {
    /// Loads a model and starts its engine. Blocks while it loads.
    ///
    /// # Errors
    /// [`ModelError::Load`] where the file is missing, cut short, of another kind or damaged, or where its engine
    /// cannot be made; the text names the file, what was found, and what to do.
    pub fn load(options: LlamaOptions) -> Result<Arc<Self>, ModelError> {
        let shared = Arc::new(Shared::new());
        let (thread, loaded) = engine::spawn(options.clone(), Arc::clone(&shared))?;
        let engine::Loaded { model, context } = loaded;
        let template = ChatTemplate::detect(model.chat_template().as_deref());
        Ok(Arc::new(Self { options, context, template, model, shared, thread: Mutex::new(Some(thread)) }))
    }

    /// Tokens of a prompt; see [`Segment`] for what special tokens count.
    pub fn tokenize(&self, prompt: &[Segment]) -> Vec<i32> {
        self.model.encode(prompt)
    }

    /// How the model reads conversations.
    pub fn template(&self) -> ChatTemplate {
        self.template
    }

    /// Whether a sequence can be run at all.
    fn check(&self, sequence: &Sequence) -> Result<(), ModelError> {
        sequence.fits(self.context)?;
        let wrong = |reason: String| Err(ModelError::Engine(reason));
        let Prompt::Tokens(tokens) = &sequence.prompt else {
            return wrong("a model in this process takes tokens, and a conversation was given".to_owned());
        };
        if tokens.is_empty() {
            return wrong("a prompt needs at least one token, and this one has none".to_owned());
        }
        match tokens.iter().find(|token| !self.model.has_token(**token)) {
            Some(token) => wrong(format!("the prompt has the token {token}, which this model has not")),
            None => Ok(()),
        }
    }
}

/// The vocabulary and the chat template of a GGUF file, without its weights: for another engine that reads the file.
pub struct Vocabulary {
    model: Model,
    template: ChatTemplate,
}

impl Vocabulary {
    /// Loads them.
    ///
    /// # Errors
    /// [`ModelError::Load`] as [`LlamaCpp::load`].
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let architecture = gguf::check(path).map_err(ModelError::Load)?;
        let model = Model::load(path, &architecture, true)?;
        Ok(Self { template: ChatTemplate::detect(model.chat_template().as_deref()), model })
    }

    /// Tokens of a prompt; see [`Segment`] for what special tokens count.
    pub fn tokenize(&self, prompt: &[Segment]) -> Vec<i32> {
        self.model.encode(prompt)
    }

    /// How the model reads conversations.
    pub fn template(&self) -> ChatTemplate {
        self.template
    }
}

impl Drop for LlamaCpp {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Generator for LlamaCpp {
    fn name(&self) -> &str {
        &self.options.name
    }

    fn context(&self) -> usize {
        self.context
    }

    fn prompt(&self, conversation: &[Message]) -> Prompt {
        Prompt::Tokens(self.tokenize(&render(self.template, conversation)))
    }

    fn count_tokens(&self, text: &str) -> usize {
        let mut tokens = Vec::new();
        self.model.tokenize(text, false, &mut tokens);
        tokens.len()
    }

    fn start(&self, sequence: Sequence) -> Result<(), Rejected> {
        if let Err(error) = self.check(&sequence) {
            return Err(sequence.rejected(error));
        }
        let mut queue = self.shared.queue.lock();
        if queue.stop || queue.dead {
            return Err(sequence.rejected(ModelError::Stopped));
        }
        queue.waiting.push_back(sequence);
        drop(queue);
        self.shared.filled.notify_one();
        Ok(())
    }

    fn load(&self) -> EngineLoad {
        EngineLoad {
            running: self.shared.running.load(Ordering::Relaxed),
            parked: self.shared.parked.load(Ordering::Relaxed),
            waiting: self.shared.queue.lock().waiting.len(),
            slots: self.options.slots,
            context_used: self.shared.context_used.load(Ordering::Relaxed),
            context_size: self.options.slots * self.context,
        }
    }

    fn totals(&self) -> Totals {
        let shared = &self.shared;
        Totals {
            prefill_tokens: shared.prefill_tokens.load(Ordering::Relaxed),
            cached_tokens: shared.cached_tokens.load(Ordering::Relaxed),
            decode_tokens: shared.decode_tokens.load(Ordering::Relaxed),
            steps: shared.steps.load(Ordering::Relaxed),
            busy_seconds: Duration::from_nanos(shared.busy_nanos.load(Ordering::Relaxed)).as_secs_f64(),
        }
    }

    fn alive(&self) -> bool {
        !self.shared.queue.lock().dead
    }

    fn step_time(&self) -> Duration {
        match self.shared.step_began.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            began => self.shared.made.elapsed().saturating_sub(Duration::from_millis(began - 1)),
        }
    }

    fn take_waiting(&self) -> Vec<Sequence> {
        self.shared.queue.lock().waiting.drain(..).collect()
    }

    /// To be called before the process ends: a thread that still computes while llama.cpp's own state is taken down
    /// crashes.
    fn stop(&self) {
        self.shared.queue.lock().stop = true;
        self.shared.filled.notify_all();
        // A sink may hold the last reference to its own engine: that thread cannot wait for itself.
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!(model = self.options.name, "the engine's thread ended with a panic");
        }
        for mut sequence in self.take_waiting() {
            sequence.sink.finish(Err(ModelError::Stopped));
        }
    }

    fn abandon(&self) {
        self.shared.queue.lock().stop = true;
        drop(self.thread.lock().take());
    }
}
