//! `/admin/dead-letters`: the events from NATS that were given up, to be published again or removed.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::caller;
use super::error::{Kind, Problem, limit_of, method_not_allowed};
use crate::app::App;
use crate::error::ServiceError;
use crate::identity::Scope;
use crate::stores::nats::{ATTEMPTS, Bus, DeadLetter, REASON, SUBJECT};

/// Most letters on a page: each is a request to NATS.
const PAGE_MAX: usize = 200;

/// The routes of this file.
pub fn routes(config: &mut web::ServiceConfig) {
    let refuse = || web::to(method_not_allowed);
    config
        .service(web::resource("/admin/dead-letters").route(web::get().to(list)).default_service(refuse()))
        .service(web::resource("/admin/dead-letters/{id}").route(web::delete().to(discard)).default_service(refuse()))
        .service(
            web::resource("/admin/dead-letters/{id}/retry").route(web::post().to(retry)).default_service(refuse()),
        );
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<usize>,
    after: Option<u64>,
}

async fn list(
    request: HttpRequest,
    app: web::Data<App>,
    query: web::Query<ListQuery>,
) -> Result<HttpResponse, Problem> {
    caller(&request, Scope::Admin)?;
    if app.events.is_none() {
        return Ok(HttpResponse::Ok().json(json!({ "bus": false, "letters": [], "next": null })));
    }
    let limit = limit_of(query.limit, 50, PAGE_MAX)?;
    let from = query.after.map_or(0, |after| after.saturating_add(1));
    let mut letters = bus(&app)?.buried(from, limit + 1).await.map_err(unavailable)?;
    let more = letters.len() > limit;
    letters.truncate(limit);
    let next = letters.last().filter(|_| more).map(|letter| letter.sequence.to_string());
    let letters: Vec<Value> = letters.iter().map(describe).collect();
    Ok(HttpResponse::Ok().json(json!({ "bus": true, "letters": letters, "next": next })))
}

async fn retry(request: HttpRequest, app: web::Data<App>, id: web::Path<u64>) -> Result<HttpResponse, Problem> {
    let admin = caller(&request, Scope::Admin)?;
    let bus = bus(&app)?;
    let letter = letter(&bus, *id).await?;
    let about = describe(&letter);
    app.audit.note(&admin.name, "dead-letter.retry", about).await.map_err(ServiceError::from)?;
    bus.retry(letter).await.map_err(unavailable)?;
    Ok(HttpResponse::Accepted().json(json!({ "id": id.to_string() })))
}

async fn discard(request: HttpRequest, app: web::Data<App>, id: web::Path<u64>) -> Result<HttpResponse, Problem> {
    let admin = caller(&request, Scope::Admin)?;
    let bus = bus(&app)?;
    let about = describe(&letter(&bus, *id).await?);
    app.audit.note(&admin.name, "dead-letter.remove", about).await.map_err(ServiceError::from)?;
    bus.discard(*id).await.map_err(unavailable)?;
    Ok(HttpResponse::NoContent().finish())
}

fn bus(app: &App) -> Result<Arc<Bus>, Problem> {
    let Some(events) = &app.events else {
        return Err(Problem::new(Kind::NotFound, "dead letters lie in NATS, and [nats] servers names none"));
    };
    events.bus().ok_or_else(|| unavailable(events.trouble().unwrap_or_else(|| "NATS is not connected yet".into())))
}

async fn letter(bus: &Bus, id: u64) -> Result<DeadLetter, Problem> {
    let found = bus.find_dead_letter(id).await.map_err(unavailable)?;
    found.ok_or_else(|| Problem::new(Kind::NotFound, format!("there is no dead letter {id}")))
}

fn unavailable(reason: String) -> Problem {
    ServiceError::Unavailable { reason, retry_after_s: 5 }.into()
}

fn describe(letter: &DeadLetter) -> Value {
    let header = |name: &str| Some(letter.header(name)).filter(|value| !value.is_empty());
    let decoded = |name: &str| header(name).map(|value| percent_decode_str(value).decode_utf8_lossy().into_owned());
    // Without an envelope the names are in the payload.
    let plain = serde_json::from_slice::<Value>(&letter.payload).unwrap_or_default();
    let member = |names: [&str; 2]| names.iter().find_map(|name| plain[*name].as_str()).map(str::to_owned);
    json!({
        "id": letter.sequence.to_string(),
        "at_ms": letter.time_ms,
        "subject": letter.header(SUBJECT),
        "document_id": decoded("ce-subject").or_else(|| member(["subject", "document"])),
        "event_id": decoded("ce-id").or_else(|| member(["id", "event_id"])),
        "reason": letter.header(REASON),
        "attempts": letter.header(ATTEMPTS).parse::<u64>().ok(),
        "bytes": letter.payload.len(),
    })
}
