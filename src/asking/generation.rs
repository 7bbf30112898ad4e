//! One generation, from its evidence to its end.

use std::sync::Arc;
use std::time::Duration;

use dashmap::mapref::entry::Entry;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::flight::{Flight, usage};
use super::inquiry::Inquiry;
use super::kept::Evidence;
use super::lead::{Followed, Leader, Lease};
use super::sink::{Account, AnswerSink, Stages};
use super::{Asker, CacheUse, Found, problem};
use crate::actors::cache::CacheCounts;
use crate::actors::model_pool::{Generate, PoolDoor, Ticket};
use crate::answer::citation::Citations;
use crate::answer::evidence::{Key, RestsOn};
use crate::answer::log::{DoneReason, Event};
use crate::answer::prompt::NOT_FOUND_ANSWER;
use crate::error::ServiceError;
use crate::models::line::Priority;
use crate::models::{Demand, FinishReason, Finished, Prompt, Sampling};
use crate::telemetry::trace;
use crate::usage::Outcome;

/// How often it is looked whether an answer is still wanted while its passages are searched for.
const LOOK: Duration = Duration::from_millis(50);

/// What a model is to do, its prompt aside.
pub(super) struct Run {
    pub(super) leave: Leave,
    /// None where another replica generates.
    pub(super) ticket: Option<Ticket>,
    pub(super) sampling: Sampling,
    pub(super) max_tokens: usize,
    pub(super) stop: Vec<String>,
    pub(super) account: Account,
}

/// What a place in the line of a pool is asked for with.
#[derive(Clone)]
pub(super) struct Leave {
    pub(super) pool: PoolDoor,
    pub(super) caller: Arc<str>,
    pub(super) priority: Priority,
    /// Tokens of the prompt, at most.
    pub(super) prompt_tokens: usize,
    pub(super) time: Duration,
}

impl Leave {
    /// A place in the line.
    pub(super) fn ask(&self) -> Result<Ticket, ServiceError> {
        self.pool.admit(Arc::clone(&self.caller), self.priority, self.prompt_tokens, self.time)
    }
}

impl Run {
    /// Generates into a flight. The sink tells its answers how they end; one that is dropped untold, because its actor
    /// failed, ends them with an error as well.
    pub(super) async fn generate(self, flight: Arc<Flight>, prompt: Prompt, passages: Option<Vec<String>>) {
        let span = self.span();
        let Some(ticket) = self.ticket else { return };
        let sink = AnswerSink {
            stages: Stages::new(span.clone()),
            flight,
            citations: passages.map(Citations::new),
            account: self.account,
            prompt_tokens: prompt.len(),
            finished: false,
        };
        let generate = Generate {
            prompt,
            sampling: self.sampling,
            max_tokens: self.max_tokens,
            stop: self.stop,
            sink: Box::new(sink),
            ticket,
            span: span.clone(),
        };
        match self.leave.pool.generate(generate).instrument(span).await {
            Ok(_) => {}
            // A model's server may quote the prompt in what it says: that is for who asked. Its status is in the log.
            Err(ServiceError::Invalid(_) | ServiceError::Unavailable { .. }) => {
                tracing::warn!("a generation failed; who asked is told why");
            }
            Err(error) => tracing::warn!(%error, "a generation failed"),
        }
    }

    /// The span of the model's work, as the conventions of OpenTelemetry for generative AI have it (see
    /// [`crate::metrics`]).
    fn span(&self) -> Span {
        let record = &self.account.record;
        trace::or_around(tracing::debug_span!(
            "chat",
            otel.name = format_args!("chat {}", record.model),
            otel.kind = "client",
            otel.status_code = Empty,
            gen_ai.operation.name = record.operation.name(),
            gen_ai.provider.name = record.provider,
            gen_ai.request.model = record.model,
            gen_ai.request.max_tokens = self.max_tokens,
            gen_ai.request.temperature = self.sampling.temperature,
            gen_ai.request.top_p = self.sampling.top_p,
            gen_ai.usage.input_tokens = Empty,
            gen_ai.usage.output_tokens = Empty,
            gen_ai.usage.cache_read.input_tokens = Empty,
            gen_ai.response.finish_reasons = Empty,
            gen_ai.response.time_to_first_chunk = Empty,
            error.type = Empty,
        ))
    }
}

