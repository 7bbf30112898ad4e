//! `POST /v1/search`: passages for a query, with the score and rank of each stage.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::address::{Address, Entry};
use super::auth::caller;
use super::error::{Kind, Problem, limit_of};
use crate::actors::retriever::{Mode, Search};
use crate::app::App;
use crate::freshness::AsOf;
use crate::identity::Scope;
use crate::retrieval::filter::Filter;
use crate::retrieval::passage::Passage;

/// The addresses of this file.
pub fn addresses() -> Vec<Address> {
    let text = "Passages for a query, best first: by words (BM25) and by meaning (cosine similarity of embeddings), fused by \
                reciprocal rank, with the score and rank of each stage. Found is what the caller may see.";
    let passage = json!({
        "document_id": "people/leave.md", "revision": 1, "title": "Leave", "url": null, "collection": "handbook",
        "section": ["Leave", "Parental leave"], "page": null, "start": 812, "end": 1204,
        "text": "Parental leave is 26 weeks.", "updated_at": 1_764_000_000_000_u64, "metadata": { "team": "people" },
        "scores": { "fused": 0.22, "lexical": { "rank": 1, "score": 7.1 }, "vector": { "rank": 1, "score": 0.71 } },
    });
    let found = json!({
        "results": [passage], "degraded": [], "took_ms": 3.2, "seq": 13, "lag_ms": 0, "lag_events": 0,
    });
    vec![
        Address::at("/v1/search").post(
            search,
            Entry::new("search", "search", "Search the documents")
                .text(text)
                .scope(Scope::Ask)
                .body::<SearchRequest>(
                    "What is looked for.",
                    json!({ "query": "parental leave", "filter": { "collection": "handbook" }, "limit": 3 }),
                )
                .answers::<Found>(200, "What was found.", found)
                .refuses(&[Kind::InvalidRequest, Kind::Overloaded, Kind::NotYetVisible]),
        ),
    ]
}

/// A search.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SearchRequest {
    /// What is looked for; of `[search] max_query_bytes` at most.
    #[schema(pattern = r"\S")]
    query: String,
    /// Which rankings to use.
    #[serde(default)]
    mode: Mode,
    /// Which documents count.
    filter: Option<Filter>,
    /// The most passages wanted, up to `[search] limit_max`; by default `[search] limit_default`.
    #[schema(minimum = 1)]
    limit: Option<usize>,
    /// Wait until the index has this operation: the `seq` of a write.
    min_seq: Option<u64>,
}

/// What a search found.
#[derive(Serialize, ToSchema)]
#[schema(as = SearchResults)]
struct Found {
    /// The passages, best first.
    results: Vec<Passage>,
    /// What could not be used, and why.
    degraded: Vec<String>,
    /// How long it took, in milliseconds.
    took_ms: f64,
    /// How fresh the index was.
    #[serde(flatten)]
    as_of: AsOf,
}

async fn search(
    http: HttpRequest,
    app: web::Data<App>,
    request: web::Json<SearchRequest>,
) -> Result<HttpResponse, Problem> {
    let sight = caller(&http, Scope::Ask)?.sight;
    let request = request.into_inner();
    let settings = app.config();
    let config = &settings.search;
    let invalid = |detail: String| Err(Problem::new(Kind::InvalidRequest, detail));
    if request.query.trim().is_empty() {
        return invalid("`query` is empty".into());
    }
    if request.query.len() > config.max_query_bytes {
        let detail = format!("`query` has {} bytes, the limit is {}", request.query.len(), config.max_query_bytes);
        return Err(Problem::new(Kind::InvalidRequest, detail).with("limit", config.max_query_bytes));
    }
    let limit = limit_of(request.limit, config.limit_default, config.limit_max)?;
    app.library.wait_for(request.min_seq).await?;
    let began = std::time::Instant::now();
    let SearchRequest { query, mode, filter, .. } = request;
    let search = Search { query, mode, filter, sight, limit, vector: None, settings: config.clone() };
    let found = app.retriever.ask(search).await.map_err(crate::error::ServiceError::from)?;
    Ok(HttpResponse::Ok().json(Found {
        results: found.passages,
        degraded: found.degraded,
        took_ms: began.elapsed().as_secs_f64() * 1e3,
        as_of: found.as_of,
    }))
}
