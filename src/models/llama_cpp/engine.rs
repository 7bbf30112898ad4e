//! Continuous batching on one thread. Each step computes one token for every sequence that generates, and fills the
//! rest of the batch with prompt tokens of those that still read, oldest first; sequences of any length run together.
//!
//! A sequence whose readers are behind is parked: nothing is computed for it, and once another one waits for its slot it
//! goes on without one, to read again what it has said when its readers have caught up.
//!
//! It talks to those who start sequences through the queue in [`Shared`], and to readers through their sinks. It waits
//! only when there is nothing to compute.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::model::{Context, Model, Part, WORTH_COPYING, common};
use super::sampler::{Sampler, Scratch};
use super::{LlamaOptions, Shared, gguf};
use crate::models::text::TextOut;
use crate::models::{Demand, FinishReason, Finished, ModelError, Prompt, Sequence, Sink};

/// Prompt tokens in a step while others generate: what a long prompt delays a running stream by, a token.
const PROMPT_SHARE: usize = 128;

/// llama.cpp attends to the cache in blocks of so many cells, whether they are filled or not yet to be seen: a step that
/// ends with a block attends to none in vain.
const CACHE_BLOCK: usize = 256;

/// How often parked sequences are looked after while there is nothing else to do.
const LOOK: Duration = Duration::from_millis(10);

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
            shared.parked.store(0, Ordering::Relaxed);
            shared.step_began.store(0, Ordering::Relaxed);
            shared.context_used.store(0, Ordering::Relaxed);
            for run in running {
                let mut sink = run.sink;
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
        Model::load(&options.path, &architecture, false).map(Arc::new)
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
    let used = vec![0; context.slots()];
    let mut engine = Engine { model: &model, context, shared, used, scratch: Scratch::default(), bytes: Vec::new() };
    while engine.admit(running) {
        let start = Instant::now();
        let since = u64::try_from(start.duration_since(shared.made).as_millis()).unwrap_or(u64::MAX - 1);
        shared.step_began.store(since + 1, Ordering::Relaxed);
        fail::fail_point!("engine::step");
        engine.step(running);
        engine.report(running);
        shared.step_began.store(0, Ordering::Relaxed);
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        shared.busy_nanos.fetch_add(nanos, Ordering::Relaxed);
        shared.steps.fetch_add(1, Ordering::Relaxed);
    }
}

/// A sequence that has begun.
struct Running {
    sink: Box<dyn Sink>,
    sampler: Sampler,
    out: TextOut,
    max_tokens: usize,
    prompt_tokens: usize,
    /// What it has to read before it can say more: its prompt, and what it had said when it lost its slot.
    text: Vec<i32>,
    /// Its place in the cache; none while it is parked and others have them all.
    slot: Option<usize>,
    /// Its readers are behind.
    parked: bool,
    /// Whether its text is being read: what is cached of it is known.
    begun: bool,
    /// Tokens of the text that are in the cache.
    read: usize,
    /// Tokens of the prompt that were there before; none before it is known.
    cached: Option<usize>,
    /// Tokens chosen since it has its slot. The next step computes the last of them.
    chosen: Vec<i32>,
    generated: usize,
}

impl Running {
    fn new(sequence: Sequence) -> Self {
        let Sequence { prompt, sampling, max_tokens, stop, sink, .. } = sequence;
        // The engine admits no other prompts.
        let text = match prompt {
            Prompt::Tokens(tokens) => tokens,
            Prompt::Messages { .. } => Vec::new(),
        };
        Self {
            sink,
            sampler: Sampler::new(&sampling),
            out: TextOut::new(stop),
            max_tokens,
            prompt_tokens: text.len(),
            text,
            slot: None,
            parked: false,
            begun: false,
            read: 0,
            cached: None,
            chosen: Vec::new(),
            generated: 0,
        }
    }

    /// Whether it says something in each step, having read all.
    fn generates(&self) -> bool {
        !self.chosen.is_empty()
    }

    /// Tokens of the text that are still to be computed.
    fn unread(&self) -> usize {
        self.text.len() - self.read
    }

    /// Tokens that the slot's cache has to hold: all but the one chosen last.
    fn computed(&self) -> usize {
        self.read + self.chosen.len().saturating_sub(1)
    }

