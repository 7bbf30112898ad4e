//! `POST /v1/answers`: a question in, its answer out, as a stream of events or as one JSON object. `/v1/answers/{id}`:
//! the answer so far (`GET`), its events from any position on (`GET .../events`), its end (`DELETE`).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, Responder, web};
use actix_web_lab::sse;
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::auth::caller;
use super::error::{Kind, Problem, method_not_allowed, response_of};
use crate::answer::log::{AnswerLog, Event, Reader, event_id, parse_event_id};
use crate::app::App;
use crate::asking::{CacheUse, Question, Wishes};
use crate::error::ServiceError;
use crate::identity::{Caller, Scope};

/// The routes of this file.
pub fn routes(config: &mut web::ServiceConfig) {
    let refuse = || web::to(method_not_allowed);
    config
        .service(web::resource("/v1/answers").route(web::post().to(ask)).default_service(refuse()))
        .service(
            web::resource("/v1/answers/{id}")
                .route(web::get().to(show))
                .route(web::delete().to(cancel))
                .default_service(refuse()),
        )
        .service(web::resource("/v1/answers/{id}/events").route(web::get().to(resume)).default_service(refuse()));
}

async fn ask(
    request: HttpRequest,
    app: web::Data<App>,
    question: web::Json<Question>,
) -> Result<HttpResponse, Problem> {
    let caller = caller(&request, Scope::Ask)?;
    let stream = wants_stream(&request)?;
    let question = question.into_inner();
    let wishes = Wishes { cache: cache_use(&request), ..question.wishes() };
    let log = app.asker()?.ask(question, wishes, &caller).await?;
    let place = place(&log);
    if stream {
        return Ok(at(place, stream_events(&app, &log, 0).respond_to(&request).map_into_boxed_body()));
    }
    match collect(&log, log.reader(0)).await {
        Ok(answer) => Ok(HttpResponse::Ok().insert_header(place).json(answer)),
        Err(problem) => {
            let mut response = response_of(&problem);
            Ok(response.content_type("application/problem+json").insert_header(place).body(problem.to_string()))
        }
    }
}

/// What a request says of the cache.
pub(super) fn cache_use(request: &HttpRequest) -> CacheUse {
    let values = request.headers().get_all(header::CACHE_CONTROL).filter_map(|value| value.to_str().ok());
    CacheUse::parse(&values.collect::<Vec<_>>().join(","))
}

/// Where an answer is.
pub(super) fn place(log: &AnswerLog) -> (header::HeaderName, String) {
    (header::LOCATION, format!("/v1/answers/{}", log.id()))
}

/// A response that says where its answer is.
pub(super) fn at((name, place): (header::HeaderName, String), mut response: HttpResponse) -> HttpResponse {
    if let Ok(place) = header::HeaderValue::from_str(&place) {
        response.headers_mut().insert(name, place);
    }
    response
}

/// The answer that an address names.
pub(super) async fn find(app: &App, id: &str, caller: &Caller) -> Result<Arc<AnswerLog>, Problem> {
    match app.asker()?.find(id, caller).await {
        Some(log) if log.is_withdrawn() => Err(ServiceError::DocumentDeleted.into()),
        Some(log) => Ok(log),
        None => {
            let detail = format!("there is no answer {id} of yours: it never was, or ended too long ago; ask again");
            Err(Problem::new(Kind::NotFound, detail))
        }
    }
}

/// What there is of an answer now.
async fn show(request: HttpRequest, app: web::Data<App>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let log = find(&app, &id, &caller(&request, Scope::Ask)?).await?;
    let ended = log.closed().is_some();
    // What is there is there at once.
    let events: Vec<_> = log.events(0, usize::MAX);
    let status = events.iter().rev().find(|event| matches!(***event, Event::Status { .. })).map(|event| event.data());
    let mut answer = match assemble(log.id(), events.into_iter()) {
        Ok(answer) => answer,
        Err(problem) => json!({ "id": log.id(), "error": problem }),
    };
    answer["status"] = if ended { "ended" } else { "running" }.into();
    if let Some(status) = status.filter(|_| !ended) {
        answer["stage"] = status["stage"].clone();
        answer["queue_position"] = status["queue_position"].clone();
    }
    Ok(HttpResponse::Ok().json(answer))
}

