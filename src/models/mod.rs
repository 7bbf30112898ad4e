//! The two models, behind traits: an [`Embedder`] turns text into vectors, a [`Generator`]
//! turns a prompt into tokens. Everything that knows a model library lives in one file here.
//!
//! - [`minilm`]: all-MiniLM-L6-v2 (BERT) on the CPU
//! - [`llama_cpp`]: any GGUF model through llama.cpp, with continuous batching
//! - [`mistralrs`]: GGUF files, folders of safetensors and models of a hub through mistral.rs, for a GPU
//! - [`openai`]: models on servers that speak the protocol of OpenAI
//!
//! What they share: [`chat`] has conversations and their markup, [`text`] makes text of tokens, [`line`](mod@line) and
//! [`admission`] say who goes next and who may wait.

pub mod admission;
pub mod chat;
pub mod line;
pub mod llama_cpp;
pub mod minilm;
pub mod mistralrs;
pub mod openai;
pub mod text;
mod wanted;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::chat::Message;
pub use self::chat::Segment;
pub use self::wanted::{Demand, Sampling};

/// A vector of an embedding model, of L2 norm 1.
pub type Vector = Vec<f32>;

/// Why a model could not be loaded or could not do its work.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ModelError {
    /// A file is missing, truncated, or not of the expected kind. The text names the file,
    /// what was found, and what to do.
    #[error("{0}")]
    Load(String),
    /// The prompt and the output do not fit the context of the model together.
    #[error("the prompt has {prompt} tokens and the output may have {output}, but the model's context holds {context}")]
    ContextTooSmall {
        /// Tokens in the prompt.
        prompt: usize,
        /// Largest output that was asked for.
        output: usize,
        /// Tokens that fit in all.
        context: usize,
    },
    /// The engine failed while working; the text says at what.
    #[error("the model engine failed: {0}")]
    Engine(String),
    /// No server that has the model gave an answer, or one broke off; the text says what each said.
    #[error("{reason}")]
    Upstream {
        /// What went wrong.
        reason: String,
        /// When to try again, in seconds.
        retry_after_s: u64,
    },
    /// The server that has the model does not take the request; the text is its own.
    #[error("the model's server refuses the request: {0}")]
    Refused(String),
    /// The engine is stopped or is being rebuilt.
    #[error("the model engine is not running")]
    Stopped,
}

/// An embedding model. Implementations are called from compute threads, never from an arbiter;
/// one instance is shared by all of them.
pub trait Embedder: Send + Sync + 'static {
    /// Name of the model, as figures and the admin page show it.
    fn name(&self) -> &str;
    /// Dimensions of a vector.
    fn dimensions(&self) -> usize;
    /// The most tokens of a text that count, special tokens included; what is longer is cut.
    fn max_tokens(&self) -> usize;
    /// Tokens of `text`, without special tokens and without a cut.
    fn count_tokens(&self, text: &str) -> usize;
    /// Embeds `texts` as one batch on the calling thread: one vector a text, in order, of norm 1.
    /// The texts need not be of one length: nothing is padded.
    ///
    /// # Errors
    /// [`ModelError::Engine`] where the model cannot work on a text.
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vector>, ModelError>;
}

/// What a model is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prompt {
    /// In tokens of the engine's own model.
    Tokens(Vec<i32>),
    /// As a conversation, for an engine that has the model elsewhere.
    Messages {
        /// The conversation.
        messages: Vec<Message>,
        /// About how many tokens it has.
        estimate: usize,
    },
}

