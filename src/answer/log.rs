//! The answer log: one generation writes it, any number of readers follow it, each with a cursor of its own.
//!
//! It is an append-only list of events, bounded by the output limit. A reader that comes late, or comes again, sees
//! everything from where it asks. The log also says whether more is wanted ([`AnswerLog::demand`]): the generation runs
//! at most a window ahead of its furthest reader, and ends where nobody reads, where it was cancelled, or where its
//! time is up. Plain std: wakers of whatever runtime polls the readers.

use std::any::Any;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::Stream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::freshness::AsOf;
use crate::models::Demand;

/// Where an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = AnswerStage)]
pub enum Stage {
    /// Searching for passages.
    Retrieving,
    /// Waiting for the model.
    Queued,
    /// The model reads the prompt.
    Reading,
    /// The model writes.
    Generating,
}

/// A passage that the answer rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Source {
    /// Its number in the answer's citations, from 1.
    pub n: usize,
    /// Its document.
    pub document_id: String,
    /// Title of the document.
    pub title: String,
    /// The headings above it.
    pub section: Vec<String>,
    /// Page of the original.
    pub page: Option<u32>,
    /// Address of the original.
    pub url: Option<String>,
    /// What it says about the question.
    pub snippet: String,
    /// Its fused score.
    pub score: f32,
    /// Revision of the document that `start` and `end` are of.
    pub revision: u64,
    /// First byte in the document's source text.
    pub start: usize,
    /// The byte after the last one.
    pub end: usize,
}

/// Why an answer is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = FinishReason)]
pub enum DoneReason {
    /// The model ended.
    Stop,
    /// The output limit was reached.
    Length,
    /// Nobody read any more, or somebody cancelled.
    Cancelled,
    /// No passage had to do with the question; the model was not asked.
    NotFound,
}

/// An event of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// It has come to a stage.
    Status {
        /// Which.
        stage: Stage,
        /// Its place among those that wait, from 1.
        queue_position: Option<usize>,
    },
    /// The passages it rests on.
    Sources {
        /// How fresh the index was that was searched.
        as_of: AsOf,
        /// The passages, by number.
        sources: Vec<Source>,
    },
    /// More text.
    Token {
        /// The text.
        text: String,
    },
    /// What it took.
    Usage {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens generated.
        completion_tokens: usize,
        /// Their sum.
        total_tokens: usize,
        /// Tokens of the prompt that had been computed before.
        cached_prompt_tokens: usize,
        /// The counts are estimates: the model is on a server that did not tell them.
        estimated: bool,
    },
    /// It is complete. The last event.
    Done {
        /// Why.
        finish_reason: DoneReason,
        /// Whether it came from the cache.
        cached: bool,
        /// As in `Sources`.
        as_of: AsOf,
    },
    /// It failed: a problem document (RFC 9457). The last event.
    Error(Value),
}

impl Event {
    /// Its name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status { .. } => "status",
            Self::Sources { .. } => "sources",
            Self::Token { .. } => "token",
            Self::Usage { .. } => "usage",
            Self::Done { .. } => "done",
            Self::Error(_) => "error",
        }
    }

    /// Its data on the wire.
    pub fn data(&self) -> Value {
        match self {
            Self::Status { stage, queue_position } => json!({ "stage": stage, "queue_position": queue_position }),
            Self::Sources { as_of, sources } => as_of.beside(json!({ "sources": sources })),
            Self::Token { text } => json!({ "text": text }),
            Self::Usage { prompt_tokens, completion_tokens, total_tokens, cached_prompt_tokens, estimated } => {
                let mut usage = json!({
                    "prompt_tokens": prompt_tokens,
                    "completion_tokens": completion_tokens,
                    "total_tokens": total_tokens,
                    "cached_prompt_tokens": cached_prompt_tokens,
                });
                if *estimated {
                    usage["estimated"] = true.into();
                }
                usage
            }
            Self::Done { finish_reason, cached, as_of } => {
                as_of.beside(json!({ "finish_reason": finish_reason, "cached": cached }))
            }
            Self::Error(problem) => problem.clone(),
        }
    }

    /// The kind of problem it is about, where it is an error.
    pub fn problem_kind(&self) -> Option<&str> {
        match self {
            Self::Error(problem) => problem["type"].as_str()?.rsplit(':').next(),
            _ => None,
        }
    }

    /// Whether nothing comes after it.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Error(_))
    }
}

