//! From an engine into the answers of a generation: stages, text, citations, usage, the end; and the record of its use.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tracing::Span;

use super::flight::{Ended, Flight};
use crate::actors::cache::CacheCounts;
use crate::answer::citation::Citations;
use crate::answer::log::{AnswerLog, DoneReason, Event, Stage, Stopped};
use crate::budgets::Reservation;
use crate::error::ServiceError;
use crate::freshness::AsOf;
use crate::models::{Demand, FinishReason, Finished, ModelError, Sink};
use crate::usage::{Ledger, Outcome, Served, UsageRecord};

/// Writes what an engine generates to all answers of a flight.
pub(super) struct AnswerSink {
    pub(super) stages: Stages,
    pub(super) flight: Arc<Flight>,
    /// Checks citations, where the answer rests on passages.
    pub(super) citations: Option<Citations>,
    pub(super) account: Account,
    /// Tokens of its prompt, about where the model is elsewhere.
    pub(super) prompt_tokens: usize,
    /// Whether it was told its end.
    pub(super) finished: bool,
}

/// The spans of a generation's stages: in line, prefill, decode.
pub(super) struct Stages {
    /// The answer that it was begun for: beside it the log tells of it.
    answer: Span,
    /// The model's work as a whole.
    model: Span,
    now: Option<Span>,
}

impl Stages {
    /// Those of the work that `model` is the span of, for the answer at hand. They are made within it: with it as their named
    /// parent they would be the first of traces of their own where it is not taken.
    pub(super) fn new(model: Span) -> Self {
        let now = Some(model.in_scope(|| tracing::debug_span!("line")));
        Self { answer: Span::current(), model, now }
    }

    fn prefill(&mut self) {
        self.now = Some(self.model.in_scope(|| tracing::debug_span!("prefill")));
    }

    fn decode(&mut self, first_token_ms: u64) {
        self.model.record("gen_ai.response.time_to_first_chunk", first_token_ms as f64 / 1e3);
        self.now = Some(self.model.in_scope(|| tracing::debug_span!("decode")));
    }

    fn end(&mut self, record: &UsageRecord) {
        self.now = None;
        self.model
            .record("gen_ai.usage.input_tokens", record.prompt_tokens)
            .record("gen_ai.usage.output_tokens", record.completion_tokens)
            .record("gen_ai.usage.cache_read.input_tokens", record.cached_prompt_tokens);
        match &record.error {
            Some(error) => self.model.record("error.type", error).record("otel.status_code", "ERROR"),
            None => self.model.record("gen_ai.response.finish_reasons", tracing::field::debug([record.outcome.name()])),
        };
        // Whoever holds it on ends nothing.
        self.model = Span::none();
    }
}

/// The record of a generation's use, but for what is known at the end.
#[derive(Clone)]
pub(super) struct Account {
    pub(super) ledger: Arc<Ledger>,
    pub(super) counts: Arc<CacheCounts>,
    pub(super) record: UsageRecord,
    pub(super) began: Instant,
    /// The tokens that are reserved for it; given back with the last clone of it.
    pub(super) reserved: Option<Arc<Mutex<Reservation>>>,
}

impl Account {
    /// Records the generation.
    fn close(&mut self) {
        self.record.total_ms = self.began.elapsed().as_millis() as u64;
        if let Some(reserved) = &self.reserved {
            reserved.lock().used(self.record.prompt_tokens + self.record.completion_tokens);
        }
        self.ledger.record(self.record.clone());
    }

    /// Records the answers that the generation gave beside the one it was begun for.
    pub(super) fn others(&self, mut ended: Vec<Ended>) {
        ended.retain(|ended| ended.answer != self.record.answer);
        self.shared(self.record.outcome, ended);
    }

    /// Records answers that somebody else's generation gave, which ended so.
    pub(super) fn shared(&self, outcome: Outcome, ended: Vec<Ended>) {
        for ended in &ended {
            CacheCounts::add(if ended.cached { &self.counts.answers } else { &self.counts.shared });
        }
        self.free(Served::Shared, outcome, ended);
    }

    /// Records answers that were kept.
    pub(super) fn kept(&self, outcome: Outcome, ended: Vec<Ended>) {
        self.free(Served::Cache, outcome, ended);
    }

    /// Records answers that took no tokens.
    fn free(&self, served: Served, outcome: Outcome, ended: Vec<Ended>) {
        for ended in ended {
            self.ledger.record(UsageRecord {
                answer: ended.answer,
                caller: ended.caller.as_ref().to_owned(),
                served: if ended.cached { Served::Cache } else { served },
                prompt_tokens: 0,
                cached_prompt_tokens: 0,
                completion_tokens: 0,
                estimated: false,
                outcome: match (&ended.error, ended.cancelled) {
                    (Some(_), _) => Outcome::Error,
                    (None, true) => Outcome::Cancelled,
                    (None, false) => outcome,
                },
                error: ended.error,
                first_token_ms: ended.first_token_ms,
                total_ms: ended.total_ms,
                ..self.record.clone()
            });
        }
    }
}

