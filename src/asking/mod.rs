//! The read path of one question: limits, what is kept, admission, and then as a task retrieval, evidence packed into the
//! token budget, model, answer log. And the shorter one of a conversation with a model alone. The web, and the command
//! line without a server, both ask here.
//!
//! - [`Asker`]: checks a question, and answers it from what is kept, from a generation under way, or from a new one
//! - `inquiry`: what a question finds and what the model is given
//! - `generation`: one generation, from its evidence to its end
//! - `flight`: the answers that are written from one generation
//! - `sink`: what the engine says, into them
//! - [`kept`]: what the cache has of questions and answers
//! - [`lead`]: one generation among replicas
//! - [`elsewhere`]: answers that other replicas can read
//! - [`Shelf`]: the answers that can be read

pub mod elsewhere;
mod flight;
mod generation;
mod inquiry;
pub mod kept;
pub mod lead;
mod shelf;
mod sink;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::mapref::entry::Entry;
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer};
use tracing::field::Empty;
use tracing::{Instrument, Span};
use utoipa::ToSchema;

use self::elsewhere::Elsewhere;
use self::flight::{Flight, Member};
use self::generation::{Generation, Landing, Leave, Run, nothing_found};
use self::inquiry::Inquiry;
use self::kept::{Evidence, Kept, KeptAnswer};
use self::lead::Leads;
pub use self::shelf::Shelf;
use self::sink::Account;
use crate::actors::compute::blocking;
use crate::actors::door::Door;
use crate::actors::model_pool::PoolDoor;
use crate::actors::retriever::Retriever;
use crate::answer::evidence::Key;
use crate::answer::log::{AnswerLog, Bounds, Event, Stage, Writer};
use crate::answer::prompt;
use crate::budgets::Budgets;
use crate::config::Config;
use crate::deletion::Deletions;
use crate::error::ServiceError;
use crate::identity::Caller;
use crate::library::Library;
use crate::models::chat::{AROUND, Message, Role};
use crate::models::line::Priority;
use crate::models::{Generator, Prompt, Sampling};
use crate::retrieval::filter::Filter;
use crate::stores::document_store::Standing;
use crate::usage::{Ledger, UsageRecord};

/// Tokens of a prompt that the head and the markup take, about.
const HEAD_TOKENS: usize = 64;
/// Texts that are longer than this are counted on a thread that may block.
const LONG_TEXT: usize = 16 << 10;
/// The most stop texts of a request, as in OpenAI's protocol.
const STOP_TEXTS: usize = 4;
/// Longest stop text, in bytes.
const STOP_TEXT_BYTES: usize = 256;

/// A question, and how its answer is wished to be; checked by nobody yet.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// What is asked; of `[answer] max_question_tokens` at most.
    #[schema(pattern = r"\S")]
    pub question: String,
    /// Earlier messages of the conversation, oldest first; `[answer] max_messages` at most.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(nullable)]
    pub messages: Vec<Message>,
    /// Which documents may be used.
    pub filter: Option<Filter>,
    /// Wait until the index has this operation: the `seq` of a write.
    pub min_seq: Option<u64>,
    /// The most tokens of the answer; capped by `[answer] max_output_tokens`.
    #[schema(minimum = 1)]
    pub max_tokens: Option<usize>,
    /// 0 takes the likeliest token each time.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f32>,
    /// Nucleus sampling: the smallest set of tokens with this much probability.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// Repeats a random choice.
    pub seed: Option<u32>,
    /// Texts that end the answer, each of 1 to 256 bytes.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(nullable, max_items = 4)]
    pub stop: Vec<String>,
    /// Whether somebody waits for it.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(nullable)]
    pub priority: Priority,
    /// The answer ends after so many milliseconds; capped by `[answer] max_time_s`.
    #[schema(minimum = 1)]
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
    /// Whether it may be, and is to become, one that is kept.
    pub cache: CacheUse,
}

/// What a request says of the cache: the directives of HTTP's `Cache-Control` (RFC 9111, section 5.2.1) that concern it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheUse {
    /// A kept answer will do, and so will one that is being generated for somebody else; not with `no-cache`.
    pub read: bool,
    /// The answer may be kept; not with `no-store`.
    pub write: bool,
    /// Nothing but a kept answer will do (`only-if-cached`).
    pub only: bool,
}

impl Default for CacheUse {
    fn default() -> Self {
        Self { read: true, write: true, only: false }
    }
}

