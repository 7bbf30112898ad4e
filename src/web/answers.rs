//! `POST /v1/answers`: a question in, its answer out, as a stream of events or as one JSON object.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, Responder, web};
use actix_web_lab::sse;
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::error::{Kind, Problem, method_not_allowed};
use crate::answer::log::{AnswerLog, Event, event_id};
use crate::app::App;
use crate::asking::Question;

/// The routes of this file.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/v1/answers").route(web::post().to(ask)).default_service(web::to(method_not_allowed)));
}

async fn ask(
    request: HttpRequest,
    app: web::Data<App>,
    question: web::Json<Question>,
) -> Result<HttpResponse, Problem> {
    let stream = wants_stream(&request)?;
    let log = app.asker()?.ask(question.into_inner()).await?;
    if stream {
        let keep_alive = Duration::from_secs(app.config.server.keep_alive_s);
        return Ok(events(&log, 0, keep_alive).respond_to(&request).map_into_boxed_body());
    }
    let answer = collect(&log).await;
    match answer {
        Ok(answer) => Ok(HttpResponse::Ok().json(answer)),
        Err(problem) => {
            let status = problem.get("status").and_then(Value::as_u64).unwrap_or(500);
            let status = actix_web::http::StatusCode::from_u16(status as u16).unwrap_or_default();
            Ok(HttpResponse::build(status).content_type("application/problem+json").body(problem.to_string()))
        }
    }
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
fn events(
    log: &Arc<AnswerLog>,
    from: usize,
    keep_alive: Duration,
) -> sse::Sse<impl futures_util::Stream<Item = Result<sse::Event, Infallible>> + 'static> {
    let id = log.id().to_owned();
    let stream = log.reader(from).map(move |(position, event)| {
        let data = sse::Data::new(event.data().to_string()).event(event.name()).id(event_id(&id, position));
        Ok(sse::Event::Data(data))
    });
    sse::Sse::from_stream(stream).with_keep_alive(keep_alive)
}

/// The whole answer as one object, or its problem document.
async fn collect(log: &Arc<AnswerLog>) -> Result<Value, Value> {
    let mut answer = json!({ "id": log.id(), "answer": "" });
    let mut text = String::new();
    let mut reader = log.reader(0);
    while let Some((_, event)) = reader.next().await {
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
