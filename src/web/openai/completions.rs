//! `POST /v1/chat/completions`, streamed and not.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, Responder, web};
use actix_web_lab::sse;
use futures_util::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::embeddings::TextOrTexts;
use super::{Error, NO_RETRY, OpenAiError, TAG, body, error_of, invalid, status};
use crate::actors::stats::now_ms;
use crate::answer::log::{AnswerLog, DoneReason, Event, Source};
use crate::app::App;
use crate::asking::{Question, Wishes};
use crate::error::ServiceError;
use crate::identity::Scope;
use crate::models::chat::{Message, Role};
use crate::models::line::Priority;
use crate::retrieval::filter::Filter;
use crate::web::address::{Address, Entry};
use crate::web::answers::{ASKING, at, cache_use, place};
use crate::web::auth::caller;
use crate::web::error::{Kind, response_of};

/// The addresses of this file.
pub(super) fn addresses() -> Vec<Address> {
    let text = "OpenAI's protocol (<https://platform.openai.com/docs/api-reference/chat>): its clients work unchanged. The model \
                `[answer] model_name` answers from the documents, and puts `sources` beside `choices`; every other one in \
                `/v1/models` answers by itself. Members that OpenAI has and this service does not are ignored where they change \
                nothing in the answer, and refused otherwise.\n\n\
                With `stream`, the answer comes in chunks as server-sent events without a name, and `[DONE]` after the last. One that fails \
                ends with an event that has an `error`, and without `[DONE]`.";
    let head = |object: &str| {
        json!({
            "id": "chatcmpl-0193a1b2c3d47e5f8a9b0c1d2e3f4a5b", "object": object, "created": 1_764_000_000, "model": "answerd",
        })
    };
    let mut completion = head("chat.completion");
    completion["choices"] = json!([{
        "index": 0, "logprobs": null, "finish_reason": "stop",
        "message": { "role": "assistant", "content": "You get 28 days of annual leave [1].", "refusal": null },
    }]);
    completion["usage"] = json!({
        "prompt_tokens": 412, "completion_tokens": 12, "total_tokens": 424, "prompt_tokens_details": { "cached_tokens": 0 },
    });
    let mut chunk = head("chat.completion.chunk");
    let delta = json!({ "content": "You get 28 days" });
    chunk["choices"] = json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": null }]);
    let question = json!([{ "role": "user", "content": "How many days of annual leave do I get?" }]);
    vec![
        Address::at("/v1/chat/completions").post(
            chat,
            Entry::new(TAG, "createChatCompletion", "Go on with a conversation")
                .text(text)
                .scope(Scope::Ask)
                .header("Cache-Control", "As of `POST /v1/answers`.", "no-cache")
                .body::<ChatRequest>("The conversation.", json!({ "model": "answerd", "messages": question }))
                .answers::<ChatCompletion>(200, "The answer.", completion)
                .streams::<ChatChunk>(200, "", &format!("data: {chunk}\n\ndata: [DONE]\n\n"))
                .tells(200, "Location", "Where the answer is: `/v1/answers/{id}`.")
                .refuses(&[Kind::UnknownModel])
                .refuses(&ASKING),
        ),
    ]
}

/// A conversation to go on with. Members that are not named here are ignored.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ChatCompletionRequest)]
struct ChatRequest {
    /// The name of a model.
    model: String,
    /// The conversation, oldest first; the last message is the question where the answer is from the documents.
    #[schema(min_items = 1)]
    messages: Vec<ChatMessage>,
    /// Whether the answer comes in chunks, as it is written.
    #[serde(default)]
    stream: Option<bool>,
    /// What comes beside the chunks.
    #[schema(inline)]
    stream_options: Option<StreamOptions>,
    /// The same as `max_completion_tokens`, which wins.
    #[schema(minimum = 1)]
    max_tokens: Option<i64>,
    /// The most tokens of the answer; capped by `[answer] max_output_tokens`.
    #[schema(minimum = 1)]
    max_completion_tokens: Option<i64>,
    /// 0 takes the likeliest token each time.
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f32>,
    /// Nucleus sampling: the smallest set of tokens with this much probability.
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    /// Choices: there is one.
    #[schema(minimum = 1, maximum = 1)]
    n: Option<i64>,
    /// A text that ends the answer, or up to 4, each of 1 to 256 bytes.
    #[schema(value_type = Option<TextOrTexts>)]
    stop: Option<Stop>,
    /// Repeats a random choice.
    seed: Option<i64>,
    /// Makes tokens less likely that were said.
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f32>,
    /// The same, the more often they were.
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f32>,
    /// Not supported: `true` is refused.
    logprobs: Option<bool>,
    /// Not supported: what is not empty is refused.
    #[schema(max_items = 0)]
    tools: Option<Vec<Value>>,
    /// Not supported: what is not empty is refused.
    #[schema(max_items = 0)]
    functions: Option<Vec<Value>>,
    /// Not supported: what is not empty is refused.
    #[schema(value_type = Option<Object>)]
    logit_bias: Option<Map<String, Value>>,
    /// Only of the `type` `text`.
    #[schema(inline)]
    response_format: Option<ResponseFormat>,
    /// Only `text`.
    modalities: Option<Vec<String>>,
    /// Which documents may be used.
    filter: Option<Filter>,
    /// Wait until the index has this operation: the `seq` of a write.
    min_seq: Option<u64>,
    /// `text`: the sources also at the end of the answer's text.
    #[schema(inline)]
    sources: Option<SourcesAs>,
    /// Whether somebody waits for it.
    priority: Option<Priority>,
    /// The answer ends after so many milliseconds.
    #[schema(minimum = 1)]
    timeout_ms: Option<u64>,
}

