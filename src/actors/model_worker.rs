//! A model worker owns one engine: it loads and warms it, starts sequences on it, and watches it. An engine whose
//! thread has died or hangs is replaced by a new one; those that ran on it hear of it at once, and those that had not
//! begun go back to the pool ([`Orphans`]). An engine outlives a panic of its worker, and with it all that runs on it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::compute::blocking;
use super::door::{Factory, Role};
use crate::models::chat::{self, Message};
use crate::models::{Demand, Finished, Generator, ModelError, Rejected, Sampling, Sequence, Sink};

/// How often the engine is looked after.
const LOOK: Duration = Duration::from_millis(20);
/// Longest time to warm an engine.
const WARM: Duration = Duration::from_secs(120);

/// Loads an engine. Called on a thread that may block.
pub type Loader = Arc<dyn Fn() -> Result<Arc<dyn Generator>, ModelError> + Send + Sync>;

/// How an engine is loaded and looked after.
#[derive(Clone)]
pub struct EnginePlan {
    /// Loads it.
    pub loader: Loader,
    /// A first sequence is run on it before it is used, so that the first question does not pay for it.
    pub warm: bool,
    /// A step that takes longer than this is taken for the engine's end.
    pub stall: Duration,
}

/// Where a worker's engine is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineState {
    /// The model is being loaded.
    Loading,
    /// A first sequence runs on it.
    Warming,
    /// It works.
    Ready,
    /// It cannot be loaded; it is tried again.
    Failed(String),
}

impl EngineState {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Warming => "warming",
            Self::Ready => "ready",
            Self::Failed(_) => "failed",
        }
    }
}

/// The engine of a worker as others see it: to count tokens, and to see its load and state.
pub struct EngineSlot {
    engine: ArcSwapOption<Arc<dyn Generator>>,
    state: Mutex<EngineState>,
}

impl Default for EngineSlot {
    fn default() -> Self {
        Self { engine: ArcSwapOption::empty(), state: Mutex::new(EngineState::Loading) }
    }
}

impl EngineSlot {
    /// The engine, while there is one that works.
    pub fn engine(&self) -> Option<Arc<dyn Generator>> {
        self.engine.load().as_ref().map(|engine| Arc::clone(&**engine))
    }

    /// Where it is in its life.
    pub fn state(&self) -> EngineState {
        self.state.lock().clone()
    }

    /// For the admin page.
    pub fn describe(&self) -> Value {
        let state = self.state();
        let error = match &state {
            EngineState::Failed(reason) => Some(reason.clone()),
            _ => None,
        };
        let mut about = json!({ "state": state.name(), "error": error, "model": null });
        if let Some(engine) = self.engine() {
            about["model"] = engine.name().into();
            about["context"] = engine.context().into();
            about["load"] = json!(engine.load());
            about["totals"] = json!(engine.totals());
            about["engine"] = engine.detail();
        }
        about
    }

    fn set(&self, state: EngineState) {
        *self.state.lock() = state;
    }
}

/// Sequences that outlived their engine before they began, for the pool to give to another one.
#[derive(Default)]
pub struct Orphans {
    sequences: Mutex<VecDeque<Sequence>>,
    /// Told of each that comes.
    pub came: Notify,
}

impl Orphans {
    fn take_in(&self, sequences: impl IntoIterator<Item = Sequence>) {
        let mut all = self.sequences.lock();
        for mut sequence in sequences {
            sequence.sink.moved();
            all.push_back(sequence);
        }
        drop(all);
        self.came.notify_one();
    }

    /// The one that waits longest.
    pub fn next(&self) -> Option<Sequence> {
        self.sequences.lock().pop_front()
    }

    /// Takes out those that nobody wants any more.
    pub fn unwanted(&self) -> Vec<Sequence> {
        let mut all = self.sequences.lock();
        let (gone, kept) = all.drain(..).partition::<Vec<_>, _>(|sequence| sequence.sink.demand() == Demand::Stop);
        *all = kept.into();
        gone
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sequences.lock().is_empty()
    }
}

/// A model worker; see the module.
pub struct ModelWorker {
    engine: Arc<dyn Generator>,
    slot: Arc<EngineSlot>,
    orphans: Arc<Orphans>,
    stall: Duration,
    kept: Arc<Kept>,
}

/// What outlives a restart of the worker.
#[derive(Default)]
struct Kept {
    /// The engine, where it was not at fault.
    engine: Mutex<Option<Arc<dyn Generator>>>,
    /// The sinks of what runs on it.
    held: Mutex<Vec<Held>>,
}

impl ModelWorker {
    /// The factory of a worker. A call puts the engine into `slot`: the one there was, or the model loaded anew.
    pub fn factory(plan: EnginePlan, slot: Arc<EngineSlot>, orphans: Arc<Orphans>) -> Factory<Self> {
        let kept = Arc::<Kept>::default();
        Arc::new(move || {
            let (plan, slot, orphans, kept) =
                (plan.clone(), Arc::clone(&slot), Arc::clone(&orphans), Arc::clone(&kept));
            async move {
                let survivor = kept.engine.lock().take();
                let engine = match survivor {
                    Some(engine) => engine,
                    None => load(&plan, &slot).await?,
                };
                slot.engine.store(Some(Arc::new(Arc::clone(&engine))));
                slot.set(EngineState::Ready);
                // The pool may have been waiting for it.
                orphans.came.notify_one();
                Ok(Self { engine, slot, orphans, stall: plan.stall, kept })
            }
            .boxed_local()
        })
    }

