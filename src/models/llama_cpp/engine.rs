//! Continuous batching on one thread: each step computes one token for every sequence that writes, and fills the rest of
//! the batch with prompt tokens of those that read, oldest first. Sequences of any length run together.
//!
//! A slot is a sequence number of the key-value cache with the tokens that are in it. They stay when their sequence
//! has ended, so that a prompt that begins alike need not be computed again.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::JoinHandle;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use super::sampler::Sampler;
use super::text::TextOut;
use super::{LlamaOptions, Shared};
use crate::actors::door::panic_message;
use crate::models::{FinishReason, Finished, ModelError, Sequence};

/// Prompt tokens in a step while others write: a long prompt must not freeze them.
const PROMPT_SHARE: usize = 128;
/// A common beginning shorter than this is not worth copying between slots.
const COPY_FROM: usize = 48;

/// A sequence that holds a slot.
struct Running {
    sequence: Sequence,
    sampler: Sampler,
    out: TextOut,
    slot: usize,
    /// Tokens of the prompt that are computed.
    read: usize,
    cached: usize,
    generated: usize,
    /// The token chosen last, not yet computed.
    next: Option<i32>,
    /// Where its logits are in this step's batch.
    logits: Option<i32>,
}

/// Starts the engine's thread; returns once its context is made.
pub(super) fn spawn(
    backend: &'static LlamaBackend,
    model: Arc<LlamaModel>,
    options: LlamaOptions,
    shared: Arc<Shared>,
) -> Result<JoinHandle<()>, ModelError> {
    let (made, ready) = mpsc::channel();
    let name = options.name.clone();
    let run = move || {
        let context = match new_context(backend, &model, &options) {
            Ok(context) => {
                let _ = made.send(Ok(()));
                context
            }
            Err(error) => {
                let _ = made.send(Err(error));
                return;
            }
        };
        let mut running = Vec::new();
        let mut engine = Engine {
            batch: LlamaBatch::new(options.batch_tokens.max(options.slots), 1),
            slots: vec![Vec::new(); options.slots],
            model: &model,
            context,
            options: &options,
            shared: &shared,
        };
        let ended = std::panic::catch_unwind(AssertUnwindSafe(|| engine.run(&mut running)));
        let error = match &ended {
            Ok(()) => ModelError::Stopped,
            Err(panic) => ModelError::Engine(format!("the engine panicked: {}", panic_message(&**panic))),
        };
        // Before anybody hears of it: who is told that it failed must not find it alive.
        shared.alive.store(false, Ordering::Release);
        shared.running.store(0, Ordering::Relaxed);
        for mut run in running {
            run.sequence.sink.finish(Err(error.clone()));
        }
    };
    let failed = |reason: String| ModelError::Load(format!("the engine of {name} cannot be started: {reason}"));
    let thread = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(run)
        .map_err(|error| failed(error.to_string()))?;
    match ready.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(reason)) => Err(failed(reason)),
        Err(_) => Err(failed("its thread ended".to_owned())),
    }
}

fn new_context<'m>(
    backend: &LlamaBackend,
    model: &'m LlamaModel,
    options: &LlamaOptions,
) -> Result<LlamaContext<'m>, String> {
    let size = |n: usize| u32::try_from(n).map_err(|_| format!("{n} is too large"));
    let threads = options.threads.clamp(1, 512) as i32;
    let params = LlamaContextParams::default()
        .with_n_ctx(std::num::NonZeroU32::new(size(options.context_per_slot * options.slots)?))
        .with_n_seq_max(size(options.slots)?)
        .with_n_batch(size(options.batch_tokens.max(options.slots))?)
        .with_n_ubatch(size(options.batch_tokens.max(options.slots))?)
        // A cache for each sequence: attention over one's own tokens only. A shared one could copy a common
        // beginning for nothing, and makes each token look at the tokens of all.
        .with_kv_unified(false)
        .with_n_threads(threads)
        .with_n_threads_batch(threads);
    model.new_context(backend, params).map_err(|error| error.to_string())
}