impl CacheUse {
    /// As the value of `Cache-Control` says. Other directives do not concern an answer, and what cannot be both is neither.
    pub fn parse(directives: &str) -> Self {
        let said = |name: &str| directives.split(',').any(|directive| directive.trim().eq_ignore_ascii_case(name));
        let store = !said("no-store");
        Self { read: store && !said("no-cache"), write: store, only: said("only-if-cached") }
    }
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
            cache: CacheUse::default(),
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
    /// The documents, and the configuration.
    pub library: Arc<Library>,
    /// The way to the retriever.
    pub retriever: Door<Retriever>,
    /// The models.
    pub models: Models,
    /// The answers that can be read.
    pub shelf: Arc<Shelf>,
    /// What was used.
    pub ledger: Arc<Ledger>,
    /// What is kept of questions and answers.
    pub kept: Kept,
    /// Who generates what among replicas; none without Redis.
    pub leads: Option<Leads>,
    /// The answers of other replicas; none without Redis.
    pub elsewhere: Option<Arc<Elsewhere>>,
    /// How much callers may ask for.
    pub budgets: Arc<Budgets>,
    /// What is deleted, and with it all that rests on it.
    pub deletions: Arc<Deletions>,
    /// Whether the service is to stop.
    pub stopping: tokio::sync::watch::Receiver<bool>,
}

/// What is known of a question's answer before a model is asked.
enum Found {
    /// What the model is to be given.
    Evidence(Evidence),
    /// An answer that is kept, and what it rests on.
    Answer(Evidence, KeptAnswer),
    /// Nothing has to do with the question.
    Nothing,
}

impl Asker {
    /// Checks a question, takes a place in the model pool, and begins. What can be refused is refused
    /// here; from then on the log tells everything, and says when it is no longer wanted.
    ///
    /// # Errors
    /// [`ServiceError`]: invalid or too long, overloaded, or without a model; nothing was begun then.
    #[tracing::instrument(level = "error", name = "answer", skip_all, fields(answer = Empty))]
    pub async fn ask(
        self: &Arc<Self>,
        question: Question,
        wishes: Wishes,
        caller: &Caller,
    ) -> Result<Arc<AnswerLog>, ServiceError> {
        self.not_stopping()?;
        let settings = self.library.config();
        let config = &settings.answer;
        let pool = self.models.answering();
        let engine = pool.state.engine()?;
        if question.question.trim().is_empty() {
            return Err(ServiceError::Invalid("`question` is empty".into()));
        }
        check_count(&question.messages, &settings)?;
        let (sampling, max_tokens) = check(&wishes, &settings)?;
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
        self.library.wait_for(question.min_seq).await?;
        let (cache, time) = (self.cache_use(&wishes), time(&wishes, &settings));
        let mut stop = wishes.stop;
        stop.push(prompt::RUN_ON.to_owned());
        let inquiry = Inquiry {
            library: Arc::clone(&self.library),
            retriever: self.retriever.clone(),
            engine,
            question: Arc::new(question),
            sight: Arc::clone(&caller.sight),
            setting,
            sampling,
            max_tokens,
            stop,
            setup: self.kept.setup(&settings),
            config: Arc::clone(&settings),
        };
        let worst = expected + max_tokens;
        let (who, caller) = (caller, Arc::clone(&caller.name));
        let Standing { commit, as_of } = self.library.standing().await?;
        let key = cache.read.then(|| inquiry.key(commit));
        let found = match key {
            Some(key) => self.known(key, &inquiry).await,
            None => None,
        };
        let found = match found {
            None if cache.only => Some(self.look(&inquiry, cache).await?),
            found => found,
        };
        let open = self.budgets.open(who).await?;
        let (mut writer, log) = open_log(max_tokens, time, &settings);
        open.until_closed(&log);
        writer.append(Event::Status { stage: Stage::Retrieving, queue_position: None });
        let mut member = Member::new(writer, Arc::clone(&log), as_of, Arc::clone(&caller));
        let mut account = self.account(pool, &log, &caller, true);
        let evidence = match found {
            Some(Found::Evidence(_)) if cache.only => return Err(ServiceError::NotCached),
            Some(Found::Evidence(evidence)) => Some(evidence),
            None => None,
            Some(Found::Answer(evidence, answer)) => {
                self.link(&evidence);
                answer.tell(evidence, &Flight::new(member, false), &account);
                return Ok(self.shelved(log, &caller));
            }
            Some(Found::Nothing) => {
                nothing_found(&Flight::new(member, false));
                return Ok(self.shelved(log, &caller));
            }
        };
        let leave = Leave {
            pool: pool.clone(),
            caller: Arc::clone(&caller),
            priority: wishes.priority,
            prompt_tokens: expected,
            time,
        };
        // What another one's generation gives costs nothing.
        let mut reserved = None;
        let (ticket, flight) = match key {
            None => {
                reserved = Some(self.budgets.reserve(who, worst).await?);
                (leave.ask()?, Flight::new(member, cache.write))
            }
            Some(key) => loop {
                if reserved.is_none() && !self.kept.flights.contains_key(&key) {
                    reserved = Some(self.budgets.reserve(who, worst).await?);
                }
                match self.kept.flights.entry(key) {
                    // The one that it was to come from has ended since it was looked for.
                    Entry::Vacant(_) if reserved.is_none() => {}
                    Entry::Vacant(place) => {
                        let ticket = leave.ask()?;
                        let flight = Flight::new(member, true);
                        place.insert(Arc::clone(&flight));
                        break (ticket, flight);
                    }
                    Entry::Occupied(place) => match place.get().join(member) {
                        Ok(()) => return Ok(self.shelved(log, &caller)),
                        // It has failed, or goes on under another key.
                        Err(refused) => {
                            member = refused;
                            place.remove();
                        }
                    },
                }
            },
        };
        account.reserved = reserved.map(|reserved| Arc::new(Mutex::new(reserved)));
        let landing = Landing::new(Arc::clone(self), flight, key, account.clone());
        let run = Run {
            leave,
            ticket: Some(ticket),
            sampling: inquiry.sampling.clone(),
            max_tokens,
            stop: inquiry.stop.clone(),
            account,
        };
        actix_rt::spawn(Generation { inquiry, landing, evidence, run, cache }.run().in_current_span());
        Ok(self.shelved(log, &caller))
    }

