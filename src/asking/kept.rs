//! What the cache keeps of questions and answers, and the flights that others may join.
//!
//! Two levels: the evidence of a question at one commit of the index, and the answer that rests on some evidence. An answer
//! is also found by a question that asks the same in almost the same words ([`evidence::gist`]), of the same evidence, if
//! both are as similar as `[cache] near_similarity` says. An entry that is not what it must be counts as absent.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use dashmap::DashMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::flight::{Flight, usage};
use super::sink::Account;
use crate::actors::cache::{Cache, CacheCounts, CacheMessage};
use crate::actors::door::Door;
use crate::actors::embedder::{Embed, Embedder};
use crate::answer::evidence::{self, Basis, Key, Level, RestsOn};
use crate::answer::log::{DoneReason, Event, Source};
use crate::config::{Config, Live};
use crate::models::{FinishReason, Finished, Prompt};
use crate::stores::hnsw::dot;

/// What the model is given for a question, and where its answer is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Evidence {
    /// The passages in the prompt, as they are shown.
    pub(super) sources: Vec<Source>,
    /// Their whole texts: what is cited of them is checked.
    pub(super) texts: Vec<String>,
    /// The prompt.
    pub(super) prompt: Prompt,
    /// Where the answer to this very question is.
    pub(super) answer: Key,
    /// Where the answer to one that asks the same may be.
    pub(super) near: Key,
}

impl Evidence {
    /// The documents of the store with this id that it is of.
    pub(super) fn rests_on(&self, store: &str) -> Vec<RestsOn> {
        RestsOn::all(store, &self.sources)
    }
}

/// An answer as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct KeptAnswer {
    /// Its text, citations checked.
    pub(super) text: String,
    /// Whether its output limit was reached.
    pub(super) cut: bool,
    /// Tokens of its prompt.
    pub(super) prompt_tokens: usize,
    /// Tokens generated.
    pub(super) completion_tokens: usize,
    /// See [`Finished::estimated`].
    pub(super) estimated: bool,
}

impl KeptAnswer {
    fn new(text: String, finished: &Finished) -> Self {
        Self {
            text,
            cut: finished.reason == FinishReason::Length,
            prompt_tokens: finished.prompt_tokens,
            completion_tokens: finished.completion_tokens,
            estimated: finished.estimated,
        }
    }

    /// Writes it into the answers of a flight.
    pub(super) fn tell(self, evidence: Evidence, flight: &Flight, account: &Account) {
        flight.sources(evidence.sources);
        self.say(flight, account);
    }

    /// The same, where they have their sources.
    pub(super) fn say(self, flight: &Flight, account: &Account) {
        let finished = self.finished();
        flight.text(self.text);
        let finish_reason = if self.cut { DoneReason::Length } else { DoneReason::Stop };
        let ended = flight.close(&|as_of| vec![usage(&finished), Event::Done { finish_reason, cached: true, as_of }]);
        account.kept(finished.reason.into(), ended);
    }

    /// The account of it now: everything had been computed before.
    fn finished(&self) -> Finished {
        Finished {
            reason: if self.cut { FinishReason::Length } else { FinishReason::Stop },
            prompt_tokens: self.prompt_tokens,
            cached_prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            estimated: self.estimated,
        }
    }
}

/// An answer to one that asks the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct NearAnswer {
    question: String,
    answer: Key,
}

/// An entry names its key: one that came under another, or of another form, is not used. And what it rests on: it is
/// forgotten with that.
#[derive(Serialize, Deserialize)]
struct Entry<T> {
    key: Key,
    basis: Basis,
    value: T,
}

/// See the module.
pub struct Kept {
    /// The way to the cache; none where `[cache] enabled` is false.
    door: Option<Door<Cache>>,
    embedder: Door<Embedder>,
    settings: Arc<Live>,
    /// What is the same for all questions until a restart.
    base: Key,
    /// The setup of the settings that were in force last, and these: it is asked for with each question, and changes with them.
    setup: ArcSwapOption<(Arc<Config>, Key)>,
    /// How answers came about.
    pub counts: Arc<CacheCounts>,
    /// The generations that others may join, under what is asked and under what they rest on.
    pub(super) flights: DashMap<Key, Arc<Flight>>,
}