    /// Starts a sequence. One that the engine does not take hears why; an engine that has ended leaves it to another.
    fn start(&mut self, mut sequence: Sequence) {
        let held = Held { sink: Arc::new(Mutex::new(Some(sequence.sink))), begun: Arc::default() };
        sequence.sink = Box::new(held.clone());
        {
            let mut all = self.kept.held.lock();
            // Those that have ended are cleared out now and then, and not for each that comes.
            if all.len().is_power_of_two() {
                all.retain(|held| held.sink.lock().is_some());
            }
            all.push(held);
        }
        match self.engine.start(sequence) {
            Ok(()) => {}
            Err(Rejected { error: ModelError::Stopped, sequence }) => self.orphans.take_in([*sequence]),
            Err(Rejected { error, mut sequence }) => sequence.sink.finish(Err(error)),
        }
    }
}

/// Loads the model and warms its engine.
async fn load(plan: &EnginePlan, slot: &Arc<EngineSlot>) -> Result<Arc<dyn Generator>, String> {
    slot.set(EngineState::Loading);
    let (loader, state, warms) = (Arc::clone(&plan.loader), Arc::clone(slot), plan.warm);
    let loaded = blocking(move || {
        let engine = loader()?;
        if warms {
            state.set(EngineState::Warming);
            warm(&*engine)?;
        }
        Ok(engine)
    });
    loaded.await.map_err(|error: ModelError| {
        slot.set(EngineState::Failed(error.to_string()));
        error.to_string()
    })
}

/// Runs a short sequence to its end.
fn warm(engine: &dyn Generator) -> Result<(), ModelError> {
    struct Warm(mpsc::Sender<Result<Finished, ModelError>>);
    impl Sink for Warm {
        fn demand(&self) -> Demand {
            Demand::Run
        }
        fn started(&mut self) {}
        fn text(&mut self, _: &str) {}
        fn finish(&mut self, result: Result<Finished, ModelError>) {
            let _ = self.0.send(result);
        }
    }
    let (sender, ended) = mpsc::channel();
    let prompt = engine.prompt(&[Message { role: chat::Role::User, content: "Hello!".to_owned() }]);
    let sink = Box::new(Warm(sender));
    let span = tracing::Span::none();
    let sequence = Sequence { prompt, sampling: Sampling::default(), max_tokens: 2, stop: Vec::new(), sink, span };
    engine.start(sequence).map_err(|rejected| rejected.error)?;
    match ended.recv_timeout(WARM) {
        Ok(result) => result.map(|_| ()),
        Err(_) => {
            engine.abandon();
            Err(ModelError::Load(format!("the model {} says nothing within {} s", engine.name(), WARM.as_secs())))
        }
    }
}

impl Role for ModelWorker {
    type Message = Sequence;
    type Reply = ();
    type Error = ModelError;
    const SERIAL: bool = true;
    const POOLED: bool = true;

    fn handle(&mut self, sequence: Sequence) -> LocalBoxFuture<'static, Result<(), ModelError>> {
        fail::fail_point!("model_worker");
        self.start(sequence);
        async { Ok(()) }.boxed_local()
    }

    fn died(&self) -> LocalBoxFuture<'static, String> {
        let (engine, stall) = (Arc::clone(&self.engine), self.stall);
        async move {
            loop {
                if !engine.alive() {
                    return "the engine's thread died".to_owned();
                }
                if engine.step_time() > stall {
                    return format!("the engine hangs: a step takes longer than {} s", stall.as_secs_f32());
                }
                actix_rt::time::sleep(LOOK).await;
            }
        }
        .boxed_local()
    }
}

impl Drop for ModelWorker {
    fn drop(&mut self) {
        let hangs = self.engine.step_time() > self.stall;
        if self.engine.alive() && !hangs {
            *self.kept.engine.lock() = Some(Arc::clone(&self.engine));
            return;
        }
        self.slot.set(EngineState::Loading);
        self.slot.engine.store(None);
        let waiting = self.engine.take_waiting();
        let held = std::mem::take(&mut *self.kept.held.lock());
        if hangs {
            self.engine.abandon();
            // Those that have not begun wait for the next one.
            for mut held in held.into_iter().filter(|held| held.begun.load(Ordering::Relaxed)) {
                held.finish(Err(ModelError::Engine("it hangs, and is being replaced".to_owned())));
            }
        }
        self.orphans.take_in(waiting);
    }
}

/// A sink that the worker keeps a hand on: an engine that hangs never says how its sequences ended.
#[derive(Clone)]
struct Held {
    sink: Arc<Mutex<Option<Box<dyn Sink>>>>,
    begun: Arc<AtomicBool>,
}

impl Sink for Held {
    fn demand(&self) -> Demand {
        self.sink.lock().as_ref().map_or(Demand::Stop, |sink| sink.demand())
    }

    fn moved(&mut self) {
        if let Some(sink) = &mut *self.sink.lock() {
            sink.moved();
        }
    }

    fn started(&mut self) {
        self.begun.store(true, Ordering::Relaxed);
        if let Some(sink) = &mut *self.sink.lock() {
            sink.started();
        }
    }

    fn text(&mut self, text: &str) {
        if let Some(sink) = &mut *self.sink.lock() {
            sink.text(text);
        }
    }

    fn finish(&mut self, result: Result<Finished, ModelError>) {
        let sink = self.sink.lock().take();
        if let Some(mut sink) = sink {
            sink.finish(result);
        }
    }
}
