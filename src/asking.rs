//! The read path of one question, as a task: limits, retrieval, evidence packed into the token budget, model,
//! answer log. The web, and the command line without a server, both ask here.

use std::sync::Arc;

use crate::actors::door::{Door, Entry};
use crate::actors::indexer::Indexes;
use crate::actors::model_pool::{Generate, ModelPool};
use crate::actors::model_worker::EngineSlot;
use crate::actors::retriever::{Found, Mode, Retriever, Search};
use crate::answer::budget;
use crate::answer::citation::Citations;
use crate::answer::log::{AnswerLog, DoneReason, Event, Source, Stage, Writer};
use crate::answer::prompt::{self, ChatTemplate, Turn};
use crate::error::ServiceError;
use crate::freshness::AsOf;
use crate::models::llama_cpp::LlamaCpp;
use crate::models::{FinishReason, Finished, Generator, ModelError, Sampling, Segment, Sink};
use crate::retrieval::filter::Filter;
use crate::retrieval::passage::{Passage, snippet};

/// Longest snippet of a source, in characters.
const SNIPPET_CHARS: usize = 280;
/// The lexical rank down to which a passage found by similarity as well counts as found by both.
const AGREED_RANK: usize = 10;

/// A question, checked by nobody yet.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// What is asked.
    pub question: String,
    /// Earlier turns of the conversation, oldest first.
    #[serde(default)]
    pub messages: Vec<Turn>,
    /// Which documents may be used.
    pub filter: Option<Filter>,
    /// The most tokens of the answer; capped by `[answer] max_output_tokens`.
    pub max_tokens: Option<usize>,
    /// 0 takes the likeliest token each time.
    pub temperature: Option<f32>,
    /// Wait until the index has this operation.
    pub min_seq: Option<u64>,
}

/// Takes questions; see the module.
pub struct Asker {
    /// Catalog, indexes, configuration.
    pub indexes: Arc<Indexes>,
    /// The way to the retriever.
    pub retriever: Door<Retriever>,
    /// The way to the model pool.
    pub pool: Door<ModelPool>,
    /// The engine that counts tokens.
    pub engine: EngineSlot,
}

impl Asker {
    /// Checks the question, takes a place in the model pool, and begins. What can be refused is refused
    /// here; from then on the log tells everything. The task ends early when the log has no reader left.
    ///
    /// # Errors
    /// [`ServiceError`]: invalid or too long, overloaded, or without a model; nothing was begun then.
    pub async fn ask(self: &Arc<Self>, question: Question) -> Result<Arc<AnswerLog>, ServiceError> {
        let engine = self.engine.load_full().ok_or_else(|| ServiceError::Unavailable {
            reason: "the model is being loaded".to_owned(),
            retry_after_s: 2,
        })?;
        let budget = self.check(&question, &engine)?;
        let place = self.pool.enter()?;
        self.indexes.wait_for(question.min_seq).await?;
        let id = uuid::Uuid::now_v7().simple().to_string();
        // Every token is an event; and there are a few others.
        let (writer, log) = AnswerLog::new(id, budget.max_tokens + 16);
        let task = Task { asker: Arc::clone(self), engine, question, budget, log: Arc::clone(&log) };
        actix_rt::spawn(async move { task.run(writer, place).await });
        Ok(log)
    }

    fn check(&self, question: &Question, engine: &LlamaCpp) -> Result<Limits, ServiceError> {
        let config = &self.indexes.config.answer;
        if question.question.trim().is_empty() {
            return Err(ServiceError::Invalid("`question` is empty".into()));
        }
        if question.messages.len() > config.max_messages {
            return Err(ServiceError::Invalid(format!(
                "`messages` has {} turns, the limit is {}; send the latest only",
                question.messages.len(),
                config.max_messages
            )));
        }
        if let Some(temperature) = question.temperature
            && !(0.0..=2.0).contains(&temperature)
        {
            return Err(ServiceError::Invalid(format!("`temperature` is {temperature}, it must be from 0 to 2")));
        }
        if question.max_tokens == Some(0) {
            return Err(ServiceError::Invalid("`max_tokens` is 0, it must be 1 or more".into()));
        }
        // A token is at most some dozens of bytes: what is longer than this needs no counting.
        let limit = config.max_question_tokens;
        let tokens = engine.count_tokens(&question.question);
        if tokens > limit {
            return Err(ServiceError::QuestionTooLong { tokens, limit });
        }
        Ok(Limits { max_tokens: question.max_tokens.unwrap_or(config.max_output_tokens).min(config.max_output_tokens) })
    }
}