impl Prompt {
    /// Its tokens; about, where the model is elsewhere.
    pub fn len(&self) -> usize {
        match self {
            Self::Tokens(tokens) => tokens.len(),
            Self::Messages { estimate, .. } => *estimate,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One generation, as the engine takes it.
pub struct Sequence {
    /// What the model is given ([`Generator::prompt`]).
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// Generation ends before the first of these texts; they are not part of the output.
    pub stop: Vec<String>,
    /// Where the tokens go.
    pub sink: Box<dyn Sink>,
    /// Whose work it is: an engine that asks another service has that one go on with its trace.
    pub span: tracing::Span,
}

/// A sequence that an engine does not take; its sink has heard nothing.
pub struct Rejected {
    /// Why.
    pub error: ModelError,
    /// The sequence.
    pub sequence: Box<Sequence>,
}

impl std::fmt::Debug for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl Sequence {
    /// Gives it back.
    fn rejected(self, error: ModelError) -> Rejected {
        Rejected { error, sequence: Box::new(self) }
    }

    /// Whether it fits a context.
    fn fits(&self, context: usize) -> Result<(), ModelError> {
        let (prompt, output) = (self.prompt.len(), self.max_tokens);
        if prompt.saturating_add(output) > context {
            return Err(ModelError::ContextTooSmall { prompt, output, context });
        }
        Ok(())
    }
}

/// Where an engine puts what it generates. Called on the engine's thread: must not block.
pub trait Sink: Send {
    /// What is wanted. The engine asks before each step, computes nothing for a sequence that is parked, and ends
    /// one that is to stop with [`FinishReason::Cancelled`].
    fn demand(&self) -> Demand;
    /// It waits for a place in an engine, at this place in the line, from 1. Called when that has changed.
    fn queued(&mut self, _place: usize) {}
    /// Its engine gave it up before it began: it goes to another one.
    fn moved(&mut self) {}
    /// The prompt is being computed (called once, when the sequence leaves the queue).
    fn started(&mut self);
    /// More text, valid UTF-8, never part of a stop text. Called at most once a token.
    fn text(&mut self, text: &str);
    /// The end; called exactly once, and nothing after it.
    fn finish(&mut self, result: Result<Finished, ModelError>);
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn, or a stop text came.
    Stop,
    /// `max_tokens` were generated.
    Length,
    /// Its sink said so.
    Cancelled,
}

/// The account of a finished generation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were found computed already.
    pub cached_prompt_tokens: usize,
    /// Tokens generated, the end-of-turn token included.
    pub completion_tokens: usize,
    /// The counts are estimates: the model is on a server that did not tell them.
    pub estimated: bool,
}

impl Finished {
    /// One that never began, and used nothing.
    pub fn unbegun(reason: FinishReason) -> Self {
        Self { reason, prompt_tokens: 0, cached_prompt_tokens: 0, completion_tokens: 0, estimated: false }
    }
}

/// What an engine is doing now, for the pool and the admin page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct EngineLoad {
    /// Sequences that are computed.
    pub running: usize,
    /// Sequences that wait for their readers.
    pub parked: usize,
    /// Sequences that wait for a slot.
    pub waiting: usize,
    /// Slots in all.
    pub slots: usize,
    /// Tokens now in the key-value cache.
    pub context_used: usize,
    /// Tokens the key-value cache holds.
    pub context_size: usize,
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

/// A text generation engine: it has a model, here or elsewhere, and runs sequences on it at once.
pub trait Generator: Send + Sync + 'static {
    /// Name of the model, as `model` fields and figures show it.
    fn name(&self) -> &str;
    /// Most tokens one sequence may have, prompt and output together.
    fn context(&self) -> usize;
    /// The prompt of a conversation, up to where the model is to go on. What its messages say is never control.
    fn prompt(&self, conversation: &[Message]) -> Prompt;
    /// Tokens of one text with special tokens off; about, where the model's tokenizer is not at hand.
    fn count_tokens(&self, text: &str) -> usize;
    /// Queues a sequence; returns at once. From here on the sink hears everything, the end included.
    ///
    /// # Errors
    /// [`ModelError::ContextTooSmall`], or [`ModelError::Stopped`] where the engine is gone, with the sequence.
    fn start(&self, sequence: Sequence) -> Result<(), Rejected>;
    /// What it is doing now.
    fn load(&self) -> EngineLoad;
    /// What it has done so far.
    fn totals(&self) -> Totals;
    /// More about it for the admin page.
    fn detail(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
    /// What works only in part, in words for the operator.
    fn trouble(&self) -> Option<String> {
        None
    }
    /// Whether it still works; false after a panic of its thread.
    fn alive(&self) -> bool;
    /// How long it has been at one step: grows without end where the engine hangs.
    fn step_time(&self) -> Duration;
    /// Takes the sequences that have not begun, for an engine that follows this one.
    fn take_waiting(&self) -> Vec<Sequence>;
    /// Ends it, and returns once it has ended. Sequences hear [`ModelError::Stopped`].
    fn stop(&self);
    /// Gives it up without waiting for it: it ends by itself if it ever can.
    fn abandon(&self);
}
