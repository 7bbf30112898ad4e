//! Text generation with llama.cpp: any GGUF model of a causal language model, in this process.
//!
//! [`LlamaCpp`] is the [`Generator`]. Behind it one thread owns the key-value cache and batches sequences
//! continuously (`engine`); what the wrapper crate is asked for is all in `model`; `gguf` looks at a file before
//! llama.cpp does; `sampler` and `text` turn logits into tokens and tokens into text. Nothing here knows of actors or
//! of HTTP, and the engine never waits for a reader: a [`Sink`](super::Sink) must not block.

mod engine;
mod gguf;
mod model;
mod sampler;
mod text;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use serde::Serialize;

use self::model::Model;
use super::{EngineLoad, Generator, ModelError, Segment, Sequence};

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
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// What an engine has done since it was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Prompt tokens that were computed.
    pub prefill_tokens: u64,
    /// Prompt tokens that were found computed already.
    pub cached_tokens: u64,
    /// Tokens that were generated, end-of-turn tokens included.
    pub decode_tokens: u64,
    /// Steps of the engine, each over all sequences that run.
    pub steps: u64,
    /// Seconds spent in those steps.
    pub busy_seconds: f64,
}

/// A loaded model with its engine; see the module. Dropping it ends the engine: sequences that run or wait hear
/// [`ModelError::Stopped`], and the drop returns when the step at hand is done.
pub struct LlamaCpp {
    options: LlamaOptions,
    context: usize,
    template: Option<String>,
    model: Arc<Model>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the engine's thread shares with those who use it.
#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signalled when the queue has become non-empty, or is to stop.
    filled: Condvar,
    running: AtomicUsize,
    context_used: AtomicUsize,
    prefill_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    decode_tokens: AtomicU64,
    steps: AtomicU64,
    busy_nanos: AtomicU64,
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
        let shared = Arc::<Shared>::default();
        let (thread, loaded) = engine::spawn(options.clone(), Arc::clone(&shared))?;
        let engine::Loaded { model, context } = loaded;
        let template = model.chat_template();
        Ok(Arc::new(Self { options, context, template, model, shared, thread: Mutex::new(Some(thread)) }))
    }

    /// Takes the sequences that have not begun, for an engine that follows this one. Those that this engine still
    /// has when it is dropped hear [`ModelError::Stopped`].
    pub fn take_waiting(&self) -> Vec<Sequence> {
        self.shared.queue.lock().waiting.drain(..).collect()
    }

    /// What the engine has done so far.
    pub fn totals(&self) -> Totals {
        let shared = &self.shared;
        Totals {
            prefill_tokens: shared.prefill_tokens.load(Ordering::Relaxed),
            cached_tokens: shared.cached_tokens.load(Ordering::Relaxed),
            decode_tokens: shared.decode_tokens.load(Ordering::Relaxed),
            steps: shared.steps.load(Ordering::Relaxed),
            busy_seconds: Duration::from_nanos(shared.busy_nanos.load(Ordering::Relaxed)).as_secs_f64(),
        }
    }
}

impl Drop for LlamaCpp {
    fn drop(&mut self) {
        self.stop();
    }
}

impl LlamaCpp {
    /// Ends the engine, and returns once its thread has ended: to be called before the process ends, as a thread that
    /// still computes while llama.cpp's own state is taken down crashes. Sequences hear [`ModelError::Stopped`].
    pub fn stop(&self) {
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
}

impl Generator for LlamaCpp {
    fn name(&self) -> &str {
        &self.options.name
    }

    fn context(&self) -> usize {
        self.context
    }

    fn chat_template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    fn tokenize(&self, prompt: &[Segment]) -> Vec<i32> {
        let mut tokens = Vec::new();
        for segment in prompt {
            match segment {
                Segment::Control(text) => self.model.tokenize(text, true, &mut tokens),
                Segment::Text(text) => self.model.tokenize(text, false, &mut tokens),
            }
        }
        tokens
    }

    fn count_tokens(&self, text: &str) -> usize {
        let mut tokens = Vec::new();
        self.model.tokenize(text, false, &mut tokens);
        tokens.len()
    }

    fn start(&self, sequence: Sequence) -> Result<(), ModelError> {
        let (prompt, output, context) = (sequence.prompt.len(), sequence.max_tokens, self.context);
        if prompt.saturating_add(output) > context {
            return Err(ModelError::ContextTooSmall { prompt, output, context });
        }
        if prompt == 0 {
            return Err(ModelError::Engine("a prompt needs at least one token, and this one has none".to_owned()));
        }
        if let Some(token) = sequence.prompt.iter().find(|token| !self.model.has_token(**token)) {
            return Err(ModelError::Engine(format!("the prompt has the token {token}, which this model has not")));
        }
        let mut queue = self.shared.queue.lock();
        if queue.stop || queue.dead {
            return Err(ModelError::Stopped);
        }
        queue.waiting.push_back(sequence);
        drop(queue);
        self.shared.filled.notify_one();
        Ok(())
    }

    fn load(&self) -> EngineLoad {
        EngineLoad {
            running: self.shared.running.load(Ordering::Relaxed),
            waiting: self.shared.queue.lock().waiting.len(),
            slots: self.options.slots,
            context_used: self.shared.context_used.load(Ordering::Relaxed),
            context_size: self.options.slots * self.context,
        }
    }

    fn alive(&self) -> bool {
        !self.shared.queue.lock().dead
    }
}