    /// What is kept of a question asked at this commit.
    async fn known(&self, key: Key, inquiry: &Inquiry) -> Option<Found> {
        Some(match self.kept.evidence(key).await? {
            None => Found::Nothing,
            Some(evidence) => match self.kept.answer(&inquiry.question.question, &evidence).await {
                Some(answer) => Found::Answer(evidence, answer),
                None => Found::Evidence(evidence),
            },
        })
    }

    /// Searches, keeps what was found, and looks whether its answer is kept.
    async fn look(&self, inquiry: &Inquiry, cache: CacheUse) -> Result<Found, ServiceError> {
        let looked = inquiry.look().await?;
        if cache.write && looked.whole {
            let key = inquiry.key(looked.commit);
            self.kept.keep_evidence(key, looked.evidence.as_ref(), self.deletions.store()).await;
        }
        let Some(evidence) = looked.evidence else { return Ok(Found::Nothing) };
        let answer = match cache.read {
            true => self.kept.answer(&inquiry.question.question, &evidence).await,
            false => None,
        };
        Ok(match answer {
            Some(answer) => Found::Answer(evidence, answer),
            None => Found::Evidence(evidence),
        })
    }

    /// Links the answer at hand to how its passages came here.
    fn link(&self, evidence: &Evidence) {
        let documents = evidence.sources.iter().map(|source| source.document_id.as_str());
        self.library.origins.link(&Span::current(), documents);
    }

    /// What the cache is used for.
    fn cache_use(&self, wishes: &Wishes) -> CacheUse {
        let CacheUse { read, write, only } = wishes.cache;
        let enabled = self.kept.enabled();
        CacheUse { read: read && enabled, write: write && enabled, only }
    }

    /// # Errors
    /// [`ServiceError::Unavailable`] once the service is to stop.
    fn not_stopping(&self) -> Result<(), ServiceError> {
        if *self.stopping.borrow() {
            let reason = "the service is stopping and begins no answers any more; ask again, somebody else answers";
            return Err(ServiceError::Unavailable { reason: reason.to_owned(), retry_after_s: 2 });
        }
        Ok(())
    }

