//! `/healthz`: the process answers. `/readyz`: it can do its work, or says why not. What fails only in part
//! is named under `degraded`.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::address::{Address, Entry};
use super::error::{Kind, Problem};
use crate::app::App;

/// The addresses of this file.
pub fn addresses() -> Vec<Address> {
    vec![
        Address::at("/healthz").get(
            alive,
            Entry::new(TAG, "healthz", "Whether the process answers").for_everybody().answers::<Health>(
                200,
                "It does.",
                json!({ "status": "alive" }),
            ),
        ),
        Address::at("/readyz").get(
            ready,
            Entry::new(TAG, "readyz", "Whether it can do its work")
                .text("What fails only in part is named under `degraded`, and is no reason to send nobody here.")
                .for_everybody()
                .answers::<Ready>(200, "It can.", json!({ "status": "ready", "degraded": [] }))
                .refuses(&[Kind::Unavailable]),
        ),
    ]
}

/// The group of these addresses in the reference.
pub(super) const TAG: &str = "operation";

/// That the process answers.
#[derive(Serialize, ToSchema)]
struct Health {
    /// `alive`.
    status: &'static str,
}

/// That the service can do its work.
#[derive(Serialize, ToSchema)]
#[schema(as = Readiness)]
struct Ready {
    /// `ready`.
    status: &'static str,
    /// What works only in part, and why.
    degraded: Vec<String>,
}

async fn alive() -> HttpResponse {
    HttpResponse::Ok().json(Health { status: "alive" })
}

async fn ready(app: web::Data<App>) -> Result<HttpResponse, Problem> {
    let troubles = app.troubles();
    if troubles.is_empty() {
        return Ok(HttpResponse::Ok().json(Ready { status: "ready", degraded: app.degraded() }));
    }
    Err(Problem::new(Kind::Unavailable, troubles.join("; ")).with("reasons", troubles))
}
