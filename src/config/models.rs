//! The settings of `[models]`: which language models there are, and what runs them.

use std::path::PathBuf;

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[models]`: the language models.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct ModelsConfig {
    /// `[models.chat]`: the model that answers from the documents.
    #[garde(dive)]
    pub chat: ChatModelConfig,
    #[garde(length(max = 64), dive)]
    pub more: Vec<ChatModelConfig>,
    #[garde(length(max = 256), dive)]
    pub upstreams: Vec<UpstreamConfig>,
}

impl ModelsConfig {
    /// All models, the one that answers first.
    pub fn all(&self) -> impl Iterator<Item = &ChatModelConfig> {
        std::iter::once(&self.chat).chain(&self.more)
    }
}

/// What runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// llama.cpp in this process: GGUF files; the fast one on a processor.
    LlamaCpp,
    /// mistral.rs in this process: GGUF files, folders of safetensors, models of a hub; the one for a GPU.
    #[serde(rename = "mistralrs")]
    MistralRs,
    /// Servers elsewhere, by OpenAI's protocol.
    #[serde(rename = "openai")]
    OpenAi,
}

impl Engine {
    /// Its name, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::LlamaCpp => "llama_cpp",
            Self::MistralRs => "mistralrs",
            Self::OpenAi => "openai",
        }
    }
}

/// `[[models.more]]`: a further model, which programs can ask for by name. The keys are those of `[models.chat]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct ChatModelConfig {
    /// What runs it.
    #[garde(skip)]
    pub engine: Engine,
    /// The GGUF file, or for the engine `mistralrs` also a folder of safetensors. For `openai` a `tokenizer.json` of the
    /// model, to count its tokens with; without one they are estimated.
    #[garde(skip)]
    pub path: PathBuf,
    /// A model of the Hugging Face hub, such as `Qwen/Qwen3-4B`, instead of `path`, for the engine `mistralrs`.
    #[garde(skip)]
    pub hub_id: String,
    /// Name of the model in requests, responses and figures.
    #[garde(custom(model_name))]
    pub name: String,
    /// Engines, each with its own slots; those in this process load the model once each.
    #[garde(range(min = 1, max = 64))]
    pub workers: usize,
    /// Sequences generated at once by a worker.
    #[garde(range(min = 1, max = 100_000))]
    pub slots: usize,
    /// Tokens of one sequence, prompt and output together.
    #[garde(range(min = 512, max = 1 << 24))]
    pub context: usize,
    /// Tokens computed in one step, over all sequences; at least one a slot.
    #[garde(range(min = 16, max = 65_536))]
    pub batch_tokens: usize,
    /// llama.cpp's fused attention: prompts are read a tenth sooner and answers written a tenth slower, with sums in half
    /// precision, which cost a small model some of its right answers.
    #[garde(skip)]
    pub flash_attention: bool,
    /// Threads that compute; 0 is one a core.
    #[garde(range(max = 1024))]
    pub threads: usize,
    /// Requests that may wait for a slot; more are refused.
    #[garde(range(min = 1, max = 100_000))]
    pub queue: usize,
    /// Tokens of the prompts of those that may wait.
    #[garde(range(min = 1, max = 1usize << 32))]
    pub queue_tokens: usize,
    /// A request is refused that could expect its first token later than this, in seconds.
    #[garde(range(min = 1, max = 3600))]
    pub first_token_s: u64,
    /// A worker is replaced whose engine takes longer than this for one step, in seconds.
    #[garde(range(min = 1, max = 3600))]
    pub stall_s: u64,
}

impl Default for ChatModelConfig {
    fn default() -> Self {
        Self {
            engine: Engine::LlamaCpp,
            path: "~/.cache/answerd/models/SmolLM2-135M-Instruct.Q4_1.gguf".into(),
            hub_id: String::new(),
            name: "smollm2-135m-instruct".into(),
            workers: 1,
            slots: 8,
            context: 2048,
            batch_tokens: 512,
            flash_attention: false,
            threads: 0,
            queue: 64,
            queue_tokens: 100_000,
            first_token_s: 30,
            stall_s: 60,
        }
    }
}

/// `[[models.upstreams]]`: a server that speaks OpenAI's protocol. The upstreams of one model are tried in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamConfig {
    /// The model it serves: a `name` of `[models.chat]`, `[[models.more]]` or `[embedding]`.
    #[garde(custom(model_name))]
    pub serves: String,
    /// Its address up to where `/chat/completions` follows, such as `https://api.openai.com/v1`.
    #[garde(custom(address))]
    pub url: String,
    /// The model's name there; without it, the one here.
    #[garde(skip)]
    pub model: String,
    /// The environment variable that holds the key.
    #[garde(skip)]
    pub api_key_env: String,
    /// The file that holds the key; read again for each request, so that a key can be changed.
    #[garde(skip)]
    pub api_key_file: PathBuf,
    /// Time to connect, in milliseconds.
    #[garde(range(min = 10, max = 600_000))]
    pub connect_timeout_ms: u64,
    /// Time until the first token, in milliseconds; then the next upstream is tried.
    #[garde(range(min = 10, max = 3_600_000))]
    pub first_token_timeout_ms: u64,
    /// Time between tokens, in milliseconds; then the answer fails.
    #[garde(range(min = 10, max = 3_600_000))]
    pub idle_timeout_ms: u64,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            serves: "smollm2-135m-instruct".into(),
            url: "http://127.0.0.1:8000/v1".into(),
            model: String::new(),
            api_key_env: String::new(),
            api_key_file: PathBuf::new(),
            connect_timeout_ms: 3000,
            first_token_timeout_ms: 30_000,
            idle_timeout_ms: 30_000,
        }
    }
}

pub(super) fn model_name(name: &str, _: &()) -> garde::Result {
    if name.is_empty() || name.len() > 128 || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(garde::Error::new("must have 1 to 128 bytes, without white space"));
    }
    Ok(())
}

fn address(url: &str, _: &()) -> garde::Result {
    match url::Url::parse(url) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none() => {
            Ok(())
        }
        _ => Err(garde::Error::new(format!("{url:?} is no address such as https://models.example.com/v1"))),
    }
}
