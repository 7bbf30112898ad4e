//! Continuous batching on one thread. Each step computes one token for every sequence that generates, and fills the
//! rest of the batch with prompt tokens of those that still read, oldest first; sequences of any length run together.
//!
//! It talks to those who start sequences through the queue in [`Shared`], and to readers through their sinks. It waits
//! only when there is nothing to compute.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use super::model::{Context, Model, Part, WORTH_COPYING, common};
use super::sampler::{Sampler, Scratch};
use super::text::TextOut;
use super::{LlamaOptions, Shared, gguf};
use crate::models::{FinishReason, Finished, ModelError, Sequence};

/// Prompt tokens in a step while others generate: what a long prompt delays a running stream by, a token.
const PROMPT_SHARE: usize = 128;

/// llama.cpp attends to the cache in blocks of so many cells, whether they are filled or not yet to be seen: a step that
/// ends with a block attends to none in vain.
const CACHE_BLOCK: usize = 256;

/// What the thread has loaded.
pub(super) struct Loaded {
    /// The model, which others may count tokens with.
    pub(super) model: Arc<Model>,
    /// Most tokens of a sequence.
    pub(super) context: usize,
}

/// Starts the engine's thread; returns once it has loaded the model, or has failed to.
pub(super) fn spawn(options: LlamaOptions, shared: Arc<Shared>) -> Result<(JoinHandle<()>, Loaded), ModelError> {
    let (sender, loaded) = mpsc::sync_channel(1);
    let name = options.path.display().to_string();
    let failed =
        |reason: String| ModelError::Load(format!("the engine of the model {name} cannot be started: {reason}"));
    let thread = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || {
            // Sequences that run are kept outside of what may panic, so that they can be told.
            let mut running = Vec::new();
            let ended = catch_unwind(AssertUnwindSafe(|| live(&options, &shared, &sender, &mut running)));
            let error = match ended {
                Ok(()) => ModelError::Stopped,
                Err(panic) => ModelError::Engine(format!("its thread panicked: {}", panic_text(&*panic))),
            };
            if let ModelError::Engine(reason) = &error {
                tracing::error!(model = options.name, reason, "the engine has died");
                let _ = sender.try_send(Err(failed_to_load(&options, reason)));
            }
            // Before anybody hears of it: who is told that it failed must not find it alive.
            shared.queue.lock().dead = true;
            shared.running.store(0, Ordering::Relaxed);
            shared.context_used.store(0, Ordering::Relaxed);
            for run in running {
                let mut sink = run.sequence.sink;
                let error = error.clone();
                // A sink may be what panicked.
                let _ = catch_unwind(AssertUnwindSafe(move || sink.finish(Err(error))));
            }
        })
        .map_err(|error| failed(error.to_string()))?;
    match loaded.recv() {
        Ok(Ok(loaded)) => Ok((thread, loaded)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(failed("its thread ended".to_owned())),
    }
}

fn failed_to_load(options: &LlamaOptions, reason: &str) -> ModelError {
    ModelError::Load(format!("the model {} cannot be loaded: {reason}", options.path.display()))
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text")
}

/// The thread's life: loads, says so, and works until it is told to stop.
fn live(
    options: &LlamaOptions,
    shared: &Shared,
    sender: &mpsc::SyncSender<Result<Loaded, ModelError>>,
    running: &mut Vec<Running>,
) {
    let load = || {
        fail::fail_point!("engine::load", |_| Err(failed_to_load(options, "refused by a failpoint")));
        let architecture = gguf::check(&options.path).map_err(ModelError::Load)?;
        Model::load(&options.path, &architecture).map(Arc::new)
    };
    let model = match load() {
        Ok(model) => model,
        Err(error) => return drop(sender.try_send(Err(error))),
    };
    let size = options.context_per_slot.min(model.trained_context());
    if size < options.context_per_slot {
        tracing::warn!(asked = options.context_per_slot, size, "the model was trained on shorter contexts");
    }
    let context = match Context::new(&model, options, size) {
        Ok(context) => context,
        Err(error) => return drop(sender.try_send(Err(error))),
    };
    let _ = sender.try_send(Ok(Loaded { model: Arc::clone(&model), context: size }));
    let mut engine = Engine { model: &model, context, shared, scratch: Scratch::default(), bytes: Vec::new() };
    while engine.admit(running) {
        fail::fail_point!("engine::step");
        let start = Instant::now();
        engine.step(running);
        engine.report(running);
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        shared.busy_nanos.fetch_add(nanos, Ordering::Relaxed);
        shared.steps.fetch_add(1, Ordering::Relaxed);
    }
}

