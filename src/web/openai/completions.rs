//! `POST /v1/chat/completions`, streamed and not.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, Responder, web};
use actix_web_lab::sse;
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Error, NO_RETRY, body, error_of, invalid, openais};
use crate::actors::stats::now_ms;
use crate::answer::log::{AnswerLog, DoneReason, Event, Source};
use crate::app::App;
use crate::asking::{Question, Wishes};
use crate::error::ServiceError;
use crate::identity::Scope;
use crate::models::chat::{Message, Role};
use crate::models::line::Priority;
use crate::retrieval::filter::Filter;
use crate::web::answers::{at, cache_use, place};
use crate::web::auth::caller;
use crate::web::error::{Kind, response_of};

#[derive(Debug, Deserialize)]
struct ChatRequest {
    model: String,
    messages: Vec<ChatMessage>,
    #[serde(default)]
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    n: Option<i64>,
    stop: Option<Stop>,
    seed: Option<i64>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    logprobs: Option<bool>,
    tools: Option<Vec<Value>>,
    functions: Option<Vec<Value>>,
    logit_bias: Option<Map<String, Value>>,
    response_format: Option<ResponseFormat>,
    modalities: Option<Vec<String>>,
    /// Which documents may be used.
    filter: Option<Filter>,
    /// Wait until the index has this operation.
    min_seq: Option<u64>,
    /// `text`: the sources also at the end of the answer's text.
    sources: Option<SourcesAs>,
    /// Whether somebody waits for it.
    priority: Option<Priority>,
    /// The answer ends after so many milliseconds.
    timeout_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct ChatMessage {
    role: String,
    content: Option<Content>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "`content` must be a text or a list of parts, each with a `type`")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "`stop` must be a text or a list of texts")]
enum Stop {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SourcesAs {
    Field,
    Text,
}

impl ChatRequest {
    /// How its answer is wished to be. What is not supported is refused.
    fn wishes(&self) -> Result<Wishes, Error> {
        let unsupported = |param: &str, what: &str| Err(invalid(param, format!("{what} is not supported here")));
        if self.n.unwrap_or(1) != 1 {
            return unsupported("n", "more than one choice");
        }
        if self.logprobs == Some(true) {
            return unsupported("logprobs", "`logprobs`");
        }
        if self.tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
            return unsupported("tools", "calling tools");
        }
        if self.functions.as_ref().is_some_and(|functions| !functions.is_empty()) {
            return unsupported("functions", "calling functions");
        }
        if self.logit_bias.as_ref().is_some_and(|bias| !bias.is_empty()) {
            return unsupported("logit_bias", "`logit_bias`");
        }
        if let Some(format) = self.response_format.as_ref().filter(|format| format.kind != "text") {
            return unsupported("response_format", &format!("the format {:?}", format.kind));
        }
        if self.modalities.as_ref().is_some_and(|kinds| kinds.iter().any(|kind| kind != "text")) {
            return unsupported("modalities", "anything but text");
        }
        let (param, most) = match (self.max_completion_tokens, self.max_tokens) {
            (Some(most), _) => ("max_completion_tokens", Some(most)),
            (None, most) => ("max_tokens", most),
        };
        let max_tokens = most
            .map(|most| {
                let whole = usize::try_from(most).ok().filter(|most| *most > 0);
                whole.ok_or_else(|| invalid(param, format!("`{param}` is {most}, it must be 1 or more")))
            })
            .transpose()?;
        Ok(Wishes {
            max_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            // Any whole number is a seed.
            seed: self.seed.map(|seed| (seed ^ (seed >> 32)) as u32),
            stop: match &self.stop {
                None => Vec::new(),
                Some(Stop::One(stop)) => vec![stop.clone()],
                Some(Stop::Several(stops)) => stops.clone(),
            },
            priority: self.priority.unwrap_or_default(),
            timeout_ms: self.timeout_ms,
            ..Wishes::default()
        })
    }
}

