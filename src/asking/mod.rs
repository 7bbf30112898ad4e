//! The read path of one question, as a task: limits, admission, retrieval, evidence packed into the token budget, model,
//! answer log. And the shorter one of a conversation with a model alone. The web, and the command line without a server,
//! both ask here.

mod shelf;
mod sink;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer};

pub use self::shelf::Shelf;
use self::sink::{AnswerSink, ending};
use crate::actors::compute::blocking;
use crate::actors::door::Door;
use crate::actors::indexer::Indexes;
use crate::actors::model_pool::{Generate, PoolDoor, Ticket};
use crate::actors::retriever::{Found, Mode, Retriever, Search};
use crate::answer::budget;
use crate::answer::citation::Citations;
use crate::answer::log::{AnswerLog, Bounds, DoneReason, Event, Source, Stage, Writer};
use crate::answer::prompt;
use crate::config::AnswerConfig;
use crate::error::ServiceError;
use crate::freshness::AsOf;
use crate::models::chat::{AROUND, Message, Role};
use crate::models::line::Priority;
use crate::models::{Demand, FinishReason, Generator, Prompt, Sampling};
use crate::retrieval::filter::Filter;
use crate::retrieval::passage::{Passage, snippet};
use crate::usage::{Ledger, UsageRecord};

/// What the name of a caller begins with who has a key.
pub const BY_KEY: &str = "key:";
/// Longest snippet of a source, in characters.
const SNIPPET_CHARS: usize = 280;
/// The lexical rank down to which a passage found by similarity as well counts as found by both.
const AGREED_RANK: usize = 10;
/// Tokens of a prompt that the head and the markup take, about.
const HEAD_TOKENS: usize = 64;
/// Texts that are longer than this are counted on a thread that may block.
const LONG_TEXT: usize = 16 << 10;
/// How often it is looked whether an answer is still wanted while its passages are searched for.
const LOOK: Duration = Duration::from_millis(50);
/// The most stop texts of a request, as in OpenAI's protocol.
const STOP_TEXTS: usize = 4;
/// Longest stop text, in bytes.
const STOP_TEXT_BYTES: usize = 256;

/// A question, checked by nobody yet.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// What is asked.
    pub question: String,
    /// Earlier messages of the conversation, oldest first.
    #[serde(default, deserialize_with = "or_default")]
    pub messages: Vec<Message>,
    /// Which documents may be used.
    pub filter: Option<Filter>,
    /// Wait until the index has this operation.
    pub min_seq: Option<u64>,
    /// The most tokens of the answer; capped by `[answer] max_output_tokens`.
    pub max_tokens: Option<usize>,
    /// 0 takes the likeliest token each time.
    pub temperature: Option<f32>,
    /// Nucleus sampling: the smallest set of tokens with this much probability.
    pub top_p: Option<f32>,
    /// Repeats a random choice.
    pub seed: Option<u32>,
    /// Texts that end the answer.
    #[serde(default, deserialize_with = "or_default")]
    pub stop: Vec<String>,
    /// Whether somebody waits for it.
    #[serde(default, deserialize_with = "or_default")]
    pub priority: Priority,
    /// The answer ends after so many milliseconds; capped by `[answer] max_time_s`.
    pub timeout_ms: Option<u64>,
}

/// `null` is as good as nothing.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(value: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(value).map(Option::unwrap_or_default)
}

/// How an answer is wished to be.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// See [`Question::max_tokens`].
    pub max_tokens: Option<usize>,
    /// See [`Question::temperature`].
    pub temperature: Option<f32>,
    /// See [`Question::top_p`].
    pub top_p: Option<f32>,
    /// See [`Sampling::presence_penalty`].
    pub presence_penalty: f32,
    /// See [`Sampling::frequency_penalty`].
    pub frequency_penalty: f32,
    /// See [`Question::seed`].
    pub seed: Option<u32>,
    /// See [`Question::stop`].
    pub stop: Vec<String>,
    /// See [`Question::priority`].
    pub priority: Priority,
    /// See [`Question::timeout_ms`].
    pub timeout_ms: Option<u64>,
}