/// A sequence that holds a slot.
struct Running {
    sequence: Sequence,
    sampler: Sampler,
    out: TextOut,
    slot: usize,
    /// Whether its prompt is being read: what is cached of it is known.
    begun: bool,
    /// Tokens of the prompt that are in the cache.
    read: usize,
    /// Of these, those that were there before.
    cached: usize,
    generated: usize,
    /// The token chosen last, which the next step computes.
    next: Option<i32>,
}

impl Running {
    fn new(mut sequence: Sequence, slot: usize) -> Self {
        Self {
            sampler: Sampler::new(&sequence.sampling),
            out: TextOut::new(std::mem::take(&mut sequence.stop)),
            sequence,
            slot,
            begun: false,
            read: 0,
            cached: 0,
            generated: 0,
            next: None,
        }
    }

    /// Tokens of the prompt that are still to be computed.
    fn unread(&self) -> usize {
        self.sequence.prompt.len() - self.read
    }

    /// Tokens that the slot's cache has to hold: all but the one chosen last.
    fn computed(&self) -> usize {
        self.read + self.generated.saturating_sub(1)
    }

    /// Tells the sink how it ended.
    fn finish(mut self, reason: FinishReason) {
        self.sequence.sink.finish(Ok(Finished {
            reason,
            prompt_tokens: self.sequence.prompt.len(),
            cached_prompt_tokens: self.cached,
            completion_tokens: self.generated,
        }));
    }

    fn fail(mut self, error: ModelError) {
        self.sequence.sink.finish(Err(error));
    }
}

/// A sequence's share of a step: its number among those running, and how many tokens of its prompt; none where it
/// generates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    run: usize,
    prompt: usize,
}

struct Engine<'m> {
    model: &'m Model,
    context: Context<'m>,
    shared: &'m Shared,
    scratch: Scratch,
    bytes: Vec<u8>,
}