impl ChatMessage {
    fn read(self, n: usize) -> Result<Message, Error> {
        let param = |of: &str| format!("messages[{n}].{of}");
        let role = match self.role.as_str() {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            other => {
                let detail = format!("the role {other:?} is not supported here; there are system, user and assistant");
                return Err(invalid(&param("role"), detail));
            }
        };
        let content = match self.content {
            None if role == Role::Assistant => String::new(),
            None => return Err(invalid(&param("content"), format!("`{}` is missing", param("content")))),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => {
                let mut text = String::new();
                for part in parts {
                    match (part.kind.as_str(), part.text) {
                        ("text", Some(more)) => text.push_str(&more),
                        ("text", None) => return Err(invalid(&param("content"), "a part of it has no `text`")),
                        (kind, _) => {
                            return Err(invalid(
                                &param("content"),
                                format!("a part of type {kind:?} is not supported here"),
                            ));
                        }
                    }
                }
                text
            }
        };
        Ok(Message { role, content })
    }
}

pub(super) async fn chat(
    request: HttpRequest,
    payload: web::Payload,
    app: web::Data<App>,
) -> Result<HttpResponse, Error> {
    let caller = caller(&request, Scope::Ask)?;
    let asked: ChatRequest = body(&request, payload, &app).await?;
    let wishes = Wishes { cache: cache_use(&request), ..asked.wishes()? };
    let asker = app.asker()?;
    let usage = asked.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false);
    let as_text = asked.sources == Some(SourcesAs::Text);
    let stream = asked.stream.unwrap_or(false);
    let messages = asked.messages.into_iter().enumerate().map(|(n, message)| message.read(n));
    let mut messages: Vec<Message> = messages.collect::<Result<_, _>>()?;
    let config = app.config();
    let retrieval = asked.model == config.answer.model_name;
    let log = if retrieval {
        let question = match messages.pop() {
            Some(Message { role: Role::User, content }) => content,
            Some(_) => return Err(invalid("messages", "the last message must be the user's: it is the question")),
            None => return Err(invalid("messages", "`messages` is empty")),
        };
        let (filter, min_seq) = (asked.filter, asked.min_seq);
        let question = Question { question, messages, filter, min_seq, ..Question::default() };
        asker.ask(question, wishes, &caller).await?
    } else {
        let pool = asker.models.get(&asked.model).map_err(|error| match error {
            // The one that is no model of its own is asked for by name too.
            ServiceError::UnknownModel { name, known } => {
                ServiceError::UnknownModel { name, known: format!("{}, {known}", config.answer.model_name) }
            }
            other => other,
        });
        let pool = pool.map_err(|error| Error::about(error, "model"))?;
        asker.chat(pool, messages, wishes, &caller).await?
    };
    let completion = Completion {
        id: format!("chatcmpl-{}", log.id()),
        created: now_ms() / 1000,
        model: asked.model,
        usage,
        as_text,
        sources: None,
        counts: Value::Null,
        role_said: false,
    };
    let place = place(&log);
    if stream {
        let keep_alive = Duration::from_secs(config.server.keep_alive_s);
        let events = sse::Sse::from_stream(completion.stream(&log)).with_keep_alive(keep_alive);
        return Ok(at(place, events.respond_to(&request).map_into_boxed_body()));
    }
    match completion.collect(&log).await {
        Ok(answer) => Ok(HttpResponse::Ok().insert_header(place).json(answer)),
        Err(problem) => {
            let mut response = response_of(&problem).json(error_of(&problem));
            *response.status_mut() = openais(response.status());
            if [Kind::TooLate, Kind::Stalled].iter().any(|kind| kind.status() == response.status()) {
                let (name, value) = NO_RETRY;
                let headers = response.headers_mut();
                headers.insert(header::HeaderName::from_static(name), header::HeaderValue::from_static(value));
            }
            Ok(response)
        }
    }
}

/// An answer log on its way into OpenAI's form.
struct Completion {
    id: String,
    created: u64,
    model: String,
    /// The usage is wanted in the stream.
    usage: bool,
    /// The sources are wanted in the text.
    as_text: bool,
    sources: Option<Vec<Source>>,
    counts: Value,
    role_said: bool,
}

impl Completion {
    fn head(&self, object: &str) -> Value {
        json!({ "id": self.id, "object": object, "created": self.created, "model": self.model })
    }

