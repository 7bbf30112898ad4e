//! From an engine into the log of an answer: stages, text, citations, usage, the end.

use std::sync::Arc;
use std::time::Instant;

use crate::answer::citation::Citations;
use crate::answer::log::{AnswerLog, DoneReason, Event, Stage, Stopped, Writer};
use crate::error::ServiceError;
use crate::freshness::AsOf;
use crate::models::{Demand, FinishReason, Finished, ModelError, Sink};
use crate::usage::{Ledger, Outcome, UsageRecord};

/// Writes what an engine generates into the log.
pub(super) struct AnswerSink {
    pub(super) log: Arc<AnswerLog>,
    pub(super) writer: Option<Writer>,
    /// Checks citations, where the answer rests on passages.
    pub(super) citations: Option<Citations>,
    pub(super) as_of: AsOf,
    pub(super) ledger: Arc<Ledger>,
    /// The record of its use, but for what is known at the end.
    pub(super) record: UsageRecord,
    pub(super) began: Instant,
    /// Tokens of its prompt, about where the model is elsewhere.
    pub(super) prompt_tokens: usize,
}

impl AnswerSink {
    fn append(&mut self, event: Event) {
        if let Some(writer) = &mut self.writer {
            writer.append(event);
        }
    }

    fn token(&mut self, text: String) {
        if !text.is_empty() {
            self.append(Event::Token { text });
        }
    }
}

impl Sink for AnswerSink {
    fn demand(&self) -> Demand {
        self.log.demand()
    }

    fn queued(&mut self, place: usize) {
        self.append(Event::Status { stage: Stage::Queued, queue_position: Some(place) });
    }

    fn started(&mut self) {
        // What counts where nothing better comes to be known: it fails, and its engine tells no figures.
        self.record.prompt_tokens = self.prompt_tokens;
        self.record.estimated = true;
        self.append(Event::Status { stage: Stage::Reading, queue_position: None });
    }

    fn text(&mut self, text: &str) {
        if self.record.first_token_ms.is_none() {
            self.record.first_token_ms = Some(self.began.elapsed().as_millis() as u64);
            self.append(Event::Status { stage: Stage::Generating, queue_position: None });
        }
        self.record.completion_tokens += 1;
        let shown = match &mut self.citations {
            Some(citations) => citations.push(text),
            None => text.to_owned(),
        };
        self.token(shown);
    }

    fn finish(&mut self, result: Result<Finished, ModelError>) {
        let (rest, report) = self.citations.take().map(Citations::finish).unwrap_or_default();
        self.token(rest);
        let Some(mut writer) = self.writer.take() else { return };
        self.record.total_ms = self.began.elapsed().as_millis() as u64;
        match result {
            Ok(finished) => {
                let end = ending(finished.reason, &self.log, self.as_of);
                self.record.prompt_tokens = finished.prompt_tokens;
                self.record.cached_prompt_tokens = finished.cached_prompt_tokens;
                self.record.completion_tokens = finished.completion_tokens;
                self.record.estimated = finished.estimated;
                self.record.error = end.problem_kind().map(str::to_owned);
                self.record.outcome = match (&end, finished.reason) {
                    (Event::Error(_), _) => Outcome::Error,
                    (_, FinishReason::Stop) => Outcome::Stop,
                    (_, FinishReason::Length) => Outcome::Length,
                    (_, FinishReason::Cancelled) => Outcome::Cancelled,
                };
                tracing::info!(
                    answer = self.log.id(),
                    model = self.record.model,
                    reason = ?finished.reason,
                    stopped = ?self.log.stopped(),
                    prompt_tokens = finished.prompt_tokens,
                    cached_prompt_tokens = finished.cached_prompt_tokens,
                    completion_tokens = finished.completion_tokens,
                    first_token_ms = self.record.first_token_ms,
                    total_ms = self.record.total_ms,
                    citations_kept = report.kept,
                    citations_dropped = report.dropped_unknown + report.dropped_unsupported,
                    citations_added = report.added,
                    "answered"
                );
                writer.append(usage(&finished));
                writer.append(end);
            }
            Err(error) => {
                let end = super::problem(error);
                self.record.error = end.problem_kind().map(str::to_owned);
                writer.append(end);
            }
        }
        self.ledger.record(self.record.clone());
    }
}

impl Drop for AnswerSink {
    /// One that was never told its end failed with the actor that had it. The writer tells the readers.
    fn drop(&mut self) {
        if self.writer.is_some() {
            self.record.total_ms = self.began.elapsed().as_millis() as u64;
            self.ledger.record(self.record.clone());
        }
    }
}

fn usage(finished: &Finished) -> Event {
    Event::Usage {
        prompt_tokens: finished.prompt_tokens,
        completion_tokens: finished.completion_tokens,
        total_tokens: finished.prompt_tokens + finished.completion_tokens,
        cached_prompt_tokens: finished.cached_prompt_tokens,
        estimated: finished.estimated,
    }
}

/// The last event of a generation that ended in this way.
pub(super) fn ending(reason: FinishReason, log: &AnswerLog, as_of: AsOf) -> Event {
    let finish_reason = match (reason, log.stopped()) {
        (FinishReason::Stop, _) => DoneReason::Stop,
        (FinishReason::Length, _) => DoneReason::Length,
        (FinishReason::Cancelled, Some(Stopped::Stalled)) => return super::problem(ServiceError::Stalled),
        (FinishReason::Cancelled, Some(Stopped::Late)) => return super::problem(ServiceError::TooLate),
        (FinishReason::Cancelled, _) => DoneReason::Cancelled,
    };
    Event::Done { finish_reason, cached: false, as_of }
}
