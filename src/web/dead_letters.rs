//! `/admin/dead-letters`: the events from NATS that were given up, to be published again or removed.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::address::{Address, Entry};
use super::admin::TAG;
use super::auth::caller;
use super::error::{Kind, Problem, limit_of};
use crate::app::App;
use crate::error::ServiceError;
use crate::identity::Scope;
use crate::stores::nats::{ATTEMPTS, Bus, DeadLetter, REASON, SUBJECT};

/// What publishing one again is called in notes of what administrators do.
pub const RETRY: &str = "dead-letter.retry";
/// Most letters on a page: each is a request to NATS.
const PAGE_MAX: usize = 200;

/// The addresses of this file.
pub fn addresses() -> Vec<Address> {
    let letter = json!({
        "id": "3", "at_ms": 1_764_000_000_000_u64, "subject": "documents.wiki.upserted", "document_id": "people/leave.md",
        "event_id": "4711", "reason": "`revision` is \"new\", it must be a whole number from 0 to 9223372036854775807",
        "attempts": 1, "bytes": 1204,
    });
    let id = "The letter's `id`.";
    vec![
        Address::at("/admin/dead-letters").get(
            list,
            Entry::new(TAG, "listDeadLetters", "List the events that were given up")
                .text("The oldest first, by pages. `docs/events.md` says when an event is given up.")
                .scope(Scope::Admin)
                .query::<ListQuery>()
                .answers::<DeadLetters>(
                    200,
                    "A page of them.",
                    json!({ "bus": true, "letters": [letter], "next": null }),
                ),
        ),
        Address::at("/admin/dead-letters/{id}").delete(
            discard,
            Entry::new(TAG, "removeDeadLetter", "Remove one for good")
                .scope(Scope::Admin)
                .number("id", id, 3)
                .nothing(204, "It is gone.")
                .refuses(&[Kind::NotFound, Kind::StorageFull]),
        ),
        Address::at("/admin/dead-letters/{id}/retry").post(
            retry,
            Entry::new(TAG, "retryDeadLetter", "Publish one again")
                .scope(Scope::Admin)
                .number("id", id, 3)
                .answers::<Retried>(202, "It is published.", json!({ "id": "3" }))
                .refuses(&[Kind::NotFound, Kind::StorageFull]),
        ),
    ]
}

/// A page of dead letters.
#[derive(Serialize, ToSchema)]
struct DeadLetters {
    /// Whether there is a NATS at all.
    bus: bool,
    /// The letters, the oldest first.
    letters: Vec<Letter>,
    /// What `after` takes for the next page; null on the last one.
    next: Option<String>,
}

/// An event that was given up.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetter)]
struct Letter {
    /// Its number.
    id: String,
    /// When it was given up, in milliseconds since the Unix epoch.
    at_ms: i64,
    /// Where it came from.
    subject: String,
    /// The document it is about, where that can be told.
    document_id: Option<String>,
    /// Its publisher's number of it, where that can be told.
    event_id: Option<String>,
    /// Why it was given up.
    reason: String,
    /// How often it was delivered.
    attempts: Option<u64>,
    /// Bytes of its payload.
    bytes: usize,
}

/// That an event was published again.
#[derive(Serialize, ToSchema)]
#[schema(as = RetriedLetter)]
struct Retried {
    /// Which.
    id: String,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// The most letters wanted; by default 50.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// Those behind this one: the `next` of the page before.
    after: Option<u64>,
}

async fn list(
    request: HttpRequest,
    app: web::Data<App>,
    query: web::Query<ListQuery>,
) -> Result<HttpResponse, Problem> {
    caller(&request, Scope::Admin)?;
    let limit = limit_of(query.limit, 50, PAGE_MAX)?;
    if app.events.is_none() {
        return Ok(HttpResponse::Ok().json(DeadLetters { bus: false, letters: Vec::new(), next: None }));
    }
    let from = query.after.map_or(0, |after| after.saturating_add(1));
    let mut letters = bus(&app)?.buried(from, limit + 1).await.map_err(unavailable)?;
    let more = letters.len() > limit;
    letters.truncate(limit);
    let next = letters.last().filter(|_| more).map(|letter| letter.sequence.to_string());
    let letters = letters.iter().map(describe).collect();
    Ok(HttpResponse::Ok().json(DeadLetters { bus: true, letters, next }))
}

async fn retry(request: HttpRequest, app: web::Data<App>, id: web::Path<u64>) -> Result<HttpResponse, Problem> {
    let admin = caller(&request, Scope::Admin)?;
    let bus = bus(&app)?;
    let letter = letter(&bus, *id).await?;
    app.audit.note(&admin.name, RETRY, about(&letter)).await.map_err(ServiceError::from)?;
    bus.retry(letter).await.map_err(unavailable)?;
    Ok(HttpResponse::Accepted().json(Retried { id: id.to_string() }))
}

async fn discard(request: HttpRequest, app: web::Data<App>, id: web::Path<u64>) -> Result<HttpResponse, Problem> {
    let admin = caller(&request, Scope::Admin)?;
    let bus = bus(&app)?;
    let about = about(&letter(&bus, *id).await?);
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

/// What a note says of one.
pub fn about(letter: &DeadLetter) -> Value {
    json!(describe(letter))
}

fn describe(letter: &DeadLetter) -> Letter {
    let header = |name: &str| Some(letter.header(name)).filter(|value| !value.is_empty());
    let decoded = |name: &str| header(name).map(|value| percent_decode_str(value).decode_utf8_lossy().into_owned());
    // Without an envelope the names are in the payload.
    let plain = serde_json::from_slice::<Value>(&letter.payload).unwrap_or_default();
    let member = |names: [&str; 2]| names.iter().find_map(|name| plain[*name].as_str()).map(str::to_owned);
    Letter {
        id: letter.sequence.to_string(),
        at_ms: letter.time_ms,
        subject: letter.header(SUBJECT).to_owned(),
        document_id: decoded("ce-subject").or_else(|| member(["subject", "document"])),
        event_id: decoded("ce-id").or_else(|| member(["id", "event_id"])),
        reason: letter.header(REASON).to_owned(),
        attempts: letter.header(ATTEMPTS).parse().ok(),
        bytes: letter.payload.len(),
    }
}
