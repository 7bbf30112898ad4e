//! What a store of documents promises, whatever engine is behind it.
//!
//! A store is the durable truth and the search over it in one: documents, their chunks and vectors, every operation
//! that was accepted, and the number `seq` that each of these has. Whoever uses one relies on this:
//!
//! - an operation is durable before [`DocumentStore::receive`] returns, and an older revision never replaces a newer one;
//! - a version is swapped whole: once [`DocumentStore::store_version`] has returned, searches find the new chunks and
//!   none of the old ones, and until then the old ones;
//! - a filter holds before anything is ranked;
//! - what is said of freshness was true when the search began.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::StoreError;
use crate::config::SearchConfig;
use crate::deletion::receipt::Removal;
use crate::documents::event::{Metadata, Operation};
use crate::documents::{Format, ParsedDocument};
use crate::freshness::AsOf;
use crate::retrieval::filter::Filter;
use crate::retrieval::passage::Passage;
use crate::retrieval::sight::Sight;

/// A store of documents; see the module.
#[async_trait]
pub trait DocumentStore: Send + Sync {
    /// Tells this store's documents from every other's, for as long as they live.
    fn id(&self) -> &str;

    /// Accepts an operation. Older or equal revisions, unchanged content and events that were taken before are recognised
    /// here and change nothing.
    async fn receive(&self, operation: Operation, origin: Option<Origin>, now_ms: i64) -> Result<Receipt, StoreError>;

    /// Takes accepted operations over that nobody works on: `(seq, document)`, in order. With `again`, also those that
    /// this process has taken before.
    async fn claim(&self, again: bool) -> Result<Vec<(u64, String)>, StoreError>;

    /// An operation with its content; `None` where it is settled.
    async fn operation(&self, seq: u64) -> Result<Option<Pending>, StoreError>;

    /// Vectors of the served version of a document, by the hash of what was embedded: what a new revision need not embed
    /// again.
    async fn vectors_by_hash(&self, document: &str) -> Result<HashMap<[u8; 32], Vec<f32>>, StoreError>;

    /// Stores what came of an upsert, unless a later operation has been stored. It is visible when this returns, or
    /// soon after where an index fails.
    async fn store_version(
        &self,
        seq: u64,
        parsed: ParsedDocument,
        chunks: Vec<NewChunk>,
        progress: Progress,
        now_ms: i64,
    ) -> Result<(), StoreError>;

    /// Stores what came of a delete; see [`DocumentStore::store_version`].
    async fn store_delete(&self, seq: u64, now_ms: i64) -> Result<(), StoreError>;

    /// Gives an operation up; the version before goes on being served.
    async fn give_up(&self, seq: u64, reason: &str, now_ms: i64) -> Result<(), StoreError>;

    /// How an operation ended, and why where it failed. `None` where a later one on its document has replaced it.
    async fn outcome(&self, seq: u64) -> Result<Option<(OperationState, Option<String>)>, StoreError>;

    /// Remembers an event that was given up, so that it is not given up again when it is delivered once more. Until then
    /// a failed operation of an event from the bus is remembered with its reason, also where a later one was stored.
    async fn remember_event(&self, event: [u8; 16]) -> Result<(), StoreError>;

    /// Forgets an event, so that it is taken when it comes again.
    async fn forget_event(&self, event: [u8; 16]) -> Result<(), StoreError>;

    /// Whether an event was taken or given up.
    async fn knows_event(&self, event: [u8; 16]) -> Result<bool, StoreError>;

    /// A document with its last operation; `None` where nothing is known of it.
    async fn document(&self, id: &str) -> Result<Option<DocumentRecord>, StoreError>;

    /// The source text of the served version of a document.
    async fn document_text(&self, id: &str) -> Result<Option<String>, StoreError>;

    /// A page of the documents that are served, wait, or failed: by id, or, where an engine orders no texts, in another
    /// order that stays.
    async fn documents(&self, query: &DocumentQuery) -> Result<DocumentPage, StoreError>;

    /// The collections of the documents that are served and match, each with how many they are, by name.
    async fn collections(&self, filter: Option<Filter>) -> Result<BTreeMap<String, u64>, StoreError>;

