//! A model pool admits generations for one model, keeps them in line, and gives each to the worker with the least to
//! do when its turn comes. It holds what it admitted until the generation has ended.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix_rt::task::JoinHandle;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};

use super::door::{Door, DoorError, Entry, Factory, Role};
use super::model_worker::{EngineSlot, EngineState, ModelWorker, Orphans};
use crate::error::ServiceError;
use crate::models::admission::{Admission, Engines, Limits, Newcomer};
use crate::models::line::{Line, Priority};
use crate::models::{Demand, FinishReason, Finished, Generator, ModelError, Prompt, Sampling, Sequence, Sink};

/// How often the line is looked through where nothing happens: for those that have left it, and for places of
/// sequences that were parked.
const LOOK: Duration = Duration::from_millis(25);

/// A generation to run. The reply comes when it has ended.
pub struct Generate {
    /// What the model is given.
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// Where the text goes.
    pub sink: Box<dyn Sink>,
    /// Its leave to wait.
    pub ticket: Ticket,
    /// See [`Sequence::span`].
    pub span: tracing::Span,
}

/// A worker as the pool knows it.
#[derive(Clone)]
pub struct PooledWorker {
    /// The way to it.
    pub door: Door<ModelWorker>,
    /// Its engine.
    pub slot: Arc<EngineSlot>,
    /// A step that takes longer than this is taken for the engine's end.
    stall: Duration,
    /// Sequences that were given to it and have not ended.
    assigned: Arc<AtomicUsize>,
}

impl PooledWorker {
    /// A worker with nothing to do.
    pub fn new(door: Door<ModelWorker>, slot: Arc<EngineSlot>, stall: Duration) -> Self {
        Self { door, slot, stall, assigned: Arc::default() }
    }

    /// Its engine, while that works.
    fn engine(&self) -> Option<Arc<dyn Generator>> {
        self.slot.engine().filter(|engine| engine.alive())
    }

    /// Sequences that take its slots, if it has a slot free. One that may be about to hang is given nothing.
    fn room(&self) -> Option<usize> {
        let load = self.engine().filter(|engine| engine.step_time() < self.stall / 4)?.load();
        let taken = self.assigned.load(Ordering::Relaxed).saturating_sub(load.parked);
        (taken < load.slots).then_some(taken)
    }
}

/// What a pool shares with those who ask it; it outlives a restart of the actor.
pub struct PoolState {
    /// The model's name.
    pub name: String,
    /// What runs it.
    pub provider: &'static str,
    workers: Vec<PooledWorker>,
    limits: Limits,
    admission: Mutex<Admission>,
    line: Mutex<Line<Waiting>>,
    orphans: Arc<Orphans>,
    changed: Notify,
}

/// A generation in line.
struct Waiting {
    sequence: Sequence,
    reservation: Reservation,
    /// The place it was told.
    told: usize,
}

