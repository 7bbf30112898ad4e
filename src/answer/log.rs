//! The answer log: one generation writes it, any number of readers follow it, each with a cursor of its own.
//!
//! It is an append-only list of events, bounded by the output limit. A reader that comes late sees everything from
//! where it asks. When the last reader leaves, the answer is no longer wanted, and who computes for it stops.
//! Plain std: wakers of whatever runtime polls the readers.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use serde::Serialize;
use serde_json::{Value, json};

use crate::freshness::AsOf;

/// Where an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
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
#[derive(Debug, Clone, PartialEq, Serialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Debug, Clone, PartialEq)]
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
            Self::Usage { prompt_tokens, completion_tokens, total_tokens, cached_prompt_tokens } => json!({
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": total_tokens,
                "cached_prompt_tokens": cached_prompt_tokens,
            }),
            Self::Done { finish_reason, cached, as_of } => {
                as_of.beside(json!({ "finish_reason": finish_reason, "cached": cached }))
            }
            Self::Error(problem) => problem.clone(),
        }
    }

    fn is_last(&self) -> bool {
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

/// The log of one answer; see the module.
#[derive(Debug)]
pub struct AnswerLog {
    id: String,
    max_events: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Arc<Event>>,
    closed: bool,
    readers: usize,
    had_readers: bool,
    kept: bool,
    waiting: Vec<Waker>,
}

/// The one that writes the log. Dropped without a last event, it ends the log with an error.
#[derive(Debug)]
pub struct Writer(Arc<AnswerLog>);

/// A reader with its cursor.
#[derive(Debug)]
pub struct Reader {
    log: Arc<AnswerLog>,
    next: usize,
}

impl AnswerLog {
    /// A log for at most `max_events` events, and its writer.
    pub fn new(id: String, max_events: usize) -> (Writer, Arc<Self>) {
        let log = Arc::new(Self { id, max_events, state: Mutex::default() });
        (Writer(Arc::clone(&log)), log)
    }

    /// The answer's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether somebody reads, or may yet begin to.
    pub fn wanted(&self) -> bool {
        let state = self.lock();
        state.readers > 0 || !state.had_readers || state.kept
    }

    /// Makes it wanted for good, with or without a reader. To keep it wanted for a while, hold a reader.
    pub fn keep(&self) {
        self.lock().kept = true;
    }

    /// Whether it has its last event.
    pub fn closed(&self) -> bool {
        self.lock().closed
    }

    /// A reader of the events from a position on.
    pub fn reader(self: &Arc<Self>, from: usize) -> Reader {
        let mut state = self.lock();
        state.readers += 1;
        state.had_readers = true;
        Reader { log: Arc::clone(self), next: from }
    }

    fn append(&self, event: Event) {
        let woken = {
            let mut state = self.lock();
            let last = event.is_last();
            // One place is kept for the last event.
            if state.closed || (!last && state.events.len() + 1 >= self.max_events) {
                return;
            }
            state.closed = last;
            state.events.push(Arc::new(event));
            std::mem::take(&mut state.waiting)
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// A panic elsewhere leaves the list as whole as it was.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Writer {
    /// Adds an event. Beyond the bound, and after the last event, nothing is added.
    pub fn append(&mut self, event: Event) {
        self.0.append(event);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.append(Event::Error(json!({
            "type": "urn:answerd:problem:internal",
            "title": "The service failed",
            "status": 500,
            "detail": "the answer was interrupted; ask again",
        })));
    }
}

impl Stream for Reader {
    /// Position and event.
    type Item = (usize, Arc<Event>);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let found = {
            let mut state = self.log.lock();
            match state.events.get(self.next) {
                Some(event) => Some(Arc::clone(event)),
                None if state.closed => None,
                None => {
                    if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                        state.waiting.push(context.waker().clone());
                    }
                    return Poll::Pending;
                }
            }
        };
        let position = self.next;
        self.next += usize::from(found.is_some());
        Poll::Ready(found.map(|event| (position, event)))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.log.lock().readers -= 1;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};
    use proptest::prelude::*;

    use super::*;

    fn token(n: usize) -> Event {
        Event::Token { text: n.to_string() }
    }

    fn done() -> Event {
        Event::Done { finish_reason: DoneReason::Stop, cached: false, as_of: AsOf::default() }
    }

    #[test]
    fn it_is_wanted_until_its_last_reader_leaves() {
        let (_writer, log) = AnswerLog::new("a".into(), 9);
        assert!(log.wanted());
        let (one, two) = (log.reader(0), log.reader(0));
        drop(one);
        assert!(log.wanted());
        drop(two);
        assert!(!log.wanted());
    }

    #[test]
    fn a_kept_log_is_wanted_without_a_reader() {
        let (_writer, log) = AnswerLog::new("a".into(), 9);
        drop(log.reader(0));
        log.keep();
        assert!(log.wanted());
    }

    #[test]
    fn it_is_closed_by_its_last_event_only() {
        let (mut writer, log) = AnswerLog::new("a".into(), 9);
        writer.append(token(1));
        assert!(!log.closed());
        writer.append(done());
        assert!(log.closed());
    }

    #[test]
    fn every_reader_that_waits_is_woken_by_an_event() {
        struct Count(std::sync::atomic::AtomicUsize);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let (mut writer, log) = AnswerLog::new("a".into(), 9);
        let mut readers: Vec<_> = (0..3).map(|_| (log.reader(0), Arc::new(Count(0.into())))).collect();
        for wanted in 1..=3 {
            for (reader, count) in &mut readers {
                let waker = Waker::from(Arc::clone(count));
                assert!(reader.poll_next_unpin(&mut Context::from_waker(&waker)).is_pending());
            }
            if wanted == 3 {
                writer.append(done())
            } else {
                writer.append(token(wanted))
            }
            for (reader, count) in &mut readers {
                assert_eq!(count.0.load(std::sync::atomic::Ordering::SeqCst), wanted);
                assert!(reader.next().now_or_never().flatten().is_some());
            }
        }
    }

    #[test]
    fn an_event_id_names_its_answer_and_position() {
        assert_eq!(parse_event_id(&event_id("019a:x", 12)), Some(("019a:x", 12)));
        for id in ["", "a", ":1", "a:", "a:-1", "a:+1", "a:1x", "a:99999999999999999999999"] {
            assert_eq!(parse_event_id(id), None, "{id}");
        }
    }

    #[test]
    fn a_writer_that_is_dropped_early_ends_the_log_with_an_error() {
        let (mut writer, log) = AnswerLog::new("a".into(), 9);
        writer.append(token(1));
        drop(writer);
        let events: Vec<_> = log.reader(0).collect().now_or_never().expect("the end");
        assert_eq!(events.iter().map(|(_, e)| e.name()).collect::<Vec<_>>(), ["token", "error"]);
    }

    #[test]
    fn the_bound_keeps_a_place_for_the_last_event() {
        let (mut writer, log) = AnswerLog::new("a".into(), 4);
        (0..9).for_each(|n| writer.append(token(n)));
        writer.append(done());
        writer.append(token(9));
        let events: Vec<_> = log.reader(0).collect().now_or_never().expect("the end");
        assert_eq!(events.len(), 4);
        assert_eq!(events[3].1.name(), "done");
    }

    proptest! {
        #[test]
        fn every_reader_sees_all_from_its_start_once_and_in_order(
            steps in proptest::collection::vec(0usize..4, 0..120), starts in proptest::collection::vec(0usize..10, 1..4)
        ) {
            let (mut writer, log) = AnswerLog::new("a".into(), 1000);
            let mut readers: Vec<(usize, Reader, Vec<usize>)> =
                starts.into_iter().map(|from| (from, log.reader(from), Vec::new())).collect();
            let mut written = 0;
            for step in steps {
                if step == 0 {
                    writer.append(token(written));
                    written += 1;
                } else if let Some((_, reader, seen)) = readers.get_mut(step - 1)
                    && let Some(Some((position, _))) = reader.next().now_or_never()
                {
                    seen.push(position);
                }
            }
            writer.append(done());
            for (from, mut reader, mut seen) in readers {
                while let Some(Some((position, _))) = reader.next().now_or_never() {
                    seen.push(position);
                }
                prop_assert_eq!(seen, (from..written.max(from.min(written)) + 1).filter(|p| *p <= written).collect::<Vec<_>>());
            }
        }
    }
}
