//! Deletion that can be shown: what is kept of a deleted document is forgotten, and a receipt says where it was.
//!
//! A deletion is an operation on the store like any other, whoever asked for it (HTTP, an event, a watched folder). Once it is
//! carried out, nothing finds the document; what was made of it before is still about: evidence and answers in the cache of
//! this process and of others, in Redis, answers that can be read again, what people thought of them. All of that names the
//! revisions of documents it rests on ([`RestsOn`]), and is forgotten here ([`Deletions::carried_out`]).
//!
//! - [`deleted`]: what was deleted lately: who had found it before keeps nothing of it after;
//! - [`shared`]: what is in Redis, and how replicas tell each other;
//! - [`receipt`]: what is said of it, as a record of the audit.
//!
//! A note is kept from when the operation is accepted until its receipt is written and complete, so that one which was
//! interrupted is done again by the next process that starts.

pub mod deleted;
pub mod receipt;
pub mod shared;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use utoipa::ToSchema;

use self::deleted::Deleted;
use self::receipt::{Receipt, Removal, State};
use self::shared::{ByDocument, Notice};
use crate::actors::compute::blocking;
use crate::actors::stats::now_ms;
use crate::answer::evidence::{Level, RestsOn};
use crate::asking::Shelf;
use crate::config::Engine;
use crate::library::Library;
use crate::stores::StoreError;
use crate::stores::document_store::{OperationState, Served};
use crate::stores::memory::MemoryCache;
use crate::stores::records::{Kind, Records};
use crate::stores::redis::Redis;

/// How often notices of other replicas are looked for.
const LOOK: Duration = Duration::from_millis(200);
/// How long others have to say that they have done what a notice says, before the receipt is written without.
const ANSWER: Duration = Duration::from_secs(2);
/// How often what could not be done is tried again, and a receipt of another process is looked for.
const AGAIN: Duration = Duration::from_millis(500);
/// How long the files are rid of something before its receipt is there, at most.
const RECEIPT: Duration = Duration::from_secs(30);
/// Deletions carried out together: what rests on them is forgotten at once, before any receipt is written.
const BATCH: usize = 2048;
/// How long what is deleted is remembered beyond the time of an answer.
const MARGIN: Duration = Duration::from_secs(60);

/// A deletion that the store has carried out.
struct Work {
    document: String,
    seq: u64,
    /// What it gave the document: all before it is deleted.
    revision: u64,
    had: Option<Had>,
    deleted_ms: u64,
}

/// What was served of a document.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = DeletedDocument)]
pub struct Had {
    /// Its collection.
    collection: String,
    /// Its revision.
    revision: u64,
    /// Its passages.
    chunks: u64,
}

impl From<Served> for Had {
    fn from(Served { collection, revision, chunks, .. }: Served) -> Self {
        Self { collection, revision, chunks }
    }
}

/// See the module.
pub struct Deletions {
    /// What was deleted lately.
    pub deleted: Deleted,
    /// The cache of this process.
    pub memory: Arc<MemoryCache>,
    /// The answers that can be read.
    pub shelf: Arc<Shelf>,
    /// What replicas share.
    pub redis: Option<Arc<Redis>>,
    library: Arc<Library>,
    records: Arc<dyn Records>,
    /// Tells this process from others.
    process: String,
    waiting: Mutex<Vec<Work>>,
    more: Notify,
    /// Told when receipts are written.
    written: watch::Sender<()>,
}

/// The record of a deletion's receipt, and of the note before it.
fn name_of(seq: u64) -> String {
    format!("deletion-{seq}")
}

impl Deletions {
    /// Carries deletions out from now on.
    pub fn start(
        library: Arc<Library>,
        records: Arc<dyn Records>,
        shelf: Arc<Shelf>,
        redis: Option<Arc<Redis>>,
    ) -> Arc<Self> {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let deletions = Arc::new(Self {
            deleted: Deleted::new(Duration::from_secs(library.config().answer.max_time_s) + MARGIN),
            memory: Arc::new(MemoryCache::new(library.config().cache.memory_bytes)),
            shelf,
            redis,
            library,
            records,
            process: format!("{}-{}", host.trim(), &unique[..8]),
            waiting: Mutex::default(),
            more: Notify::new(),
            written: watch::Sender::new(()),
        });
        let working = Arc::clone(&deletions);
        actix_rt::spawn(async move {
            working.take_up().await;
            loop {
                working.more.notified().await;
                loop {
                    let batch: Vec<Work> = {
                        let mut waiting = working.waiting.lock();
                        let most = waiting.len().min(BATCH);
                        waiting.drain(..most).collect()
                    };
                    if batch.is_empty() {
                        break;
                    }
                    working.carry_out(batch).await;
                }
            }
        });
        if let Some(redis) = deletions.redis.clone() {
            actix_rt::spawn(Arc::clone(&deletions).listen(redis));
        }
        deletions
    }

