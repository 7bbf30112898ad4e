//! The ingestor accepts operations and sees each to its end: on disk before the caller hears of it, in order
//! within a document, many documents at once, tried again where something was not available,
//! given up with a reason where the document itself is at fault.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;

use super::compute::blocking;
use super::document::{DocumentWorkers, Process, ProcessError};
use super::door::{Door, DoorError, Factory, Role};
use super::indexer::Indexes;
use super::stats::now_ms;
use crate::documents::event::Operation;
use crate::stores::StoreError;
use crate::stores::catalog::{Origin, Outcome, Receipt};

/// Longest pause between two tries of one operation.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// An operation to accept.
pub struct Receive {
    /// The operation.
    pub operation: Operation,
    /// The event behind it, if one is.
    pub origin: Option<Origin>,
}

impl From<Operation> for Receive {
    fn from(operation: Operation) -> Self {
        Self { operation, origin: None }
    }
}

/// Why an operation was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Too many operations wait; nothing was stored.
    #[error("{waiting} operations wait to be indexed, the limit is {limit}")]
    Backlog {
        /// Operations that wait.
        waiting: usize,
        /// `[ingest] max_pending`.
        limit: usize,
    },
    /// The catalog could not store it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the ingestor shares with the operations under way; it outlives a restart of the actor.
pub struct Intake {
    indexes: Arc<Indexes>,
    workers: Door<DocumentWorkers>,
    /// Documents at work, each with the operations that wait for their turn.
    lines: Mutex<HashMap<String, BTreeSet<u64>>>,
}

/// The ingestor; see the module.
pub struct Ingestor(Arc<Intake>);

impl Intake {
    /// An intake that hands operations to `workers`.
    pub fn new(indexes: Arc<Indexes>, workers: Door<DocumentWorkers>) -> Arc<Self> {
        Arc::new(Self { indexes, workers, lines: Mutex::default() })
    }

    /// Sets an accepted operation on its way. Must be called on an arbiter.
    pub fn dispatch(self: &Arc<Self>, document: String, seq: u64) {
        {
            let mut lines = self.lines.lock();
            if let Some(line) = lines.get_mut(&document) {
                line.insert(seq);
                return;
            }
            lines.insert(document.clone(), BTreeSet::new());
        }
        let intake = Arc::clone(self);
        actix_rt::spawn(async move {
            let mut seq = seq;
            loop {
                intake.see_through(&document, seq).await;
                let mut lines = intake.lines.lock();
                match lines.get_mut(&document).and_then(BTreeSet::pop_first) {
                    Some(next) => seq = next,
                    None => {
                        lines.remove(&document);
                        return;
                    }
                }
            }
        });
    }

    /// Carries one operation out, however often it takes.
    async fn see_through(&self, document: &str, seq: u64) {
        let max_attempts = self.indexes.config.ingest.max_attempts;
        let mut failures = 0;
        for round in 0u32.. {
            let reason = match self.workers.ask_patiently(Process { seq }).await {
                Ok(()) => return,
                Err(DoorError::Failed(ProcessError::Unfit(reason))) => {
                    return self.give_up(document, seq, reason).await;
                }
                // A panic may be the document's fault: it gets a limited number of tries.
                Err(error @ (DoorError::Panicked { .. } | DoorError::Failed(ProcessError::Suspect(_)))) => {
                    failures += 1;
                    if failures >= max_attempts {
                        let reason = format!("it failed {failures} times; the last time: {error}");
                        return self.give_up(document, seq, reason).await;
                    }
                    error.to_string()
                }
                Err(error) => error.to_string(),
            };
            tracing::warn!(document, seq, reason, "will be tried again");
            let pause = Duration::from_millis(50).saturating_mul(1 << round.min(12)).min(LONGEST_PAUSE);
            actix_rt::time::sleep(pause).await;
        }
    }

    async fn give_up(&self, document: &str, seq: u64, reason: String) {
        tracing::warn!(document, seq, reason, "the document could not be taken; what was there before stays");
        loop {
            let (catalog, text) = (Arc::clone(&self.indexes.catalog), reason.clone());
            match blocking(move || catalog.give_up(seq, &text, now_ms() as i64)).await {
                Ok(()) => break self.indexes.freshness.settled([seq]),
                Err(error) => {
                    tracing::error!(document, seq, %error, "cannot record a failed document, trying again");
                    actix_rt::time::sleep(LONGEST_PAUSE).await;
                }
            }
        }
    }
}

impl Ingestor {
    /// The factory of the ingestor. At each start it takes up every operation that the catalog has
    /// accepted and not settled: none is forgotten over a crash or a restart.
    pub fn factory(intake: Arc<Intake>) -> Factory<Self> {
        Arc::new(move || {
            let intake = Arc::clone(&intake);
            async move {
                let catalog = Arc::clone(&intake.indexes.catalog);
                let pending = blocking(move || catalog.pending()).await.map_err(|error| error.to_string())?;
                for (seq, document, received_ms) in pending {
                    // One that is at work already is found settled when its turn comes again.
                    intake.indexes.freshness.accepted(seq, received_ms);
                    intake.dispatch(document, seq);
                }
                Ok(Self(intake))
            }
            .boxed_local()
        })
    }
}

impl Role for Ingestor {
    type Message = Receive;
    type Reply = Receipt;
    type Error = IngestError;
    const SERIAL: bool = false;

    fn handle(&mut self, message: Receive) -> LocalBoxFuture<'static, Result<Receipt, IngestError>> {
        let Receive { operation, origin } = message;
        let intake = Arc::clone(&self.0);
        async move {
            let indexes = &intake.indexes;
            let limit = indexes.config.ingest.max_pending;
            let waiting = indexes.freshness.unsettled();
            if waiting >= limit {
                return Err(IngestError::Backlog { waiting, limit });
            }
            let document = operation.id().to_string();
            let catalog = Arc::clone(&indexes.catalog);
            let now = now_ms() as i64;
            // The lag counts from where the publisher let go of it.
            let published = origin.and_then(|origin| origin.position).map(|position| position / 1_000_000);
            let receipt = blocking(move || {
                fail::fail_point!("ingestor");
                catalog.receive(&operation, origin.as_ref(), now)
            })
            .await?;
            if receipt.outcome == Outcome::Accepted {
                indexes.freshness.accepted(receipt.seq, published.unwrap_or(now).min(now));
                intake.dispatch(document, receipt.seq);
            }
            Ok(receipt)
        }
        .boxed_local()
    }
}
