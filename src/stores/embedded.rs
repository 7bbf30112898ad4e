//! The embedded store: the catalog, and both indexes that are derived from it, in one process and one folder.
//!
//! The indexer and the maintainer ([`crate::actors`]) keep the indexes; a search sees both through a [`View`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::catalog::Catalog;
use super::document_store::{
    DocumentPage, DocumentQuery, DocumentRecord, DocumentStore, Hits, Lookup, NewChunk, OperationState, Origin,
    Outcome, Pending, Progress, Receipt, Standing, StoreCounts,
};
use super::hnsw::{Plan, VectorIndex};
use super::view::{DocumentTable, View, Views};
use super::{ChunkId, Scored, StoreError};
use crate::actors::compute::{Compute, blocking};
use crate::config::Config;
use crate::deletion::receipt::{Removal, State};
use crate::documents::ParsedDocument;
use crate::documents::event::Operation;
use crate::freshness::Freshness;
use crate::retrieval::filter::Filter;
use crate::retrieval::fusion::fuse;
use crate::retrieval::passage::{Passage, Scores, StageScore};

/// How long a document worker waits for the indexer before it goes on to the next document.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(5);

/// What those who write, index, search and maintain share; it outlives restarts of all of them.
pub struct Indexes {
    /// The catalog, which is the truth.
    pub catalog: Arc<Catalog>,
    /// The vector index.
    pub vectors: Arc<VectorIndex>,
    /// The documents behind the views.
    pub documents: Arc<DocumentTable>,
    /// The published views.
    pub views: Views,
    /// What is accepted and not yet visible.
    pub freshness: Freshness,
    /// Commits that are stored and wait to be published, with the operation that made each.
    pub unpublished: Mutex<BTreeMap<u64, u64>>,
    /// Told when something is stored that is not in the indexes.
    pub stored: Notify,
    /// What is deleted, and is to be gone from the lexical index's files.
    pub expunging: Mutex<Expunging>,
    /// Held from putting chunks into the graphs until the view with them is published.
    pub changing: Mutex<()>,
    /// The configuration.
    pub config: Arc<Config>,
}

/// Commits up to which deleted documents are to be gone from the lexical index's files, and are.
#[derive(Debug, Default)]
pub struct Expunging {
    /// As the maintainer wants it.
    pub wanted: u64,
    /// As the indexer has done it.
    pub done: u64,
    /// They are gone from all other files as well.
    pub finished: u64,
}

/// The embedded store; see the module.
pub struct Embedded {
    indexes: Arc<Indexes>,
    searching: Compute,
}

impl Embedded {
    /// The store over these indexes; searches run on `searching`.
    pub fn new(indexes: Arc<Indexes>, searching: Compute) -> Self {
        Self { indexes, searching }
    }

    /// Runs `work` on the catalog, where it may block.
    async fn catalog<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Catalog) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let catalog = Arc::clone(&self.indexes.catalog);
        blocking(move || work(&catalog)).await
    }

    /// Waits until a commit is visible; `None` is one that a later operation has made needless.
    async fn publish(&self, seq: u64, commit: Option<u64>) {
        let Some(commit) = commit else { return self.indexes.freshness.settled([seq]) };
        self.indexes.unpublished.lock().insert(commit, seq);
        self.indexes.stored.notify_one();
        if !self.indexes.freshness.settle(seq, PUBLISHED_WITHIN).await {
            tracing::warn!(seq, "stored, but not yet visible; the indexer goes on trying");
        }
    }

    /// Adds to a record what only the indexes know.
    fn with_visible(&self, mut record: DocumentRecord) -> DocumentRecord {
        record.last.settled = self.indexes.freshness.is_settled(record.last.seq);
        record
    }
}

#[async_trait]
impl DocumentStore for Embedded {
    fn id(&self) -> &str {
        self.indexes.catalog.id()
    }

    async fn receive(&self, operation: Operation, origin: Option<Origin>, now_ms: i64) -> Result<Receipt, StoreError> {
        let receipt = self.catalog(move |catalog| catalog.receive(&operation, origin.as_ref(), now_ms)).await?;
        if receipt.outcome == Outcome::Accepted {
            // The lag counts from where the publisher let go of it.
            let published = origin.and_then(|origin| origin.published_ms());
            self.indexes.freshness.accepted(receipt.seq, published.unwrap_or(now_ms).min(now_ms));
        }
        Ok(receipt)
    }

