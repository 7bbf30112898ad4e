//! `/v1/answers/{id}/feedback`: what somebody thought of an answer. It is kept with the answer's text, for `answerd
//! feedback` to export.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::address::{Address, Entry};
use super::answers::{TAG, find};
use super::auth::caller;
use super::error::{Kind, Problem};
use crate::actors::stats::now_ms;
use crate::answer::evidence::RestsOn;
use crate::answer::log::{AnswerLog, Event, Source};
use crate::app::App;
use crate::error::ServiceError;
use crate::identity::{Caller, Scope};
use crate::stores::records::Kind as Record;

/// Longest note, in bytes.
const NOTE_BYTES: usize = 4096;
/// Longest question, in bytes.
const QUESTION_BYTES: usize = 16 << 10;
/// Longest answer that is kept with it, in bytes.
const ANSWER_BYTES: usize = 64 << 10;

/// The addresses of this file.
pub fn addresses() -> Vec<Address> {
    let id = "The answer: the end of the `Location` that it was given.";
    vec![
        Address::at("/v1/answers/{id}/feedback")
            .post(
                put,
                Entry::new(TAG, "rateAnswer", "Say what you think of an answer")
                    .text("Kept with the answer's text, for `answerd feedback` to export. A second one takes the place of the first.")
                    .scope(Scope::Ask)
                    .path("id", id, "0193a1b2c3d47e5f8a9b0c1d2e3f4a5b")
                    .body::<Feedback>("What it was worth.", json!({ "rating": "down", "note": "The number is from last year." }))
                    .nothing(204, "It is kept.")
                    .refuses(&[Kind::NotFound, Kind::DocumentDeleted, Kind::InvalidRequest, Kind::StorageFull]),
            )
            .delete(
                take_back,
                Entry::new(TAG, "unrateAnswer", "Take it back")
                    .scope(Scope::Ask)
                    .path("id", id, "0193a1b2c3d47e5f8a9b0c1d2e3f4a5b")
                    .nothing(204, "There is none of yours now.")
                    .refuses(&[Kind::NotFound, Kind::DocumentDeleted, Kind::StorageFull]),
            ),
    ]
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Rating {
    Up,
    Down,
}

/// What somebody thinks of an answer.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Feedback {
    /// Whether it was good.
    #[schema(inline)]
    rating: Rating,
    /// Why, in 4096 bytes at most.
    #[serde(default)]
    note: String,
    /// What was asked, as the page showed it, in 16 KiB at most.
    #[serde(default)]
    question: String,
}

async fn put(
    request: HttpRequest,
    app: web::Data<App>,
    id: web::Path<String>,
    feedback: web::Json<Feedback>,
) -> Result<HttpResponse, Problem> {
    let caller = caller(&request, Scope::Ask)?;
    let Feedback { rating, note, question } = feedback.into_inner();
    for (name, text, limit) in [("note", &note, NOTE_BYTES), ("question", &question, QUESTION_BYTES)] {
        if text.len() > limit {
            let detail = format!("`{name}` has {} bytes, the limit is {limit}", text.len());
            return Err(Problem::new(Kind::InvalidRequest, detail).with("limit", limit));
        }
    }
    // Of answers that were given: nobody fills the store with others.
    let log = find(&app, &id, &caller).await?;
    let Said { text, sources } = said(&log);
    let record = json!({
        "at_ms": now_ms(),
        "answer_id": log.id(),
        "caller": &*caller.name,
        "rating": rating,
        "note": note,
        "question": question,
        "answer": text,
        "sources": sources,
    });
    let name = name_of(log.id(), &caller);
    app.records.put(Record::Feedback, &name, &record).await.map_err(ServiceError::from)?;
    // After it is kept: what is deleted from here on finds it. The answer may be off the shelf by now, and not be withdrawn.
    let deletions = &app.deletions;
    let is_deleted = |source: &Source| deletions.deleted.has(&RestsOn::source(deletions.store(), source)).then_some(());
    if log.find_source(is_deleted).is_some() || log.is_withdrawn() {
        app.records.remove(Record::Feedback, &name).await.map_err(ServiceError::from)?;
        return Err(ServiceError::DocumentDeleted.into());
    }
    Ok(HttpResponse::NoContent().finish())
}

async fn take_back(request: HttpRequest, app: web::Data<App>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let caller = caller(&request, Scope::Ask)?;
    let log = find(&app, &id, &caller).await?;
    let name = name_of(log.id(), &caller);
    app.records.remove(Record::Feedback, &name).await.map_err(ServiceError::from)?;
    Ok(HttpResponse::NoContent().finish())
}

/// The record of what this caller thinks of this answer: one each.
fn name_of(id: &str, caller: &Caller) -> String {
    format!("{id}:{}", caller.name)
}

/// What an answer said.
struct Said {
    text: String,
    sources: Vec<Value>,
}

fn said(log: &AnswerLog) -> Said {
    let mut said = Said { text: String::new(), sources: Vec::new() };
    for event in log.events(0, usize::MAX) {
        match &*event {
            Event::Token { text } => said.text.push_str(text),
            Event::Sources { sources, .. } => {
                said.sources = sources
                    .iter()
                    .map(|source| json!({ "n": source.n, "document_id": source.document_id, "revision": source.revision, "start": source.start, "end": source.end }))
                    .collect();
            }
            _ => {}
        }
    }
    let cut = said.text.floor_char_boundary(ANSWER_BYTES);
    said.text.truncate(cut);
    said
}
