//! Deletion that can be shown: what is kept of a deleted document is forgotten, and a receipt says where it was.
//!
//! A deletion is an operation on the store like any other, whoever asked for it (HTTP, an event, a watched folder). Once it is
//! carried out, nothing finds the document; what was made of it before is still about: evidence and answers in the cache of
//! this process and of others, in Redis, answers that can be read again, what people thought of them. All of that names the
//! revisions of documents it rests on ([`RestsOn`](crate::answer::evidence::RestsOn)), and is forgotten here ([`Deletions::carried_out`]).
//!
//! | file | what |
//! | --- | --- |
//! | `work` | the deletions on their way: when the store is so far, what is tried again |
//! | `forget` | everything that rests on a document is forgotten, here and elsewhere |
//! | [`shared`] | what is in Redis, and how replicas tell each other |
//! | [`deleted`] | what was deleted lately: who had found it before keeps nothing of it after |
//! | [`receipt`] | what is said of it, as a record of the audit |
//!
//! A note is kept from when the operation is accepted until its receipt is written and complete. The notes are what is to be
//! done: one is done as well where a later write of the document came before the deletion, where another replica has carried
//! it out, and where whoever was at it ended, by any process that finds its note ([`Deletions::settled`]).

pub mod deleted;
mod forget;
pub mod receipt;
pub mod shared;
mod work;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use utoipa::ToSchema;

use self::deleted::Deleted;
use self::receipt::{Receipt, Removal, State, together};
use self::work::{AGAIN, Work};
use crate::actors::stats::now_ms;
use crate::asking::Shelf;
use crate::config::{Engine, StoreEngine};
use crate::library::Library;
use crate::stores::StoreError;
use crate::stores::document_store::Served;
use crate::stores::memory::MemoryCache;
use crate::stores::records::{Kind, Records};
use crate::stores::redis::Redis;