struct Engine<'m> {
    model: &'m LlamaModel,
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    /// The tokens in the cache, by slot.
    slots: Vec<Vec<i32>>,
    options: &'m LlamaOptions,
    shared: &'m Shared,
}

impl Engine<'_> {
    /// Works until it is told to stop.
    fn run(&mut self, running: &mut Vec<Running>) {
        while self.admit(running) {
            fail::fail_point!("engine::step");
            self.fill(running);
            if self.batch.n_tokens() > 0 {
                match self.context.decode(&mut self.batch) {
                    Ok(()) => self.advance(running),
                    Err(error) => self.fail_batch(running, &error.to_string()),
                }
            }
            self.report(running);
        }
    }

    /// Ends what nobody wants, gives free slots to those that wait; waits where there is nothing to do. False once it
    /// is to stop.
    fn admit(&mut self, running: &mut Vec<Running>) -> bool {
        for run in running.extract_if(.., |run| !run.sequence.sink.wanted()) {
            finish(run, FinishReason::Cancelled);
        }
        loop {
            let next = {
                let mut queue = self.shared.queue.lock();
                loop {
                    if queue.stop {
                        return false;
                    }
                    if !queue.waiting.is_empty() || !running.is_empty() {
                        break;
                    }
                    self.shared.running.store(0, Ordering::Relaxed);
                    self.shared.filled.wait(&mut queue);
                }
                if running.len() == self.slots.len() { None } else { queue.waiting.pop_front() }
            };
            let Some(mut sequence) = next else { return true };
            if !sequence.sink.wanted() {
                sequence.sink.finish(Ok(Finished {
                    reason: FinishReason::Cancelled,
                    prompt_tokens: sequence.prompt.len(),
                    cached_prompt_tokens: 0,
                    completion_tokens: 0,
                }));
                continue;
            }
            let (slot, cached) = self.take_slot(running, &sequence.prompt);
            sequence.sink.started();
            running.push(Running {
                sampler: Sampler::new(sequence.sampling.clone()),
                out: TextOut::new(std::mem::take(&mut sequence.stop)),
                sequence,
                slot,
                read: cached,
                cached,
                generated: 0,
                next: None,
                logits: None,
            });
            self.report(running);
        }
    }

    /// The free slot that has most of the prompt's beginning, or one that it is copied to from another slot. Gives the slot
    /// and the tokens of the prompt that are in it.
    fn take_slot(&mut self, running: &[Running], prompt: &[i32]) -> (usize, usize) {
        // The last token is always computed: its logits are needed.
        let common = |tokens: &[i32]| {
            let same = tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
            same.min(prompt.len() - 1)
        };
        let lengths: Vec<usize> = self.slots.iter().map(|tokens| common(tokens)).collect();
        let free = |slot: &usize| !running.iter().any(|run| run.slot == *slot);
        // The first of equals: numbers in a row make a step cheaper. One with less to lose, where none has anything.
        let own = (0..self.slots.len())
            .filter(free)
            .min_by_key(|&slot| (std::cmp::Reverse(lengths[slot]), self.slots[slot].len()))
            .unwrap_or(0);
        let mut cached = lengths[own];
        let best = (0..self.slots.len()).max_by_key(|&slot| lengths[slot]).unwrap_or(own);
        if lengths[best] >= cached + COPY_FROM {
            let (from, to) = (best as i32, own as i32);
            let copied = self
                .context
                .kv_cache_seq_rm(to, None, None)
                .and_then(|()| self.context.kv_cache_seq_cp(from, to, None, None));
            if copied.is_ok() {
                cached = lengths[best];
            } else {
                cached = 0;
            }
        }
        if self.context.kv_cache_seq_rm(own as i32, Some(cached as u32), None).is_err() {
            // A cache that cannot be cut is emptied: that always works.
            let _ = self.context.kv_cache_seq_rm(own as i32, None, None);
            cached = 0;
        }
        self.slots[own] = prompt[..cached].to_vec();
        (own, cached)
    }

    /// Makes the batch of a step.
    fn fill(&mut self, running: &mut [Running]) {
        self.batch.clear();
        running.sort_by_key(|run| run.slot);
        let mut room = self.options.batch_tokens.max(self.options.slots);
        for run in running.iter_mut() {
            run.logits = None;
            if let Some(token) = run.next.take() {
                let at = self.batch.n_tokens();
                if self.add(run.slot, token, true) {
                    run.logits = Some(at);
                    room -= 1;
                }
            }
        }
        if self.batch.n_tokens() > 0 {
            room = room.min(PROMPT_SHARE);
        }
        let mut readers: Vec<&mut Running> = running.iter_mut().filter(|run| run.reads()).collect();
        // Oldest first: those that have read most.
        readers.sort_by_key(|run| std::cmp::Reverse(run.read));
        for run in readers {
            let until = run.sequence.prompt.len().min(run.read + room);
            room -= until - run.read;
            while run.read < until {
                let last = run.read + 1 == run.sequence.prompt.len();
                let at = self.batch.n_tokens();
                if !self.add(run.slot, run.sequence.prompt[run.read], last) {
                    return;
                }
                run.logits = last.then_some(at);
                run.read += 1;
            }
        }
    }

    fn add(&mut self, slot: usize, token: i32, logits: bool) -> bool {
        let tokens = &mut self.slots[slot];
        let added = self.batch.add(LlamaToken(token), tokens.len() as i32, &[slot as i32], logits).is_ok();
        if added {
            tokens.push(token);
        }
        added
    }

    /// Chooses the next token of each sequence that has logits.
    fn advance(&mut self, running: &mut Vec<Running>) {
        let vocab = self.model.vocab();
        let mut bytes = Vec::new();
        let mut ended = Vec::new();
        for (n, run) in running.iter_mut().enumerate() {
            let Some(at) = run.logits.take() else { continue };
            let token = run.sampler.choose(self.context.get_logits_ith(at));
            run.generated += 1;
            if vocab.is_eog(LlamaToken(token)) {
                ended.push((n, FinishReason::Stop));
                continue;
            }
            bytes.clear();
            vocab.token_to_piece_into(LlamaToken(token), &mut bytes, false, None);
            let (text, stopped) = run.out.push(&bytes);
            if !text.is_empty() {
                run.sequence.sink.text(&text);
            }
            if stopped {
                ended.push((n, FinishReason::Stop));
            } else if run.generated >= run.sequence.max_tokens {
                ended.push((n, FinishReason::Length));
            } else {
                run.next = Some(token);
            }
        }
        for (n, reason) in ended.into_iter().rev() {
            finish(running.remove(n), reason);
        }
    }

    /// A step that llama.cpp refused: its sequences end with the error, and their slots begin anew.
    fn fail_batch(&mut self, running: &mut Vec<Running>, reason: &str) {
        tracing::error!(reason, "a step of the engine failed");
        for mut run in running.drain(..) {
            let _ = self.context.kv_cache_seq_rm(run.slot as i32, None, None);
            self.slots[run.slot].clear();
            run.sequence.sink.finish(Err(ModelError::Engine(reason.to_owned())));
        }
    }

    fn report(&self, running: &[Running]) {
        self.shared.running.store(running.len(), Ordering::Relaxed);
        self.shared.context_used.store(self.slots.iter().map(Vec::len).sum(), Ordering::Relaxed);
    }
}

impl Running {
    fn reads(&self) -> bool {
        self.read < self.sequence.prompt.len()
    }
}

fn finish(mut run: Running, reason: FinishReason) {
    // Text held back is shown when it turned out to be no stop text.
    if reason != FinishReason::Cancelled {
        let rest = run.out.finish();
        if !rest.is_empty() {
            run.sequence.sink.text(&rest);
        }
    }
    run.sequence.sink.finish(Ok(Finished {
        reason,
        prompt_tokens: run.sequence.prompt.len(),
        cached_prompt_tokens: run.cached,
        completion_tokens: run.generated,
    }));
}
