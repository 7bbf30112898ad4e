use futures_util::{FutureExt, StreamExt};
use proptest::prelude::*;

use super::*;

fn token(n: usize) -> Event {
    Event::Token { text: n.to_string() }
}

fn done() -> Event {
    Event::Done { finish_reason: DoneReason::Stop, cached: false, as_of: AsOf::default() }
}

fn log(bounds: Bounds) -> (Writer, Arc<AnswerLog>) {
    AnswerLog::new("a".into(), bounds)
}

fn sources(document: &str) -> Event {
    let source = Source {
        n: 1,
        document_id: document.into(),
        title: String::new(),
        section: Vec::new(),
        page: None,
        url: None,
        snippet: "48 euros".into(),
        score: 1.0,
        revision: 1,
        start: 0,
        end: 8,
    };
    Event::Sources { as_of: AsOf::default(), sources: vec![source] }
}

#[test]
fn one_that_is_withdrawn_says_nothing_but_that_to_whoever_reads_it() {
    let gone = || Event::Error(json!({ "type": "gone" }));
    let rest = |mut reader: Reader| {
        let mut seen = Vec::new();
        while let Some(Some((position, event))) = reader.next().now_or_never() {
            seen.push((position, event.name()));
        }
        (seen, reader)
    };
    let (mut writer, log) = log(Bounds::default());
    let (mut ahead, behind) = (log.reader(0), log.reader(0));
    writer.append(sources("a"));
    writer.append(token(1));
    for _ in 0..2 {
        ahead.next().now_or_never().expect("an event");
    }
    assert_eq!(log.find_source(|source| Some(source.document_id.clone())).as_deref(), Some("a"));
    log.withdraw(gone());
    assert!(log.is_withdrawn() && log.closed().is_some());
    assert_eq!((log.demand(), log.stopped()), (Demand::Stop, Some(Stopped::Withdrawn)));
    // What its model still says is not heard.
    writer.append(token(2));
    writer.append(done());
    assert_eq!(rest(ahead).0, [(2, "error")]);
    assert_eq!(rest(behind).0, [(2, "error")]);
    assert_eq!((log.length(), log.events(0, 9).len()), (3, 1));
    assert!(!format!("{log:?}").contains("48 euros"));

    // One that had ended: who has read all of it hears no more.
    let (mut writer, log) = self::log(Bounds::default());
    writer.append(token(1));
    writer.append(done());
    let (seen, reader) = rest(log.reader(0));
    assert_eq!(seen.len(), 2);
    log.withdraw(gone());
    assert_eq!(rest(reader).0, []);
    assert_eq!(rest(log.reader(1)).0, [(2, "error")]);
}

#[test]
fn who_heard_more_elsewhere_than_has_come_here_waits_for_what_follows_or_is_told_that_it_is_lost() {
    let next = |reader: &mut Reader| reader.next().now_or_never().map(|got| got.map(|(at, event)| (at, event.name())));
    let (mut writer, log) = AnswerLog::copy("a".into(), Bounds::default());
    writer.append(token(0));
    assert!(log.may_have_said(5) && !log.may_have_said(usize::MAX));
    let (mut ahead, mut far, mut behind) = (log.reader(2), log.reader(6), log.reader(0));
    assert_eq!((next(&mut ahead), next(&mut far)), (None, None));
    (1..4).for_each(|n| writer.append(token(n)));
    assert_eq!((next(&mut ahead), next(&mut ahead)), (Some(Some((2, "token"))), Some(Some((3, "token")))));
    drop(writer);
    assert!(!log.is_over_at(5) && !log.is_over_at(9));
    for (reader, at) in [(&mut ahead, 4), (&mut far, 6), (&mut log.reader(5), 5)] {
        assert_eq!((next(reader), next(reader)), (Some(Some((at, "error"))), Some(None)));
    }
    for n in 0..4 {
        assert_eq!(next(&mut behind), Some(Some((n, "token"))));
    }
    assert_eq!((next(&mut behind), next(&mut behind)), (Some(Some((4, "error"))), Some(None)));

    // What came to its end here is all there is, and of a log of one's own as well.
    let (mut writer, log) = AnswerLog::copy("a".into(), Bounds::default());
    writer.append(done());
    assert!(log.is_over_at(1));
    let (writer, log) = self::log(Bounds::default());
    assert!(!log.may_have_said(0));
    drop(writer);
    assert!(log.is_over_at(1) && !log.may_have_said(1));
}