    /// Has a model go on with a conversation, without any documents. As [`Asker::ask`] otherwise.
    ///
    /// # Errors
    /// See [`Asker::ask`].
    #[tracing::instrument(level = "error", name = "answer", skip_all, fields(answer = Empty))]
    pub async fn chat(
        self: &Arc<Self>,
        pool: &PoolDoor,
        messages: Vec<Message>,
        wishes: Wishes,
        caller: &Caller,
    ) -> Result<Arc<AnswerLog>, ServiceError> {
        self.not_stopping()?;
        let settings = self.library.config();
        let (who, caller) = (caller, Arc::clone(&caller.name));
        let engine = pool.state.engine()?;
        if messages.is_empty() {
            return Err(ServiceError::Invalid("`messages` is empty".into()));
        }
        check_count(&messages, &settings)?;
        let (sampling, max_tokens) = check(&wishes, &settings)?;
        let (context, name) = (engine.context(), pool.state.name.clone());
        let prompt = encode(&engine, messages).await;
        let tokens = prompt.len();
        if tokens >= context {
            return Err(ServiceError::PromptTooLong { tokens, output: 1, limit: context });
        }
        let max_tokens = max_tokens.min(context - tokens);
        let time = time(&wishes, &settings);
        let (pool, priority) = (pool.clone(), wishes.priority);
        let leave = Leave { pool, caller: Arc::clone(&caller), priority, prompt_tokens: tokens, time };
        let open = self.budgets.open(who).await?;
        let reserved = self.budgets.reserve(who, tokens + max_tokens).await?;
        let ticket = Some(leave.ask()?);
        let (writer, log) = open_log(max_tokens, time, &settings);
        open.until_closed(&log);
        let mut account = self.account(&leave.pool, &log, &caller, false);
        account.reserved = Some(Arc::new(Mutex::new(reserved)));
        let run = Run {
            leave,
            ticket,
            sampling: Sampling { repeat_penalty: 1.0, ..sampling },
            max_tokens,
            stop: wishes.stop,
            account,
        };
        tracing::debug!(model = name, "asked without documents");
        // A model by itself needs no store; what it says of the documents' age is nothing where the store does not answer.
        let as_of = self.library.as_of().await.unwrap_or_default();
        let flight = Flight::new(Member::new(writer, Arc::clone(&log), as_of, Arc::clone(&caller)), false);
        actix_rt::spawn(run.generate(flight, prompt, None).in_current_span());
        Ok(self.shelved(log, &caller))
    }

    /// Puts an answer where it can be found, here and by other replicas.
    fn shelved(&self, log: Arc<AnswerLog>, caller: &Arc<str>) -> Arc<AnswerLog> {
        let store = self.deletions.store();
        self.shelf.put(&log, caller, &store.into());
        // After it can be found: what is deleted from here on finds it.
        shelf::withdraw(&log, store, &|one| self.deletions.deleted.has(one));
        if let Some(elsewhere) = &self.elsewhere {
            elsewhere.mirror(&log, caller);
        }
        log
    }

    /// The answer of this id, for those who may have it: of this replica, or of another one.
    pub async fn find(&self, id: &str, caller: &Caller) -> Option<Arc<AnswerLog>> {
        let caller = &*caller.name;
        match (self.shelf.get(id, caller), &self.elsewhere) {
            (None, Some(elsewhere)) => elsewhere.find(id, caller).await,
            (found, _) => found,
        }
    }

    /// Begins the record of a generation's use.
    fn account(&self, pool: &PoolDoor, log: &AnswerLog, caller: &Arc<str>, retrieval: bool) -> Account {
        let record = UsageRecord {
            answer: log.id().to_owned(),
            caller: caller.as_ref().to_owned(),
            model: pool.state.name.clone(),
            provider: pool.state.provider.to_owned(),
            retrieval,
            ..UsageRecord::default()
        };
        Account {
            ledger: Arc::clone(&self.ledger),
            counts: Arc::clone(&self.kept.counts),
            record,
            began: Instant::now(),
            reserved: None,
        }
    }
}

fn check_count(messages: &[Message], config: &Config) -> Result<(), ServiceError> {
    let (found, limit) = (messages.len(), config.answer.max_messages);
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
fn check(wishes: &Wishes, config: &Config) -> Result<(Sampling, usize), ServiceError> {
    let config = &config.answer;
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
fn time(wishes: &Wishes, config: &Config) -> Duration {
    let most = Duration::from_secs(config.answer.max_time_s);
    wishes.timeout_ms.map_or(most, Duration::from_millis).min(most)
}

/// A new answer.
fn open_log(max_tokens: usize, time: Duration, config: &Config) -> (Writer, Arc<AnswerLog>) {
    let config = &config.answer;
    let bounds = Bounds {
        // Every token is an event, of some servers in two parts; and there are a few others.
        max_events: 2 * max_tokens + 64,
        window: config.window,
        grace: Duration::from_secs(config.resume_grace_s),
        stall: Duration::from_secs(config.stall_timeout_s),
        time,
    };
    let id = uuid::Uuid::now_v7().simple().to_string();
    Span::current().record("answer", &id);
    AnswerLog::new(id, bounds)
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

/// The last event of what failed.
fn problem(error: impl Into<ServiceError>) -> Event {
    Event::Error(crate::web::error::Problem::from(error.into()).json())
}
