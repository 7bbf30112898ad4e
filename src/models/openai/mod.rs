//! Models that are elsewhere: any server that speaks OpenAI's protocol (OpenAI, vLLM, Ollama, llama-server, another
//! answerd).
//!
//! [`OpenAi`] is the [`Generator`](super::Generator), [`RemoteEmbedder`] the [`Embedder`](super::Embedder). Both have
//! several [`Upstream`]s in order, and go on to the next where one fails before its first token (`upstream`). A stream
//! that is parked is not read, so that the server feels it too.

mod embedder;
mod engine;
mod events;
mod upstream;

use std::path::Path;
use std::sync::OnceLock;

use tokenizers::Tokenizer;
use tokio::runtime::Runtime;

pub use self::embedder::RemoteEmbedder;
pub use self::engine::{OpenAi, OpenAiOptions};
pub use self::upstream::Upstream;
use super::ModelError;

/// Bytes of a token where its tokenizer is not at hand: fewer than most texts have, so that estimates are high.
const BYTES_PER_TOKEN: usize = 3;

/// The threads of all connections to upstreams.
fn runtime() -> Result<&'static Runtime, ModelError> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let make = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.thread_name("upstream").enable_all().build().map_err(|error| error.to_string())
    };
    RUNTIME.get_or_init(make).as_ref().map_err(|error| ModelError::Load(format!("no threads for upstreams: {error}")))
}

/// Counts tokens of a model that is elsewhere.
enum Counter {
    Tokenizer(Box<Tokenizer>),
    Estimate,
}

impl Counter {
    /// With the `tokenizer.json` at `path`; without one, by estimate.
    fn load(path: Option<&Path>) -> Result<Self, ModelError> {
        let Some(path) = path else { return Ok(Self::Estimate) };
        let load = Tokenizer::from_file(path);
        let mut tokenizer = load.map_err(|error| {
            ModelError::Load(format!(
                "the tokenizer {} cannot be read: {error}. It is a tokenizer.json.",
                path.display()
            ))
        })?;
        // Texts are counted whole, whatever the file says about batches.
        tokenizer.with_padding(None);
        let _ = tokenizer.with_truncation(None);
        Ok(Self::Tokenizer(Box::new(tokenizer)))
    }

    fn count(&self, text: &str) -> usize {
        match self {
            Self::Tokenizer(tokenizer) => {
                tokenizer.encode_fast(text, false).map_or_else(|_| estimate(text), |encoding| encoding.len())
            }
            Self::Estimate => estimate(text),
        }
    }
}

fn estimate(text: &str) -> usize {
    text.len().div_ceil(BYTES_PER_TOKEN)
}