impl Kept {
    /// A cache behind this door, or none.
    pub fn new(
        door: Option<Door<Cache>>,
        embedder: Door<Embedder>,
        settings: Arc<Live>,
        base: Key,
        counts: Arc<CacheCounts>,
    ) -> Self {
        let (setup, flights) = (ArcSwapOption::empty(), DashMap::new());
        Self { door, embedder, settings, base, setup, counts, flights }
    }

    /// Stands for all that makes answers differ although the same is asked of the same passages, with these settings.
    pub(super) fn setup(&self, config: &Arc<Config>) -> Key {
        if let Some(last) = &*self.setup.load()
            && Arc::ptr_eq(&last.0, config)
        {
            return last.1;
        }
        let setup = Key::of("setup", &(self.base, &config.search, &config.answer));
        self.setup.store(Some(Arc::new((Arc::clone(config), setup))));
        setup
    }

    /// Whether anything is kept and shared at all.
    pub(super) fn enabled(&self) -> bool {
        self.door.is_some()
    }

    /// The evidence under a key; inside, none where nothing has to do with the question.
    pub(super) async fn evidence(&self, key: Key) -> Option<Option<Evidence>> {
        let found = self.get(key).await?;
        CacheCounts::add(&self.counts.evidence);
        Some(found)
    }

    /// The answer that rests on this evidence: to this very question, or to one that asks the same.
    pub(super) async fn answer(&self, question: &str, evidence: &Evidence) -> Option<KeptAnswer> {
        if let Some(found) = self.get(evidence.answer).await {
            CacheCounts::add(&self.counts.answers);
            return Some(found);
        }
        let near: NearAnswer = self.get(evidence.near).await?;
        if near.answer == evidence.answer || !self.is_near(question, &near.question).await {
            return None;
        }
        let found = self.get(near.answer).await?;
        CacheCounts::add(&self.counts.near);
        Some(found)
    }

    /// Whether two questions ask the same.
    async fn is_near(&self, one: &str, other: &str) -> bool {
        if evidence::gist(one) != evidence::gist(other) {
            return false;
        }
        let texts = vec![one.to_owned(), other.to_owned()];
        let Ok(vectors) = self.embedder.ask(Embed { texts, urgent: true }).await else { return false };
        let [one, other] = vectors.as_slice() else { return false };
        // Their norm is 1.
        dot(one, other) >= self.settings.now().cache.near_similarity
    }

    /// Keeps what was found in the store with this id.
    pub(super) async fn keep_evidence(&self, key: Key, evidence: Option<&Evidence>, store: &str) {
        let documents = evidence.map(|evidence| evidence.rests_on(store)).unwrap_or_default();
        self.put(key, Basis { level: Level::Evidence, documents }, evidence).await;
    }

    /// Keeps what a flight said, where it is complete; it rests on these documents.
    pub(super) async fn keep_answer(
        &self,
        question: &str,
        (answer, near): (Key, Key),
        documents: Vec<RestsOn>,
        flight: &Flight,
    ) {
        let Some((text, finished)) = flight.outcome() else { return };
        let basis = Basis { level: Level::Answer, documents };
        self.put(answer, basis.clone(), KeptAnswer::new(text, &finished)).await;
        self.put(near, basis, NearAnswer { question: evidence::normalised(question), answer }).await;
    }

    async fn get<T: DeserializeOwned>(&self, key: Key) -> Option<T> {
        let door = self.door.as_ref()?;
        // Without the cache it takes longer, and nothing else.
        let bytes = door.ask(CacheMessage::Get(key)).await.ok().flatten()?;
        match serde_json::from_slice::<Entry<T>>(&bytes) {
            Ok(entry) if entry.key == key => Some(entry.value),
            _ => {
                CacheCounts::add(&self.counts.rejected);
                tracing::warn!(%key, "an entry of the cache is not what it must be; it is not used");
                let _ = door.ask(CacheMessage::Forget(key)).await;
                None
            }
        }
    }

    async fn put(&self, key: Key, basis: Basis, value: impl Serialize) {
        let Some(door) = &self.door else { return };
        let entry = Entry { key, basis, value };
        if let Ok(bytes) = serde_json::to_vec(&entry) {
            let _ = door.ask(CacheMessage::Put(key, Bytes::from(bytes), entry.basis)).await;
        }
    }
}
