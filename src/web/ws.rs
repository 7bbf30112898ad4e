//! `/v1/ws`: answers over one WebSocket. Frames are JSON texts.
//!
//! The client sends `{"type": "ask", "id": "q1", "question": "…", …}` with the fields of `POST /v1/answers`,
//! `{"type": "resume", "id": "q1", "last_event_id": "…"}`, `{"type": "cancel", "id": "q1"}` or `{"type": "ping"}`; the
//! `id` is the client's own. It gets `{"id": "q1", "event": "token", "event_id": "…", "data": {…}}` with the events of
//! an answer, several answers mixed, and `{"type": "pong"}`. A question that is not taken ends with an `error` event; a
//! frame that is not taken while a question of its id is open is answered by a `refused` event, which ends nothing. To
//! cancel what has ended already is no mistake.
//!
//! A browser cannot set headers here: it offers the protocols `answerd` and `bearer.<key>` where it must say who calls.
//!
//! What is wrong with the connection closes it: 1002 for what is no WebSocket frame, 1003 for binary frames, 1007 for
//! what is no text or no JSON object, 1009 for messages that are too large, 1001 where the service stops or the client
//! does not answer pings, 1008 where the key it was opened with was revoked.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use actix_ws::{AggregatedMessage, CloseCode, CloseReason, ProtocolError, Session};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, SelectAll};
use futures_util::{FutureExt, StreamExt, stream};
use opentelemetry::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;
use tracing::field::Empty;
use tracing::{Instrument, Span};
use utoipa::ToSchema;

use super::address::{Address, Entry};
use super::answers::{TAG, find, is_past_the_end, position_after};
use super::auth::Pass;
use super::error::{Kind, Problem};
use super::observe;
use crate::answer::log::{AnswerLog, Event, event_id, parse_event_id};
use crate::app::App;
use crate::asking::{CacheUse, Question, Wishes};
use crate::identity::Scope;
use crate::telemetry::trace;

/// The address.
pub(super) const PATH: &str = "/v1/ws";
/// The protocol that is spoken, for those who name one.
const PROTOCOL: &str = "answerd";
/// How often it is looked whether a connection's key still counts.
const CHECK: Duration = Duration::from_secs(5);
/// Open questions of one connection.
const MOST_OPEN: usize = 64;
/// Longest id that a client gives a question, in bytes.
const ID_BYTES: usize = 128;
/// Bytes that may come beyond a message: what is read at once, and the heads of its frames.
const READ_AHEAD: usize = 64 << 10;

/// The addresses of this file.
pub fn addresses() -> Vec<Address> {
    let text = "Answers over one WebSocket, many at once. Frames are JSON texts. The client sends `ask` (with the members of \
                `POST /v1/answers`), `resume`, `cancel` and `ping`, each question under an `id` of its own choice; it gets the \
                events of its answers, mixed, and `pong`. A question that is not taken ends with an `error` event. A frame that is \
                not taken while a question of its id is open is answered by a `refused` event, which ends nothing. To cancel what \
                has ended is no mistake. 64 questions may be open on a connection, and a frame may have `[server] max_json_bytes`.\n\n\
                A browser cannot set headers here: it offers the protocols `answerd` and `bearer.<key>` where it must say who calls.\n\n\
                What is wrong with the connection closes it: 1002 for what is no WebSocket frame, 1003 for binary frames, 1007 for \
                what is no text or no JSON object, 1009 for messages that are too large, 1001 where the service stops or the client \
                does not answer pings, 1008 where the key it was opened with was revoked.";
    vec![
        Address::at(PATH).get(
            open,
            Entry::new(TAG, "openWebSocket", "Ask over a WebSocket")
                .text(text)
                .scope(Scope::Ask)
                .frames::<ClientFrame, ServiceFrame>()
                .nothing(101, "The WebSocket is open (RFC 6455): from here on there are frames.")
                .refuses(&[Kind::UpgradeRequired]),
        ),
    ]
}

/// A frame from the client.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ClientFrame {
    /// Ask a question: beside these, the members of `Question`.
    Ask {
        /// The client's name of it, of 1 to 128 bytes.
        id: String,
        /// As the header `Cache-Control` of `POST /v1/answers`.
        cache_control: Option<String>,
        /// What is asked.
        question: String,
    },
    /// Read an answer on.
    Resume {
        /// The client's name of it.
        id: String,
        /// The last event that was seen.
        last_event_id: String,
    },
    /// Stop an answer.
    Cancel {
        /// The client's name of it.
        id: String,
    },
    /// Ask for a `pong`.
    Ping,
}

