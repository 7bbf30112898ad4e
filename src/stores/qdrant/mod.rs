//! The store in Qdrant: documents, chunks, vectors and `seq` on a server, or a cluster of them, that replicas share. A
//! process keeps nothing of it.
//!
//! Qdrant has no transactions. What must change as a whole is one point, which is replaced only in the state in which it
//! was read:
//!
//! - all that is known of a document is one `entry`: an older revision never replaces a newer one, and a version is
//!   served from one replacement on, whole (`write`);
//! - what is found and what is said of freshness follow from the entries, and from a `counter` of commits (`read`);
//! - who works is known by counting (`presence`), and no clock but one's own is relied upon.
//!
//! `server` is what is asked of Qdrant, `schema` the collections, `contents` where the bytes are, `words` BM25 as sparse
//! vectors, `filter` filters as conditions, `search` both rankings, `archive` how documents move to another store, `records`
//! what the service itself keeps here.

mod archive;
mod contents;
mod counter;
mod entry;
mod filter;
mod presence;
mod read;
mod records;
mod schema;
mod search;
mod server;
mod words;
mod write;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use qdrant_client::qdrant::{Condition, Filter, PointId, RetrievedPoint};
use serde_json::{Value, json};
use uuid::Uuid;

use self::counter::Counter;
use self::entry::Entry;
use self::presence::Presence;
pub use self::records::QdrantRecords;
use self::schema::Shape;
use self::server::{Collection, Server, id, plain, text};
use super::StoreError;
use super::document_store::{
    DocumentPage, DocumentQuery, DocumentRecord, DocumentStore, Hits, Lookup, NewChunk, OperationState, Origin,
    Pending, Progress, Receipt, Standing, StoreCounts,
};
use super::settled::Settled;
use crate::config::Config;
use crate::deletion::receipt::{Removal, State};
use crate::documents::ParsedDocument;
use crate::documents::event::Operation;

/// How long a start waits for a server that does not answer yet.
const START: Duration = Duration::from_secs(30);

/// The store; see the module.
pub struct Qdrant {
    server: Server,
    config: Arc<Config>,
    id: String,
    seqs: Counter,
    commits: Counter,
    presence: Presence,
    settled: Settled,
    /// What filters came to that Qdrant cannot ask; the latest last.
    resolved: Mutex<VecDeque<search::ResolvedFilter>>,
    /// Operations of this process that somebody was told to carry out.
    handed: Mutex<HashSet<u64>>,
    /// Numbers in the metadata that have an index.
    indexed_numbers: Mutex<HashSet<String>>,
}

/// A document's entry as it was read, and what tells it from every other state; none where there is no entry yet.
struct Held {
    entry: Entry,
    turn: Option<String>,
}

impl Held {
    /// Reads an entry.
    fn read(server: &Server, point: &RetrievedPoint) -> Result<Self, StoreError> {
        match serde_json::from_str(&text(point, "state")) {
            Ok(entry) => Ok(Self { entry, turn: Some(text(point, "turn")) }),
            Err(error) => Err(StoreError::Damaged(format!(
                "the point of the document {:?} in the Qdrant {} cannot be read ({error}): something else has written there",
                text(point, "document"),
                server.address
            ))),
        }
    }
}

fn document_point(document: &str) -> PointId {
    id(&["document", document])
}

impl Qdrant {
    /// Connects, and makes the collections or checks them. A server that does not answer is waited for a while.
    ///
    /// # Errors
    /// In words for the operator.
    pub async fn open(config: &Arc<Config>, embedding: &str, dimensions: usize) -> Result<Self, StoreError> {
        let server = Server::new(&config.qdrant).map_err(StoreError::Failed)?;
        let index = &config.index;
        let shape = Shape { embedding, dimensions, m: index.m, ef_construction: index.ef_construction };
        let began = Instant::now();
        let id = loop {
            match schema::prepare(&server, &shape).await {
                Err(StoreError::Unavailable(reason)) if began.elapsed() < START => {
                    tracing::warn!(reason, "waiting for Qdrant");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                id => break id?,
            }
        };
        Ok(Self {
            server,
            config: Arc::clone(config),
            id,
            seqs: Counter::new("seq"),
            commits: Counter::new("commit"),
            presence: Presence::new(Uuid::now_v7().to_string()),
            settled: Settled::default(),
            resolved: Mutex::default(),
            handed: Mutex::default(),
            indexed_numbers: Mutex::default(),
        })
    }

    /// The entry of a document; an empty one where nothing is known of it.
    async fn hold(&self, doing: &str, document: &str) -> Result<Held, StoreError> {
        let found = self.server.get(doing, Collection::Documents, vec![document_point(document)], None).await?;
        match found.first() {
            Some(point) => Held::read(&self.server, point),
            None => Ok(Held { entry: Entry::new(document), turn: None }),
        }
    }

    /// The entry that has an operation.
    async fn hold_operation(&self, doing: &str, seq: u64) -> Result<Option<Held>, StoreError> {
        let fits = Filter::must([Condition::matches("seqs", seq as i64)]);
        let (points, _) = self.server.page(doing, Collection::Documents, fits, None, None, (None, 1)).await?;
        points.first().map(|point| Held::read(&self.server, point)).transpose()
    }

    /// Replaces an entry, unless it has changed since it was read. Where it says no, read it and try again; what was done
    /// may have been done all the same.
    async fn replace_entry(&self, doing: &str, held: &mut Held) -> Result<bool, StoreError> {
        let turn = Uuid::now_v7().to_string();
        let point = plain(document_point(&held.entry.document), held.entry.payload(&turn));
        let replaced = self.server.swap(doing, Collection::Documents, point, held.turn.as_deref(), &turn).await?;
        if replaced {
            held.turn = Some(turn);
        }
        Ok(replaced)
    }
}

#[async_trait]
impl DocumentStore for Qdrant {
    fn id(&self) -> &str {
        &self.id
    }