    fn chunk(&mut self, delta: Value, finish_reason: Option<&str>) -> Value {
        let mut chunk = self.head("chat.completion.chunk");
        chunk["choices"] = json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason }]);
        if self.usage {
            chunk["usage"] = Value::Null;
        }
        if !std::mem::replace(&mut self.role_said, true)
            && let Some(sources) = &self.sources
        {
            chunk["sources"] = json!(sources);
        }
        chunk
    }

    /// What an event of the log is in the stream.
    fn events(&mut self, event: &Event) -> VecDeque<sse::Event> {
        let data = |value: Value| sse::Event::Data(sse::Data::new(value.to_string()));
        let mut out = VecDeque::new();
        if !self.role_said && matches!(event, Event::Token { .. } | Event::Done { .. }) {
            out.push_back(data(self.chunk(json!({ "role": "assistant", "content": "" }), None)));
        }
        match event {
            // Clients pass comments over; people see them.
            Event::Status { .. } => out.push_back(sse::Event::Comment(format!("status {}", event.data()).into())),
            Event::Sources { sources, .. } => self.sources = Some(sources.clone()),
            Event::Token { text } => out.push_back(data(self.chunk(json!({ "content": text }), None))),
            Event::Usage { .. } => self.counts = counts(event),
            Event::Done { finish_reason, .. } => {
                if let Some(text) = self.sources_text() {
                    out.push_back(data(self.chunk(json!({ "content": text }), None)));
                }
                out.push_back(data(self.chunk(json!({}), Some(finish(*finish_reason)))));
                if self.usage {
                    let mut last = self.head("chat.completion.chunk");
                    last["choices"] = json!([]);
                    last["usage"] = self.counts.clone();
                    out.push_back(data(last));
                }
                out.push_back(sse::Event::Data(sse::Data::new("[DONE]")));
            }
            Event::Error(problem) => out.push_back(data(error_of(problem))),
        }
        out
    }

    fn stream(self, log: &Arc<AnswerLog>) -> impl Stream<Item = Result<sse::Event, Infallible>> + 'static {
        log.reader(0)
            .scan(self, |completion, (_, event)| {
                let events = completion.events(&event);
                async move { Some(stream::iter(events.into_iter().map(Ok))) }
            })
            .flatten()
    }

    async fn collect(mut self, log: &Arc<AnswerLog>) -> Result<Value, Value> {
        let mut reader = log.reader(0);
        let mut text = String::new();
        let mut reason = "stop";
        while let Some((_, event)) = reader.next().await {
            match &*event {
                Event::Status { .. } => {}
                Event::Sources { sources, .. } => self.sources = Some(sources.clone()),
                Event::Token { text: more } => text.push_str(more),
                Event::Usage { .. } => self.counts = counts(&event),
                Event::Done { finish_reason, .. } => reason = finish(*finish_reason),
                Event::Error(problem) => return Err(problem.clone()),
            }
        }
        text.push_str(&self.sources_text().unwrap_or_default());
        let mut answer = self.head("chat.completion");
        let message = json!({ "role": "assistant", "content": text, "refusal": null });
        answer["choices"] = json!([{ "index": 0, "message": message, "logprobs": null, "finish_reason": reason }]);
        answer["usage"] = self.counts;
        if let Some(sources) = &self.sources {
            answer["sources"] = json!(sources);
        }
        Ok(answer)
    }

    /// The sources as text, where that is wanted and there are any.
    fn sources_text(&self) -> Option<String> {
        let sources = self.sources.as_ref().filter(|sources| self.as_text && !sources.is_empty())?;
        let mut text = String::from("\n\nSources:");
        for source in sources {
            text.push_str(&format!("\n[{}] {}", source.n, source.title));
            source.section.iter().filter(|part| **part != source.title).for_each(|part| text.extend([" > ", part]));
            if let Some(page) = source.page {
                text.push_str(&format!(", page {page}"));
            }
            match &source.url {
                Some(url) => text.extend([" <", url, ">"]),
                None => text.extend([" (", &source.document_id, ")"]),
            }
        }
        Some(text)
    }
}

fn counts(event: &Event) -> Value {
    let Event::Usage { prompt_tokens, completion_tokens, total_tokens, cached_prompt_tokens, .. } = event else {
        return Value::Null;
    };
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": total_tokens,
        "prompt_tokens_details": { "cached_tokens": cached_prompt_tokens },
    })
}

fn finish(reason: DoneReason) -> &'static str {
    match reason {
        DoneReason::Length => "length",
        // What was ended by its reader is as complete as it will be.
        DoneReason::Stop | DoneReason::NotFound | DoneReason::Cancelled => "stop",
    }
}