/// A frame from the service: an event, or `{"type": "pong"}`.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum ServiceFrame {
    /// An event of an answer, or a refusal.
    Event {
        /// The client's name of the question.
        id: String,
        /// `status`, `sources`, `token`, `usage`, `done`, `error` or `refused`.
        event: String,
        /// What `resume` takes; not where a frame is refused.
        event_id: Option<String>,
        /// As in `AnswerEvent`; of `refused`, a problem document.
        data: Value,
    },
    /// The answer to a `ping`.
    Pong {
        /// `pong`.
        r#type: String,
    },
}

async fn open(request: HttpRequest, body: web::Payload, app: web::Data<App>) -> Result<HttpResponse, actix_web::Error> {
    let pass = Rc::new(Pass::of(&request, Scope::Ask)?);
    let limit = app.config().server.max_json_bytes;
    let unread = Unread::default();
    let body = bounded(&request, body, limit + READ_AHEAD, &unread).await?;
    let (mut response, session, messages) = actix_ws::handle(&request, body).map_err(|error| {
        let detail = format!("this is the address of a WebSocket, and the request opens none: {error}");
        Problem::new(Kind::UpgradeRequired, detail)
    })?;
    // A browser that offers protocols, its key among them, takes no connection without one of them.
    let offers = |protocols: &header::HeaderValue| {
        protocols.to_str().is_ok_and(|list| list.split(',').any(|one| one.trim() == PROTOCOL))
    };
    if request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).any(offers) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, header::HeaderValue::from_static(PROTOCOL));
    }
    // Beyond what the body lets through: it is what ends a connection, with the right reason.
    let most = limit + READ_AHEAD;
    let messages = messages.max_frame_size(most).aggregate_continuations().max_continuation_size(most);
    actix_web::rt::spawn(async move {
        let connection = Connection {
            patience: Duration::from_secs(app.config().answer.stall_timeout_s),
            app,
            pass,
            limit,
            session: session.clone(),
            unread,
            open: HashMap::new(),
            asked: HashSet::new(),
            asking: FuturesUnordered::new(),
            answers: SelectAll::new(),
        };
        let reason = connection.run(messages).await;
        // Who is gone hears nothing.
        let _ = session.close(reason).await;
    });
    Ok(response)
}

/// Bytes that came since the last message was complete.
type Unread = Rc<Cell<usize>>;

/// A body that ends with an error once more than so many bytes are unread: a frame says its length, and is kept as it
/// comes, before anybody looks whether that is too much.
async fn bounded(
    request: &HttpRequest,
    body: web::Payload,
    most: usize,
    unread: &Unread,
) -> Result<web::Payload, actix_web::Error> {
    let unread = Rc::clone(unread);
    let bytes = body.map(move |bytes| {
        let bytes = bytes?;
        unread.set(unread.get() + bytes.len());
        if unread.get() > most { Err(PayloadError::Overflow) } else { Ok(bytes) }
    });
    web::Payload::from_request(request, &mut Payload::Stream { payload: Box::pin(bytes) }).await
}

/// What a client sends, without its id.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Frame {
    Ask(Box<Question>),
    Resume { last_event_id: String },
    Cancel,
    Ping,
}

/// What comes of one answer, under the client's id of it.
enum Said {
    Event(Arc<AnswerLog>, usize, Arc<Event>),
    /// Nothing any more.
    End(Arc<AnswerLog>),
}

type Answer = stream::LocalBoxStream<'static, (Arc<str>, Said)>;
type Asked = (Arc<str>, Result<Arc<AnswerLog>, Problem>);

struct Connection {
    app: web::Data<App>,
    pass: Rc<Pass>,
    session: Session,
    /// How long the client may take nothing.
    patience: Duration,
    /// Largest message, in bytes.
    limit: usize,
    unread: Unread,
    /// The answers that come, by the client's ids.
    open: HashMap<Arc<str>, Arc<AnswerLog>>,
    /// The ids of questions that are not answered yet.
    asked: HashSet<Arc<str>>,
    asking: FuturesUnordered<LocalBoxFuture<'static, Asked>>,
    answers: SelectAll<Answer>,
}

/// The client is gone.
struct Gone;