    /// Sizes.
    async fn counts(&self) -> Result<StoreCounts, StoreError>;

    /// How many operations are accepted and not settled.
    async fn waiting(&self) -> Result<usize, StoreError>;

    /// Where it stands now. What is found later is at least as new.
    async fn standing(&self) -> Result<Standing, StoreError>;

    /// Waits until this one operation is settled, at most `limit`. Returns whether it is.
    async fn settle(&self, seq: u64, limit: Duration) -> Result<bool, StoreError>;

    /// Waits until everything up to `seq` is settled, at most `limit`. Returns whether it is.
    async fn reach(&self, seq: u64, limit: Duration) -> Result<bool, StoreError>;

    /// Searches.
    async fn search(&self, lookup: Lookup) -> Result<Hits, StoreError>;

    /// What a delete has left of a document that had so many chunks, in each place of this store, as a receipt says it.
    fn removed_from(&self, chunks: u64, at_ms: u64) -> Vec<Removal>;

    /// For the admin page.
    fn describe(&self) -> serde_json::Value;

    /// Why it cannot be used now, where it cannot.
    fn trouble(&self) -> Option<String>;
}

/// What became of an operation handed to [`DocumentStore::receive`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The operation's number, or that of the one which made it needless.
    pub seq: u64,
    /// The revision that this operation gives the document.
    pub revision: u64,
    /// What is to be done.
    pub outcome: Outcome,
}

/// Whether a received operation changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = WriteOutcome)]
pub enum Outcome {
    /// It is stored and waits for its turn.
    Accepted,
    /// The document has this content already.
    Unchanged,
    /// The document has this revision, or a newer one.
    Outdated,
    /// There is no such document to delete.
    Absent,
    /// The event behind it was taken before.
    Repeated,
}

/// The event behind an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Hash of the event's source and id.
    pub event: [u8; 16],
    /// When the bus received it, in nanoseconds since the Unix epoch: orders events that state no revision.
    pub position: Option<i64>,
}

impl Origin {
    /// When the bus received it, in milliseconds.
    pub fn published_ms(&self) -> Option<i64> {
        self.position.map(|position| position / 1_000_000)
    }
}

/// How far an operation has come, as far as the store knows; its number is what stores keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum OperationState {
    /// Waits for its turn, or is at work.
    Received = 0,
    /// Its version is stored.
    Stored = 1,
    /// Given up, with a reason.
    Failed = 2,
    /// A later operation on the document came first.
    Superseded = 3,
}

impl OperationState {
    /// The state of a number that a store kept.
    pub fn of(number: impl Into<i64>) -> Self {
        match number.into() {
            0 => Self::Received,
            1 => Self::Stored,
            2 => Self::Failed,
            _ => Self::Superseded,
        }
    }
}

/// An accepted operation, as the document workers take it.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Its number.
    pub seq: u64,
    /// The document.
    pub document: String,
    /// What it carries; `None` deletes.
    pub content: Option<PendingContent>,
    /// The revision it gives.
    pub revision: u64,
    /// When it was received, in milliseconds since the Unix epoch.
    pub received_ms: i64,
}

/// The content of an upsert.
#[derive(Debug, Clone)]
pub struct PendingContent {
    /// The bytes as they came.
    pub bytes: Vec<u8>,
    /// The declared media type.
    pub media_type: Option<String>,
    /// The title given by the caller.
    pub title: Option<String>,
}

/// When an operation came to the stages before it is stored, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Its text and chunks were known.
    pub parsed_ms: Option<i64>,
    /// Its vectors were known.
    pub embedded_ms: Option<i64>,
}

/// A chunk to store.
#[derive(Debug, Clone)]
pub struct NewChunk {
    /// Headings above it.
    pub section: Vec<String>,
    /// Byte span in the source text.
    pub span: Range<usize>,
    /// Page or slide of the original on which it starts.
    pub page: Option<u32>,
    /// Length in tokens of the embedding model.
    pub tokens: usize,
    /// Hash of what was embedded.
    pub hash: [u8; 32],
    /// Its vector.
    pub vector: Vec<f32>,
}

