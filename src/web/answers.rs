//! `POST /v1/answers`: a question in, its answer out, as a stream of events or as one JSON object. `/v1/answers/{id}`:
//! the answer so far (`GET`), its events from any position on (`GET .../events`), its end (`DELETE`).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, Responder, web};
use actix_web_lab::sse;
use futures_util::StreamExt;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::address::{Address, Entry};
use super::auth::caller;
use super::error::{Kind, Problem, ProblemDocument, response_of};
use crate::answer::log::{AnswerLog, DoneReason, Event, Reader, Source, Stage, event_id, parse_event_id};
use crate::app::App;
use crate::asking::{CacheUse, Question, Wishes};
use crate::error::ServiceError;
use crate::freshness::AsOf;
use crate::identity::{Caller, Scope};

/// The addresses of this file.
pub fn addresses() -> Vec<Address> {
    let cache = "What the cache is used for: `no-cache` has the answer generated anew, `no-store` has it not kept, \
                 `only-if-cached` never asks the model.";
    let id = "The answer: the end of the `Location` that it was given.";
    let text = "Answers from the documents. The answer comes as the model writes it where `Accept` is `text/event-stream`: \
                first the state of things (`status`), then the passages it rests on (`sources`), the text (`token`), what it took \
                (`usage`), and at the end `done`, or `error` with a problem document. Otherwise it comes whole, as one object.\n\n\
                Each event has an `id`. A client whose connection breaks goes on with `GET /v1/answers/{id}/events` and the last id it \
                saw, and misses and repeats nothing; the model waits for it a while (`[answer] resume_grace_s`), and then stops. \
                A comment keeps the connection open where nothing comes for `[server] keep_alive_s`.\n\n\
                What can be refused is refused with a status; what goes wrong later is an `error` event, or the status of the whole \
                answer.";
    vec![
        Address::at("/v1/answers").post(
            ask,
            Entry::new(TAG, "ask", "Ask a question")
                .text(text)
                .scope(Scope::Ask)
                .header("Cache-Control", cache, "no-cache")
                .body::<Question>("The question, and how its answer is wished to be.", json!({
                    "question": "How many days of annual leave do I get?",
                    "filter": { "collection": "handbook" },
                }))
                .answers::<Answer>(200, "The answer.", example())
                .streams::<AnswerEvent>(200, "", EXAMPLE_STREAM)
                .tells(200, "Location", "Where the answer is: `/v1/answers/{id}`.")
                .refuses(&[Kind::NotAcceptable])
                .refuses(&ASKING),
        ),
        Address::at("/v1/answers/{id}")
            .get(
                show,
                Entry::new(TAG, "getAnswer", "What there is of an answer")
                    .text(
                        "The answer as it is now, to be looked at again and again. It is kept for `[answer] keep_s` after its end, \
                         and for who asked only.",
                    )
                    .scope(Scope::Ask)
                    .path("id", id, EXAMPLE_ID)
                    .answers::<AnswerSoFar>(200, "What there is of it.", {
                        let mut answer = example();
                        answer["status"] = "ended".into();
                        answer
                    })
                    .refuses(&[Kind::NotFound, Kind::DocumentDeleted]),
            )
            .delete(
                cancel,
                Entry::new(TAG, "cancelAnswer", "Stop an answer")
                    .text("The model stops within a token. What was said until then can still be read.")
                    .scope(Scope::Ask)
                    .path("id", id, EXAMPLE_ID)
                    .nothing(204, "It ends, or had ended.")
                    .refuses(&[Kind::NotFound, Kind::DocumentDeleted]),
            ),
        Address::at("/v1/answers/{id}/events").get(
            resume,
            Entry::new(TAG, "getAnswerEvents", "Read an answer on")
                .text("The events of an answer after the one in `Last-Event-ID`, or all of them, as they come.")
                .scope(Scope::Ask)
                .path("id", id, EXAMPLE_ID)
                .header(
                    "Last-Event-ID",
                    "The last event that was seen. Browsers send it by themselves.",
                    "0193a1b2c3d47e5f8a9b0c1d2e3f4a5b:0",
                )
                .streams::<AnswerEvent>(200, "The events.", EXAMPLE_STREAM)
                .nothing(204, "That was the last one: nothing comes any more.")
                .refuses(&[Kind::NotFound, Kind::DocumentDeleted, Kind::InvalidRequest]),
        ),
    ]
}

/// The group of these addresses in the reference.
pub(super) const TAG: &str = "answers";

/// Why a question is not taken, or its answer ends.
pub(super) const ASKING: [Kind; 10] = [
    Kind::InvalidRequest,
    Kind::QuestionTooLong,
    Kind::PromptTooLong,
    Kind::Overloaded,
    Kind::OverBudget,
    Kind::NotYetVisible,
    Kind::Stalled,
    Kind::TooLate,
    Kind::NotCached,
    Kind::DocumentDeleted,
];

/// The id of the reference's example.
const EXAMPLE_ID: &str = "0193a1b2c3d47e5f8a9b0c1d2e3f4a5b";

