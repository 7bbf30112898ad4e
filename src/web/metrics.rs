//! `GET /metrics`: the metrics of the process as OpenMetrics text.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};

use super::auth::caller;
use super::error::{Problem, method_not_allowed};
use crate::app::App;
use crate::identity::Scope;

/// The routes of this file.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/metrics").route(web::get().to(metrics)).default_service(web::to(method_not_allowed)));
}

async fn metrics(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Problem> {
    caller(&request, Scope::Metrics)?;
    let app: Arc<App> = app.into_inner();
    let text = app.metrics_text().await;
    Ok(HttpResponse::Ok().content_type("application/openmetrics-text; version=1.0.0; charset=utf-8").body(text))
}