impl PoolState {
    /// A pool of these workers, with nobody in line. `orphans` is where the workers leave what they could not begin.
    pub fn new(
        name: String,
        provider: &'static str,
        workers: Vec<PooledWorker>,
        orphans: Arc<Orphans>,
        limits: Limits,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            provider,
            workers,
            limits,
            admission: Mutex::new(Admission::new(limits)),
            line: Mutex::default(),
            orphans,
            changed: Notify::new(),
        })
    }

    /// An engine of the model, to count tokens with.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`] where none works now, with why.
    pub fn engine(&self) -> Result<Arc<dyn Generator>, ServiceError> {
        self.engines().next().ok_or_else(|| ServiceError::Unavailable {
            reason: format!("the model {} cannot work now: {}", self.name, self.states().join("; ")),
            retry_after_s: 2,
        })
    }

    /// The states of those of its workers that are not ready, in words.
    fn states(&self) -> Vec<String> {
        let states = self.workers.iter().zip(1..).filter_map(|(worker, n)| match worker.slot.state() {
            EngineState::Ready if worker.engine().is_some() => None,
            EngineState::Ready => Some(format!("the engine of worker {n} has died")),
            EngineState::Failed(reason) => Some(format!("worker {n} has failed: {reason}")),
            state => Some(format!("worker {n} is {}", state.name())),
        });
        states.collect()
    }

    /// Whether a worker has its engine.
    pub fn works(&self) -> bool {
        self.engines().next().is_some()
    }

    /// Why the model cannot work at all, if it cannot: all of its workers have failed.
    pub fn failed(&self) -> Option<String> {
        let all = self.workers.iter().all(|worker| matches!(worker.slot.state(), EngineState::Failed(_)));
        all.then(|| self.states().join("; "))
    }

    /// What of the model does not work, in words for the operator.
    pub fn troubles(&self) -> Vec<String> {
        let engines = self.engines().filter_map(|engine| engine.trouble());
        self.states().into_iter().chain(engines).map(|trouble| format!("the model {}: {trouble}", self.name)).collect()
    }

    /// The engines that work.
    pub fn engines(&self) -> impl Iterator<Item = Arc<dyn Generator>> {
        self.workers.iter().filter_map(PooledWorker::engine)
    }

    /// What they are doing, in sum.
    fn load(&self) -> Engines {
        let loads = self.engines().map(|engine| engine.load());
        loads.fold(Engines::default(), |sum, load| Engines {
            slots: sum.slots + load.slots,
            parked: sum.parked + load.parked,
        })
    }

    /// For the admin page.
    pub fn describe(&self) -> Value {
        let engines = self.load();
        let mut admission = self.admission.lock();
        admission.engines(engines);
        json!({ "model": self.name, "admission": admission.describe() })
    }

    /// Takes what is no longer wanted out of the line, and gives turns.
    fn turn(self: &Arc<Self>, mut changed: bool) {
        let gone = self.line.lock().extract(|waiting| waiting.sequence.sink.demand() == Demand::Stop);
        changed |= !gone.is_empty();
        let gone = gone.into_iter().map(|waiting| waiting.sequence);
        for mut sequence in gone.chain(self.orphans.unwanted()) {
            sequence.sink.finish(Ok(Finished::unbegun(FinishReason::Cancelled)));
        }
        while let Some(worker) = self.workers.iter().filter_map(|w| Some((w.room()?, w))).min_by_key(|(n, _)| *n) {
            // These had their turn already.
            if let Some(orphan) = self.orphans.next() {
                Self::give(worker.1, orphan);
                continue;
            }
            let Some(Waiting { mut sequence, mut reservation, .. }) = self.line.lock().pop() else { break };
            changed = true;
            reservation.begin();
            sequence.sink = Box::new(Measured::new(sequence.sink, reservation));
            Self::give(worker.1, sequence);
        }
        if changed {
            // Who comes later may go before, and who is told of a place hears of each change of it.
            self.line.lock().places(|place, waiting| {
                if std::mem::replace(&mut waiting.told, place) != place {
                    waiting.sequence.sink.queued(place);
                }
            });
        }
    }

    /// Gives a sequence to a worker.
    fn give(worker: &PooledWorker, mut sequence: Sequence) {
        worker.assigned.fetch_add(1, Ordering::Relaxed);
        let assigned = Some(Assignment(Arc::clone(&worker.assigned)));
        sequence.sink = Box::new(Assigned { assigned, sink: sequence.sink });
        let door = worker.door.clone();
        actix_rt::spawn(async move {
            if let Err(error) = door.ask_patiently(sequence).await {
                tracing::warn!(worker = door.name(), %error, "a sequence was not taken");
            }
        });
    }
}

/// A request's place in the counts of a pool's admission, given back when it is dropped.
struct Reservation {
    pool: Arc<PoolState>,
    caller: Arc<str>,
    prompt_tokens: usize,
    runs: bool,
}

impl Reservation {
    fn resize(&mut self, prompt_tokens: usize) {
        self.pool.admission.lock().resize(self.prompt_tokens, prompt_tokens);
        self.prompt_tokens = prompt_tokens;
    }

    fn begin(&mut self) {
        self.runs = true;
        self.pool.admission.lock().begin(&self.caller, self.prompt_tokens);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        {
            let mut admission = self.pool.admission.lock();
            if self.runs { admission.end() } else { admission.leave(&self.caller, self.prompt_tokens) }
        }
        self.pool.changed.notify_one();
    }
}

