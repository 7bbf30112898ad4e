//! The answer log with what other replicas put into Redis, and the ids of its events.
//!
//! Input: the bounds as JSON on the first line; then on each line an event as JSON, or an operation: `r` and a position
//! for a new reader there, `n` and a number for the next event of that reader, `d` and a number to let go of it, `c` to
//! cancel, `#` and an event's id.
#![no_main]

use std::sync::Arc;

use answerd_fuzz::answer::log::{AnswerLog, Bounds, Event, Reader, event_id, parse_event_id};
use answerd_fuzz::models::Demand;
use futures_util::{FutureExt, StreamExt};
use libfuzzer_sys::fuzz_target;

/// Most `status` events of a log.
const MOST_STATUSES: usize = 256;

fuzz_target!(|input: &[u8]| {
    let input = String::from_utf8_lossy(input);
    let mut lines = input.lines();
    let bounds: Bounds = lines.next().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let (mut writer, log) = AnswerLog::new("a:b".to_owned(), bounds);
    let mut readers: Vec<(usize, Option<Reader>)> = Vec::new();
    let mut written: Vec<Event> = Vec::new();
    for line in lines {
        let number = || line.get(1..).and_then(|number| number.trim().parse::<usize>().ok());
        match line.as_bytes().first() {
            Some(b'r') => {
                let from = number().unwrap_or(0);
                readers.push((from, Some(log.reader(from))));
            }
            Some(b'n') => {
                let Some((next, Some(reader))) = number().and_then(|n| readers.get_mut(n)) else { continue };
                match reader.next().now_or_never().flatten() {
                    Some((position, event)) => {
                        assert_eq!((position, Some(&*event)), (*next, written.get(position)), "what was written there");
                        *next += 1;
                    }
                    None => assert!(*next >= written.len(), "there is more"),
                }
                assert_eq!(reader.position(), *next);
            }
            Some(b'd') => {
                if let Some(reader) = number().and_then(|n| readers.get_mut(n)) {
                    reader.1 = None;
                }
            }
            Some(b'c') => {
                log.cancel();
                assert_eq!(log.demand(), Demand::Stop);
            }
            Some(b'#') => check_id(&line[1..]),
            _ => {
                let Ok(event) = serde_json::from_str::<Event>(line) else { continue };
                let again = serde_json::to_string(&event).expect("JSON");
                assert_eq!(serde_json::from_str::<Event>(&again).ok().as_ref(), Some(&event), "{again}");
                event.data();
                event.problem_kind();
                let (before, closed, last) = (log.length(), log.closed().is_some(), event.is_last());
                writer.append(event.clone());
                if log.length() > before {
                    assert!(!closed, "written after its end");
                    written.push(event);
                } else {
                    assert!(closed || !last, "there is always room for the last event");
                }
            }
        }
        assert_eq!(log.length(), written.len());
        assert!(log.length() <= bounds.max_events.max(1).saturating_add(MOST_STATUSES), "{} events", log.length());
        assert_eq!(log.is_read(), readers.iter().any(|(_, reader)| reader.is_some()));
        assert!(log.furthest() <= log.length());
        log.demand();
    }
    let all: Vec<Event> = log.events(0, usize::MAX).into_iter().map(|event| Arc::unwrap_or_clone(event)).collect();
    assert_eq!(all, written);
    drop(writer);
    assert!(log.closed().is_some() && log.events(0, usize::MAX).iter().filter(|event| event.is_last()).count() == 1);
});

fn check_id(id: &str) {
    if let Some((answer, position)) = parse_event_id(id) {
        assert!(id.starts_with(answer) && !answer.is_empty());
        assert_eq!(parse_event_id(&event_id(answer, position)), Some((answer, position)));
    }
}
