//! The ingestor accepts operations and sees each to its end: on disk before the caller hears of it, in order
//! within a document, many documents at once, tried again where something was not available,
//! given up with a reason where the document itself is at fault.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use opentelemetry::Context;
use parking_lot::Mutex;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::document::{DocumentWorkers, Process, ProcessError};
use super::door::{Door, DoorError, Factory, Role};
use super::stats::now_ms;
use crate::deletion::Deletions;
use crate::documents::event::Operation;
use crate::library::Library;
use crate::stores::StoreError;
use crate::stores::document_store::{Origin, Outcome, Receipt};
use crate::telemetry::trace;

/// Longest pause between two tries of one operation.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// An operation to accept.
pub struct Receive {
    /// The operation.
    pub operation: Operation,
    /// The event behind it, if one is.
    pub origin: Option<Origin>,
    /// Who asks for it, for the receipt of a deletion: the name of a caller, `event:…` or `folder:…`.
    pub by: String,
}

impl Receive {
    /// An operation with no event behind it.
    pub fn new(operation: Operation, by: impl Into<String>) -> Self {
        Self { operation, origin: None, by: by.into() }
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
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the ingestor shares with the operations under way; it outlives a restart of the actor.
pub struct Intake {
    library: Arc<Library>,
    deletions: Arc<Deletions>,
    workers: Door<DocumentWorkers>,
    /// Documents at work.
    lines: Mutex<HashMap<String, Line>>,
}

/// The operations on one document.
struct Line {
    at_work: u64,
    /// Those that wait for their turn, with the traces that they belong to.
    next: BTreeMap<u64, Context>,
}

impl Line {
    /// Whose turn it is now.
    fn advance(&mut self) -> Option<(u64, Context)> {
        let (seq, context) = self.next.pop_first()?;
        self.at_work = seq;
        Some((seq, context))
    }
}

/// The ingestor; see the module.
pub struct Ingestor(Arc<Intake>);

impl Intake {
    /// An intake that hands operations to `workers`.
    pub fn new(library: Arc<Library>, deletions: Arc<Deletions>, workers: Door<DocumentWorkers>) -> Arc<Self> {
        Arc::new(Self { library, deletions, workers, lines: Mutex::default() })
    }

    /// Sets accepted operations on their way that nobody works on: with `again` also this process's own. Must be called
    /// on an arbiter.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn take_over(self: &Arc<Self>, again: bool) -> Result<usize, StoreError> {
        let taken = self.library.store.claim(again).await?;
        let count = taken.len();
        for (seq, document) in taken {
            self.dispatch(document, seq);
        }
        Ok(count)
    }

    /// Sets an accepted operation on its way, in the trace of what it came with. Must be called on an arbiter.
    pub fn dispatch(self: &Arc<Self>, document: String, seq: u64) {
        let context = trace::of(&Span::current());
        {
            let mut lines = self.lines.lock();
            if let Some(line) = lines.get_mut(&document) {
                // What is taken over again keeps the trace that it came in.
                if line.at_work != seq {
                    line.next.entry(seq).or_insert(context);
                }
                return;
            }
            lines.insert(document.clone(), Line { at_work: seq, next: BTreeMap::new() });
        }
        let intake = Arc::clone(self);
        actix_rt::spawn(async move {
            let (mut seq, mut context) = (seq, context);
            loop {
                // Who brought it has its answer by now: its span has ended, and this one follows it.
                let span = trace::begin(
                    context,
                    || tracing::error_span!(parent: None, "document", document, seq, trace_id = Empty),
                );
                let taken = intake.see_through(seq).instrument(span.clone()).await;
                if taken {
                    intake.library.origins.remember(&document, &span);
                }
                drop(span);
                let mut lines = intake.lines.lock();
                match lines.get_mut(&document).and_then(Line::advance) {
                    Some(next) => (seq, context) = next,
                    None => {
                        lines.remove(&document);
                        return;
                    }
                }
            }
        });
    }

    /// Carries one operation out, however often it takes. Whether it could be.
    async fn see_through(&self, seq: u64) -> bool {
        let max_attempts = self.library.config().ingest.max_attempts;
        let (mut failures, mut round) = (0, 0u32);
        let reason = loop {
            let reason = match self.workers.ask_patiently(Process { seq }).await {
                Ok(()) => return true,
                Err(DoorError::Failed(ProcessError::Unfit(reason))) => break reason,
                // A panic may be the document's fault: it gets a limited number of tries.
                Err(error @ (DoorError::Panicked { .. } | DoorError::Failed(ProcessError::Suspect(_)))) => {
                    failures += 1;
                    if failures >= max_attempts {
                        break format!("it failed {failures} times; the last time: {error}");
                    }
                    error.to_string()
                }
                Err(error) => error.to_string(),
            };
            tracing::warn!(reason, "will be tried again");
            let pause = Duration::from_millis(50).saturating_mul(1 << round.min(12)).min(LONGEST_PAUSE);
            actix_rt::time::sleep(pause).await;
            round = round.saturating_add(1);
        };
        self.give_up(seq, reason).await;
        false
    }

    async fn give_up(&self, seq: u64, reason: String) {
        tracing::warn!(reason, "the document could not be taken; what was there before stays");
        loop {
            match self.library.store.give_up(seq, &reason, now_ms() as i64).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(%error, "cannot record a failed document, trying again");
                    actix_rt::time::sleep(LONGEST_PAUSE).await;
                }
            }
        }
    }
}

impl Ingestor {
    /// The factory of the ingestor. At each start it takes up every operation that is accepted, not settled and not at
    /// work elsewhere: none is forgotten over a crash or a restart.
    pub fn factory(intake: Arc<Intake>) -> Factory<Self> {
        Arc::new(move || {
            let intake = Arc::clone(&intake);
            async move {
                intake.take_over(true).await.map_err(|error| error.to_string())?;
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
        let Receive { operation, origin, by } = message;
        let intake = Arc::clone(&self.0);
        async move {
            fail::fail_point!("ingestor");
            let store = &intake.library.store;
            let limit = intake.library.config().ingest.max_pending;
            let waiting = store.waiting().await?;
            if waiting >= limit {
                return Err(IngestError::Backlog { waiting, limit });
            }
            let document = operation.id().to_string();
            let deletes = matches!(operation, Operation::Delete { .. });
            let receipt = store.receive(operation, origin, now_ms() as i64).await?;
            if receipt.outcome == Outcome::Accepted {
                if deletes {
                    intake.deletions.accepted(receipt.seq, receipt.revision, &document, &by).await;
                }
                intake.dispatch(document, receipt.seq);
            }
            Ok(receipt)
        }
        .boxed_local()
    }
}