#[test]
fn it_is_wanted_until_its_last_reader_leaves() {
    let (_writer, log) = log(Bounds::default());
    let (one, two) = (log.reader(0), log.reader(0));
    drop(one);
    assert_eq!(log.demand(), Demand::Run);
    drop(two);
    assert_eq!((log.demand(), log.stopped()), (Demand::Stop, Some(Stopped::Left)));
}

#[test]
fn a_reader_that_comes_again_within_the_grace_keeps_it() {
    let (_writer, log) = log(Bounds { grace: Duration::from_millis(50), ..Bounds::default() });
    drop(log.reader(0));
    assert_eq!(log.demand(), Demand::Run);
    let again = log.reader(0);
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(log.demand(), Demand::Run);
    drop(again);
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(log.demand(), Demand::Stop);
}

#[test]
fn it_runs_a_window_ahead_of_its_furthest_reader_and_ends_where_none_goes_on() {
    let (mut writer, log) = log(Bounds { window: 2, stall: Duration::from_millis(50), ..Bounds::default() });
    let (mut quick, slow) = (log.reader(0), log.reader(0));
    (0..2).for_each(|n| writer.append(token(n)));
    assert_eq!(log.demand(), Demand::Park);
    quick.next().now_or_never().flatten().expect("an event");
    assert_eq!(log.demand(), Demand::Run);
    writer.append(token(2));
    assert_eq!(log.demand(), Demand::Park);
    // Who comes from further on counts as having read what is before.
    let later = log.reader(3);
    assert_eq!(log.demand(), Demand::Run);
    drop((later, slow));
    (3..5).for_each(|n| writer.append(token(n)));
    assert_eq!(log.demand(), Demand::Park);
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!((log.demand(), log.stopped()), (Demand::Stop, Some(Stopped::Stalled)));
}

#[test]
fn one_that_was_parked_goes_on_once_half_of_the_window_was_taken() {
    let (mut writer, log) = log(Bounds { window: 8, stall: Duration::from_millis(60), ..Bounds::default() });
    let mut reader = log.reader(0);
    (0..8).for_each(|n| writer.append(token(n)));
    for _ in 0..3 {
        assert_eq!(log.demand(), Demand::Park);
        reader.next().now_or_never().flatten().expect("an event");
        // Slow is not stalled.
        std::thread::sleep(Duration::from_millis(30));
    }
    assert_eq!(log.demand(), Demand::Park);
    reader.next().now_or_never().flatten().expect("an event");
    assert_eq!(log.demand(), Demand::Run);
}

#[test]
fn changes_of_its_place_take_no_room_of_its_text() {
    let (mut writer, log) = log(Bounds { max_events: 4, ..Bounds::default() });
    let status = |place| Event::Status { stage: Stage::Queued, queue_position: Some(place) };
    (0..10 * MAX_STATUSES).for_each(|place| writer.append(status(place)));
    (0..3).for_each(|n| writer.append(token(n)));
    writer.append(done());
    assert_eq!(log.length(), MAX_STATUSES + 4);
}

#[test]
fn who_cancels_and_whose_time_is_up_ends_it() {
    let (_writer, cancelled) = log(Bounds::default());
    let _reader = cancelled.reader(0);
    cancelled.cancel();
    assert_eq!((cancelled.demand(), cancelled.stopped()), (Demand::Stop, Some(Stopped::Cancelled)));
    let (_writer, late) = log(Bounds { time: Duration::ZERO, ..Bounds::default() });
    let _reader = late.reader(0);
    assert_eq!((late.demand(), late.stopped()), (Demand::Stop, Some(Stopped::Late)));
}

#[test]
fn it_is_closed_by_its_last_event_only() {
    let (mut writer, log) = log(Bounds::default());
    writer.append(token(1));
    assert!(log.closed().is_none());
    writer.append(done());
    assert!(log.closed().is_some());
}

#[test]
fn every_reader_that_waits_is_woken_by_an_event() {
    struct Count(std::sync::atomic::AtomicUsize);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }
    let (mut writer, log) = log(Bounds::default());
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
    let (mut writer, log) = log(Bounds::default());
    writer.append(token(1));
    drop(writer);
    let events: Vec<_> = log.reader(0).collect().now_or_never().expect("the end");
    assert_eq!(events.iter().map(|(_, e)| e.name()).collect::<Vec<_>>(), ["token", "error"]);
}

#[test]
fn the_bound_keeps_a_place_for_the_last_event() {
    let (mut writer, log) = log(Bounds { max_events: 4, ..Bounds::default() });
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
        let (mut writer, log) = log(Bounds::default());
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