impl Connection {
    /// Lives until either side ends it; gives why, for the client to hear.
    async fn run(mut self, mut messages: actix_ws::AggregatedMessageStream) -> Option<CloseReason> {
        let alive = Duration::from_secs(self.app.config().server.keep_alive_s);
        let mut heard = Instant::now();
        let mut tick = actix_web::rt::time::interval(alive);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        let mut checked = actix_web::rt::time::interval(CHECK);
        checked.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stopping = self.app.stopping();
        let mut stops = false;
        loop {
            if stops && self.open.is_empty() && self.asked.is_empty() {
                return Some(close(CloseCode::Away, "the service stops"));
            }
            let ended = tokio::select! {
                biased;
                message = messages.recv() => {
                    heard = Instant::now();
                    match message {
                        Some(Ok(message)) => {
                            self.unread.set(0);
                            self.message(message, stops).await
                        }
                        Some(Err(error)) => return Some(self.reason(&error)),
                        None => return None,
                    }
                }
                _ = stopping.wait_for(|stopping| *stopping), if !stops => {
                    stops = true;
                    Ok(())
                }
                _ = checked.tick(), if self.app.identity.is_some() => {
                    if self.pass.caller(&self.app).await.is_err() {
                        return Some(close(CloseCode::Policy, "what it was opened with does not count any more"));
                    }
                    Ok(())
                }
                _ = tick.tick() => {
                    if heard.elapsed() > alive * 2 {
                        return Some(close(CloseCode::Away, "no answer to pings"));
                    }
                    self.session.ping(b"").await.map_err(|_| None)
                }
                Some((id, asked)) = self.asking.next() => self.answer(id, asked).await.map_err(|Gone| None),
                Some((id, said)) = self.answers.next() => self.pass_on(&id, said).await.map_err(|Gone| None),
            };
            if let Err(reason) = ended {
                return reason;
            }
        }
    }

    /// Takes a message.
    ///
    /// # Errors
    /// The connection is to end, with a reason where the client can still hear one.
    async fn message(&mut self, message: AggregatedMessage, stops: bool) -> Result<(), Option<CloseReason>> {
        let text = match message {
            AggregatedMessage::Text(text) if text.len() > self.limit => return Err(Some(too_large())),
            AggregatedMessage::Text(text) => text,
            AggregatedMessage::Ping(bytes) => return self.session.pong(&bytes).await.map_err(|_| None),
            AggregatedMessage::Pong(_) => return Ok(()),
            AggregatedMessage::Close(reason) => return Err(reason),
            AggregatedMessage::Binary(_) => return Err(Some(close(CloseCode::Unsupported, "frames must be texts"))),
        };
        let Ok(Value::Object(mut object)) = serde_json::from_str::<Value>(&text) else {
            return Err(Some(close(CloseCode::Invalid, "a frame must be a JSON object")));
        };
        let id = object.remove("id");
        let cache = object.remove("cache_control");
        let cache = cache.as_ref().and_then(Value::as_str).map(CacheUse::parse).unwrap_or_default();
        let id: Arc<str> = id.as_ref().and_then(Value::as_str).unwrap_or_default().into();
        let taken = self.take(&id, Value::Object(object), cache, stops).await;
        match taken {
            Ok(sent) => sent,
            Err(problem) => self.refuse(&id, &problem).await,
        }
        .map_err(|Gone| None)
    }

    /// Does what a frame says.
    ///
    /// # Errors
    /// Why not.
    async fn take(
        &mut self,
        id: &Arc<str>,
        frame: Value,
        cache: CacheUse,
        stops: bool,
    ) -> Result<Result<(), Gone>, Problem> {
        let frame = serde_json::from_value::<Frame>(frame);
        let frame = frame.map_err(|error| Problem::new(Kind::InvalidJson, error.to_string()))?;
        if matches!(frame, Frame::Ping) {
            return Ok(self.say(json!({ "type": "pong" })).await);
        }
        if id.is_empty() || id.len() > ID_BYTES {
            return Err(Problem::new(Kind::InvalidRequest, format!("`id` must have 1 to {ID_BYTES} bytes")));
        }
        if matches!(frame, Frame::Cancel) {
            if let Some(log) = self.open.get(id) {
                log.cancel();
            }
            return Ok(Ok(()));
        }
        if self.is_open(id) {
            return Err(Problem::new(Kind::InvalidRequest, "a question of this id is open; give each its own"));
        }
        if self.open.len() + self.asked.len() >= MOST_OPEN {
            let detail = format!("{MOST_OPEN} questions are open on this connection, which is the limit");
            return Err(Problem::new(Kind::Overloaded, detail).with("limit", MOST_OPEN));
        }
        match frame {
            Frame::Ask(_) if stops => {
                Err(Problem::new(Kind::Unavailable, "the service stops; ask another one").retry_after(2))
            }
            Frame::Ask(question) => {
                // It may have to wait for its documents: meanwhile the others go on.
                let (app, pass, own) = (self.app.clone(), Rc::clone(&self.pass), Arc::clone(id));
                self.asked.insert(Arc::clone(id));
                self.asking.push(async move { (own, ask(&app, *question, cache, &pass).await) }.boxed_local());
                Ok(Ok(()))
            }
            Frame::Resume { last_event_id } => {
                let (log, from) = self.resume(&last_event_id).await?;
                self.follow(Arc::clone(id), log, from);
                Ok(Ok(()))
            }
            Frame::Cancel | Frame::Ping => Ok(Ok(())),
        }
    }