/// Ends an answer. What was said until then can still be read.
async fn cancel(request: HttpRequest, app: web::Data<App>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    find(&app, &id, &caller(&request, Scope::Ask)?).await?.cancel();
    Ok(HttpResponse::NoContent().finish())
}

/// The events of an answer, after the one in `Last-Event-ID`, or from the start.
async fn resume(request: HttpRequest, app: web::Data<App>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let log = find(&app, &id, &caller(&request, Scope::Ask)?).await?;
    let last = request.headers().get("last-event-id").map(|value| String::from_utf8_lossy(value.as_bytes()));
    let from = match last.as_deref() {
        None | Some("") => 0,
        Some(last) => position_after(&log, last)?,
    };
    if is_past_the_end(&log, from) {
        // Which a browser takes for the end, instead of asking again.
        return Ok(HttpResponse::NoContent().finish());
    }
    Ok(stream_events(&app, &log, from).respond_to(&request).map_into_boxed_body())
}

/// The position after an event of this answer.
pub(super) fn position_after(log: &AnswerLog, event: &str) -> Result<usize, Problem> {
    match parse_event_id(event) {
        Some((of, position)) if of == log.id() && position < log.length() => Ok(position + 1),
        _ => Err(Problem::new(
            Kind::InvalidRequest,
            format!(
                "the last event is `{event}`, it must be the id of an event of this answer, such as `{}:0`",
                log.id()
            ),
        )),
    }
}

/// Whether nothing comes any more from this position on.
pub(super) fn is_past_the_end(log: &AnswerLog, from: usize) -> bool {
    log.closed().is_some() && from >= log.length()
}

/// Whether the client wants events. Without a preference it gets one JSON object.
fn wants_stream(request: &HttpRequest) -> Result<bool, Problem> {
    let Some(accept) = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()) else {
        return Ok(false);
    };
    let accepts =
        |wanted: &str| accept.split(',').any(|part| part.split(';').next().is_some_and(|t| t.trim() == wanted));
    if accepts("text/event-stream") {
        return Ok(true);
    }
    if accepts("application/json") || accepts("*/*") || accepts("application/*") {
        return Ok(false);
    }
    Err(Problem::new(
        Kind::NotAcceptable,
        format!("Accept is `{accept}`; text/event-stream and application/json can be given"),
    ))
}

/// The events of an answer from a position on, as server-sent events.
fn stream_events(
    app: &App,
    log: &Arc<AnswerLog>,
    from: usize,
) -> sse::Sse<impl futures_util::Stream<Item = Result<sse::Event, Infallible>> + 'static> {
    let id = log.id().to_owned();
    let stream = log.reader(from).map(move |(position, event)| {
        let data = sse::Data::new(event.data().to_string()).event(event.name()).id(event_id(&id, position));
        Ok(sse::Event::Data(data))
    });
    sse::Sse::from_stream(stream).with_keep_alive(Duration::from_secs(app.config().server.keep_alive_s))
}

/// The whole answer as one object, or its problem document. Reads to the end.
pub(super) async fn collect(log: &Arc<AnswerLog>, reader: Reader) -> Result<Value, Value> {
    let events: Vec<Arc<Event>> = reader.map(|(_, event)| event).collect().await;
    assemble(log.id(), events.into_iter())
}

fn assemble(id: &str, events: impl Iterator<Item = Arc<Event>>) -> Result<Value, Value> {
    let mut answer = json!({ "id": id, "answer": "" });
    let mut text = String::new();
    for event in events {
        match &*event {
            Event::Status { .. } => {}
            Event::Token { text: more } => text.push_str(more),
            Event::Error(problem) => return Err(problem.clone()),
            Event::Usage { .. } => answer["usage"] = event.data(),
            Event::Sources { sources, .. } => answer["sources"] = json!(sources),
            Event::Done { finish_reason, cached, as_of } => {
                answer["finish_reason"] = json!(finish_reason);
                answer["cached"] = json!(cached);
                answer = as_of.beside(answer);
            }
        }
    }
    answer["answer"] = text.into();
    Ok(answer)
}
