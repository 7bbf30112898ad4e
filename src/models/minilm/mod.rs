//! Embeddings with all-MiniLM-L6-v2, or another BERT encoder with mean pooling, on the CPU.
//!
//! The forward pass is our own, over the matrix products of the `gemm` crate. The libraries that could run the model fall
//! short of ONNX Runtime by much (candle-transformers reaches a quarter of it, rten three quarters), and ONNX Runtime
//! itself is a library to download beside the binary. What makes the difference: one thread a batch and no
//! synchronisation within it, no padding, element-wise steps fused into single vectorised passes (`ops`), and buffers
//! that are reused. `make bench BENCH=embedding` compares.

mod bert;
mod ops;

use std::cell::RefCell;
use std::path::Path;

use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use super::{Embedder, ModelError, Vector};
use bert::{Bert, BertConfig, Workspace};

/// Tokens of a text that count, special ones included: sentence-transformers' `max_seq_length` of this model.
const MAX_TOKENS: usize = 256;

/// Tokens computed together. More of them reuse the weights better, fewer stay in the cache of a core.
const BATCH_TOKENS: usize = 1024;

/// The embedding model; see the module.
pub struct MiniLm {
    name: String,
    dimensions: usize,
    max_tokens: usize,
    tokenizer: Tokenizer,
    /// The special tokens around a text.
    frame: (u32, u32),
    bert: Bert,
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
}

impl MiniLm {
    /// Loads the model in `folder`: `config.json`, `tokenizer.json` and `model.safetensors`, as sentence-transformers has
    /// them.
    ///
    /// # Errors
    /// [`ModelError::Load`] with the file, what is wrong with it and what to do.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        Self::try_load(folder).map_err(ModelError::Load)
    }

    /// How long the vectors of the model in `folder` are, which its `config.json` says.
    ///
    /// # Errors
    /// [`ModelError::Load`], as when it is loaded.
    pub fn dimensions_of(folder: &Path) -> Result<usize, ModelError> {
        read_config(folder).map(|config| config.hidden_size).map_err(ModelError::Load)
    }

    fn try_load(folder: &Path) -> Result<Self, String> {
        let config = read_config(folder)?;
        let (read, damaged) = (|name| read(folder, name), |name, error| damaged(folder, name, error));
        let mut tokenizer = Tokenizer::from_bytes(read("tokenizer.json")?)
            .map_err(|error| damaged("tokenizer.json", error.to_string()))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| damaged("tokenizer.json", error.to_string()))?;
        let special = |token: &str| {
            tokenizer.token_to_id(token).ok_or_else(|| damaged("tokenizer.json", format!("it has no token {token}")))
        };
        let frame = (special("[CLS]")?, special("[SEP]")?);
        // What a document says is text, whatever it looks like.
        tokenizer.set_encode_special_tokens(true);
        let highest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        if highest as usize >= config.vocab_size {
            let reason = format!("it has the token {highest}, the model's are below {}", config.vocab_size);
            return Err(damaged("tokenizer.json", reason));
        }
        let weights = read("model.safetensors")?;
        let base = folder.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy());
        let name = format!("{base}@{}", &hex::encode(Sha256::digest(&weights))[..8]);
        let max_tokens = MAX_TOKENS.min(config.max_position_embeddings);
        let dimensions = config.hidden_size;
        let bert = Bert::read(config, &weights, &folder.join("model.safetensors"))?;
        Ok(Self { name, dimensions, max_tokens, tokenizer, frame, bert })
    }

    /// The tokens of a text between the special ones, cut to what counts.
    fn tokens(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        // What lies far beyond the last token that counts need not be tokenised. Far: blanks are no token, and an
        // endless word is one.
        const LONGEST_TEXT: usize = 1 << 20;
        let mut end = text.len().min(LONGEST_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let encoding = self
            .tokenizer
            .encode_fast(&text[..end], false)
            .map_err(|error| ModelError::Engine(format!("the text cannot be tokenised: {error}")))?;
        let mut tokens = vec![self.frame.0];
        tokens.extend(encoding.get_ids().iter().take(self.max_tokens - 2));
        tokens.push(self.frame.1);
        Ok(tokens)
    }
}

fn read(folder: &Path, name: &str) -> Result<Vec<u8>, String> {
    let path = folder.join(name);
    std::fs::read(&path).map_err(|error| {
        format!(
            "cannot read the embedding model's {}: {error}. `make setup` fetches the default one; see [embedding] model.",
            path.display()
        )
    })
}

fn damaged(folder: &Path, name: &str, error: String) -> String {
    format!("the embedding model's {} cannot be used: {error}", folder.join(name).display())
}

/// What the model is like, where it is one that can be computed.
fn read_config(folder: &Path) -> Result<BertConfig, String> {
    const FILE: &str = "config.json";
    let config: BertConfig =
        serde_json::from_slice(&read(folder, FILE)?).map_err(|error| damaged(folder, FILE, error.to_string()))?;
    let sizes = [
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.num_hidden_layers,
        config.max_position_embeddings,
        config.vocab_size,
    ];
    if config.model_type != "bert" || config.hidden_act != "gelu" {
        let found = format!("it is a {} with {}, only bert with gelu is known", config.model_type, config.hidden_act);
        return Err(damaged(folder, FILE, found));
    }
    if sizes.iter().any(|size| !(1..=1 << 20).contains(size))
        || config.max_position_embeddings < 8
        || !config.hidden_size.is_multiple_of(config.num_attention_heads)
    {
        return Err(damaged(folder, FILE, "its sizes do not make a model".to_owned()));
    }
    Ok(config)
}

impl Embedder for MiniLm {
    fn name(&self) -> &str {
        &self.name
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.tokenizer.encode_fast(text, false).map_or(0, |encoding| encoding.len())
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vector>, ModelError> {
        let tokens = texts.iter().map(|text| self.tokens(text)).collect::<Result<Vec<_>, _>>()?;
        let mut vectors = Vec::with_capacity(texts.len());
        let mut rest = tokens.as_slice();
        while !rest.is_empty() {
            let mut sum = 0;
            let fits = rest.iter().take_while(|text| {
                sum += text.len();
                sum <= BATCH_TOKENS
            });
            let (batch, later) = rest.split_at(fits.count().max(1));
            let batch: Vec<&[u32]> = batch.iter().map(Vec::as_slice).collect();
            vectors.extend(WORKSPACE.with_borrow_mut(|space| self.bert.encode(&batch, space)));
            // Damaged weights can be finite and give no numbers all the same.
            if vectors.iter().flatten().any(|value| !value.is_finite()) {
                return Err(ModelError::Engine(
                    "the embedding model gives no numbers; its files are damaged".to_owned(),
                ));
            }
            rest = later;
        }
        Ok(vectors)
    }
}