    fn is_open(&self, id: &str) -> bool {
        self.open.contains_key(id) || self.asked.contains(id)
    }

    async fn resume(&self, last: &str) -> Result<(Arc<AnswerLog>, usize), Problem> {
        let answer = parse_event_id(last).map_or(last, |(answer, _)| answer);
        let log = find(&self.app, answer, &self.pass.caller(&self.app).await?).await?;
        let from = position_after(&log, last)?;
        if is_past_the_end(&log, from) {
            return Err(Problem::new(Kind::NotFound, "this was the last event of the answer"));
        }
        Ok((log, from))
    }

    /// A question was taken, or not.
    async fn answer(&mut self, id: Arc<str>, asked: Result<Arc<AnswerLog>, Problem>) -> Result<(), Gone> {
        self.asked.remove(&id);
        match asked {
            Ok(log) => {
                self.follow(id, log, 0);
                Ok(())
            }
            Err(problem) => self.refuse(&id, &problem).await,
        }
    }

    /// Passes the events of an answer on from now on.
    fn follow(&mut self, id: Arc<str>, log: Arc<AnswerLog>, from: usize) {
        self.open.insert(Arc::clone(&id), Arc::clone(&log));
        let (own, answer, ended) = (Arc::clone(&id), Arc::clone(&log), Arc::clone(&log));
        let events = log.reader(from).map(move |(position, event)| {
            let said = Said::Event(Arc::clone(&answer), position, event);
            (Arc::clone(&own), said)
        });
        self.answers.push(events.chain(stream::once(async move { (id, Said::End(ended)) })).boxed_local());
    }

    /// Passes an event on. As long as the client does not take it, no other is read: its answers are parked.
    async fn pass_on(&mut self, id: &Arc<str>, said: Said) -> Result<(), Gone> {
        let (log, event) = match said {
            Said::Event(log, position, event) => (log, Some((position, event))),
            Said::End(log) => (log, None),
        };
        let ends = event.as_ref().is_none_or(|(_, event)| matches!(**event, Event::Done { .. } | Event::Error(_)));
        // Its id may be that of the next question already.
        if ends && self.open.get(id).is_some_and(|open| Arc::ptr_eq(open, &log)) {
            self.open.remove(id);
        }
        let Some((position, event)) = event else { return Ok(()) };
        let event_id = event_id(log.id(), position);
        self.say(json!({ "id": **id, "event": event.name(), "event_id": event_id, "data": event.data() })).await
    }

    /// Refuses a frame about one question.
    async fn refuse(&mut self, id: &str, problem: &Problem) -> Result<(), Gone> {
        let event = if self.is_open(id) { "refused" } else { "error" };
        self.say(json!({ "id": id, "event": event, "data": problem.json() })).await
    }

    async fn say(&mut self, frame: Value) -> Result<(), Gone> {
        match tokio::time::timeout(self.patience, self.session.text(frame.to_string())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }

    /// Why a connection ends that cannot be read.
    fn reason(&self, error: &ProtocolError) -> CloseReason {
        match error {
            ProtocolError::Overflow => too_large(),
            ProtocolError::Io(_) if self.unread.get() > self.limit + READ_AHEAD => too_large(),
            ProtocolError::Io(error) => close(CloseCode::Invalid, &error.to_string()),
            error => close(CloseCode::Protocol, &error.to_string()),
        }
    }
}

/// Asks a question of a connection. In traces and in the log it is by itself: the connection's own span goes on for as long
/// as that is open.
async fn ask(app: &App, question: Question, cache: CacheUse, pass: &Pass) -> Result<Arc<AnswerLog>, Problem> {
    let span = trace::begin(Context::new(), || {
        let id = observe::new_id();
        tracing::error_span!(parent: None, "request", request_id = %id, otel.kind = "server", trace_id = Empty, caller = Empty)
    });
    let asking = async {
        let wishes = Wishes { cache, ..question.wishes() };
        // A connection may outlive its key.
        let caller = pass.caller(app).await?;
        Span::current().record("caller", &*caller.name);
        app.budgets.request(&caller).await?;
        Ok(app.asker()?.ask(question, wishes, &caller).await?)
    };
    asking.instrument(span).await
}

fn close(code: CloseCode, why: &str) -> CloseReason {
    CloseReason { code, description: Some(why.to_owned()) }
}

fn too_large() -> CloseReason {
    close(CloseCode::Size, "a message is too large")
}
