//! The model pool admits generations, gives each to the worker with the least to do, and holds the place it
//! admitted it on until the generation has ended.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::sync::oneshot;

use super::door::{Door, DoorError, Factory, Role};
use super::model_worker::{EngineSlot, ModelWorker};
use crate::models::{Finished, Generator, ModelError, Sampling, Sequence, Sink};

/// A generation to run. The reply comes when it has ended.
pub struct Generate {
    /// Prompt, in tokens of the model.
    pub prompt: Vec<i32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// Where the text goes.
    pub sink: Box<dyn Sink>,
}

/// A worker as the pool knows it.
#[derive(Clone)]
pub struct PooledWorker {
    /// The way to it.
    pub door: Door<ModelWorker>,
    /// Its engine.
    pub engine: EngineSlot,
}

/// The model pool; see the module.
pub struct ModelPool {
    workers: Arc<Vec<PooledWorker>>,
}

impl ModelPool {
    /// The factory of the pool.
    pub fn factory(workers: Vec<PooledWorker>) -> Factory<Self> {
        let workers = Arc::new(workers);
        Arc::new(move || {
            let pool = Self { workers: Arc::clone(&workers) };
            async move { Ok(pool) }.boxed_local()
        })
    }
}

impl Role for ModelPool {
    type Message = Generate;
    type Reply = Finished;
    type Error = ModelError;
    const SERIAL: bool = false;

    fn handle(&mut self, message: Generate) -> LocalBoxFuture<'static, Result<Finished, ModelError>> {
        fail::fail_point!("model_pool");
        let least = |worker: &&PooledWorker| {
            worker.engine.load().as_ref().map_or(usize::MAX, |engine| {
                let load = engine.load();
                load.running + load.waiting
            })
        };
        let worker = self.workers.iter().min_by_key(least).map(|worker| worker.door.clone());
        async move {
            let Some(worker) = worker else { return Err(ModelError::Stopped) };
            let (end, ended) = oneshot::channel();
            let Generate { prompt, sampling, max_tokens, stop, sink } = message;
            let sink = Box::new(Reporting { sink, end: Some(end) });
            match worker.ask_patiently(Sequence { prompt, sampling, max_tokens, stop, sink }).await {
                Ok(()) => {}
                Err(DoorError::Failed(error)) => return Err(error),
                Err(error) => return Err(ModelError::Engine(error.to_string())),
            }
            ended.await.unwrap_or(Err(ModelError::Stopped))
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
    fn wanted(&self) -> bool {
        self.sink.wanted()
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