/// Leave to wait for a model, given before the work for it is begun: so that who cannot be served hears it at once.
pub struct Ticket {
    entry: Option<Entry<ModelPool>>,
    reservation: Reservation,
    priority: Priority,
}

/// A model that can be asked: the way to its pool.
#[derive(Clone)]
pub struct PoolDoor {
    /// The way to the actor.
    pub door: Door<ModelPool>,
    /// What it shares.
    pub state: Arc<PoolState>,
}

impl PoolDoor {
    /// Lets a caller wait with a prompt of at most so many tokens, for an answer that may take so long in all.
    ///
    /// # Errors
    /// [`ServiceError::Overloaded`] with the counts, or [`ServiceError::Unavailable`] without an engine.
    pub fn admit(
        &self,
        caller: Arc<str>,
        priority: Priority,
        prompt_tokens: usize,
        time: Duration,
    ) -> Result<Ticket, ServiceError> {
        let pool = &self.state;
        pool.engine()?;
        let entry = self.door.enter().map_err(|error| match error {
            DoorError::Full { capacity, .. } => ServiceError::Overloaded {
                reason: format!("{capacity} answers are open, the limit is {capacity} ([answer] max_open)"),
                retry_after_s: pool.admission.lock().retry_after_s(),
                counts: serde_json::Map::from_iter([("max_open".to_owned(), capacity.into())]),
            },
            error => error.into(),
        })?;
        let engines = pool.load();
        let behind = {
            let line = pool.line.lock();
            line.len() - line.ahead(&caller, priority)
        };
        let objective = match priority {
            Priority::Interactive => pool.limits.first_token.min(time),
            Priority::Batch => time,
        };
        {
            let mut admission = pool.admission.lock();
            admission.engines(engines);
            admission.admit(&Newcomer { caller: Arc::clone(&caller), prompt_tokens, behind, objective })?;
        }
        let reservation = Reservation { pool: Arc::clone(pool), caller, prompt_tokens, runs: false };
        Ok(Ticket { entry: Some(entry), reservation, priority })
    }

    /// Runs a generation to its end. The sink hears everything; a sink that is dropped untold failed with its actor.
    ///
    /// # Errors
    /// What the sink hears too.
    pub async fn generate(&self, mut generate: Generate) -> Result<Finished, ServiceError> {
        let Some(entry) = generate.ticket.entry.take() else {
            return Err(ServiceError::Internal("a ticket was used twice".to_owned()));
        };
        Ok(entry.ask(generate).await?)
    }
}

/// The model pool; see the module.
pub struct ModelPool {
    state: Arc<PoolState>,
    turns: JoinHandle<()>,
}

impl ModelPool {
    /// The factory of the pool.
    pub fn factory(state: Arc<PoolState>) -> Factory<Self> {
        Arc::new(move || {
            let state = Arc::clone(&state);
            async move {
                let pool = Arc::clone(&state);
                let turns = actix_rt::spawn(async move {
                    loop {
                        pool.turn(false);
                        let waits = !(pool.line.lock().is_empty() && pool.orphans.is_empty());
                        let look = async {
                            if waits { actix_rt::time::sleep(LOOK).await } else { std::future::pending().await }
                        };
                        tokio::select! {
                            () = pool.changed.notified() => {}
                            () = pool.orphans.came.notified() => {}
                            () = look => {}
                        }
                    }
                });
                Ok(Self { state, turns })
            }
            .boxed_local()
        })
    }
}

impl Drop for ModelPool {
    fn drop(&mut self) {
        self.turns.abort();
    }
}

impl Role for ModelPool {
    type Message = Generate;
    type Reply = Finished;
    type Error = ModelError;
    const SERIAL: bool = false;

