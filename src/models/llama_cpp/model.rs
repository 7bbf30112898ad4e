//! All that the wrapper crate of llama.cpp is asked for: the model and its vocabulary, and the context with the
//! key-value cache.
//!
//! A [`Model`] is read-only and may be used from any thread. A [`Context`] belongs to the engine's thread. The wrapper
//! checks little: here sequence numbers, positions and batch sizes are kept within what the context was made for.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::OnceLock;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::{LogOptions, send_logs_to_tracing};

use super::LlamaOptions;
use crate::models::{ModelError, Segment};

/// Fewer tokens than this are computed faster than another slot's cache is copied.
pub(super) const WORTH_COPYING: usize = 32;
/// `LLAMA_FLASH_ATTN_TYPE_DISABLED` and `_ENABLED` of llama.h.
const FLASH_ATTENTION: [i32; 2] = [0, 1];

/// llama.cpp's own state, made once a process. Its log lines go to `tracing`, target `llama-cpp-2`.
fn backend() -> Result<&'static LlamaBackend, ModelError> {
    static BACKEND: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();
    BACKEND
        .get_or_init(|| {
            send_logs_to_tracing(LogOptions::default());
            LlamaBackend::init().map_err(|error| error.to_string())
        })
        .as_ref()
        .map_err(|error| ModelError::Load(format!("llama.cpp cannot be started: {error}")))
}

/// A model's weights and vocabulary.
pub(super) struct Model {
    llama: LlamaModel,
    vocabulary: i32,
}

impl Model {
    /// Loads a file that [`super::gguf::check`] has found whole; on request its vocabulary only.
    ///
    /// # Errors
    /// [`ModelError::Load`] where llama.cpp refuses it.
    pub(super) fn load(path: &Path, architecture: &str, vocabulary_only: bool) -> Result<Self, ModelError> {
        let params = LlamaModelParams::default().with_vocab_only(vocabulary_only);
        let llama = LlamaModel::load_from_file(backend()?, path, &params).map_err(|error| {
            ModelError::Load(format!(
                "llama.cpp cannot load the model {} of the architecture {architecture}: {error}. Its log (target \
                 llama-cpp-2) says why; another file of the model, or another model, may do.",
                path.display()
            ))
        })?;
        let vocabulary = llama.n_vocab();
        Ok(Self { llama, vocabulary })
    }

    /// The chat template that the file states.
    pub(super) fn chat_template(&self) -> Option<String> {
        self.llama.chat_template(None).ok()?.to_string().ok()
    }

    /// Tokens that a sequence of the training had at most.
    pub(super) fn trained_context(&self) -> usize {
        self.llama.n_ctx_train() as usize
    }

    /// Tokens of a prompt; see [`Segment`] for what special tokens count.
    pub(super) fn encode(&self, prompt: &[Segment]) -> Vec<i32> {
        let mut tokens = Vec::new();
        for segment in prompt {
            match segment {
                Segment::Control(text) => self.tokenize(text, true, &mut tokens),
                Segment::Text(text) => self.tokenize(text, false, &mut tokens),
            }
        }
        tokens
    }

    /// Appends the tokens of `text`; with `special`, the names of special tokens stand for these.
    pub(super) fn tokenize(&self, text: &str, special: bool, tokens: &mut Vec<i32>) {
        let found = self.llama.vocab().tokenize(text.as_bytes(), false, special);
        tokens.extend(found.into_iter().map(|token| token.0));
    }

    /// Whether the vocabulary has this token.
    pub(super) fn has_token(&self, token: i32) -> bool {
        (0..self.vocabulary).contains(&token)
    }

    /// Whether the model ends its turn with this token.
    pub(super) fn ends(&self, token: i32) -> bool {
        self.llama.vocab().is_eog(LlamaToken(token))
    }

    /// Puts the bytes of a token into `bytes`: often a part of a character, none for special tokens.
    pub(super) fn piece(&self, token: i32, bytes: &mut Vec<u8>) {
        bytes.clear();
        self.llama.vocab().token_to_piece_into(LlamaToken(token), bytes, false, None);
    }
}

/// Tokens to compute for a slot, after those that its cache holds.
pub(super) struct Part<'a> {
    /// The slot.
    pub(super) slot: usize,
    /// The tokens, at least one.
    pub(super) tokens: &'a [i32],
    /// Whether the logits after the last of them are wanted.
    pub(super) logits: bool,
}

/// The key-value cache, in slots of one sequence each, and what computes into it.
pub(super) struct Context<'m> {
    llama: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    batch_tokens: usize,
    /// The tokens in each slot's cache.
    held: Vec<Vec<i32>>,
}

