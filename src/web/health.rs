//! `/healthz`: the process answers. `/readyz`: it can do its work, or says why not. What fails only in part
//! is named under `degraded`.

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::error::{Kind, Problem};
use crate::app::App;

/// The routes of this file.
pub fn routes(config: &mut web::ServiceConfig) {
    config.route("/healthz", web::get().to(alive)).route("/readyz", web::get().to(ready));
}

async fn alive() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "alive" }))
}

async fn ready(app: web::Data<App>) -> Result<HttpResponse, Problem> {
    let troubles = app.troubles();
    if troubles.is_empty() {
        return Ok(HttpResponse::Ok().json(json!({ "status": "ready", "degraded": app.degraded() })));
    }
    Err(Problem::new(Kind::Unavailable, troubles.join("; ")).with("reasons", troubles))
}