impl AnswerSink {
    fn token(&mut self, text: String) {
        if !text.is_empty() {
            self.flight.text(text);
        }
    }
}

impl Sink for AnswerSink {
    fn demand(&self) -> Demand {
        self.flight.demand()
    }

    fn queued(&mut self, place: usize) {
        self.flight.status(Stage::Queued, Some(place));
    }

    fn started(&mut self) {
        // What counts where nothing better comes to be known: it fails, and its engine tells no figures.
        self.account.record.prompt_tokens = self.prompt_tokens;
        self.account.record.estimated = true;
        self.stages.prefill();
        self.flight.status(Stage::Reading, None);
    }

    fn text(&mut self, text: &str) {
        let record = &mut self.account.record;
        record.completion_tokens += 1;
        if record.first_token_ms.is_none() {
            let first_token_ms = self.account.began.elapsed().as_millis() as u64;
            record.first_token_ms = Some(first_token_ms);
            self.stages.decode(first_token_ms);
            self.flight.status(Stage::Generating, None);
        }
        let shown = match &mut self.citations {
            Some(citations) => citations.push(text),
            None => text.to_owned(),
        };
        self.token(shown);
    }

    fn finish(&mut self, result: Result<Finished, ModelError>) {
        let (rest, report) = self.citations.take().map(Citations::finish).unwrap_or_default();
        self.token(rest);
        self.finished = true;
        let record = &mut self.account.record;
        let ended = match result {
            Ok(finished) => {
                record.prompt_tokens = finished.prompt_tokens;
                record.cached_prompt_tokens = finished.cached_prompt_tokens;
                record.completion_tokens = finished.completion_tokens;
                record.estimated = finished.estimated;
                record.outcome = finished.reason.into();
                let ended = self.flight.finish(&finished);
                // What nobody wanted to the end was ended by the last of them, in its way.
                if let Some(error) = ended.last().and_then(|ended| ended.error.clone())
                    && finished.reason == FinishReason::Cancelled
                {
                    (record.outcome, record.error) = (Outcome::Error, Some(error));
                }
                let _answer = self.stages.answer.enter();
                tracing::info!(
                    model = record.model,
                    reason = ?finished.reason,
                    error = record.error,
                    answers = ended.len(),
                    prompt_tokens = finished.prompt_tokens,
                    cached_prompt_tokens = finished.cached_prompt_tokens,
                    completion_tokens = finished.completion_tokens,
                    first_token_ms = record.first_token_ms,
                    total_ms = self.account.began.elapsed().as_millis() as u64,
                    citations_kept = report.kept,
                    citations_dropped = report.dropped_unknown + report.dropped_unsupported,
                    citations_added = report.added,
                    "answered"
                );
                ended
            }
            Err(error) => {
                let end = super::problem(error);
                record.error = end.problem_kind().map(str::to_owned);
                self.flight.close(&|_| vec![end.clone()])
            }
        };
        self.stages.end(&self.account.record);
        self.account.close();
        self.account.others(ended);
    }
}

impl Drop for AnswerSink {
    /// One that was never told its end failed with the actor that had it. Its logs tell the readers.
    fn drop(&mut self) {
        if !self.finished {
            let ended = self.flight.abandon();
            self.account.record.error.get_or_insert_with(|| "internal".to_owned());
            self.stages.end(&self.account.record);
            self.account.close();
            self.account.others(ended);
        }
    }
}

/// The last event of a generation that ended in this way.
pub(super) fn ending(reason: FinishReason, log: &AnswerLog, as_of: AsOf, cached: bool) -> Event {
    let finish_reason = match (reason, log.stopped()) {
        (FinishReason::Stop, _) => DoneReason::Stop,
        (FinishReason::Length, _) => DoneReason::Length,
        (FinishReason::Cancelled, Some(Stopped::Stalled)) => return super::problem(ServiceError::Stalled),
        (FinishReason::Cancelled, Some(Stopped::Withdrawn)) => return super::problem(ServiceError::DocumentDeleted),
        (FinishReason::Cancelled, Some(Stopped::Late)) => return super::problem(ServiceError::TooLate),
        (FinishReason::Cancelled, Some(Stopped::Service { elsewhere })) => {
            return super::problem(ServiceError::Stopping { elsewhere });
        }
        (FinishReason::Cancelled, _) => DoneReason::Cancelled,
    };
    Event::Done { finish_reason, cached, as_of }
}