impl<'m> Context<'m> {
    /// Makes a context of `options.slots` slots of `context` tokens.
    ///
    /// # Errors
    /// Why llama.cpp cannot make it; most often memory.
    pub(super) fn new(model: &'m Model, options: &LlamaOptions, context: usize) -> Result<Self, ModelError> {
        let failed = |reason: String| {
            ModelError::Load(format!(
                "the engine of the model {} cannot be made with {} slots of {context} tokens: {reason}. Fewer slots or \
                 a smaller context need less memory.",
                options.path.display(),
                options.slots
            ))
        };
        let number = |n: usize| u32::try_from(n).map_err(|_| failed(format!("{n} is too large a number")));
        // At least a token for each sequence, so that all that generate fit a step.
        let batch_tokens = options.batch_tokens.max(options.slots).max(1);
        let cells = options.slots.max(1).saturating_mul(context);
        let threads = i32::try_from(options.threads.clamp(1, 512)).unwrap_or(1);
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(number(cells)?))
            .with_n_seq_max(number(options.slots.max(1))?)
            .with_n_batch(number(batch_tokens)?)
            .with_n_ubatch(number(batch_tokens)?)
            .with_flash_attention_policy(FLASH_ATTENTION[usize::from(options.flash_attention)])
            // A cache of its own for each slot. In a unified one a beginning could be shared without a copy, but each
            // token would walk over the cells of all sequences: eight of them took a quarter to two thirds more time.
            .with_kv_unified(false)
            .with_n_threads(threads)
            .with_n_threads_batch(threads);
        let llama = model.llama.new_context(backend()?, params).map_err(|error| failed(error.to_string()))?;
        let batch = LlamaBatch::new(batch_tokens, 1);
        Ok(Self { llama, batch, batch_tokens, held: vec![Vec::new(); options.slots.max(1)] })
    }

    /// Most tokens of one call of [`Context::compute`].
    pub(super) fn batch_tokens(&self) -> usize {
        self.batch_tokens
    }

    /// Slots in all.
    pub(super) fn slots(&self) -> usize {
        self.held.len()
    }

    /// Tokens in the caches of all slots.
    pub(super) fn used(&self) -> usize {
        self.held.iter().map(Vec::len).sum()
    }

    /// Tokens in the cache of a slot.
    pub(super) fn length(&self, slot: usize) -> usize {
        self.held[slot].len()
    }

    /// Tokens at the beginning of `prompt` that a slot's cache holds.
    pub(super) fn common(&self, slot: usize, prompt: &[i32]) -> usize {
        common(&self.held[slot], prompt)
    }

    /// The tokens at the beginning of `prompt` that the slot could have without computing them: from its own cache,
    /// or by copying another slot's.
    pub(super) fn reusable(&self, slot: usize, prompt: &[i32]) -> usize {
        self.source(slot, prompt).1
    }

    /// Where the longest beginning of `prompt` is, and how long it is.
    fn source(&self, slot: usize, prompt: &[i32]) -> (usize, usize) {
        let own = self.common(slot, prompt);
        let others = (0..self.held.len()).map(|other| (other, self.common(other, prompt)));
        match others.max_by_key(|(_, common)| *common) {
            Some((other, common)) if common >= own + WORTH_COPYING => (other, common),
            _ => (slot, own),
        }
    }

    /// Makes the slot hold the beginning of `prompt` as far as it is computed anywhere, and nothing else. Gives its
    /// length: never all of the prompt, since the logits after its last token are still to be computed.
    pub(super) fn reuse(&mut self, slot: usize, prompt: &[i32]) -> usize {
        let (source, length) = self.source(slot, prompt);
        let length = length.min(prompt.len().saturating_sub(1));
        if source != slot {
            self.clear(slot);
            // llama.cpp copies a whole slot; what is too much is cut below.
            if self.llama.kv_cache_seq_cp(source as i32, slot as i32, None, None).is_err() {
                return 0;
            }
            self.held[slot] = self.held[source].clone();
        }
        self.cut(slot, length);
        self.held[slot].len()
    }

    /// Removes what the slot holds after its first `length` tokens; all of it, where llama.cpp cannot cut (the state
    /// of a recurrent model).
    fn cut(&mut self, slot: usize, length: usize) {
        if length == 0 || self.llama.kv_cache_seq_rm(slot as i32, Some(length as u32), None).is_err() {
            self.clear(slot);
        } else {
            self.held[slot].truncate(length);
        }
    }

    /// Empties a slot.
    pub(super) fn clear(&mut self, slot: usize) {
        // Whole sequences can always be removed.
        let _ = self.llama.kv_cache_seq_rm(slot as i32, None, None);
        self.held[slot].clear();
    }

    /// Computes the parts in one step. Gives for each the number under which [`Context::logits`] has its logits, which
    /// is good until the next call.
    ///
    /// # Errors
    /// Why llama.cpp could not. The caches are as before then, save that a slot may have become empty where its state
    /// cannot be cut.
    pub(super) fn compute(&mut self, parts: &[Part<'_>]) -> Result<Vec<Option<i32>>, String> {
        fail::fail_point!("engine::compute", |_| Err("refused by a failpoint".to_owned()));
        let mut numbers = vec![None; parts.len()];
        // With a cache of its own for each slot, llama.cpp computes together what has consecutive slots, in order.
        let mut order: Vec<usize> = (0..parts.len()).collect();
        order.sort_unstable_by_key(|&part| parts[part].slot);
        self.batch.clear();
        for part in order {
            let Part { slot, tokens, logits } = parts[part];
            let start = self.held[slot].len();
            for (n, token) in tokens.iter().enumerate() {
                let wanted = logits && n + 1 == tokens.len();
                if wanted {
                    numbers[part] = Some(self.batch.n_tokens());
                }
                self.batch
                    .add(LlamaToken(*token), (start + n) as i32, &[slot as i32], wanted)
                    .map_err(|error| format!("a step of more than {} tokens: {error}", self.batch_tokens))?;
            }
        }
        let result = self.llama.decode(&mut self.batch);
        for part in parts {
            match result {
                Ok(()) => self.held[part.slot].extend_from_slice(part.tokens),
                Err(_) => self.cut(part.slot, self.held[part.slot].len()),
            }
        }
        result.map(|()| numbers).map_err(|error| error.to_string())
    }

    /// The logits that the last step gave under this number, one for each token of the vocabulary.
    pub(super) fn logits(&self, number: i32) -> &[f32] {
        self.llama.get_logits_ith(number)
    }
}

/// Tokens that both begin with.
pub(super) fn common(a: &[i32], b: &[i32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