impl Question {
    /// How its answer is wished to be.
    pub fn wishes(&self) -> Wishes {
        Wishes {
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: self.seed,
            stop: self.stop.clone(),
            priority: self.priority,
            timeout_ms: self.timeout_ms,
        }
    }
}

/// The models that can be asked, the one that answers from the documents first.
pub struct Models(pub Vec<PoolDoor>);

impl Models {
    /// The one that answers from the documents.
    pub fn answering(&self) -> &PoolDoor {
        &self.0[0]
    }

    /// The model of this name.
    ///
    /// # Errors
    /// [`ServiceError::UnknownModel`]
    pub fn get(&self, name: &str) -> Result<&PoolDoor, ServiceError> {
        self.0.iter().find(|pool| pool.state.name == name).ok_or_else(|| ServiceError::UnknownModel {
            name: name.to_owned(),
            known: self.0.iter().map(|pool| pool.state.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }
}

/// Takes questions; see the module.
pub struct Asker {
    /// Catalog, indexes, configuration.
    pub indexes: Arc<Indexes>,
    /// The way to the retriever.
    pub retriever: Door<Retriever>,
    /// The models.
    pub models: Models,
    /// The answers that can be read.
    pub shelf: Arc<Shelf>,
    /// What was used.
    pub ledger: Arc<Ledger>,
}

impl Asker {
    /// Checks a question, takes a place in the model pool, and begins. What can be refused is refused
    /// here; from then on the log tells everything, and says when it is no longer wanted. `caller` names who asks, for
    /// fairness and for the record of usage.
    ///
    /// # Errors
    /// [`ServiceError`]: invalid or too long, overloaded, or without a model; nothing was begun then.
    pub async fn ask(
        self: &Arc<Self>,
        question: Question,
        wishes: Wishes,
        caller: Arc<str>,
    ) -> Result<Arc<AnswerLog>, ServiceError> {
        let config = &self.indexes.config.answer;
        let pool = self.models.answering();
        let engine = pool.state.engine()?;
        if question.question.trim().is_empty() {
            return Err(ServiceError::Invalid("`question` is empty".into()));
        }
        self.check_count(&question.messages)?;
        let (sampling, max_tokens) = self.check(&wishes)?;
        let limit = config.max_question_tokens;
        let tokens = count(&engine, question.question.clone()).await;
        if tokens > limit {
            return Err(ServiceError::QuestionTooLong { tokens, limit });
        }
        // What sets the conversation up is not dropped silently.
        let mut setting = 0;
        for message in question.messages.iter().filter(|message| message.role == Role::System) {
            setting += count(&engine, message.content.clone()).await + AROUND;
        }
        if setting > config.history_tokens {
            let limit = config.history_tokens;
            return Err(ServiceError::Invalid(format!(
                "the system messages have {setting} tokens, the limit is {limit} ([answer] history_tokens)"
            )));
        }
        let expected = tokens + config.evidence_tokens + HEAD_TOKENS;
        // Who waits for its own write takes nobody's place meanwhile.
        self.indexes.wait_for(question.min_seq).await?;
        let time = self.time(&wishes);
        let ticket = pool.admit(Arc::clone(&caller), wishes.priority, expected, time)?;
        let (writer, log) = self.open(max_tokens, time, &caller);
        let mut stop = wishes.stop;
        stop.push(prompt::RUN_ON.to_owned());
        let task = Task {
            asker: Arc::clone(self),
            log: Arc::clone(&log),
            engine,
            question: Arc::new(question),
            setting,
            run: Run { pool: pool.clone(), ticket, sampling, max_tokens, stop, caller, began: Instant::now() },
        };
        actix_rt::spawn(task.run(writer));
        Ok(log)
    }

    /// Has a model go on with a conversation, without any documents. As [`Asker::ask`] otherwise.
    ///
    /// # Errors
    /// See [`Asker::ask`].
    pub async fn chat(
        self: &Arc<Self>,
        pool: &PoolDoor,
        messages: Vec<Message>,
        wishes: Wishes,
        caller: Arc<str>,
    ) -> Result<Arc<AnswerLog>, ServiceError> {
        let engine = pool.state.engine()?;
        if messages.is_empty() {
            return Err(ServiceError::Invalid("`messages` is empty".into()));
        }
        self.check_count(&messages)?;
        let (sampling, max_tokens) = self.check(&wishes)?;
        let (context, name) = (engine.context(), pool.state.name.clone());
        let prompt = encode(&engine, messages).await;
        let tokens = prompt.len();
        if tokens >= context {
            return Err(ServiceError::PromptTooLong { tokens, output: 1, limit: context });
        }
        let max_tokens = max_tokens.min(context - tokens);
        let time = self.time(&wishes);
        let ticket = pool.admit(Arc::clone(&caller), wishes.priority, tokens, time)?;
        let (writer, log) = self.open(max_tokens, time, &caller);
        let run = Run {
            pool: pool.clone(),
            ticket,
            sampling: Sampling { repeat_penalty: 1.0, ..sampling },
            max_tokens,
            stop: wishes.stop,
            caller,
            began: Instant::now(),
        };
        let (asker, answer) = (Arc::clone(self), Arc::clone(&log));
        tracing::debug!(answer = answer.id(), model = name, "asked without documents");
        actix_rt::spawn(async move {
            let as_of = asker.indexes.freshness.now();
            run.generate(&asker, answer, writer, prompt, None, as_of).await;
        });
        Ok(log)
    }

    fn check_count(&self, messages: &[Message]) -> Result<(), ServiceError> {
        let (found, limit) = (messages.len(), self.indexes.config.answer.max_messages);
        if found > limit {
            return Err(ServiceError::Invalid(format!(
                "`messages` has {found} messages, the limit is {limit}; send the latest only"
            )));
        }
        match messages.iter().position(|message| message.content.trim().is_empty()) {
            // An assistant's message may be empty: it was stopped before it said anything.
            Some(n) if messages[n].role != Role::Assistant => {
                Err(ServiceError::Invalid(format!("`messages[{n}].content` is empty")))
            }
            _ => Ok(()),
        }
    }

    /// Checks wishes; gives how tokens are chosen, and the most there may be.
    fn check(&self, wishes: &Wishes) -> Result<(Sampling, usize), ServiceError> {
        let config = &self.indexes.config.answer;
        let within = |name: &str, value: f32, low: f32, high: f32| {
            if (low..=high).contains(&value) {
                return Ok(value);
            }
            Err(ServiceError::Invalid(format!("`{name}` is {value}, it must be from {low} to {high}")))
        };
        if wishes.max_tokens == Some(0) {
            return Err(ServiceError::Invalid("`max_tokens` is 0, it must be 1 or more".into()));
        }
        if wishes.timeout_ms == Some(0) {
            return Err(ServiceError::Invalid("`timeout_ms` is 0, it must be 1 or more".into()));
        }
        if wishes.stop.len() > STOP_TEXTS {
            let found = wishes.stop.len();
            return Err(ServiceError::Invalid(format!("`stop` has {found} texts, the limit is {STOP_TEXTS}")));
        }
        if let Some(stop) = wishes.stop.iter().find(|stop| stop.is_empty() || stop.len() > STOP_TEXT_BYTES) {
            let found = stop.len();
            return Err(ServiceError::Invalid(format!(
                "a text of `stop` has {found} bytes, it must have 1 to {STOP_TEXT_BYTES}"
            )));
        }
        let sampling = Sampling {
            temperature: within("temperature", wishes.temperature.unwrap_or(config.temperature), 0.0, 2.0)?,
            top_p: within("top_p", wishes.top_p.unwrap_or(config.top_p), 0.0, 1.0)?,
            repeat_penalty: config.repeat_penalty,
            presence_penalty: within("presence_penalty", wishes.presence_penalty, -2.0, 2.0)?,
            frequency_penalty: within("frequency_penalty", wishes.frequency_penalty, -2.0, 2.0)?,
            seed: wishes.seed,
        };
        Ok((sampling, wishes.max_tokens.unwrap_or(usize::MAX).min(config.max_output_tokens)))
    }

    /// How long an answer may take in all.
    fn time(&self, wishes: &Wishes) -> Duration {
        let most = Duration::from_secs(self.indexes.config.answer.max_time_s);
        wishes.timeout_ms.map_or(most, Duration::from_millis).min(most)
    }

    /// A new answer, on the shelf.
    fn open(&self, max_tokens: usize, time: Duration, caller: &Arc<str>) -> (Writer, Arc<AnswerLog>) {
        let config = &self.indexes.config.answer;
        let bounds = Bounds {
            // Every token is an event, of some servers in two parts; and there are a few others.
            max_events: 2 * max_tokens + 64,
            window: config.window,
            grace: Duration::from_secs(config.resume_grace_s),
            stall: Duration::from_secs(config.stall_timeout_s),
            time,
        };
        let (writer, log) = AnswerLog::new(uuid::Uuid::now_v7().simple().to_string(), bounds);
        self.shelf.put(&log, caller);
        (writer, log)
    }
}

/// Counts the tokens of a text, without holding up others.
async fn count(engine: &Arc<dyn Generator>, text: String) -> usize {
    if text.len() <= LONG_TEXT {
        return engine.count_tokens(&text);
    }
    let engine = Arc::clone(engine);
    blocking(move || engine.count_tokens(&text)).await
}

/// Makes a prompt of a conversation, without holding up others.
async fn encode(engine: &Arc<dyn Generator>, messages: Vec<Message>) -> Prompt {
    if messages.iter().map(|message| message.content.len()).sum::<usize>() <= LONG_TEXT {
        return engine.prompt(&messages);
    }
    let engine = Arc::clone(engine);
    blocking(move || engine.prompt(&messages)).await
}

/// What is decided of a generation before its prompt is known.
struct Run {
    pool: PoolDoor,
    ticket: Ticket,
    sampling: Sampling,
    max_tokens: usize,
    stop: Vec<String>,
    caller: Arc<str>,
    began: Instant,
}

impl Run {
    /// Generates into a log. The sink tells the log how it ends; one that is dropped untold, because its actor failed,
    /// ends the log with an error as well.
    async fn generate(
        self,
        asker: &Asker,
        log: Arc<AnswerLog>,
        writer: Writer,
        prompt: Prompt,
        passages: Option<Vec<String>>,
        as_of: AsOf,
    ) {
        let record = UsageRecord {
            answer: log.id().to_owned(),
            caller: self.caller.as_ref().to_owned(),
            model: self.pool.state.name.clone(),
            provider: self.pool.state.provider.to_owned(),
            retrieval: passages.is_some(),
            ..UsageRecord::default()
        };
        let sink = AnswerSink {
            log: Arc::clone(&log),
            writer: Some(writer),
            citations: passages.map(Citations::new),
            as_of,
            ledger: Arc::clone(&asker.ledger),
            record,
            began: self.began,
            prompt_tokens: prompt.len(),
        };
        let generate = Generate {
            prompt,
            sampling: self.sampling,
            max_tokens: self.max_tokens,
            stop: self.stop,
            sink: Box::new(sink),
            ticket: self.ticket,
        };
        if let Err(error) = self.pool.generate(generate).await {
            tracing::warn!(answer = log.id(), %error, "a generation failed");
        }
    }
}

/// One question under way.
struct Task {
    asker: Arc<Asker>,
    engine: Arc<dyn Generator>,
    question: Arc<Question>,
    /// Tokens of the messages that set the conversation up.
    setting: usize,
    log: Arc<AnswerLog>,
    run: Run,
}

/// What the model is given.
struct Evidence {
    passages: Vec<Passage>,
    prompt: Prompt,
}

impl Task {
    async fn run(self, mut writer: Writer) {
        writer.append(Event::Status { stage: Stage::Retrieving, queue_position: None });
        let found = tokio::select! {
            found = self.retrieve() => found,
            () = self.until_unwanted() => {
                return writer.append(ending(FinishReason::Cancelled, &self.log, self.asker.indexes.freshness.now()));
            }
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => return writer.append(problem(error)),
        };
        let as_of = found.as_of;
        let evidence = if self.relevant(&found) { self.evidence(found.passages).await } else { None };
        let Some(evidence) = evidence else {
            writer.append(sources(&[], as_of, ""));
            writer.append(Event::Token { text: prompt::NOT_FOUND_ANSWER.to_owned() });
            writer.append(Event::Usage {
                prompt_tokens: 0,
                completion_tokens: 0,
                total_tokens: 0,
                cached_prompt_tokens: 0,
                estimated: false,
            });
            return writer.append(Event::Done { finish_reason: DoneReason::NotFound, cached: false, as_of });
        };
        writer.append(sources(&evidence.passages, as_of, &self.question.question));
        if self.log.demand() == Demand::Stop {
            return writer.append(ending(FinishReason::Cancelled, &self.log, as_of));
        }
        let texts = evidence.passages.iter().map(|passage| passage.text.clone()).collect();
        self.run.generate(&self.asker, self.log, writer, evidence.prompt, Some(texts), as_of).await;
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
        // Who was admitted waits for a thread: there are no more of them than may be open.
        Ok(self.asker.retriever.ask_patiently(search).await?)
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

    /// Resolves once nobody wants the answer any more, or its time is up.
    async fn until_unwanted(&self) {
        while self.log.demand() != Demand::Stop {
            actix_rt::time::sleep(LOOK).await;
        }
    }

    /// Packs what fits into the prompt; `None` where nothing fits.
    async fn evidence(&self, passages: Vec<Passage>) -> Option<Evidence> {
        let (engine, question) = (Arc::clone(&self.engine), Arc::clone(&self.question));
        let (config, taken) = (Arc::clone(&self.asker.indexes.config), self.setting + self.run.max_tokens);
        let history = config.answer.history_tokens.saturating_sub(self.setting);
        blocking(move || pack(&*engine, &config.answer, &question, passages, taken, history)).await
    }
}

/// Packs what fits into the prompt of a question beside the tokens that are `taken`: passages, and within `history` tokens
/// the newest messages.
fn pack(
    engine: &dyn Generator,
    config: &AnswerConfig,
    Question { question, messages, .. }: &Question,
    passages: Vec<Passage>,
    taken: usize,
    history: usize,
) -> Option<Evidence> {
    let count = |text: &str| engine.count_tokens(text);
    let costs: Vec<usize> =
        passages.iter().enumerate().map(|(n, passage)| count(&prompt::render_passage(n + 1, passage))).collect();
    let bare = engine.prompt(&prompt::conversation(&[], &[], question)).len();
    let room = engine.context().saturating_sub(bare + taken);
    let packed = budget::pack(&passages, &costs, room.min(config.evidence_tokens), config.max_passages);
    let chosen: Vec<&Passage> = packed.iter().map(|&n| &passages[n]).collect();
    if chosen.is_empty() {
        return None;
    }
    let used: usize = packed.iter().map(|&n| costs[n]).sum();
    let left = room.saturating_sub(used + 16).min(history);
    let earlier = prompt::newest_within(messages, left, &count);
    let prompt = engine.prompt(&prompt::conversation(&chosen, &earlier, question));
    let passages = chosen.into_iter().cloned().collect();
    Some(Evidence { passages, prompt })
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

/// The last event of what failed.
fn problem(error: impl Into<ServiceError>) -> Event {
    Event::Error(crate::web::error::Problem::from(error.into()).json())
}
