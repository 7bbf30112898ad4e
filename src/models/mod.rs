//! The two models, behind traits: an [`Embedder`] turns text into vectors, a [`Generator`]
//! turns a prompt into tokens. Everything that knows a model library lives in one file here.
//!
//! - [`minilm`]: all-MiniLM-L6-v2 (BERT) on the CPU
//! - [`llama_cpp`]: any GGUF model through llama.cpp, with continuous batching

pub mod llama_cpp;
pub mod minilm;

use serde::Serialize;

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

/// A part of a prompt. What the template says is `Control`: its special tokens count.
/// What documents and users say is `Text`: tokenised with special tokens off, so that no text
/// can end its own section of the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Markup of the chat template, special tokens parsed.
    Control(String),
    /// Text of a document, a user, or the system prompt; special tokens are plain text here.
    Text(String),
}

/// How tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// Nucleus sampling: the smallest set of tokens with this much probability.
    pub top_p: f32,
    /// Penalty on tokens of the last 64; 1.0 is none.
    pub repeat_penalty: f32,
    /// Seed of the sampler.
    pub seed: u32,
}

/// One generation, as the engine takes it.
pub struct Sequence {
    /// Prompt, in tokens of the engine's own model ([`Generator::tokenize`]).
    pub prompt: Vec<i32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// Generation ends before the first of these texts; they are not part of the output.
    pub stop: Vec<String>,
    /// Where the tokens go.
    pub sink: Box<dyn Sink>,
}

/// Where an engine puts what it generates. Called on the engine's thread: must not block.
pub trait Sink: Send {
    /// Whether anybody still reads. The engine asks before each step, ends the sequence with
    /// [`FinishReason::Cancelled`] once this is false, and computes nothing more for it.
    fn wanted(&self) -> bool;
    /// The prompt is being computed (called once, when the sequence leaves the queue).
    fn started(&mut self);
    /// More text, valid UTF-8, never part of a stop text. Called at most once a token.
    fn text(&mut self, text: &str);
    /// The end; called exactly once, and nothing after it.
    fn finish(&mut self, result: Result<Finished, ModelError>);
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn, or a stop text came.
    Stop,
    /// `max_tokens` were generated.
    Length,
    /// Nobody read any more.
    Cancelled,
}

/// The account of a finished generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were found computed already.
    pub cached_prompt_tokens: usize,
    /// Tokens generated, the end-of-turn token included.
    pub completion_tokens: usize,
}

/// What an engine is doing now, for the admin page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct EngineLoad {
    /// Sequences that hold a slot.
    pub running: usize,
    /// Sequences that wait for a slot.
    pub waiting: usize,
    /// Slots in all.
    pub slots: usize,
    /// Tokens now in the key-value cache.
    pub context_used: usize,
    /// Tokens the key-value cache holds.
    pub context_size: usize,
}

/// A text generation engine: one thread that owns a model and batches sequences continuously.
pub trait Generator: Send + Sync + 'static {
    /// Name of the model, as `model` fields and figures show it.
    fn name(&self) -> &str;
    /// Most tokens one sequence may have, prompt and output together.
    fn context(&self) -> usize;
    /// The chat template of the model's file (Jinja), if it states one.
    fn chat_template(&self) -> Option<&str>;
    /// Tokens of a prompt; see [`Segment`] for what special tokens count.
    fn tokenize(&self, prompt: &[Segment]) -> Vec<i32>;
    /// Tokens of one text with special tokens off.
    fn count_tokens(&self, text: &str) -> usize;
    /// Queues a sequence; returns at once. From here on the sink hears everything, the end included.
    ///
    /// # Errors
    /// [`ModelError::ContextTooSmall`], or [`ModelError::Stopped`] where the engine is gone; the
    /// sequence and its sink are dropped then without a call of `finish`.
    fn start(&self, sequence: Sequence) -> Result<(), ModelError>;
    /// What it is doing now.
    fn load(&self) -> EngineLoad;
    /// Whether the engine's thread still works; false after a panic of it.
    fn alive(&self) -> bool;
}
