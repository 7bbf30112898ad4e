//! Text generation with llama.cpp: any GGUF model, in this process.
//!
//! One thread owns the model's context and batches sequences continuously ([`engine`]); the model itself is read-only
//! and shared, so that tokens can be counted anywhere. All use of the wrapper crate is in this folder.

mod engine;
mod gguf;
mod sampler;
mod text;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::{LogOptions, send_logs_to_tracing};
use parking_lot::{Condvar, Mutex};

use super::{EngineLoad, Generator, ModelError, Segment, Sequence};

/// What to load, and how to run it.
#[derive(Debug, Clone)]
pub struct LlamaOptions {
    /// The GGUF file.
    pub path: PathBuf,
    /// The name it is known by.
    pub name: String,
    /// Sequences that run at once.
    pub slots: usize,
    /// Most tokens of one sequence, prompt and output together.
    pub context_per_slot: usize,
    /// Tokens computed in one step.
    pub batch_tokens: usize,
    /// Threads to compute with.
    pub threads: usize,
}

/// A loaded model with its engine; see the module. Dropping it ends the engine.
pub struct LlamaCpp {
    options: LlamaOptions,
    model: Arc<LlamaModel>,
    template: Option<String>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the engine's thread shares with those who use it.
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    alive: AtomicBool,
    running: AtomicUsize,
    context_used: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    waiting: std::collections::VecDeque<Sequence>,
    stop: bool,
}

/// llama.cpp's own state, once a process.
fn backend() -> Result<&'static LlamaBackend, ModelError> {
    static BACKEND: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();
    BACKEND
        .get_or_init(|| {
            send_logs_to_tracing(LogOptions::default());
            LlamaBackend::init().map_err(|error| error.to_string())
        })
        .as_ref()
        .map_err(|error| ModelError::Load(format!("llama.cpp cannot be initialised: {error}")))
}

impl LlamaCpp {
    /// Loads a model and starts its engine. Blocks while it loads.
    ///
    /// # Errors
    /// [`ModelError::Load`] with the file, what is wrong with it and what to do.
    pub fn load(options: LlamaOptions) -> Result<Arc<Self>, ModelError> {
        gguf::check(&options.path).map_err(ModelError::Load)?;
        fail::fail_point!("engine::load");
        let backend = backend()?;
        let model = LlamaModel::load_from_file(backend, &options.path, &LlamaModelParams::default()).map_err(|error| {
            ModelError::Load(format!(
                "llama.cpp cannot load {}: {error}. Is it a GGUF text model of a kind that this llama.cpp knows?",
                options.path.display()
            ))
        })?;
        let model = Arc::new(model);
        let template = model.chat_template(None).ok().and_then(|template| template.to_string().ok());
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            alive: AtomicBool::new(true),
            running: AtomicUsize::new(0),
            context_used: AtomicUsize::new(0),
        });
        let thread = engine::spawn(backend, Arc::clone(&model), options.clone(), Arc::clone(&shared))?;
        Ok(Arc::new(Self { options, model, template, shared, thread: Some(thread) }))
    }

    /// Takes the sequences that have not begun: for an engine that follows a dead one.
    pub fn take_waiting(&self) -> Vec<Sequence> {
        self.shared.queue.lock().waiting.drain(..).collect()
    }
}

impl Drop for LlamaCpp {
    fn drop(&mut self) {
        self.shared.queue.lock().stop = true;
        self.shared.filled.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(model = self.options.name, "the engine's thread had panicked");
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
        self.options.context_per_slot
    }

    fn chat_template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    fn tokenize(&self, prompt: &[Segment]) -> Vec<i32> {
        let vocab = self.model.vocab();
        let tokens = prompt.iter().flat_map(|segment| match segment {
            Segment::Control(text) => vocab.tokenize(text.as_bytes(), false, true),
            Segment::Text(text) => vocab.tokenize(text.as_bytes(), false, false),
        });
        tokens.map(|token| token.0).collect()
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.model.vocab().tokenize(text.as_bytes(), false, false).len()
    }

    fn start(&self, sequence: Sequence) -> Result<(), ModelError> {
        let (prompt, output, context) = (sequence.prompt.len(), sequence.max_tokens, self.context());
        if prompt == 0 {
            return Err(ModelError::Engine("the prompt is empty".to_owned()));
        }
        if prompt + output > context {
            return Err(ModelError::ContextTooSmall { prompt, output, context });
        }
        let mut queue = self.shared.queue.lock();
        if queue.stop || !self.alive() {
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
            context_size: self.options.slots * self.options.context_per_slot,
        }
    }

    fn alive(&self) -> bool {
        self.shared.alive.load(Ordering::Acquire)
    }
}
