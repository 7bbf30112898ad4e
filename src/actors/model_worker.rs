//! A model worker owns one engine: it starts sequences on it, watches it, and when the engine's thread dies
//! builds a new one that takes over the sequences that had not begun.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;

use super::compute::blocking;
use super::door::{Factory, Role};
use crate::models::llama_cpp::{LlamaCpp, LlamaOptions};
use crate::models::{Generator, ModelError, Sequence};

/// How often the engine's thread is looked after.
const LOOK: Duration = Duration::from_millis(20);

/// The engine of a worker as others may read it: to tokenize, and to see its load. Empty while there is none.
pub type EngineSlot = Arc<ArcSwapOption<LlamaCpp>>;

/// A model worker; see the module.
pub struct ModelWorker {
    engine: Arc<LlamaCpp>,
    slot: EngineSlot,
    orphans: Arc<Mutex<Vec<Sequence>>>,
}

impl ModelWorker {
    /// The factory of a worker; each call loads the model anew and puts the engine into `slot`.
    pub fn factory(options: LlamaOptions, slot: EngineSlot) -> Factory<Self> {
        // Sequences that outlived their engine.
        let orphans: Arc<Mutex<Vec<Sequence>>> = Arc::default();
        Arc::new(move || {
            let (options, slot, orphans) = (options.clone(), Arc::clone(&slot), Arc::clone(&orphans));
            async move {
                let engine = blocking(move || LlamaCpp::load(options)).await.map_err(|error| error.to_string())?;
                slot.store(Some(Arc::clone(&engine)));
                for sequence in std::mem::take(&mut *orphans.lock()) {
                    engine.start(sequence).map_err(|error| error.to_string())?;
                }
                Ok(Self { engine, slot, orphans })
            }
            .boxed_local()
        })
    }
}

impl Role for ModelWorker {
    type Message = Sequence;
    type Reply = ();
    type Error = ModelError;
    const SERIAL: bool = true;

    fn handle(&mut self, sequence: Sequence) -> LocalBoxFuture<'static, Result<(), ModelError>> {
        fail::fail_point!("model_worker");
        let started = self.engine.start(sequence);
        async move { started }.boxed_local()
    }

    fn died(&self) -> LocalBoxFuture<'static, String> {
        let engine = Arc::clone(&self.engine);
        async move {
            while engine.alive() {
                actix_rt::time::sleep(LOOK).await;
            }
            "the engine's thread died".to_owned()
        }
        .boxed_local()
    }
}

impl Drop for ModelWorker {
    fn drop(&mut self) {
        self.orphans.lock().extend(self.engine.take_waiting());
        self.slot.store(None);
    }
}
