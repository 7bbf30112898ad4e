//! Embeddings by `/v1/embeddings` of servers elsewhere.

use std::path::Path;

use futures_util::FutureExt;
use serde::Deserialize;
use serde_json::json;

use super::upstream::{Failure, Upstream, Upstreams};
use super::{Counter, runtime};
use crate::models::{Embedder, ModelError, Vector};

/// Tokens of a text that count: what OpenAI's models take; chunks are far shorter.
const MAX_TOKENS: usize = 8191;

/// An embedding model elsewhere; see the module.
pub struct RemoteEmbedder {
    name: String,
    dimensions: usize,
    upstreams: Upstreams,
    counter: Counter,
}

#[derive(Deserialize)]
struct Embeddings {
    data: Vec<Embedding>,
}

#[derive(Deserialize)]
struct Embedding {
    index: usize,
    embedding: Vec<f32>,
}

impl RemoteEmbedder {
    /// The model of this name on these servers, in their order. Tokens are counted with the tokenizer in `folder`, if
    /// there is one.
    ///
    /// # Errors
    /// [`ModelError::Load`] where the tokenizer cannot be read.
    pub fn new(name: &str, dimensions: usize, folder: &Path, upstreams: Vec<Upstream>) -> Result<Self, ModelError> {
        runtime()?;
        let tokenizer = folder.join("tokenizer.json");
        let counter = Counter::load(Some(tokenizer.as_path()).filter(|path| path.is_file()))?;
        Ok(Self { name: name.to_owned(), dimensions, upstreams: Upstreams::new(upstreams)?, counter })
    }

    /// The vectors of a response, in the order of the texts.
    fn vectors(&self, found: Embeddings, count: usize) -> Result<Vec<Vector>, Failure> {
        let mut vectors = vec![Vector::new(); count];
        for Embedding { index, mut embedding } in found.data {
            let norm = embedding.iter().map(|x| x * x).sum::<f32>().sqrt();
            if embedding.len() != self.dimensions {
                return Err(Failure::Request(format!(
                    "its vectors have {} numbers, [embedding] dimensions is {}",
                    embedding.len(),
                    self.dimensions
                )));
            }
            if !norm.is_finite() || norm == 0.0 {
                return Err(Failure::server("it gives a vector without a direction"));
            }
            embedding.iter_mut().for_each(|x| *x /= norm);
            match vectors.get_mut(index) {
                Some(vector) => *vector = embedding,
                None => return Err(Failure::server("it gives more vectors than texts")),
            }
        }
        if vectors.iter().any(Vec::is_empty) {
            return Err(Failure::server("it gives fewer vectors than texts"));
        }
        Ok(vectors)
    }
}

impl Embedder for RemoteEmbedder {
    fn name(&self) -> &str {
        &self.name
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn max_tokens(&self) -> usize {
        MAX_TOKENS
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.counter.count(text)
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vector>, ModelError> {
        let count = texts.len();
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let body = json!({ "input": texts, "encoding_format": "float" });
        let request = self.upstreams.post("embeddings", &body, |response| {
            let read = async move {
                let found =
                    response.json().await.map_err(|error| Failure::server(format!("no embeddings: {error}")))?;
                self.vectors(found, count)
            };
            read.boxed()
        });
        runtime()?.block_on(request).map(|(vectors, _)| vectors)
    }
}