/// What a question may use.
struct Limits {
    max_tokens: usize,
}

/// One question under way.
struct Task {
    asker: Arc<Asker>,
    engine: Arc<LlamaCpp>,
    question: Question,
    budget: Limits,
    log: Arc<AnswerLog>,
}

/// What the model is given.
struct Evidence {
    passages: Vec<Passage>,
    prompt: Vec<i32>,
}

impl Task {
    async fn run(self, mut writer: Writer, place: Entry<ModelPool>) {
        writer.append(Event::Status { stage: Stage::Retrieving, queue_position: None });
        let found = match self.retrieve().await {
            Ok(found) => found,
            Err(error) => return writer.append(problem(error)),
        };
        let as_of = found.as_of;
        let evidence = if self.relevant(&found) { self.evidence(found.passages) } else { None };
        let Some(evidence) = evidence else {
            writer.append(sources(&[], as_of, ""));
            writer.append(Event::Token { text: prompt::NOT_FOUND_ANSWER.to_owned() });
            writer.append(Event::Usage {
                prompt_tokens: 0,
                completion_tokens: 0,
                total_tokens: 0,
                cached_prompt_tokens: 0,
            });
            return writer.append(done(DoneReason::NotFound, as_of));
        };
        writer.append(sources(&evidence.passages, as_of, &self.question.question));
        if !self.log.wanted() {
            return writer.append(done(DoneReason::Cancelled, as_of));
        }
        let load = self.engine.load();
        if load.running >= load.slots {
            writer.append(Event::Status { stage: Stage::Queued, queue_position: Some(load.waiting + 1) });
        }
        let config = &self.asker.indexes.config.answer;
        let texts = evidence.passages.iter().map(|passage| passage.text.clone()).collect();
        let sink = AnswerSink {
            log: Arc::clone(&self.log),
            writer: Some(writer),
            citations: Some(Citations::new(texts)),
            generating: false,
            as_of,
        };
        let generate = Generate {
            prompt: evidence.prompt,
            sampling: Sampling {
                temperature: self.question.temperature.unwrap_or(config.temperature),
                top_p: config.top_p,
                repeat_penalty: config.repeat_penalty,
                seed: uuid::Uuid::now_v7().as_u128() as u32,
            },
            max_tokens: self.budget.max_tokens,
            stop: vec![prompt::RUN_ON.to_owned()],
            sink: Box::new(sink),
        };
        // The sink tells the log how it ends. A sink that is dropped untold, because its actor failed, ends
        // the log with an error as well.
        if let Err(error) = place.ask(generate).await {
            tracing::warn!(answer = self.log.id(), %error, "a generation failed");
        }
    }

    async fn retrieve(&self) -> Result<Found, ServiceError> {
        let query = prompt::retrieval_query(&self.question.question, &self.question.messages);
        let search = Search {
            query,
            mode: Mode::Hybrid,
            filter: self.question.filter.clone(),
            limit: self.asker.indexes.config.answer.max_passages * 3,
            vector: None,
        };
        Ok(self.asker.retriever.ask(search).await?)
    }

    /// Whether anything found has to do with the question. Without the vector stage nothing can tell. A passage that
    /// both stages rank high needs less similarity: they err in different ways.
    fn relevant(&self, found: &Found) -> bool {
        let config = &self.asker.indexes.config.search;
        let agreed = |passage: &Passage| {
            passage.scores.lexical.is_some_and(|stage| stage.rank <= AGREED_RANK)
                && passage.scores.vector.is_some_and(|stage| stage.score >= config.min_similarity_agreed)
        };
        !found.passages.is_empty()
            && (found.best_similarity.is_none_or(|best| best >= config.min_similarity)
                || found.passages.iter().any(agreed))
    }