/// The last operation on a document, as far as the store knows.
#[derive(Debug, Clone)]
pub struct LastOperation {
    /// Its number.
    pub seq: u64,
    /// Whether it deletes.
    pub delete: bool,
    /// The revision it gives.
    pub revision: u64,
    /// How far it has come.
    pub state: OperationState,
    /// Whether searches see what came of it, if anything does.
    pub settled: bool,
    /// Why it failed.
    pub reason: Option<String>,
    /// When the bus took the event behind it, if one is, in milliseconds since the Unix epoch like all times here.
    pub published_ms: Option<i64>,
    /// When it was received.
    pub received_ms: i64,
    /// The stages after that.
    pub progress: Progress,
    /// When it was stored or given up.
    pub settled_ms: Option<i64>,
    /// When searches saw it first.
    pub visible_ms: Option<i64>,
}

/// A document with its last operation.
#[derive(Debug, Clone)]
pub struct DocumentRecord {
    /// Its id.
    pub id: String,
    /// What is served of it, if anything is.
    pub served: Option<Served>,
    /// Metadata as last given.
    pub metadata: Metadata,
    /// The last operation.
    pub last: LastOperation,
}

impl DocumentRecord {
    /// Whether all that is told here is seen: of what is served, and of what was given last.
    pub fn is_seen_by(&self, sight: &Sight) -> bool {
        sight.sees(&self.metadata) && self.served.as_ref().is_none_or(|served| sight.sees(&served.metadata))
    }
}

/// What is served of a document.
#[derive(Debug, Clone)]
pub struct Served {
    /// Its revision.
    pub revision: u64,
    /// Title.
    pub title: String,
    /// Address of the original.
    pub url: Option<String>,
    /// Collection.
    pub collection: String,
    /// Media type as declared.
    pub media_type: Option<String>,
    /// The format it was read as.
    pub format: Option<Format>,
    /// Its metadata.
    pub metadata: Metadata,
    /// How many chunks it has.
    pub chunks: u64,
    /// When it was stored, in milliseconds since the Unix epoch.
    pub updated_ms: i64,
}

/// Which documents to list.
#[derive(Debug, Clone, Default)]
pub struct DocumentQuery {
    /// Only what comes after this id.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
    /// Only this collection.
    pub collection: Option<String>,
    /// Only ids that begin so.
    pub prefix: Option<String>,
}

/// A page of the list of documents.
#[derive(Debug, Clone)]
pub struct DocumentPage {
    /// The documents.
    pub documents: Vec<DocumentRecord>,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// Sizes, for the admin page.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct StoreCounts {
    /// Documents served.
    pub documents: u64,
    /// Their chunks.
    pub chunks: u64,
    /// Operations that wait or are at work.
    pub pending: u64,
    /// Documents whose last operation failed.
    pub failed: u64,
    /// The last `seq` given.
    pub seq: u64,
    /// The last commit.
    pub commit: u64,
}

/// Where a store stands.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// Grows with everything that changes what a search finds; while it stays, searches find the same.
    pub commit: u64,
    /// How fresh a search that begins now is, without what waits on a bus.
    pub as_of: AsOf,
}

/// A commit that nothing else was found at, for what must not be kept under one.
pub(super) fn never_again() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    // Commits that are counted never come so far; which process it is tells replicas apart.
    let process = uuid::Uuid::now_v7().as_u128() as u64;
    (1 << 63) | (process << 16 >> 1) | (LAST.fetch_add(1, Ordering::Relaxed) & 0xffff)
}

/// What to search for.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// The words; `None` without the lexical stage.
    pub words: Option<String>,
    /// The embedding of the query, of length 1; `None` without the vector stage.
    pub vector: Option<Vec<f32>>,
    /// Which documents count.
    pub filter: Option<Filter>,
    /// The most passages wanted.
    pub limit: usize,
    /// How they are ranked.
    pub settings: SearchConfig,
}

/// What a search found.
#[derive(Debug, Clone)]
pub struct Hits {
    /// The passages, best first.
    pub passages: Vec<Passage>,
    /// Where the store stood.
    pub standing: Standing,
    /// Highest cosine similarity among all candidates; `None` without the vector stage.
    pub best_similarity: Option<f32>,
    /// Microseconds spent in the indexes, or waiting for the engine that has them.
    pub index_us: u64,
}