    fn handle(&mut self, message: Generate) -> LocalBoxFuture<'static, Result<Finished, ModelError>> {
        fail::fail_point!("model_pool");
        let Generate { prompt, sampling, max_tokens, stop, sink, ticket, span } = message;
        let Ticket { mut reservation, priority, .. } = ticket;
        let caller = Arc::clone(&reservation.caller);
        reservation.resize(prompt.len());
        let (end, ended) = oneshot::channel();
        let sink = Box::new(Reporting { sink, end: Some(end) });
        let cost = prompt.len() as u64;
        let sequence = Sequence { prompt, sampling, max_tokens, stop, sink, span };
        let waiting = Waiting { sequence, reservation, told: 0 };
        self.state.line.lock().push(Arc::clone(&caller), priority, cost, waiting);
        // Here rather than in the task, so that who finds a slot free is told of no place in a line.
        self.state.turn(true);
        self.state.changed.notify_one();
        let state = Arc::clone(&self.state);
        async move {
            let result = ended.await.unwrap_or(Err(ModelError::Stopped));
            if let Ok(finished) = &result {
                state.line.lock().charge(&caller, finished.completion_tokens as u64);
            }
            result
        }
        .boxed_local()
    }
}

/// A sink that also tells the pool of the end.
struct Reporting {
    sink: Box<dyn Sink>,
    end: Option<oneshot::Sender<Result<Finished, ModelError>>>,
}

impl Sink for Reporting {
    fn demand(&self) -> Demand {
        self.sink.demand()
    }

    fn queued(&mut self, place: usize) {
        self.sink.queued(place);
    }

    fn started(&mut self) {
        self.sink.started();
    }

    fn text(&mut self, text: &str) {
        self.sink.text(text);
    }

    fn finish(&mut self, result: Result<Finished, ModelError>) {
        self.sink.finish(result.clone());
        if let Some(end) = self.end.take() {
            let _ = end.send(result);
        }
    }
}

/// A sink that measures for the admission of others, and holds what was reserved to its own end.
struct Measured {
    sink: Box<dyn Sink>,
    reservation: Reservation,
    began: Option<Instant>,
    first_token: Option<Duration>,
    /// Since when its readers are behind, and how long they were before.
    parked: Cell<(Option<Instant>, Duration)>,
}

impl Measured {
    fn new(sink: Box<dyn Sink>, reservation: Reservation) -> Self {
        Self { sink, reservation, began: None, first_token: None, parked: Cell::default() }
    }

    /// How long its readers were behind.
    fn parked(&self) -> Duration {
        let (since, before) = self.parked.get();
        before + since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Sink for Measured {
    fn demand(&self) -> Demand {
        let demand = self.sink.demand();
        match (demand, self.parked.get()) {
            (Demand::Park, (None, before)) => self.parked.set((Some(Instant::now()), before)),
            (Demand::Run, (Some(_), _)) => self.parked.set((None, self.parked())),
            _ => {}
        }
        demand
    }

    fn started(&mut self) {
        self.began = Some(Instant::now());
        self.sink.started();
    }

    fn text(&mut self, text: &str) {
        if self.first_token.is_none() {
            self.first_token = self.began.map(|began| began.elapsed());
        }
        self.sink.text(text);
    }

    fn finish(&mut self, result: Result<Finished, ModelError>) {
        if let Ok(finished) = &result {
            let mut admission = self.reservation.pool.admission.lock();
            if let Some(time) = self.first_token {
                let computed = finished.prompt_tokens.saturating_sub(finished.cached_prompt_tokens);
                admission.measured_first_token(computed, time);
            }
            if let Some(began) = self.began.filter(|_| finished.reason != FinishReason::Cancelled) {
                admission.measured_hold(began.elapsed().saturating_sub(self.parked()));
            }
        }
        self.sink.finish(result);
    }
}

/// A sink of a sequence that has a place with a worker, and gives it back with its own end.
struct Assigned {
    // Dropped first: before the reservation in the sink tells the pool of a free place.
    assigned: Option<Assignment>,
    sink: Box<dyn Sink>,
}

/// A place with a worker.
struct Assignment(Arc<AtomicUsize>);

impl Drop for Assignment {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Sink for Assigned {
    fn demand(&self) -> Demand {
        self.sink.demand()
    }

    fn moved(&mut self) {
        self.assigned = None;
        self.sink.moved();
    }

    fn started(&mut self) {
        self.sink.started();
    }

    fn text(&mut self, text: &str) {
        self.sink.text(text);
    }

    fn finish(&mut self, result: Result<Finished, ModelError>) {
        self.sink.finish(result);
    }
}