    /// Takes its slot away. What it said it has to read again.
    fn lose_slot(&mut self) {
        self.slot = None;
        self.text.append(&mut self.chosen);
        (self.begun, self.read) = (false, 0);
    }

    /// Tells the sink how it ended.
    fn finish(mut self, reason: FinishReason) {
        self.sink.finish(Ok(match self.cached {
            None => Finished::unbegun(reason),
            Some(cached_prompt_tokens) => Finished {
                reason,
                prompt_tokens: self.prompt_tokens,
                cached_prompt_tokens,
                completion_tokens: self.generated,
                estimated: false,
            },
        }));
    }

    fn fail(mut self, error: ModelError) {
        self.sink.finish(Err(error));
    }
}

/// A sequence's share of a step: its number among those running, and how many tokens of its prompt; none where it
/// generates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    run: usize,
    slot: usize,
    prompt: usize,
}

struct Engine<'m> {
    model: &'m Model,
    context: Context<'m>,
    shared: &'m Shared,
    /// The step in which each slot was used last.
    used: Vec<u64>,
    scratch: Scratch,
    bytes: Vec<u8>,
}

impl Engine<'_> {
    /// Ends what is not wanted any more, parks what its readers are behind with, and gives slots to those that wait;
    /// with nothing to do, waits. False once it is to stop.
    fn admit(&mut self, running: &mut Vec<Running>) -> bool {
        loop {
            for run in running.extract_if(.., |run| run.sink.demand() == Demand::Stop) {
                run.finish(FinishReason::Cancelled);
            }
            for run in running.iter_mut() {
                run.parked = run.sink.demand() == Demand::Park;
            }
            let mut gone = Vec::new();
            let (stop, new) = {
                let mut queue = self.shared.queue.lock();
                let idle = running.iter().all(|run| run.parked);
                if idle && queue.waiting.is_empty() && !queue.stop {
                    self.report(running);
                    if running.is_empty() {
                        self.shared.filled.wait(&mut queue);
                    } else {
                        self.shared.filled.wait_for(&mut queue, LOOK);
                    }
                }
                let unwanted = |sequence: &Sequence| sequence.sink.demand() == Demand::Stop;
                if queue.waiting.iter().any(unwanted) {
                    let kept;
                    (gone, kept) = queue.waiting.drain(..).partition::<Vec<_>, _>(unwanted);
                    queue.waiting = kept.into();
                }
                // Those that had a slot before come first.
                let active = running.iter().filter(|run| !run.parked).count();
                let new = self.context.slots().saturating_sub(active).min(queue.waiting.len());
                let new: Vec<Sequence> = if queue.stop { Vec::new() } else { queue.waiting.drain(..new).collect() };
                (queue.stop, new)
            };
            // Sinks are called without the lock: they may ask the engine something.
            for sequence in gone {
                Running::new(sequence).finish(FinishReason::Cancelled);
            }
            if stop {
                return false;
            }
            let first = running.len();
            running.extend(new.into_iter().map(Running::new));
            self.give_slots(running);
            self.report(running);
            for run in &mut running[first..] {
                run.sink.started();
            }
            for run in running.extract_if(.., |run| run.max_tokens == 0) {
                run.finish(FinishReason::Length);
            }
            if running.iter().any(|run| !run.parked && run.slot.is_some()) {
                return true;
            }
        }
    }

    /// Gives each sequence that is not parked a slot, oldest first: a free one, or one of a sequence that is parked.
    fn give_slots(&self, running: &mut [Running]) {
        for n in 0..running.len() {
            if running[n].parked || running[n].slot.is_some() {
                continue;
            }
            if running.iter().filter(|run| run.slot.is_some()).count() == self.context.slots() {
                // The one that began last has the least to read again.
                match running.iter_mut().rev().find(|run| run.parked && run.slot.is_some()) {
                    Some(parked) => parked.lose_slot(),
                    None => return,
                }
            }
            running[n].slot = self.free_slot(running, &running[n].text);
        }
    }

    /// The free slot to compute a text in: one whose conversation the text goes on with, else an empty one, else the one
    /// that was used least lately. What a conversation has computed stays for its next turn as long as there is room: a
    /// head that prompts share is copied from wherever it is. Of equals the first, since a step is cheaper where the slots
    /// in use are neighbours.
    fn free_slot(&self, running: &[Running], text: &[i32]) -> Option<usize> {
        let free = (0..self.context.slots()).filter(|slot| running.iter().all(|run| run.slot != Some(*slot)));
        free.min_by_key(|&slot| {
            let common = self.context.common(slot, text);
            // The text of an answer is not always cut into the tokens that it was made of.
            let goes_on = (self.context.length(slot) - common) * 8 <= common;
            if goes_on { (0, std::cmp::Reverse(common)) } else { (1 + self.used[slot], std::cmp::Reverse(0)) }
        })
    }

    /// Computes one step and passes its tokens on.
    fn step(&mut self, running: &mut Vec<Running>) {
        let shares = self.plan(running);
        let step = self.shared.steps.load(Ordering::Relaxed);
        shares.iter().for_each(|share| self.used[share.slot] = step);
        let Err(reason) = self.compute(running, &shares) else { return };
        // One of them may be at fault: each alone, only that one fails.
        tracing::warn!(reason, sequences = shares.len(), "a step of the engine failed; its sequences are tried alone");
        // From the last, since one that ends is removed.
        for share in shares.iter().rev() {
            let run = &running[share.run];
            let result = if shares.len() == 1 || self.context.length(share.slot) != run.computed() {
                Err(reason.clone())
            } else {
                self.compute(running, &[*share])
            };
            if let Err(reason) = result {
                let run = running.remove(share.run);
                self.context.clear(share.slot);
                run.fail(ModelError::Engine(format!("llama.cpp could not compute a step: {reason}")));
            }
        }
    }

    /// Who computes how much in this step.
    fn plan(&mut self, running: &mut [Running]) -> Vec<Share> {
        let active = |run: &Running| run.slot.filter(|_| !run.parked);
        let generating = running.iter().enumerate().filter(|(_, run)| run.generates());
        let mut shares: Vec<Share> =
            generating.filter_map(|(n, run)| Some(Share { run: n, slot: active(run)?, prompt: 0 })).collect();
        let mut room = self.context.batch_tokens() - shares.len();
        let alone = shares.is_empty();
        if !alone {
            room = room.min(PROMPT_SHARE);
        }
        for n in 0..running.len() {
            if room == 0 {
                break;
            }
            let Some(slot) = active(&running[n]).filter(|_| !running[n].generates()) else { continue };
            if !running[n].begun {
                let text = &running[n].text;
                // A beginning that another one is just about to compute is worth the wait for it.
                let soon = running.iter().filter(|other| other.begun && !other.generates() && !other.parked);
                let soon = soon.map(|other| common(&other.text, text)).max().unwrap_or(0);
                if soon >= self.context.reusable(slot, text) + WORTH_COPYING {
                    continue;
                }
                let cached = self.context.reuse(slot, text);
                let run = &mut running[n];
                (run.begun, run.read) = (true, cached);
                if run.cached.is_none() {
                    run.cached = Some(cached);
                    self.shared.cached_tokens.fetch_add(cached as u64, Ordering::Relaxed);
                }
            }
            let run = &running[n];
            let block = if alone { CACHE_BLOCK - run.read % CACHE_BLOCK } else { room };
            let prompt = run.unread().min(room).min(block);
            room -= prompt;
            shares.push(Share { run: n, slot, prompt });
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
                match run.chosen.as_slice() {
                    [.., last] => Part { slot: share.slot, tokens: std::slice::from_ref(last), logits: true },
                    [] => Part {
                        slot: share.slot,
                        tokens: &run.text[run.read..run.read + share.prompt],
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
            let full = run.generated >= run.max_tokens;
            (text, if stopped { Some(FinishReason::Stop) } else { full.then_some(FinishReason::Length) })
        };
        if end.is_some() {
            // What was held back for a stop text that did not come.
            text.push_str(&run.out.finish());
        } else {
            run.chosen.push(token);
        }
        if !text.is_empty() {
            run.sink.text(&text);
        }
        end.map(Ok)
    }

    fn report(&self, running: &[Running]) {
        let parked = running.iter().filter(|run| run.parked).count();
        self.shared.running.store(running.len() - parked, Ordering::Relaxed);
        self.shared.parked.store(parked, Ordering::Relaxed);
        self.shared.context_used.store(self.context.used(), Ordering::Relaxed);
    }
}
