//! The retriever answers searches: it has the query embedded and the store searched by its words and by its meaning.
//! A missing part (no embedding, say) makes the answer poorer, and it says so.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use tracing::Instrument;
use utoipa::ToSchema;

use super::door::{Door, Factory, Role};
use super::embedder::{Embed, Embedder};
use crate::config::SearchConfig;
use crate::freshness::AsOf;
use crate::library::Library;
use crate::retrieval::filter::Filter;
use crate::retrieval::passage::Passage;
use crate::retrieval::sight::Sight;
use crate::stores::StoreError;
use crate::stores::document_store::{Hits, Lookup, Standing};

/// Which rankings a search uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = SearchMode)]
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
    /// What the caller sees.
    pub sight: Arc<Sight>,
    /// The most passages wanted.
    pub limit: usize,
    /// The query's embedding where the caller has it already (benchmarks, evaluation).
    pub vector: Option<Vec<f32>>,
    /// How it is ranked: the settings in force when its request began.
    pub settings: SearchConfig,
}

/// What a search found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The passages, best first.
    pub passages: Vec<Passage>,
    /// How fresh the store was.
    pub as_of: AsOf,
    /// The store's commit that was searched.
    pub commit: u64,
    /// Highest cosine similarity among all candidates; `None` without the vector stage.
    pub best_similarity: Option<f32>,
    /// What could not be used, and why.
    pub degraded: Vec<String>,
    /// Microseconds spent in the indexes, or waiting for the engine that has them.
    pub index_us: u64,
}

/// Why a search was not answered.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The vector stage was asked for alone, and the query could not be embedded.
    #[error("the query could not be embedded: {0}")]
    NotEmbedded(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The retriever; see the module.
pub struct Retriever {
    library: Arc<Library>,
    embedder: Door<Embedder>,
}

impl Retriever {
    /// The factory of the retriever.
    pub fn factory(library: Arc<Library>, embedder: Door<Embedder>) -> Factory<Self> {
        Arc::new(move || {
            let retriever = Self { library: Arc::clone(&library), embedder: embedder.clone() };
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
        let (library, embedder) = (Arc::clone(&self.library), self.embedder.clone());
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
            fail::fail_point!("retriever");
            let Search { query, filter, sight, limit, vector, settings, .. } = search;
            let words = (mode != Mode::Vector).then_some(query);
            let vector = vector.filter(|_| mode != Mode::Lexical);
            let bus = library.bus.now();
            let lookup = Lookup { words, vector, filter: sight.narrow(filter), limit, settings };
            let search = library.store.search(lookup).instrument(tracing::debug_span!("search"));
            let Hits { mut passages, standing, best_similarity, index_us } = search.await?;
            // The store has left out the rest already; what a mistake of its would show is too much to rely on that.
            passages.retain(|passage| sight.sees(&passage.metadata));
            let Standing { commit, as_of } = standing;
            Ok(Found { passages, as_of: as_of.and(bus), commit, best_similarity, degraded, index_us })
        }
        .boxed_local()
    }
}
