//! What an orchestrator asks. `/healthz`: the process answers; that depends on nothing. `/startupz`: the start is over, or what is
//! being done; once it is over it stays so. `/readyz`: it can do its work, or says why not; what fails only in part is named
//! under `degraded`.
//!
//! They answer from the first moment on: [`serve_the_start`] serves until there is an [`App`].

use std::net::TcpListener;
use std::sync::Arc;

use actix_web::dev::Server;
use actix_web::http::header;
use actix_web::{HttpResponse, HttpServer, ResponseError, web};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::address::{Address, Entry};
use super::error::{Kind, Problem};
use crate::app::{App, Startup};

/// When to ask again for what is not there yet, in seconds.
const SOON_S: u64 = 2;

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
        Address::at("/startupz").get(
            started,
            Entry::new(TAG, "startupz", "Whether the start is over")
                .text("Once it is over it stays so; until then, `reasons` says what is being done.")
                .for_everybody()
                .answers::<Health>(200, "It is.", json!({ "status": "started" }))
                .refuses(&[Kind::Unavailable]),
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

/// That what was asked for is so.
#[derive(Serialize, ToSchema)]
struct Health {
    /// `alive`, or `started`.
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

async fn started(app: web::Data<App>) -> Result<HttpResponse, Problem> {
    match app.startup_troubles() {
        left if left.is_empty() => Ok(HttpResponse::Ok().json(Health { status: "started" })),
        left => Err(not_yet(left)),
    }
}

async fn ready(app: web::Data<App>) -> Result<HttpResponse, Problem> {
    let troubles = app.troubles();
    if troubles.is_empty() {
        return Ok(HttpResponse::Ok().json(Ready { status: "ready", degraded: app.degraded() }));
    }
    Err(Problem::new(Kind::Unavailable, troubles.join("; ")).with("reasons", troubles).retry_after(SOON_S))
}

fn not_yet(left: Vec<String>) -> Problem {
    let problem = Problem::new(Kind::Unavailable, format!("the service is starting: {}", left.join("; ")));
    problem.with("reasons", left).retry_after(SOON_S)
}

/// Answers on an open listener while the service is being started: it is alive, and everything else comes later. Connections
/// end with each response, so that the next one finds the service.
///
/// # Errors
/// Where the listener cannot be used.
pub fn serve_the_start(startup: Arc<Startup>, listener: TcpListener) -> std::io::Result<Server> {
    let server = HttpServer::new(move || {
        let startup = Arc::clone(&startup);
        let later = move || {
            let left = startup.now().unwrap_or("it is about to take over").to_owned();
            let mut response = not_yet(vec![left]).error_response();
            response.head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
            std::future::ready(response)
        };
        let alive = || async {
            HttpResponse::Ok().insert_header((header::CONNECTION, "close")).json(Health { status: "alive" })
        };
        actix_web::App::new().route("/healthz", web::get().to(alive)).default_service(web::to(later))
    });
    Ok(server.workers(1).disable_signals().listen(listener)?.run())
}