/// Where a flight can be found by those who ask the same, until it is over and its answer is kept.
pub(super) struct Landing {
    asker: Arc<Asker>,
    pub(super) flight: Arc<Flight>,
    keys: Vec<Key>,
    account: Account,
}

impl Landing {
    /// `key` is the one that the flight is found by already, if it is.
    pub(super) fn new(asker: Arc<Asker>, flight: Arc<Flight>, key: Option<Key>, account: Account) -> Self {
        Self { asker, flight, keys: key.into_iter().collect(), account }
    }

    /// Lets it be found by its evidence too; where another one of the same evidence is under way, everybody goes over to
    /// that one. Whether it goes on itself.
    fn meet(&mut self, evidence: &Evidence) -> bool {
        if self.keys.is_empty() {
            return true;
        }
        match self.asker.kept.flights.entry(evidence.answer) {
            Entry::Occupied(mut place) => {
                if self.flight.move_to(place.get()) {
                    return false;
                }
                place.insert(Arc::clone(&self.flight));
            }
            Entry::Vacant(place) => {
                place.insert(Arc::clone(&self.flight));
            }
        }
        self.keys.push(evidence.answer);
        true
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        for key in &self.keys {
            self.asker.kept.flights.remove_if(key, |_, flight| Arc::ptr_eq(flight, &self.flight));
        }
        self.account.others(self.flight.shut());
    }
}

/// A generation that rests on documents; see the module.
pub(super) struct Generation {
    pub(super) inquiry: Inquiry,
    pub(super) landing: Landing,
    /// What it finds, where that is known.
    pub(super) evidence: Option<Evidence>,
    pub(super) run: Run,
    pub(super) cache: CacheUse,
}

impl Generation {
    pub(super) async fn run(mut self) {
        let flight = Arc::clone(&self.landing.flight);
        let evidence = match self.evidence.take() {
            Some(evidence) => evidence,
            None => {
                let found = tokio::select! {
                    found = self.asker().look(&self.inquiry, self.cache) => found,
                    () = until_unwanted(&flight) => return self.cancel(),
                };
                match found {
                    Ok(Found::Evidence(evidence)) => evidence,
                    Ok(Found::Answer(evidence, answer)) => {
                        if self.tell_sources(&evidence).is_some() {
                            answer.say(&flight, &self.run.account);
                        }
                        return;
                    }
                    Ok(Found::Nothing) => return nothing_found(&flight),
                    Err(error) => return drop(flight.close(&|_| vec![problem(error.clone())])),
                }
            }
        };
        self.asker().link(&evidence);
        let Some(documents) = self.tell_sources(&evidence) else { return };
        if flight.demand() == Demand::Stop {
            return self.cancel();
        }
        if self.cache.read && !self.landing.meet(&evidence) {
            return;
        }
        let Some(lease) = self.lead(&evidence, &documents).await else { return };
        let Self { inquiry, landing, run, cache, .. } = self;
        let kept = &landing.asker.kept;
        CacheCounts::add(&kept.counts.generated);
        let keys = (evidence.answer, evidence.near);
        run.generate(Arc::clone(&flight), evidence.prompt, Some(evidence.texts)).await;
        if cache.write {
            kept.keep_answer(&inquiry.question.question, keys, documents, &flight).await;
        }
        // Who leads next finds the answer.
        drop(lease);
    }