    async fn claim(&self, again: bool) -> Result<Vec<(u64, String)>, StoreError> {
        // Nobody else works on this folder.
        if !again {
            return Ok(Vec::new());
        }
        let pending = self.catalog(Catalog::pending).await?;
        for (seq, _, received_ms) in &pending {
            self.indexes.freshness.accepted(*seq, *received_ms);
        }
        Ok(pending.into_iter().map(|(seq, document, _)| (seq, document)).collect())
    }

    async fn operation(&self, seq: u64) -> Result<Option<Pending>, StoreError> {
        let pending = self.catalog(move |catalog| catalog.operation(seq)).await?;
        if pending.is_none() {
            self.indexes.freshness.settled([seq]);
        }
        Ok(pending)
    }

    async fn vectors_by_hash(&self, document: &str) -> Result<HashMap<[u8; 32], Vec<f32>>, StoreError> {
        let document = document.to_owned();
        self.catalog(move |catalog| catalog.vectors_by_hash(&document)).await
    }

    async fn store_version(
        &self,
        seq: u64,
        parsed: ParsedDocument,
        chunks: Vec<NewChunk>,
        progress: Progress,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let stored = move |catalog: &Catalog| catalog.store_version(seq, &parsed, &chunks, progress, now_ms);
        let commit = self.catalog(stored).await?;
        self.publish(seq, commit).await;
        Ok(())
    }

    async fn store_delete(&self, seq: u64, now_ms: i64) -> Result<(), StoreError> {
        let commit = self.catalog(move |catalog| catalog.store_delete(seq, now_ms)).await?;
        self.publish(seq, commit).await;
        Ok(())
    }

    async fn give_up(&self, seq: u64, reason: &str, now_ms: i64) -> Result<(), StoreError> {
        let reason = reason.to_owned();
        self.catalog(move |catalog| catalog.give_up(seq, &reason, now_ms)).await?;
        self.indexes.freshness.settled([seq]);
        Ok(())
    }

    async fn outcome(&self, seq: u64) -> Result<Option<(OperationState, Option<String>)>, StoreError> {
        self.catalog(move |catalog| catalog.outcome(seq)).await
    }

    async fn remember_event(&self, event: [u8; 16]) -> Result<(), StoreError> {
        self.catalog(move |catalog| catalog.remember_event(&event)).await
    }

    async fn forget_event(&self, event: [u8; 16]) -> Result<(), StoreError> {
        self.catalog(move |catalog| catalog.forget_event(&event)).await
    }

    async fn knows_event(&self, event: [u8; 16]) -> Result<bool, StoreError> {
        self.catalog(move |catalog| catalog.knows_event(&event)).await
    }

    async fn document(&self, id: &str) -> Result<Option<DocumentRecord>, StoreError> {
        let id = id.to_owned();
        let record = self.catalog(move |catalog| catalog.document(&id)).await?;
        Ok(record.map(|record| self.with_visible(record)))
    }

    async fn document_text(&self, id: &str) -> Result<Option<String>, StoreError> {
        let id = id.to_owned();
        self.catalog(move |catalog| catalog.document_text(&id)).await
    }

    async fn documents(&self, query: &DocumentQuery) -> Result<DocumentPage, StoreError> {
        let query = query.clone();
        let mut page = self.catalog(move |catalog| catalog.documents(&query)).await?;
        page.documents = page.documents.into_iter().map(|record| self.with_visible(record)).collect();
        Ok(page)
    }

    async fn collections(&self, filter: Option<Filter>) -> Result<BTreeMap<String, u64>, StoreError> {
        let view = self.indexes.views.current().ok_or_else(not_open)?;
        self.searching.run(move || Ok(view.collections(filter.as_ref()))).await
    }

    async fn counts(&self) -> Result<StoreCounts, StoreError> {
        self.catalog(Catalog::counts).await
    }

    async fn waiting(&self) -> Result<usize, StoreError> {
        Ok(self.indexes.freshness.unsettled())
    }

    async fn standing(&self) -> Result<Standing, StoreError> {
        let as_of = self.indexes.freshness.now();
        let view = self.indexes.views.current().ok_or_else(not_open)?;
        Ok(Standing { commit: view.kept_under(), as_of })
    }

    async fn settle(&self, seq: u64, limit: Duration) -> Result<bool, StoreError> {
        Ok(self.indexes.freshness.settle(seq, limit).await)
    }