/// The id of an event on the wire.
pub fn event_id(answer: &str, position: usize) -> String {
    format!("{answer}:{position}")
}

/// The answer and the position that an event's id names; `None` where it is no such id. A reader that has seen the
/// event goes on from the position after it.
pub fn parse_event_id(id: &str) -> Option<(&str, usize)> {
    let (answer, position) = id.rsplit_once(':')?;
    // `parse` alone takes a sign as well.
    let digits = position.bytes().all(|byte| byte.is_ascii_digit());
    (digits && !answer.is_empty()).then_some(())?;
    Some((answer, position.parse().ok()?))
}

/// Most `status` events of an answer. One in a long line changes its place often; what comes later is left out.
const MAX_STATUSES: usize = 256;

/// What bounds an answer.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Bounds {
    /// The most events, those of its status aside.
    pub max_events: usize,
    /// Events that the generation may be ahead of its furthest reader.
    pub window: usize,
    /// How long it is still wanted after its last reader has left, who may come again.
    pub grace: Duration,
    /// How long readers may leave the window full.
    pub stall: Duration,
    /// How long it may take in all.
    pub time: Duration,
}

impl Default for Bounds {
    /// For tests and tools with a reader that is always there.
    fn default() -> Self {
        Self {
            max_events: 4096,
            window: usize::MAX,
            grace: Duration::ZERO,
            stall: Duration::from_secs(60),
            time: Duration::from_secs(3600),
        }
    }
}

/// Why an answer was ended before its model did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Its last reader left and none came.
    Left,
    /// Somebody said so.
    Cancelled,
    /// Its readers took nothing for too long.
    Stalled,
    /// Its time was up.
    Late,
    /// A document that it rests on was deleted.
    Withdrawn,
    /// The service stops.
    Service {
        /// Another replica has what was said.
        elsewhere: bool,
    },
}

/// The log of one answer; see the module.
#[derive(Debug)]
pub struct AnswerLog {
    id: String,
    bounds: Bounds,
    began: Instant,
    /// Another process writes it, and may have told its readers more than has come here.
    copy: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    entries: Vec<Entry>,
    /// Events before these that are gone, where it was withdrawn.
    gone: usize,
    withdrawn: Option<Withdrawn>,
    /// How many of them are about its status.
    statuses: usize,
    /// The text of all tokens.
    text: String,
    closed: Option<Instant>,
    /// It is a copy of which the rest is lost.
    torn: bool,
    readers: usize,
    /// The position that the furthest reader has come to.
    furthest: usize,
    /// Since when there is no reader.
    unread_since: Instant,
    /// The window was full, and its readers have not taken half of it since.
    parked: bool,
    /// Since when it is parked without a reader taking anything.
    full_since: Option<Instant>,
    stopped: Option<Stopped>,
    waiting: Vec<Waker>,
    /// Let go of with the last event.
    held: Vec<Box<dyn Any + Send>>,
}

/// A withdrawn log has one event, which says so, after those that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Withdrawn {
    /// Its readers are told.
    Open,
    /// It had ended: who has read it to its end is told nothing more.
    Ended,
}

/// An event as it is kept: most are tokens, of which there can be thousands.
#[derive(Debug)]
enum Entry {
    /// Its text ends here.
    Token(u32),
    Other(Arc<Event>),
}

/// The one that writes the log. Dropped without a last event, it ends the log with an error.
#[derive(Debug)]
pub struct Writer(Arc<AnswerLog>);

/// A reader with its cursor.
#[derive(Debug)]
pub struct Reader {
    log: Arc<AnswerLog>,
    next: usize,
    /// It has had the last event.
    ended: bool,
}

impl AnswerLog {
    /// An empty log, and its writer.
    pub fn new(id: String, bounds: Bounds) -> (Writer, Arc<Self>) {
        Self::make(id, bounds, false)
    }

    /// An empty copy of a log that another process writes, and its writer here. Readers come from there, and may have heard
    /// more than is here: they wait for what follows that, and are told where it never comes.
    pub fn copy(id: String, bounds: Bounds) -> (Writer, Arc<Self>) {
        Self::make(id, bounds, true)
    }