/// How long what is deleted is remembered beyond the time of an answer.
const MARGIN: Duration = Duration::from_secs(60);

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
    /// The deletions that this process is at: none is begun twice.
    underway: Mutex<HashSet<u64>>,
    /// Notes that could not be written.
    unnoted: Mutex<HashMap<u64, Value>>,
    /// Held while a receipt is read and written anew.
    receipts: tokio::sync::Mutex<()>,
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
            underway: Mutex::default(),
            unnoted: Mutex::default(),
            receipts: tokio::sync::Mutex::default(),
            more: Notify::new(),
            written: watch::Sender::new(()),
        });
        actix_rt::spawn(Arc::clone(&deletions).work());
        actix_rt::spawn(Arc::clone(&deletions).take_up_what_was_interrupted());
        if let Some(redis) = deletions.redis.clone() {
            actix_rt::spawn(Arc::clone(&deletions).listen(Arc::clone(&redis)));
            actix_rt::spawn(forget::sweep(redis));
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
            "had": known.and_then(|known| had(known.served, revision)),
        });
        if let Err(error) = self.records.put(Kind::Deletion, &name_of(seq), &note).await {
            tracing::warn!(seq, document, by, %error, "it could not be noted who asked for a deletion");
            // As long as this process runs it is known all the same.
            self.unnoted.lock().insert(seq, note);
        }
    }

    /// The store was told to carry a deletion out: `served` is what it served until then. Whether it has is looked at here:
    /// where its answer was lost, it may have.
    pub fn carried_out(&self, seq: u64, revision: u64, document: String, served: Option<Served>) {
        self.begin(Work::new(document, seq, revision, had(served, revision)));
    }

    /// The store has nothing to do for an operation any more. Where that is a deletion with a note, what the note says is
    /// still to be done: another one has carried it out, or a later write of its document came first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn settled(&self, seq: u64) -> Result<(), StoreError> {
        if let Some(note) = self.note(seq).await? {
            self.take_up(&note);
        }
        Ok(())
    }

    /// What is noted of a deletion that is not complete.
    async fn note(&self, seq: u64) -> Result<Option<Value>, StoreError> {
        let unnoted = self.unnoted.lock().get(&seq).cloned();
        match unnoted {
            Some(note) => Ok(Some(note)),
            None => self.records.get(Kind::Deletion, &name_of(seq)).await,
        }
    }

    /// The receipt of a deletion as it is noted, with who asked for it; what is noted of it before there is one; or nothing.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn receipt(&self, seq: u64) -> Result<Option<Value>, StoreError> {
        let written =
            async || Ok::<_, StoreError>(self.records.get(Kind::Audit, &name_of(seq)).await?.as_ref().map(shown));
        if let Some(known) = written().await? {
            return Ok(Some(known));
        }
        match self.note(seq).await? {
            Some(note) => Ok(Some(note)),
            // It was written in between, and its note removed.
            None => written().await,
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

    /// Nothing is left of these deletions in the files of the store: their receipts say so. Gives those of which nothing more
    /// is to be said; the others are to be told again.
    pub async fn expunged(&self, seqs: &[u64]) -> Vec<u64> {
        let mut said = Vec::new();
        for seq in seqs {
            match self.say_gone(*seq).await {
                Ok(true) => said.push(*seq),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, seq, "a receipt says of what is gone that it is only hidden; it is brought up to date later");
                    break;
                }
            }
        }
        said
    }

    /// The same of one. Whether that is done: its receipt may be about to be written.
    async fn say_gone(&self, seq: u64) -> Result<bool, StoreError> {
        let _alone = self.receipts.lock().await;
        let Some(mut record) = self.records.get(Kind::Audit, &name_of(seq)).await? else {
            let underway = self.underway.lock().contains(&seq);
            return Ok(!underway && self.note(seq).await?.is_none());
        };
        let Ok(mut receipt) = serde_json::from_value::<Receipt>(record["about"].clone()) else { return Ok(true) };
        for removal in receipt.removed_from.iter_mut().filter(|removal| removal.state == State::Hidden) {
            let (what, entries) = (std::mem::take(&mut removal.what), removal.entries);
            *removal = Removal::removed(what, entries, now_ms());
        }
        record["about"] = json!(receipt);
        self.records.put(Kind::Audit, &name_of(seq), &record).await?;
        Ok(true)
    }

    /// The longest that an answer may take that begins now.
    pub fn longest_answer(&self) -> Duration {
        Duration::from_secs(self.library.config().answer.max_time_s)
    }

    /// What nobody here can reach.
    fn remains(&self, replaced: bool) -> Vec<String> {
        let config = self.library.config();
        let mut remains = vec![
            "backups and exports made before".to_owned(),
            "what callers have read, and their questions about it".to_owned(),
            "this receipt, and the number of the deleted revision: the document's name, nothing of its text".to_owned(),
        ];
        if replaced {
            remains.push("the document as a later write has it, which replaced this deletion".to_owned());
        }
        if !config.redis.is_configured() && config.store.engine != StoreEngine::Embedded {
            remains.push(
                "what other replicas keep in memory, if there are any: without [redis] nobody tells them. It goes after [cache] ttl_s and [answer] keep_s"
                    .to_owned(),
            );
        }
        if !config.nats.servers.is_empty() {
            remains.push("the events on NATS that brought the document, until their streams drop them".to_owned());
        }
        remains.push(match config.models.all().any(|model| model.engine == Engine::OpenAi) {
            true => "what a model server elsewhere keeps of its prompts".to_owned(),
            false => "prompts in the model's own memory, until its slots are used again".to_owned(),
        });
        remains
    }

    /// Writes a receipt, together with what was written before. Whether it is complete.
    async fn write(&self, receipt: &Receipt) -> Result<bool, StoreError> {
        let (name, mut receipt) = (name_of(receipt.seq), receipt.clone());
        let note = self.note(receipt.seq).await?;
        let _alone = self.receipts.lock().await;
        let before = self.records.get(Kind::Audit, &name).await?;
        let known = |record: &Option<Value>, field: &str| {
            record.as_ref().map(|record| record[field].clone()).filter(|value| !value.is_null())
        };
        let by = known(&note, "by").or_else(|| known(&before, "by")).unwrap_or_else(|| json!("not known"));
        receipt.accepted_ms = known(&note, "at_ms").and_then(|at| at.as_u64());
        if let Some(earlier) = before.and_then(|record| serde_json::from_value::<Receipt>(record["about"].clone()).ok())
        {
            receipt = together(earlier, receipt);
        }
        let at_ms = receipt.accepted_ms.unwrap_or(receipt.deleted_ms);
        let record = json!({ "at_ms": at_ms, "by": by, "act": "document.delete", "about": receipt });
        self.records.put(Kind::Audit, &name, &record).await?;
        Ok(receipt.complete)
    }

    /// Nothing is left to do for a deletion.
    async fn settle(&self, seq: u64) {
        self.unnoted.lock().remove(&seq);
        if let Err(error) = self.records.remove(Kind::Deletion, &name_of(seq)).await {
            tracing::debug!(%error, seq, "the note of a deletion stays; it is done once more later");
        }
        self.underway.lock().remove(&seq);
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

/// What was served of a document that a deletion with this revision is the end of.
fn had(served: Option<Served>, revision: u64) -> Option<Had> {
    // A later write may have come first.
    served.filter(|served| served.revision <= revision).map(Had::from)
}