    /// Packs what fits into the prompt; `None` where nothing fits.
    fn evidence(&self, passages: Vec<Passage>) -> Option<Evidence> {
        let config = &self.asker.indexes.config.answer;
        let engine = &*self.engine;
        let template = ChatTemplate::detect(engine.chat_template());
        let count = |segments: &[Segment]| engine.tokenize(segments).len();
        let render = |passages: &[&Passage], earlier: &[Turn]| {
            prompt::answer_prompt(template, passages, earlier, &self.question.question)
        };
        let costs: Vec<usize> =
            passages.iter().enumerate().map(|(n, p)| engine.count_tokens(&prompt::render_passage(n + 1, p))).collect();
        let bare = count(&render(&[], &[]));
        let room = engine.context().saturating_sub(bare + self.budget.max_tokens);
        let packed = budget::pack(&passages, &costs, room.min(config.evidence_tokens), config.max_passages);
        let chosen: Vec<&Passage> = packed.iter().map(|&n| &passages[n]).collect();
        if chosen.is_empty() {
            return None;
        }
        // Earlier turns take what is left, newest first.
        let used: usize = packed.iter().map(|&n| costs[n]).sum();
        let left = room.saturating_sub(used + 16).min(config.history_tokens);
        let earlier = prompt::newest_within(&self.question.messages, left, &|text| engine.count_tokens(text));
        let prompt = engine.tokenize(&render(&chosen, &earlier));
        let passages = chosen.into_iter().cloned().collect();
        Some(Evidence { passages, prompt })
    }
}

fn sources(passages: &[Passage], as_of: AsOf, query: &str) -> Event {
    let sources = passages
        .iter()
        .zip(1..)
        .map(|(passage, n)| Source {
            n,
            document_id: passage.document_id.clone(),
            title: passage.title.clone(),
            section: passage.section.clone(),
            page: passage.page,
            url: passage.url.clone(),
            snippet: snippet(&passage.text, query, SNIPPET_CHARS),
            score: passage.scores.fused,
            revision: passage.revision,
            start: passage.start,
            end: passage.end,
        })
        .collect();
    Event::Sources { as_of, sources }
}

fn done(finish_reason: DoneReason, as_of: AsOf) -> Event {
    Event::Done { finish_reason, cached: false, as_of }
}

fn problem(error: impl Into<ServiceError>) -> Event {
    Event::Error(crate::web::error::Problem::from(error.into()).json())
}

/// Writes what the engine generates into the log, with its citations checked.
struct AnswerSink {
    log: Arc<AnswerLog>,
    writer: Option<Writer>,
    citations: Option<Citations>,
    generating: bool,
    as_of: AsOf,
}

impl AnswerSink {
    fn token(&mut self, text: String) {
        if let Some(writer) = &mut self.writer
            && !text.is_empty()
        {
            writer.append(Event::Token { text });
        }
    }
}

impl Sink for AnswerSink {
    fn wanted(&self) -> bool {
        self.log.wanted()
    }

    fn started(&mut self) {
        if let Some(writer) = &mut self.writer {
            writer.append(Event::Status { stage: Stage::Reading, queue_position: None });
        }
    }

    fn text(&mut self, text: &str) {
        if !std::mem::replace(&mut self.generating, true)
            && let Some(writer) = &mut self.writer
        {
            writer.append(Event::Status { stage: Stage::Generating, queue_position: None });
        }
        let shown = self.citations.as_mut().map_or_else(String::new, |citations| citations.push(text));
        self.token(shown);
    }

    fn finish(&mut self, result: Result<Finished, ModelError>) {
        let (rest, report) = self.citations.take().map(Citations::finish).unwrap_or_default();
        self.token(rest);
        let Some(mut writer) = self.writer.take() else { return };
        match result {
            Ok(finished) => {
                tracing::info!(
                    answer = self.log.id(),
                    reason = ?finished.reason,
                    prompt_tokens = finished.prompt_tokens,
                    cached_prompt_tokens = finished.cached_prompt_tokens,
                    completion_tokens = finished.completion_tokens,
                    citations_kept = report.kept,
                    citations_dropped = report.dropped_unknown + report.dropped_unsupported,
                    citations_added = report.added,
                    "answered"
                );
                writer.append(Event::Usage {
                    prompt_tokens: finished.prompt_tokens,
                    completion_tokens: finished.completion_tokens,
                    total_tokens: finished.prompt_tokens + finished.completion_tokens,
                    cached_prompt_tokens: finished.cached_prompt_tokens,
                });
                let reason = match finished.reason {
                    FinishReason::Stop => DoneReason::Stop,
                    FinishReason::Length => DoneReason::Length,
                    FinishReason::Cancelled => DoneReason::Cancelled,
                };
                writer.append(done(reason, self.as_of));
            }
            Err(error) => writer.append(problem(error)),
        }
    }
}