    fn make(id: String, bounds: Bounds, copy: bool) -> (Writer, Arc<Self>) {
        let began = Instant::now();
        let state = State {
            entries: Vec::new(),
            gone: 0,
            withdrawn: None,
            statuses: 0,
            text: String::new(),
            closed: None,
            torn: false,
            readers: 0,
            furthest: 0,
            unread_since: began,
            parked: false,
            full_since: None,
            stopped: None,
            waiting: Vec::new(),
            held: Vec::new(),
        };
        let log = Arc::new(Self { id, bounds, began, copy, state: Mutex::new(state) });
        (Writer(Arc::clone(&log)), log)
    }

    /// The answer's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether more of it is wanted now.
    pub fn demand(&self) -> Demand {
        let mut state = self.lock();
        if state.stopped.is_some() {
            return Demand::Stop;
        }
        if self.began.elapsed() >= self.bounds.time {
            state.stopped = Some(Stopped::Late);
        } else if state.readers == 0 && state.unread_since.elapsed() >= self.bounds.grace {
            state.stopped = Some(Stopped::Left);
        } else {
            // One that was parked goes on once half of the window was taken: not for each token anew.
            let ahead = state.entries.len().saturating_sub(state.furthest);
            state.parked = if state.parked { ahead > self.bounds.window / 2 } else { ahead >= self.bounds.window };
            if !state.parked {
                state.full_since = None;
                return Demand::Run;
            }
            if state.full_since.get_or_insert_with(Instant::now).elapsed() < self.bounds.stall {
                return Demand::Park;
            }
            state.stopped = Some(Stopped::Stalled);
        }
        Demand::Stop
    }

    /// Ends it: whoever computes for it stops within a token.
    pub fn cancel(&self) {
        self.lock().stopped.get_or_insert(Stopped::Cancelled);
    }

    /// Ends it because the service stops.
    pub fn interrupt(&self, elsewhere: bool) {
        self.lock().stopped.get_or_insert(Stopped::Service { elsewhere });
    }

    /// Why it was ended early, if it was.
    pub fn stopped(&self) -> Option<Stopped> {
        self.lock().stopped
    }

    /// When it got its last event.
    pub fn closed(&self) -> Option<Instant> {
        self.lock().closed
    }

    /// Holds something for as long as it has not ended.
    pub fn keep_until_closed(&self, held: impl Any + Send) {
        let mut state = self.lock();
        if state.closed.is_none() {
            state.held.push(Box::new(held));
        }
    }

    /// Whether somebody reads it.
    pub fn is_read(&self) -> bool {
        self.lock().readers > 0
    }

    /// How many events it has.
    pub fn length(&self) -> usize {
        self.lock().length()
    }

    /// Whether somebody can have heard an event of this position.
    pub fn may_have_said(&self, position: usize) -> bool {
        position < self.length() || (self.copy && position < self.bounds.max_events.saturating_add(MAX_STATUSES))
    }

    /// Whether nothing comes any more from a position on.
    pub fn is_over_at(&self, position: usize) -> bool {
        let state = self.lock();
        state.closed.is_some() && position >= state.length() && !state.torn
    }

    /// What bounds it.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The position that its furthest reader has come to.
    pub fn furthest(&self) -> usize {
        self.lock().furthest
    }

    /// At most so many events from a position on, without being a reader.
    pub fn events(&self, from: usize, most: usize) -> Vec<Arc<Event>> {
        let state = self.lock();
        (from.max(state.gone)..state.length()).take(most).filter_map(|position| state.event(position)).collect()
    }

    /// The first source for which `find` gives something, and that.
    pub fn find_source<T>(&self, find: impl Fn(&Source) -> Option<T>) -> Option<T> {
        let state = self.lock();
        let sources = state.entries.iter().filter_map(|entry| match entry {
            Entry::Other(event) => match &**event {
                Event::Sources { sources, .. } => Some(sources),
                _ => None,
            },
            Entry::Token(_) => None,
        });
        sources.flatten().find_map(find)
    }

