//! `GET /metrics`: the metrics of the process as OpenMetrics text.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};

use super::address::{Address, Entry};
use super::auth::caller;
use super::error::Problem;
use super::health::TAG;
use crate::app::App;
use crate::identity::Scope;

/// The addresses of this file.
pub fn addresses() -> Vec<Address> {
    let example = "# HELP answerd_index_lag_events Operations and events that are not visible yet.\n# TYPE answerd_index_lag_events gauge\n\
                   answerd_index_lag_events 0\n# EOF\n";
    vec![
        Address::at("/metrics").get(
            metrics,
            Entry::new(TAG, "metrics", "The metrics of the process")
                .text("For Prometheus. The scope `admin` will do as well.")
                .scope(Scope::Metrics)
                .answers_as(200, "OpenMetrics text.", MEDIA_TYPE, example),
        ),
    ]
}

const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

async fn metrics(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Problem> {
    caller(&request, Scope::Metrics)?;
    let app: Arc<App> = app.into_inner();
    let text = app.metrics_text().await;
    Ok(HttpResponse::Ok().content_type(MEDIA_TYPE).body(text))
}
