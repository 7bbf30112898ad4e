//! `GET /metrics`: the metrics of the process as OpenMetrics text.

use std::sync::Arc;

use actix_web::{HttpResponse, web};

use super::error::method_not_allowed;
use crate::app::App;

/// The routes of this file.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/metrics").route(web::get().to(metrics)).default_service(web::to(method_not_allowed)));
}

async fn metrics(app: web::Data<App>) -> HttpResponse {
    let app: Arc<App> = app.into_inner();
    let text = app.metrics_text().await;
    HttpResponse::Ok().content_type("application/openmetrics-text; version=1.0.0; charset=utf-8").body(text)
}