    /// Forgets all it says, and ends it with this instead: a document that it rests on was deleted. Whoever computes for
    /// it stops within a token.
    pub fn withdraw(&self, end: Event) {
        // What was held is dropped last: nobody is kept waiting for it.
        let (woken, _held) = {
            let mut state = self.lock();
            if state.withdrawn.is_some() {
                return;
            }
            state.withdrawn = Some(if state.closed.is_some() { Withdrawn::Ended } else { Withdrawn::Open });
            state.gone = state.entries.len();
            state.entries = vec![Entry::Other(Arc::new(end))];
            state.text = String::new();
            state.stopped.get_or_insert(Stopped::Withdrawn);
            state.closed.get_or_insert_with(Instant::now);
            (std::mem::take(&mut state.waiting), std::mem::take(&mut state.held))
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// Whether a document that it rests on was deleted.
    pub fn is_withdrawn(&self) -> bool {
        self.lock().withdrawn.is_some()
    }

    /// A reader of the events from a position on.
    pub fn reader(self: &Arc<Self>, from: usize) -> Reader {
        let mut state = self.lock();
        state.readers += 1;
        state.furthest = state.furthest.max(from.min(state.entries.len()));
        Reader { log: Arc::clone(self), next: from, ended: false }
    }

    fn append(&self, event: Event, torn: bool) {
        // What was held is dropped last: nobody is kept waiting for it.
        let (woken, _held) = {
            let mut state = self.lock();
            let last = event.is_last();
            let status = matches!(event, Event::Status { .. });
            let room = match status {
                true => state.statuses < MAX_STATUSES,
                // One place is kept for the last event.
                false => last || state.entries.len() - state.statuses + 1 < self.bounds.max_events,
            };
            if state.closed.is_some() || !room {
                return;
            }
            state.statuses += usize::from(status);
            state.torn = torn;
            state.closed = last.then(Instant::now);
            let entry = match event {
                Event::Token { text } => {
                    state.text.push_str(&text);
                    Entry::Token(u32::try_from(state.text.len()).unwrap_or(u32::MAX))
                }
                other => Entry::Other(Arc::new(other)),
            };
            state.entries.push(entry);
            let held = if last { std::mem::take(&mut state.held) } else { Vec::new() };
            (std::mem::take(&mut state.waiting), held)
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// A panic elsewhere leaves the list as whole as it was.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    fn length(&self) -> usize {
        self.gone + self.entries.len()
    }

    fn event(&self, position: usize) -> Option<Arc<Event>> {
        let position = position.checked_sub(self.gone)?;
        match self.entries.get(position)? {
            Entry::Other(event) => Some(Arc::clone(event)),
            Entry::Token(end) => {
                let before = self.entries[..position].iter().rev().find_map(|entry| match entry {
                    Entry::Token(end) => Some(*end as usize),
                    Entry::Other(_) => None,
                });
                let text = self.text[before.unwrap_or(0)..*end as usize].to_owned();
                Some(Arc::new(Event::Token { text }))
            }
        }
    }
}

impl Writer {
    /// Adds an event. Beyond the bound, and after the last event, nothing is added.
    pub fn append(&mut self, event: Event) {
        self.0.append(event, false);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let interrupted = Event::Error(json!({
            "type": "urn:answerd:problem:internal",
            "title": "The service failed",
            "status": 500,
            "detail": "the answer was interrupted; ask again",
        }));
        self.0.append(interrupted, self.0.copy);
    }
}

impl Reader {
    /// The position of the event that it reads next.
    pub fn position(&self) -> usize {
        self.next
    }

    /// The log it reads.
    pub fn log(&self) -> &Arc<AnswerLog> {
        &self.log
    }
}

impl Stream for Reader {
    /// Position and event.
    type Item = (usize, Arc<Event>);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (position, event) = {
            let mut state = self.log.lock();
            if self.ended {
                return Poll::Ready(None);
            }
            if state.withdrawn == Some(Withdrawn::Ended) && self.next >= state.gone {
                return Poll::Ready(None);
            }
            let position = self.next.max(state.gone);
            match state.event(position) {
                Some(event) => {
                    state.furthest = state.furthest.max(position + 1);
                    // Who takes what was there before is no stalled reader.
                    state.full_since = None;
                    (position, event)
                }
                // What it heard elsewhere was never to come here, nor what followed: that is what it is told next.
                None if state.torn => match state.event(state.length() - 1) {
                    Some(event) => (position, event),
                    None => return Poll::Ready(None),
                },
                None if state.closed.is_some() => return Poll::Ready(None),
                None => {
                    if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                        state.waiting.push(context.waker().clone());
                    }
                    return Poll::Pending;
                }
            }
        };
        self.next = position + 1;
        self.ended = event.is_last();
        Poll::Ready(Some((position, event)))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.log.lock();
        state.readers -= 1;
        if state.readers == 0 {
            state.unread_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests;
