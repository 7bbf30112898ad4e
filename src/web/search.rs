//! `POST /v1/search`: passages for a query, with the score and rank of each stage.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use super::auth::caller;
use super::error::{Kind, Problem, limit_of, method_not_allowed};
use crate::actors::retriever::{Mode, Search};
use crate::app::App;
use crate::identity::Scope;
use crate::retrieval::filter::Filter;

/// The routes of this file.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(
        web::resource("/v1/search").route(web::post().to(search)).default_service(web::to(method_not_allowed)),
    );
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchRequest {
    query: String,
    #[serde(default)]
    mode: Mode,
    filter: Option<Filter>,
    limit: Option<usize>,
    min_seq: Option<u64>,
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
    Ok(HttpResponse::Ok().json(found.as_of.beside(json!({
        "results": found.passages,
        "degraded": found.degraded,
        "took_ms": began.elapsed().as_secs_f64() * 1e3,
    }))))
}