/// A message of a conversation.
#[derive(Debug, Deserialize, ToSchema)]
struct ChatMessage {
    /// Who says it: `system` (or `developer`), `user` or `assistant`.
    #[schema(pattern = "^(system|developer|user|assistant)$")]
    role: String,
    /// What is said: a text, or parts that are texts.
    content: Option<Content>,
}

/// A text, or parts of one.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ChatContent)]
#[serde(untagged, expecting = "`content` must be a text or a list of parts, each with a `type`")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ChatPart)]
struct Part {
    /// `text`: others are not supported.
    #[serde(rename = "type")]
    #[schema(pattern = "^text$")]
    kind: String,
    /// The text.
    #[schema(required)]
    text: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "`stop` must be a text or a list of texts")]
enum Stop {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Default, Deserialize, ToSchema)]
struct StreamOptions {
    /// A last chunk with the usage, and without choices.
    include_usage: Option<bool>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct ResponseFormat {
    /// `text`.
    #[serde(rename = "type")]
    #[schema(pattern = "^text$")]
    kind: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum SourcesAs {
    /// Beside `choices`.
    Field,
    /// There, and at the end of the text.
    Text,
}

/// An answer in OpenAI's form.
#[derive(Serialize, ToSchema)]
pub struct ChatCompletion {
    /// `chatcmpl-` and the id of the answer.
    pub id: String,
    /// `chat.completion`.
    pub object: String,
    /// When it was asked, in seconds since the Unix epoch.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// The answer: one choice.
    pub choices: Vec<ChatChoice>,
    /// What it took; null where the model was not asked.
    pub usage: Option<ChatUsage>,
    /// The passages it rests on, where it is from the documents.
    pub sources: Option<Vec<Source>>,
}

/// An answer among its choices.
#[derive(Serialize, ToSchema)]
pub struct ChatChoice {
    /// 0.
    pub index: usize,
    /// What is said.
    pub message: ChatAnswer,
    /// Not supported.
    #[schema(required)]
    pub logprobs: Option<bool>,
    /// `stop` or `length`.
    pub finish_reason: String,
}

/// What is said.
#[derive(Serialize, ToSchema)]
pub struct ChatAnswer {
    /// `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
    /// Null.
    #[schema(required)]
    pub refusal: Option<String>,
}

/// What an answer took, in tokens.
#[derive(Serialize, ToSchema)]
pub struct ChatUsage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// Their sum.
    pub total_tokens: usize,
    /// What there is to say of the prompt.
    pub prompt_tokens_details: ChatPromptUsage,
}

/// What there is to say of a prompt.
#[derive(Serialize, ToSchema)]
pub struct ChatPromptUsage {
    /// Tokens that had been computed before.
    pub cached_tokens: usize,
}

/// What stands in an event of a stream: more of an answer, or what went wrong with it. After the last there is `[DONE]`, but not after an
/// error.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ChatCompletionEvent)]
#[expect(dead_code, reason = "it is only described")]
pub enum ChatChunk {
    /// More of it.
    Chunk(ChatCompletionChunk),
    /// It failed. The last event.
    Error(OpenAiError),
}

/// More of an answer in OpenAI's form.
#[derive(Serialize, ToSchema)]
pub struct ChatCompletionChunk {
    /// `chatcmpl-` and the id of the answer.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: String,
    /// When it was asked, in seconds since the Unix epoch.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// One choice; none in the chunk with the usage.
    pub choices: Vec<ChatDelta>,
    /// With `include_usage`: what it took, in the last chunk, and null before.
    pub usage: Option<ChatUsage>,
    /// In the first chunk, where it is from the documents: the passages it rests on.
    pub sources: Option<Vec<Source>>,
}

/// More of a choice.
#[derive(Serialize, ToSchema)]
pub struct ChatDelta {
    /// 0.
    pub index: usize,
    /// What is new.
    pub delta: ChatDeltaText,
    /// Not supported.
    #[schema(required)]
    pub logprobs: Option<bool>,
    /// `stop` or `length` in the last one, and null before.
    #[schema(required)]
    pub finish_reason: Option<String>,
}

/// What is new.
#[derive(Serialize, ToSchema)]
pub struct ChatDeltaText {
    /// `assistant`, in the first one.
    pub role: Option<String>,
    /// More text.
    pub content: Option<String>,
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
            *response.status_mut() = status(response.status());
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
