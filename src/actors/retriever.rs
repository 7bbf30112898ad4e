//! The retriever answers searches from the published view: both indexes in parallel, filtered before they
//! rank, fused by reciprocal rank. A missing part (no embedding, say) makes the answer poorer, and it says so.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};

use super::compute::Compute;
use super::door::{Door, Factory, Role};
use super::embedder::{Embed, Embedder};
use super::indexer::Indexes;
use crate::freshness::AsOf;
use crate::retrieval::filter::Filter;
use crate::retrieval::fusion::fuse;
use crate::retrieval::passage::{Passage, Scores, StageScore};
use crate::stores::hnsw::Plan;
use crate::stores::view::View;
use crate::stores::{ChunkId, Scored, StoreError};

/// Which rankings a search uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Both, fused by reciprocal rank.
    #[default]
    Hybrid,
    /// BM25 alone.
    Lexical,
    /// Cosine similarity of embeddings alone.
    Vector,
}

/// A search.
#[derive(Debug, Clone)]
pub struct Search {
    /// What is looked for.
    pub query: String,
    /// Which rankings to use.
    pub mode: Mode,
    /// Which documents count.
    pub filter: Option<Filter>,
    /// The most passages wanted.
    pub limit: usize,
    /// The query's embedding where the caller has it already (benchmarks, evaluation).
    pub vector: Option<Vec<f32>>,
}

/// What a search found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The passages, best first.
    pub passages: Vec<Passage>,
    /// How fresh the indexes were.
    pub as_of: AsOf,
    /// The catalog's commit that was searched.
    pub commit: u64,
    /// Highest cosine similarity among all candidates; `None` without the vector stage.
    pub best_similarity: Option<f32>,
    /// What could not be used, and why.
    pub degraded: Vec<String>,
    /// Microseconds spent in the indexes.
    pub index_us: u64,
}

/// Why a search was not answered.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The indexes are still being opened.
    #[error("the indexes are still being opened")]
    NotReady,
    /// The vector stage was asked for alone, and the query could not be embedded.
    #[error("the query could not be embedded: {0}")]
    NotEmbedded(String),
    /// An index or the catalog failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The retriever; see the module.
pub struct Retriever {
    indexes: Arc<Indexes>,
    embedder: Door<Embedder>,
    compute: Arc<Compute>,
}

impl Retriever {
    /// The factory of the retriever.
    pub fn factory(indexes: Arc<Indexes>, embedder: Door<Embedder>, compute: Arc<Compute>) -> Factory<Self> {
        Arc::new(move || {
            let retriever =
                Self { indexes: Arc::clone(&indexes), embedder: embedder.clone(), compute: Arc::clone(&compute) };
            async move { Ok(retriever) }.boxed_local()
        })
    }
}

impl Role for Retriever {
    type Message = Search;
    type Reply = Found;
    type Error = SearchError;
    const SERIAL: bool = false;

    fn handle(&mut self, mut search: Search) -> LocalBoxFuture<'static, Result<Found, SearchError>> {
        let (indexes, embedder) = (Arc::clone(&self.indexes), self.embedder.clone());
        let compute = Arc::clone(&self.compute);
        async move {
            let mut degraded = Vec::new();
            let mut mode = search.mode;
            if mode != Mode::Lexical && search.vector.is_none() {
                let texts = vec![search.query.clone()];
                match embedder.ask(Embed { texts, urgent: true }).await {
                    Ok(mut vectors) => search.vector = vectors.pop(),
                    Err(error) if mode == Mode::Vector => return Err(SearchError::NotEmbedded(error.to_string())),
                    Err(error) => {
                        degraded.push(format!("lexical only: {error}"));
                        mode = Mode::Lexical;
                    }
                }
            }
            let mut found = compute
                .run(move || {
                    fail::fail_point!("retriever");
                    // Before the view, so that what is said to be seen is seen.
                    let as_of = indexes.freshness.now();
                    let view = indexes.views.current().ok_or(SearchError::NotReady)?;
                    find(&indexes, &view, &search, mode, as_of)
                })
                .await?;
            found.degraded.append(&mut degraded);
            Ok(found)
        }
        .boxed_local()
    }
}

/// Both stages, and their fusion.
fn find(indexes: &Indexes, view: &View, search: &Search, mode: Mode, as_of: AsOf) -> Result<Found, SearchError> {
    let config = &indexes.config.search;
    let began = std::time::Instant::now();
    let matching = search.filter.as_ref().map(|filter| view.matching(filter));
    let allowed = matching.as_ref().unwrap_or(&view.live);
    let depth = config.candidates.max(search.limit);
    let lexical = || match mode {
        Mode::Vector => Ok(Vec::new()),
        // Without a filter the snapshot itself holds the live chunks and nothing else.
        _ => view.lexical.search(&search.query, depth, matching.as_ref()),
    };
    let vector = || match (&search.vector, mode) {
        (None, _) | (_, Mode::Lexical) => Ok(Vec::new()),
        (Some(vector), _) => view.vectors.search(vector, depth, allowed, Plan::Auto),
    };
    let (lexical, vector) = rayon::join(lexical, vector);
    let (lexical, vector) = (pairs(lexical?), pairs(vector?));
    let fused = fuse(
        &[(lexical.as_slice(), config.lexical_weight), (vector.as_slice(), config.vector_weight)],
        config.rrf_k,
        search.limit,
    );
    let index_us = began.elapsed().as_micros() as u64;

    let mut passages = Vec::with_capacity(fused.len());
    for hit in fused {
        // Both are there as long as the view is held.
        let (Some(version), Some(text)) = (view.documents.of(hit.chunk), indexes.catalog.chunk_text(hit.chunk)?) else {
            continue;
        };
        let stage = |n: usize| hit.ranks.get(n).copied().flatten().map(|(rank, score)| StageScore { rank, score });
        passages.push(Passage {
            chunk: hit.chunk,
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
            scores: Scores { fused: hit.score, lexical: stage(0), vector: stage(1) },
        });
    }
    let best_similarity = vector.first().map(|(_, similarity)| *similarity);
    Ok(Found { passages, as_of, commit: view.commit, best_similarity, degraded: Vec::new(), index_us })
}

fn pairs(scored: Vec<Scored>) -> Vec<(ChunkId, f32)> {
    scored.into_iter().map(|hit| (hit.chunk, hit.score)).collect()
}