    /// Tells all what it rests on, and gives that; unless something of it was deleted since it was found: then they end.
    fn tell_sources(&self, evidence: &Evidence) -> Option<Vec<RestsOn>> {
        let (flight, deletions) = (&self.landing.flight, &self.asker().deletions);
        let documents = evidence.rests_on(deletions.store());
        if deletions.deleted.any(&documents) {
            flight.close(&|_| vec![problem(ServiceError::DocumentDeleted)]);
            return None;
        }
        flight.sources(evidence.sources.clone());
        // After they are told: what is deleted from here on finds its answers. What was deleted just before has passed
        // over them, which had no sources yet.
        if deletions.deleted.any(&documents) {
            flight.withdraw();
            return None;
        }
        Some(documents)
    }

    /// Has this replica generate the answer, if no other one does. Where another one has, its answers are told that one's,
    /// and there is nothing left to do.
    async fn lead(&mut self, evidence: &Evidence, documents: &[RestsOn]) -> Option<Option<Lease>> {
        if !self.cache.read {
            return Some(None);
        }
        let asker = Arc::clone(&self.landing.asker);
        let Some(leads) = asker.leads.as_ref() else { return self.unless_kept(evidence, None).await };
        let flight = Arc::clone(&self.landing.flight);
        loop {
            let leader = match leads.ask(evidence.answer, documents, &flight).await {
                Leader::Alone => return self.unless_kept(evidence, None).await,
                Leader::This(lease) => return self.unless_kept(evidence, Some(lease)).await,
                Leader::Other(leader) => leader,
            };
            // It waits for nobody here.
            self.run.ticket = None;
            match leads.follow(evidence.answer, &leader, &flight).await {
                Followed::Lost => flight.begin_again(),
                Followed::Unwanted => {
                    let unwanted = Finished::unbegun(FinishReason::Cancelled);
                    self.run.account.shared(Outcome::Cancelled, flight.finish(&unwanted));
                    return None;
                }
                Followed::Ended(finished) => {
                    self.run.account.shared(finished.reason.into(), flight.finish(&finished));
                    if self.cache.write {
                        let keys = (evidence.answer, evidence.near);
                        let question = &self.inquiry.question.question;
                        asker.kept.keep_answer(question, keys, documents.to_vec(), &flight).await;
                    }
                    return None;
                }
            }
        }
    }

    /// Looks once more whether the answer is kept, now that nobody else can begin it: one that was being generated may have
    /// come to its end just before.
    async fn unless_kept(&mut self, evidence: &Evidence, lease: Option<Lease>) -> Option<Option<Lease>> {
        match self.asker().kept.answer(&self.inquiry.question.question, evidence).await {
            Some(answer) => {
                answer.say(&self.landing.flight, &self.run.account);
                None
            }
            None => self.take_place().then_some(lease),
        }
    }

    /// Takes a place in the line, where it has none any more. Whether it has one.
    fn take_place(&mut self) -> bool {
        if self.run.ticket.is_none() {
            match self.run.leave.ask() {
                Ok(ticket) => self.run.ticket = Some(ticket),
                Err(error) => {
                    let ended = self.landing.flight.close(&|_| vec![problem(error.clone())]);
                    self.run.account.shared(Outcome::Error, ended);
                    return false;
                }
            }
        }
        true
    }

    fn asker(&self) -> &Asker {
        &self.landing.asker
    }

    /// Ends what nobody wants.
    fn cancel(self) {
        self.landing.flight.finish(&Finished::unbegun(FinishReason::Cancelled));
    }
}

/// Ends a flight for which nothing was found.
pub(super) fn nothing_found(flight: &Flight) {
    flight.sources(Vec::new());
    flight.text(NOT_FOUND_ANSWER.to_owned());
    flight.close(&|as_of| {
        let done = Event::Done { finish_reason: DoneReason::NotFound, cached: false, as_of };
        vec![usage(&Finished::unbegun(FinishReason::Stop)), done]
    });
}

/// Resolves once nobody wants it any more, or the time of all is up.
async fn until_unwanted(flight: &Flight) {
    while flight.demand() != Demand::Stop {
        actix_rt::time::sleep(LOOK).await;
    }
}