    async fn receive(&self, operation: Operation, origin: Option<Origin>, now_ms: i64) -> Result<Receipt, StoreError> {
        self.receive_operation(operation, origin, now_ms).await
    }

    async fn claim(&self, again: bool) -> Result<Vec<(u64, String)>, StoreError> {
        self.claim_operations(again).await
    }

    async fn operation(&self, seq: u64) -> Result<Option<Pending>, StoreError> {
        self.read_operation(seq).await
    }

    async fn vectors_by_hash(&self, document: &str) -> Result<HashMap<[u8; 32], Vec<f32>>, StoreError> {
        self.read_vectors(document).await
    }

    async fn store_version(
        &self,
        seq: u64,
        parsed: ParsedDocument,
        chunks: Vec<NewChunk>,
        progress: Progress,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        self.serve(seq, Some((parsed, chunks, progress)), now_ms).await
    }

    async fn store_delete(&self, seq: u64, now_ms: i64) -> Result<(), StoreError> {
        self.serve(seq, None, now_ms).await
    }

    async fn give_up(&self, seq: u64, reason: &str, now_ms: i64) -> Result<(), StoreError> {
        self.end("record a failed document", seq, OperationState::Failed, Some(reason), now_ms).await
    }

    async fn outcome(&self, seq: u64) -> Result<Option<(OperationState, Option<String>)>, StoreError> {
        self.read_outcome(seq).await
    }

    async fn remember_event(&self, event: [u8; 16]) -> Result<(), StoreError> {
        self.bury_event(&event).await
    }

    async fn forget_event(&self, event: [u8; 16]) -> Result<(), StoreError> {
        self.delete_event("forget an event", &event).await
    }

    async fn knows_event(&self, event: [u8; 16]) -> Result<bool, StoreError> {
        Ok(self.event_seq("look for an event", &event).await?.is_some())
    }

    async fn document(&self, id: &str) -> Result<Option<DocumentRecord>, StoreError> {
        Ok(self.hold("read a document", id).await?.entry.record())
    }

    async fn document_text(&self, id: &str) -> Result<Option<String>, StoreError> {
        self.read_text(id).await
    }

    async fn documents(&self, query: &DocumentQuery) -> Result<DocumentPage, StoreError> {
        self.list(query).await
    }

    async fn collections(
        &self,
        filter: Option<crate::retrieval::filter::Filter>,
    ) -> Result<BTreeMap<String, u64>, StoreError> {
        self.count_collections(filter.as_ref()).await
    }

    async fn counts(&self) -> Result<StoreCounts, StoreError> {
        self.count().await
    }

    async fn waiting(&self) -> Result<usize, StoreError> {
        Ok(self.waiting_operations().await? as usize)
    }

    async fn standing(&self) -> Result<Standing, StoreError> {
        self.stand().await
    }

    async fn settle(&self, seq: u64, limit: Duration) -> Result<bool, StoreError> {
        self.settled.settle(self, seq, limit).await
    }

    async fn reach(&self, seq: u64, limit: Duration) -> Result<bool, StoreError> {
        self.settled.reach(self, seq, limit).await
    }

    async fn search(&self, lookup: Lookup) -> Result<Hits, StoreError> {
        self.find(lookup).await
    }

    fn removed_from(&self, chunks: u64, at_ms: u64) -> Vec<Removal> {
        let hidden = |what: &str, entries| {
            let until = "deleted points, until Qdrant's optimizer rewrites their segments; its log is the server's";
            Removal::removed(what, entries, at_ms).but(State::Hidden, until)
        };
        vec![
            hidden("Qdrant documents and contents", 1),
            hidden("Qdrant word index (sparse vectors)", chunks),
            hidden("Qdrant vector index (HNSW)", chunks),
        ]
    }

    fn describe(&self) -> Value {
        json!({
            "engine": "qdrant",
            "address": self.server.address,
            "collection": self.config.qdrant.collection,
            "process": self.presence.process,
            "trouble": self.trouble(),
        })
    }

    fn trouble(&self) -> Option<String> {
        self.server.trouble()
    }
}