    async fn reach(&self, seq: u64, limit: Duration) -> Result<bool, StoreError> {
        Ok(self.indexes.freshness.reach(seq, limit).await)
    }

    async fn search(&self, lookup: Lookup) -> Result<Hits, StoreError> {
        let indexes = Arc::clone(&self.indexes);
        self.searching.run(move || find(&indexes, &lookup)).await
    }

    fn removed_from(&self, chunks: u64, at_ms: u64) -> Vec<Removal> {
        let hidden = |what: &str, entries| {
            let until = format!(
                "no search finds it; its bytes are gone from the files {} s after the deletion, or soon after that ([index] expunge_s)",
                self.indexes.config.index.expunge_s
            );
            Removal::removed(what, entries, at_ms).but(State::Hidden, until)
        };
        vec![hidden("catalog", 1), hidden("lexical index", chunks), hidden("vector index", chunks)]
    }

    fn describe(&self) -> Value {
        let view = self.indexes.views.current();
        json!({
            "engine": "embedded",
            "commit": view.as_ref().map(|view| view.commit),
            "live_chunks": view.as_ref().map(|view| view.live.len()),
            "lexical_chunks": view.as_ref().map(|view| view.lexical.num_docs()),
            "vectors": view.as_ref().map(|view| self.indexes.vectors.stats(&view.live)),
        })
    }

    fn trouble(&self) -> Option<String> {
        None
    }
}

fn not_open() -> StoreError {
    StoreError::Unavailable("the indexes are still being opened".to_owned())
}

/// Both stages in parallel, and their fusion.
fn find(indexes: &Indexes, lookup: &Lookup) -> Result<Hits, StoreError> {
    // Before the view, so that what is said to be seen is seen.
    let as_of = indexes.freshness.now();
    let view = indexes.views.current().ok_or_else(not_open)?;
    let config = &lookup.settings;
    let began = Instant::now();
    let matching = lookup.filter.as_ref().map(|filter| view.matching(filter));
    let matching = matching.as_deref();
    let allowed = matching.unwrap_or(&view.live);
    let depth = config.candidates.max(lookup.limit);
    let lexical = || match &lookup.words {
        None => Ok(Vec::new()),
        // Without a filter the snapshot itself holds the live chunks and nothing else.
        Some(words) => view.lexical.search(words, depth, matching),
    };
    let vector = || match &lookup.vector {
        None => Ok(Vec::new()),
        Some(vector) => view.vectors.search(vector, depth, allowed, Plan::Auto),
    };
    let (lexical, vector) = rayon::join(lexical, vector);
    let (lexical, vector) = (pairs(lexical?), pairs(vector?));
    let fused = fuse(
        &[(lexical.as_slice(), config.lexical_weight), (vector.as_slice(), config.vector_weight)],
        config.rrf_k,
        lookup.limit,
    );
    let index_us = began.elapsed().as_micros() as u64;

    let mut passages = Vec::with_capacity(fused.len());
    for hit in fused {
        let stage = |n: usize| hit.ranks.get(n).copied().flatten().map(|(rank, score)| StageScore { rank, score });
        let scores = Scores { fused: hit.score, lexical: stage(0), vector: stage(1) };
        // Both are there as long as the view is held.
        passages.extend(passage(indexes, &view, hit.chunk, scores)?);
    }
    let best_similarity = vector.first().map(|(_, similarity)| *similarity);
    Ok(Hits { passages, standing: Standing { commit: view.kept_under(), as_of }, best_similarity, index_us })
}

fn passage(indexes: &Indexes, view: &View, chunk: ChunkId, scores: Scores) -> Result<Option<Passage>, StoreError> {
    let (Some(version), Some(text)) = (view.documents.of(chunk), indexes.catalog.chunk_text(chunk)?) else {
        return Ok(None);
    };
    Ok(Some(Passage {
        document_id: version.document.clone(),
        revision: version.revision,
        title: version.title.clone(),
        url: version.url.clone(),
        collection: version.collection.clone(),
        section: text.section,
        page: text.page,
        start: text.span.start,
        end: text.span.end,
        text: text.text,
        updated_at: version.updated_ms,
        metadata: version.metadata.clone(),
        scores,
    }))
}

fn pairs(scored: Vec<Scored>) -> Vec<(ChunkId, f32)> {
    scored.into_iter().map(|hit| (hit.chunk, hit.score)).collect()
}