const EXAMPLE_STREAM: &str = "\
id: 0193a1b2c3d47e5f8a9b0c1d2e3f4a5b:0
event: status
data: {\"queue_position\":null,\"stage\":\"retrieving\"}

id: 0193a1b2c3d47e5f8a9b0c1d2e3f4a5b:3
event: token
data: {\"text\":\"You get 28 days\"}

id: 0193a1b2c3d47e5f8a9b0c1d2e3f4a5b:5
event: done
data: {\"cached\":false,\"finish_reason\":\"stop\",\"lag_events\":0,\"lag_ms\":0,\"seq\":13}

";

fn example() -> Value {
    json!({
        "id": EXAMPLE_ID,
        "answer": "You get 28 days of annual leave [1].",
        "sources": [{
            "n": 1, "document_id": "people/leave.md", "title": "Leave", "section": ["Leave", "Annual leave"], "page": null,
            "url": null, "snippet": "Everybody gets 28 days of annual leave.", "score": 0.17, "revision": 1, "start": 10, "end": 240,
        }],
        "usage": { "prompt_tokens": 412, "completion_tokens": 12, "total_tokens": 424, "cached_prompt_tokens": 0 },
        "finish_reason": "stop", "cached": false, "seq": 13, "lag_ms": 0, "lag_events": 0,
    })
}

/// An answer.
#[derive(Serialize, ToSchema)]
pub struct Answer {
    /// What names it, in `/v1/answers/{id}`.
    pub id: String,
    /// Its text, with the numbers of its sources in square brackets.
    pub answer: String,
    /// The passages it rests on.
    pub sources: Option<Vec<Source>>,
    /// What it took.
    pub usage: Option<UsageTold>,
    /// Why it is complete.
    pub finish_reason: DoneReason,
    /// Whether it came from the cache.
    pub cached: bool,
    /// How fresh the index was.
    #[serde(flatten)]
    pub as_of: AsOf,
}

/// What there is of an answer: the members of an answer as far as they are known, or its error.
#[derive(Serialize, ToSchema)]
pub struct AnswerSoFar {
    /// What names it.
    pub id: String,
    /// Whether it is written, or has ended.
    #[schema(inline)]
    pub status: Standing,
    /// Where it is, while it is written.
    pub stage: Option<Stage>,
    /// Its place among those that wait, from 1.
    pub queue_position: Option<usize>,
    /// Its text so far.
    pub answer: Option<String>,
    /// The passages it rests on.
    pub sources: Option<Vec<Source>>,
    /// What it took.
    pub usage: Option<UsageTold>,
    /// Why it is complete.
    pub finish_reason: Option<DoneReason>,
    /// Whether it came from the cache.
    pub cached: Option<bool>,
    /// Every operation up to this one was visible.
    pub seq: Option<u64>,
    /// Age of the oldest operation that was not, in milliseconds.
    pub lag_ms: Option<u64>,
    /// Operations that were not.
    pub lag_events: Option<u64>,
    /// Why it failed.
    pub error: Option<ProblemDocument>,
}

/// Whether an answer is written, or has ended.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It is written.
    Running,
    /// It has ended.
    Ended,
}

/// An event of an answer, with its name and its data as it stands in the stream. Its id is `<answer id>:<position>`.
#[derive(Serialize, ToSchema)]
#[serde(tag = "event", content = "data", rename_all = "lowercase")]
pub enum AnswerEvent {
    /// It has come to a stage.
    Status(StatusTold),
    /// The passages it rests on.
    Sources(SourcesTold),
    /// More text.
    Token(TokenTold),
    /// What it took.
    Usage(UsageTold),
    /// It is complete. The last event.
    Done(DoneTold),
    /// It failed. The last event.
    Error(Box<ProblemDocument>),
}

/// Where an answer is.
#[derive(Serialize, ToSchema)]
#[schema(as = AnswerStatus)]
pub struct StatusTold {
    /// The stage it has come to.
    pub stage: Stage,
    /// Its place among those that wait, from 1.
    #[schema(required)]
    pub queue_position: Option<usize>,
}

/// The passages that an answer rests on, and how fresh the index was.
#[derive(Serialize, ToSchema)]
#[schema(as = AnswerSources)]
pub struct SourcesTold {
    /// The passages, by number.
    pub sources: Vec<Source>,
    /// How fresh the index was.
    #[serde(flatten)]
    pub as_of: AsOf,
}

/// More text of an answer.
#[derive(Serialize, ToSchema)]
#[schema(as = AnswerToken)]
pub struct TokenTold {
    /// The text.
    pub text: String,
}

/// What an answer took, in tokens.
#[derive(Serialize, ToSchema)]
#[schema(as = AnswerUsage)]
pub struct UsageTold {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// Their sum.
    pub total_tokens: usize,
    /// Tokens of the prompt that had been computed before.
    pub cached_prompt_tokens: usize,
    /// The counts are estimates: the model is on a server that did not tell them.
    pub estimated: Option<bool>,
}

/// That an answer is complete.
#[derive(Serialize, ToSchema)]
#[schema(as = AnswerDone)]
pub struct DoneTold {
    /// Why.
    pub finish_reason: DoneReason,
    /// Whether it came from the cache.
    pub cached: bool,
    /// How fresh the index was.
    #[serde(flatten)]
    pub as_of: AsOf,
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
        Some((of, position)) if of == log.id() && log.may_have_said(position) => Ok(position + 1),
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
    log.is_over_at(from)
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