    /// The id of the store that this process has its documents in.
    pub fn store(&self) -> &str {
        self.library.store.id()
    }

    /// Notes who asked for a deletion that the store has accepted. Nothing is held up by a note that cannot be written.
    pub async fn accepted(&self, seq: u64, revision: u64, document: &str, by: &str) {
        let known = self.library.store.document(document).await.ok().flatten();
        let note = json!({
            "at_ms": now_ms(),
            "by": by,
            "seq": seq,
            "revision": revision,
            "document_id": document,
            "had": known.and_then(|known| known.served).map(Had::from),
        });
        if let Err(error) = self.records.put(Kind::Deletion, &name_of(seq), &note).await {
            tracing::warn!(seq, document, by, %error, "it could not be noted who asked for a deletion");
        }
    }

    /// The store has carried a deletion out: `served` is what it served until then.
    pub fn carried_out(&self, seq: u64, revision: u64, document: String, served: Option<Served>) {
        let had = served.map(Had::from);
        self.again(vec![Work { document, seq, revision, had, deleted_ms: now_ms() }]);
    }

    fn again(&self, works: Vec<Work>) {
        self.waiting.lock().extend(works);
        self.more.notify_one();
    }

    /// The receipt of a deletion as it is noted, with who asked for it; what is noted of it before there is one; or nothing.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn receipt(&self, seq: u64) -> Result<Option<Value>, StoreError> {
        match self.records.get(Kind::Audit, &name_of(seq)).await? {
            Some(record) => Ok(Some(shown(&record))),
            None => self.records.get(Kind::Deletion, &name_of(seq)).await,
        }
    }

    /// Waits for the receipt of a deletion, of this process or of another one, at most so long.
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping it.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn written(&self, seq: u64, limit: Duration) -> Result<Option<Value>, StoreError> {
        let (mut written, began) = (self.written.subscribe(), Instant::now());
        loop {
            if let Some(record) = self.records.get(Kind::Audit, &name_of(seq)).await? {
                return Ok(Some(shown(&record)));
            }
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            let _ = tokio::time::timeout(left.min(AGAIN), written.changed()).await;
        }
    }

    /// Nothing is left of these deletions in the files of the store: their receipts say so.
    pub async fn expunged(&self, seqs: &[u64]) {
        for seq in seqs {
            let updated = async {
                // It may be about to be written.
                self.written(*seq, RECEIPT).await?;
                let Some(mut record) = self.records.get(Kind::Audit, &name_of(*seq)).await? else { return Ok(()) };
                let Ok(mut receipt) = serde_json::from_value::<Receipt>(record["about"].clone()) else { return Ok(()) };
                for removal in receipt.removed_from.iter_mut().filter(|removal| removal.state == State::Hidden) {
                    let (what, entries) = (std::mem::take(&mut removal.what), removal.entries);
                    *removal = Removal::removed(what, entries, now_ms());
                }
                record["about"] = json!(receipt);
                self.records.put(Kind::Audit, &name_of(*seq), &record).await
            };
            let updated: Result<(), StoreError> = updated.await;
            if let Err(error) = updated {
                tracing::warn!(%error, seq, "a receipt says of what is gone that it is only hidden");
            }
        }
    }

    /// Forgets what this process keeps that rests on these documents.
    async fn forget(self: &Arc<Self>, deleted: &[RestsOn]) -> ByDocument {
        let (this, deleted) = (Arc::clone(self), deleted.to_vec());
        blocking(move || {
            let began = Instant::now();
            let counts = this.forget_now(&deleted);
            tracing::debug!(documents = deleted.len(), took_us = began.elapsed().as_micros() as u64, "forgot");
            counts
        })
        .await
    }

    fn forget_now(&self, deleted: &[RestsOn]) -> ByDocument {
        // First of all: who keeps something from here on looks there after it has kept it.
        self.deleted.keep_at_least(self.longest_answer() + MARGIN);
        self.deleted.add(deleted);
        let mut counts = ByDocument::new();
        let mut count = |document, level| counts.entry(document).or_default().add(level);
        let upto: HashMap<u64, u64> = deleted.iter().map(|one| (one.document, one.revision)).collect();
        let is_deleted = |one: &RestsOn| upto.get(&one.document).is_some_and(|revision| one.revision <= *revision);
        self.memory.purge(&is_deleted).into_iter().for_each(|(document, level)| count(document, level));
        self.shelf.withdraw(&is_deleted).into_iter().for_each(|document| count(document, Level::Stream));
        counts
    }

    /// Takes up what was interrupted.
    async fn take_up(&self) {
        let noted = match self.records.all(Kind::Deletion).await {
            Ok(noted) => noted,
            Err(error) => return tracing::debug!(%error, "could not look for interrupted deletions"),
        };
        for (_, note) in noted {
            let (Some(seq), Some(document)) = (note["seq"].as_u64(), note["document_id"].as_str()) else { continue };
            // One that is not carried out yet comes by itself.
            if !matches!(self.library.store.outcome(seq).await, Ok(Some((OperationState::Received, _))) | Err(_)) {
                let revision = note["revision"].as_u64().unwrap_or(0);
                let had = serde_json::from_value(note["had"].clone()).ok();
                self.again(vec![Work { document: document.to_owned(), seq, revision, had, deleted_ms: now_ms() }]);
            }
        }
    }

    /// Forgets what rests on deleted documents, everywhere, and writes the receipts.
    async fn carry_out(self: &Arc<Self>, batch: Vec<Work>) {
        let (mut works, mut unreached) = (Vec::new(), Vec::new());
        for work in batch {
            let store = &self.library.store;
            // A later operation on it came first: nothing was deleted.
            if matches!(store.outcome(work.seq).await, Ok(Some((OperationState::Superseded, _)))) {
                self.settle(work.seq).await;
            } else if store.settle(work.seq, ANSWER).await.is_ok_and(|settled| settled) {
                works.push(work);
            } else {
                // An index is not so far.
                unreached.push(work);
            }
        }
        if !works.is_empty() {
            unreached.extend(self.carry_out_all(works).await);
            self.written.send_replace(());
        }
        if !unreached.is_empty() {
            let deletions = Arc::clone(self);
            actix_rt::spawn(async move {
                actix_rt::time::sleep(AGAIN).await;
                while deletions.redis.as_ref().is_some_and(|redis| redis.trouble().is_some()) {
                    actix_rt::time::sleep(AGAIN).await;
                }
                deletions.again(unreached);
            });
        }
    }

    /// The same of those that nothing finds any more; gives those that are not complete.
    async fn carry_out_all(self: &Arc<Self>, works: Vec<Work>) -> Vec<Work> {
        let mut unreached = Vec::new();
        let deleted: Vec<RestsOn> =
            works.iter().map(|work| RestsOn::new(self.store(), &work.document, work.revision)).collect();
        let here = self.forget(&deleted).await;
        let feedback = self.forget_feedback(&deleted).await;
        let (elsewhere, replicas) = self.forget_elsewhere(&deleted).await;
        let at_ms = now_ms();
        for (work, rests_on) in works.into_iter().zip(deleted) {
            let count = here.get(&rests_on.document).copied().unwrap_or_default();
            let had = work.had.as_ref();
            let mut removed_from = self.library.store.removed_from(had.map_or(0, |had| had.chunks), at_ms);
            removed_from.push(Removal::removed("evidence cache", count.evidence, at_ms));
            removed_from.push(Removal::removed("answer cache", count.answers, at_ms));
            removed_from.push(Removal::removed("stream buffers", count.streams, at_ms));
            removed_from.push(match &feedback {
                Ok(counts) => Removal::removed("feedback", counts.get(&rests_on.document).copied().unwrap_or(0), at_ms),
                Err(error) => Removal::removed("feedback", 0, at_ms).but(State::Unreachable, error.to_string()),
            });
            removed_from.extend(self.removed_elsewhere(&elsewhere, &replicas, rests_on.document, at_ms));
            let complete = removed_from.iter().all(|removal| removal.state != State::Unreachable);
            let receipt = Receipt {
                document_id: work.document.clone(),
                collection: had.map(|had| had.collection.clone()),
                revision: had.map(|had| had.revision),
                seq: work.seq,
                accepted_ms: None,
                deleted_ms: work.deleted_ms,
                complete,
                removed_from,
                remains: self.remains(),
            };
            self.write(receipt).await;
            tracing::debug!(seq = work.seq, document = work.document, ?count, complete, "deleted");
            if !complete {
                unreached.push(work);
            }
        }
        unreached
    }

    /// Blanks out the answers that people thought something of; how many, by document.
    async fn forget_feedback(&self, deleted: &[RestsOn]) -> Result<HashMap<u64, u64>, StoreError> {
        let upto: HashMap<u64, u64> = deleted.iter().map(|one| (one.document, one.revision)).collect();
        let mut counts = HashMap::new();
        for (id, mut record) in self.records.all(Kind::Feedback).await? {
            let sources = record["sources"].as_array().into_iter().flatten();
            let of = |source: &Value| {
                let (document, revision) = (source["document_id"].as_str()?, source["revision"].as_u64()?);
                let one = RestsOn::new(self.store(), document, revision);
                (revision <= *upto.get(&one.document)?).then_some(one.document)
            };
            let Some(document) = sources.into_iter().find_map(of).filter(|_| !record["answer"].is_null()) else {
                continue;
            };
            record["answer"] = Value::Null;
            record["withdrawn_ms"] = now_ms().into();
            self.records.put(Kind::Feedback, &id, &record).await?;
            *counts.entry(document).or_default() += 1;
        }
        Ok(counts)
    }

    /// Forgets what Redis has, and has the other replicas forget what they keep; none where there is no Redis, or it does
    /// not answer. The second are the replicas that are there, with what they had, if they said so.
    async fn forget_elsewhere(
        &self,
        deleted: &[RestsOn],
    ) -> (Result<Option<ByDocument>, String>, BTreeMap<String, Option<ByDocument>>) {
        let mut replicas = BTreeMap::new();
        let Some(redis) = self.redis.as_ref().filter(|_| !deleted.is_empty()) else { return (Ok(None), replicas) };
        let config = self.library.config();
        let keep = Duration::from_secs(config.cache.ttl_s.max(config.answer.keep_s));
        let notice = Notice { from: self.process.clone(), deleted: deleted.to_vec() };
        // First the others: what one of them is about to put into Redis it takes out again.
        let told = shared::tell(redis, &notice, keep).await;
        let removed = shared::purge(redis, deleted).await;
        let (id, there, removed) = match (told, removed) {
            (Ok((id, there)), Ok(removed)) => (id, there, removed),
            (Err(trouble), _) | (_, Err(trouble)) => return (Err(trouble.to_string()), replicas),
        };
        replicas.extend(there.into_iter().filter(|replica| *replica != self.process).map(|replica| (replica, None)));
        let began = Instant::now();
        while replicas.values().any(Option::is_none) && began.elapsed() < ANSWER {
            actix_rt::time::sleep(LOOK / 4).await;
            if let Ok(answers) = shared::answers(redis, &id).await {
                answers.into_iter().for_each(|(replica, counts)| {
                    replicas.insert(replica, Some(counts));
                });
            }
        }
        (Ok(Some(removed)), replicas)
    }

    /// What a receipt says of that.
    fn removed_elsewhere(
        &self,
        removed: &Result<Option<ByDocument>, String>,
        replicas: &BTreeMap<String, Option<ByDocument>>,
        document: u64,
        at_ms: u64,
    ) -> Vec<Removal> {
        let mut all = Vec::new();
        match removed {
            Ok(None) => {}
            Ok(Some(removed)) => {
                let counts = removed.get(&document).copied().unwrap_or_default();
                all.push(Removal::removed("shared cache", counts.evidence + counts.answers, at_ms));
                all.push(Removal::removed("shared streams", counts.streams, at_ms));
            }
            Err(trouble) => {
                let why = format!("{trouble}; it is tried again");
                for what in ["shared cache", "shared streams"] {
                    all.push(Removal::removed(what, 0, at_ms).but(State::Unreachable, why.clone()));
                }
            }
        }
        for (replica, said) in replicas {
            let what = format!("memory of replica {replica}");
            all.push(match said {
                Some(counts) => {
                    Removal::removed(what, counts.get(&document).copied().unwrap_or_default().sum(), at_ms)
                }
                None => Removal::removed(what, 0, at_ms).but(
                    State::Told,
                    format!(
                        "it has not said within {} s that it did; it does when it looks, and keeps nothing longer than [cache] ttl_s",
                        ANSWER.as_secs()
                    ),
                ),
            });
        }
        all
    }

    /// The longest that an answer may take that begins now.
    pub fn longest_answer(&self) -> Duration {
        Duration::from_secs(self.library.config().answer.max_time_s)
    }

    /// What nobody here can reach.
    fn remains(&self) -> Vec<String> {
        let config = self.library.config();
        let mut remains = vec![
            "backups and exports made before".to_owned(),
            "what callers have read, and their questions about it".to_owned(),
            "this receipt, and the number of the deleted revision: the document's name, nothing of its text".to_owned(),
        ];
        if !config.nats.servers.is_empty() {
            remains.push("the events on NATS that brought the document, until their streams drop them".to_owned());
        }
        remains.push(match config.models.all().any(|model| model.engine == Engine::OpenAi) {
            true => "what a model server elsewhere keeps of its prompts".to_owned(),
            false => "prompts in the model's own memory, until its slots are used again".to_owned(),
        });
        remains
    }

    /// Writes a receipt, in place of one that was not complete. As long as it takes.
    async fn write(&self, mut receipt: Receipt) {
        let name = name_of(receipt.seq);
        loop {
            let written = async {
                let note = self.records.get(Kind::Deletion, &name).await?;
                let before = self.records.get(Kind::Audit, &name).await?;
                let known = |record: &Option<Value>, field: &str| {
                    record.as_ref().map(|record| record[field].clone()).filter(|value| !value.is_null())
                };
                let by = known(&before, "by").or_else(|| known(&note, "by")).unwrap_or_else(|| json!("not known"));
                receipt.accepted_ms = known(&note, "at_ms").and_then(|at| at.as_u64());
                if let Some(earlier) =
                    before.and_then(|record| serde_json::from_value::<Receipt>(record["about"].clone()).ok())
                {
                    receipt = together(earlier, receipt.clone());
                }
                let at_ms = receipt.accepted_ms.unwrap_or(receipt.deleted_ms);
                let record = json!({ "at_ms": at_ms, "by": by, "act": "document.delete", "about": receipt });
                self.records.put(Kind::Audit, &name, &record).await
            };
            match written.await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(%error, seq = receipt.seq, "the receipt of a deletion could not be written; trying again");
                    actix_rt::time::sleep(AGAIN).await;
                }
            }
        }
        if receipt.complete {
            self.settle(receipt.seq).await;
        }
    }

    /// Nothing is left to do for a deletion.
    async fn settle(&self, seq: u64) {
        if let Err(error) = self.records.remove(Kind::Deletion, &name_of(seq)).await {
            tracing::debug!(%error, seq, "the note of a deletion stays; it is done once more at the next start");
        }
    }

    /// Does what other replicas tell, as long as the process runs.
    async fn listen(self: Arc<Self>, redis: Arc<Redis>) {
        // From the beginning of what there is: it is as well done once more.
        let mut seen = "0".to_owned();
        loop {
            match shared::look(&redis, &self.process, &seen).await {
                Ok(notices) => {
                    let many = notices.len() > 1;
                    for (id, notice) in notices {
                        if let Some(notice) = notice.filter(|notice| notice.from != self.process) {
                            let counts = self.forget(&notice.deleted).await;
                            // What this one was about to put there when the other one looked.
                            let purged = shared::purge(&redis, &notice.deleted).await;
                            let answered = match purged {
                                Ok(_) => shared::answer(&redis, &id, &self.process, &counts).await,
                                Err(trouble) => Err(trouble),
                            };
                            // It is read again, and done again.
                            if answered.is_err() {
                                break;
                            }
                        }
                        seen = id;
                    }
                    if many {
                        continue;
                    }
                }
                // It says so itself where it is away.
                Err(trouble) => tracing::debug!(%trouble, "could not look for deletions elsewhere"),
            }
            actix_rt::time::sleep(LOOK).await;
        }
    }

    /// Tells the other replicas that this one leaves.
    pub async fn leave(&self) {
        if let Some(redis) = &self.redis {
            shared::leave(redis, &self.process).await;
        }
    }
}

/// A receipt with who asked for the deletion, as callers see it.
fn shown(record: &Value) -> Value {
    let mut receipt = record["about"].clone();
    receipt["by"] = record["by"].clone();
    receipt
}

/// A receipt that was not complete, and what came of trying again.
fn together(earlier: Receipt, later: Receipt) -> Receipt {
    let mut removed_from = earlier.removed_from;
    for removal in later.removed_from {
        match removed_from.iter_mut().find(|known| known.what == removal.what) {
            None => removed_from.push(removal),
            Some(known) if known.state == State::Hidden => known.entries = known.entries.max(removal.entries),
            Some(known) => {
                let entries = known.entries + removal.entries;
                *known = Removal { entries, ..removal };
            }
        }
    }
    Receipt {
        collection: earlier.collection.or(later.collection),
        revision: earlier.revision.or(later.revision),
        accepted_ms: earlier.accepted_ms.or(later.accepted_ms),
        deleted_ms: earlier.deleted_ms,
        complete: later.complete,
        removed_from,
        ..later
    }
}