impl Engine<'_> {
    /// Ends what nobody wants any more and gives free slots to those that wait; with nothing to do, waits. False
    /// once it is to stop.
    fn admit(&mut self, running: &mut Vec<Running>) -> bool {
        for run in running.extract_if(.., |run| !run.sequence.sink.wanted()) {
            run.finish(FinishReason::Cancelled);
        }
        loop {
            let mut gone = Vec::new();
            let (stop, new) = {
                let mut queue = self.shared.queue.lock();
                if running.is_empty() && queue.waiting.is_empty() && !queue.stop {
                    self.report(running);
                    self.shared.filled.wait(&mut queue);
                }
                let unwanted = |sequence: &Sequence| !sequence.sink.wanted();
                if queue.waiting.iter().any(unwanted) {
                    let kept;
                    (gone, kept) = queue.waiting.drain(..).partition::<Vec<_>, _>(unwanted);
                    queue.waiting = kept.into();
                }
                let room = self.context.slots() - running.len();
                let new = room.min(queue.waiting.len());
                let new: Vec<Sequence> = if queue.stop { Vec::new() } else { queue.waiting.drain(..new).collect() };
                (queue.stop, new)
            };
            // Sinks are called without the lock: they may ask the engine something.
            for sequence in gone {
                Running::new(sequence, 0).finish(FinishReason::Cancelled);
            }
            if stop {
                return false;
            }
            let first = running.len();
            for sequence in new {
                let slot = self.free_slot(running, &sequence.prompt);
                running.push(Running::new(sequence, slot));
            }
            self.report(running);
            for run in &mut running[first..] {
                run.sequence.sink.started();
            }
            for run in running.extract_if(.., |run| run.sequence.max_tokens == 0) {
                run.finish(FinishReason::Length);
            }
            if !running.is_empty() {
                return true;
            }
        }
    }

    /// The free slot that holds most of the prompt's beginning; of equals the first, since a step is cheaper where the
    /// slots in use are neighbours.
    fn free_slot(&self, running: &[Running], prompt: &[i32]) -> usize {
        let free = (0..self.context.slots()).filter(|slot| running.iter().all(|run| run.slot != *slot));
        free.min_by_key(|&slot| std::cmp::Reverse(self.context.common(slot, prompt))).unwrap_or(0)
    }

    /// Computes one step and passes its tokens on.
    fn step(&mut self, running: &mut Vec<Running>) {
        let shares = self.plan(running);
        let Err(reason) = self.compute(running, &shares) else { return };
        // One of them may be at fault: each alone, only that one fails.
        tracing::warn!(reason, sequences = shares.len(), "a step of the engine failed; its sequences are tried alone");
        // From the last, since one that ends is removed.
        for share in shares.iter().rev() {
            let run = &running[share.run];
            let result = if shares.len() == 1 || self.context.length(run.slot) != run.computed() {
                Err(reason.clone())
            } else {
                self.compute(running, &[*share])
            };
            if let Err(reason) = result {
                let run = running.remove(share.run);
                self.context.clear(run.slot);
                run.fail(ModelError::Engine(format!("llama.cpp could not compute a step: {reason}")));
            }
        }
    }

    /// Who computes how much in this step.
    fn plan(&mut self, running: &mut [Running]) -> Vec<Share> {
        let generating = running.iter().enumerate().filter(|(_, run)| run.next.is_some());
        let mut shares: Vec<Share> = generating.map(|(run, _)| Share { run, prompt: 0 }).collect();
        let mut room = self.context.batch_tokens() - shares.len();
        let alone = shares.is_empty();
        if !alone {
            room = room.min(PROMPT_SHARE);
        }
        for n in 0..running.len() {
            if room == 0 {
                break;
            }
            if running[n].next.is_some() {
                continue;
            }
            if !running[n].begun {
                let (slot, prompt) = (running[n].slot, &running[n].sequence.prompt);
                // A beginning that another one is just about to compute is worth the wait for it.
                let soon = running.iter().filter(|other| other.begun && other.next.is_none());
                let soon = soon.map(|other| common(&other.sequence.prompt, prompt)).max().unwrap_or(0);
                if soon >= self.context.reusable(slot, prompt) + WORTH_COPYING {
                    continue;
                }
                let cached = self.context.reuse(slot, prompt);
                let run = &mut running[n];
                (run.begun, run.read, run.cached) = (true, cached, cached);
                self.shared.cached_tokens.fetch_add(cached as u64, Ordering::Relaxed);
            }
            let run = &running[n];
            let block = if alone { CACHE_BLOCK - run.read % CACHE_BLOCK } else { room };
            let prompt = run.unread().min(room).min(block);
            room -= prompt;
            shares.push(Share { run: n, prompt });
        }
        shares.sort_unstable_by_key(|share| share.run);
        shares
    }

    /// Computes these shares, and chooses a token for each sequence whose prompt is read. Sequences that end are
    /// removed.
    fn compute(&mut self, running: &mut Vec<Running>, shares: &[Share]) -> Result<(), String> {
        let parts: Vec<Part<'_>> = shares
            .iter()
            .map(|share| {
                let run = &running[share.run];
                match &run.next {
                    Some(token) => Part { slot: run.slot, tokens: std::slice::from_ref(token), logits: true },
                    None => Part {
                        slot: run.slot,
                        tokens: &run.sequence.prompt[run.read..run.read + share.prompt],
                        logits: share.prompt == run.unread(),
                    },
                }
            })
            .collect();
        let numbers = self.context.compute(&parts)?;
        let mut ended = Vec::new();
        for (share, number) in shares.iter().zip(numbers) {
            let run = &mut running[share.run];
            run.read += share.prompt;
            self.shared.prefill_tokens.fetch_add(share.prompt as u64, Ordering::Relaxed);
            if let Some(number) = number
                && let Some(end) = self.advance(run, number)
            {
                ended.push((share.run, end));
            }
        }
        for (run, end) in ended.into_iter().rev() {
            let run = running.remove(run);
            match end {
                Ok(reason) => run.finish(reason),
                Err(error) => run.fail(error),
            }
        }
        Ok(())
    }

    /// Chooses the next token of a sequence and passes its text on. Gives how the sequence ended, if it did.
    fn advance(&mut self, run: &mut Running, number: i32) -> Option<Result<FinishReason, ModelError>> {
        let Some(token) = run.sampler.choose(self.context.logits(number), &mut self.scratch) else {
            let reason = "the model gives no numbers; its file may be damaged, fetch it again".to_owned();
            return Some(Err(ModelError::Engine(reason)));
        };
        run.generated += 1;
        self.shared.decode_tokens.fetch_add(1, Ordering::Relaxed);
        let (mut text, end) = if self.model.ends(token) {
            (String::new(), Some(FinishReason::Stop))
        } else {
            self.model.piece(token, &mut self.bytes);
            let (text, stopped) = run.out.push(&self.bytes);
            let full = run.generated >= run.sequence.max_tokens;
            (text, if stopped { Some(FinishReason::Stop) } else { full.then_some(FinishReason::Length) })
        };
        if end.is_some() {
            // What was held back for a stop text that did not come.
            text.push_str(&run.out.finish());
        } else {
            run.next = Some(token);
        }
        if !text.is_empty() {
            run.sequence.sink.text(&text);
        }
        end.map(Ok)
    }

    fn report(&self, running: &[Running]) {
        self.shared.running.store(running.len(), Ordering::Relaxed);
        self.shared.context_used.store(self.context.used(), Ordering::Relaxed);
    }
}
