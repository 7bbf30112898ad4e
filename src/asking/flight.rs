//! A generation under way, and the answers that are written from it: one, or as many as ask the same at once.
//!
//! Every answer has a log of its own, with its own readers, limits, owner and end: who leaves, stalls or cancels ends only
//! its own. The generation goes on as long as any of them wants more, at the pace of the quickest.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::sink::ending;
use crate::answer::log::{AnswerLog, DoneReason, Event, Source, Stage, Writer};
use crate::error::ServiceError;
use crate::freshness::AsOf;
use crate::models::{Demand, FinishReason, Finished};

/// An answer that is written from a generation.
pub(super) struct Member {
    /// Its log.
    pub(super) log: Arc<AnswerLog>,
    /// The writer of its log.
    pub(super) writer: Writer,
    /// How fresh the index was when it was asked for.
    pub(super) as_of: AsOf,
    /// Who asked.
    pub(super) caller: Arc<str>,
    /// When.
    pub(super) began: Instant,
    /// Whether it has its sources.
    sourced: bool,
    first_token_ms: Option<u64>,
}

impl Member {
    pub(super) fn new(writer: Writer, log: Arc<AnswerLog>, as_of: AsOf, caller: Arc<str>) -> Self {
        Self { log, writer, as_of, caller, began: Instant::now(), sourced: false, first_token_ms: None }
    }

    fn say(&mut self, event: Event) {
        if matches!(event, Event::Token { .. }) && self.first_token_ms.is_none() {
            self.first_token_ms = Some(self.began.elapsed().as_millis() as u64);
        }
        self.writer.append(event);
    }

    fn sources(&mut self, sources: Vec<Source>) {
        self.sourced = true;
        self.say(Event::Sources { as_of: self.as_of, sources });
    }

    fn end(mut self, end: Event) -> Ended {
        let error = end.problem_kind().map(str::to_owned);
        let cancelled = matches!(end, Event::Done { finish_reason: DoneReason::Cancelled, .. });
        let cached = matches!(end, Event::Done { cached: true, .. });
        self.writer.append(end);
        Ended { cancelled, cached, ..self.account(error) }
    }

    fn account(self, error: Option<String>) -> Ended {
        Ended {
            answer: self.log.id().to_owned(),
            caller: self.caller,
            first_token_ms: self.first_token_ms,
            total_ms: self.began.elapsed().as_millis() as u64,
            cancelled: false,
            cached: false,
            error,
        }
    }
}

/// An answer that has ended.
pub(super) struct Ended {
    pub(super) answer: String,
    pub(super) caller: Arc<str>,
    pub(super) first_token_ms: Option<u64>,
    pub(super) total_ms: u64,
    pub(super) cancelled: bool,
    /// All of it was there when it came.
    pub(super) cached: bool,
    pub(super) error: Option<String>,
}

/// See the module.
pub(super) struct Flight(Mutex<State>);

#[derive(Default)]
struct State {
    members: Vec<Member>,
    /// Those that left before its end.
    left: Vec<Ended>,
    /// Whether others may come: what was said is kept for them.
    open: bool,
    sources: Option<Vec<Source>>,
    status: Option<(Stage, Option<usize>)>,
    text: String,
    /// The model's last word.
    finished: Option<Finished>,
    /// What was said before it was begun again, and has to come again.
    again: String,
    /// What came was something else.
    diverged: bool,
    /// Until when others than its answers want more.
    heeded: Option<Instant>,
}

impl Flight {
    /// A generation for one answer. What is said is kept for those who may join it, and for the cache, if it is `open`.
    pub(super) fn new(member: Member, open: bool) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { members: vec![member], open, ..State::default() })))
    }

    /// Lets an answer be written from it too: what was said until now at once. Gives the answer back where it has failed,
    /// or goes on elsewhere.
    pub(super) fn join(&self, mut member: Member) -> Result<(), Member> {
        let mut state = self.0.lock();
        if !state.open {
            return Err(member);
        }
        if let Some(sources) = state.sources.clone().filter(|_| !member.sourced) {
            member.sources(sources);
        }
        if let Some((stage, queue_position)) = state.status {
            member.say(Event::Status { stage, queue_position });
        }
        if !state.text.is_empty() {
            member.say(Event::Token { text: state.text.clone() });
        }
        match state.finished {
            // To who comes after its end it is one that is kept, also where it is not in the cache yet.
            Some(finished) => {
                let ended = conclude(member, &finished, true);
                state.left.push(ended);
            }
            None => state.members.push(member),
        }
        Ok(())
    }

    /// Has all answers written from another generation instead: of the same evidence, begun before. Whether it could.
    pub(super) fn move_to(&self, other: &Self) -> bool {
        let members = {
            let mut state = self.0.lock();
            state.open = false;
            std::mem::take(&mut state.members)
        };
        let mut refused = Vec::new();
        for member in members {
            refused.extend(other.join(member).err());
        }
        let moved = refused.is_empty();
        let mut state = self.0.lock();
        state.open = !moved;
        state.members = refused;
        moved
    }

    /// Tells all where it is.
    pub(super) fn status(&self, stage: Stage, queue_position: Option<usize>) {
        let mut state = self.0.lock();
        state.status = Some((stage, queue_position));
        state.members.iter_mut().for_each(|member| member.say(Event::Status { stage, queue_position }));
    }

    /// Tells all what it rests on.
    pub(super) fn sources(&self, sources: Vec<Source>) {
        let mut state = self.0.lock();
        state.members.iter_mut().for_each(|member| member.sources(sources.clone()));
        state.sources = state.open.then_some(sources);
    }

    /// Tells all more of the text.
    pub(super) fn text(&self, text: String) {
        let mut state = self.0.lock();
        let text = match state.unsaid(text) {
            Some(text) => text,
            None => return,
        };
        if state.open {
            state.text.push_str(&text);
        }
        if let Some((last, others)) = state.members.split_last_mut() {
            others.iter_mut().for_each(|member| member.say(Event::Token { text: text.clone() }));
            last.say(Event::Token { text });
        }
    }

    /// It is begun again from its beginning: what was said has to come again, and is not said twice.
    pub(super) fn begin_again(&self) {
        let mut state = self.0.lock();
        state.again = state.text.clone();
    }

    /// Others than its answers want more until then, or do not.
    pub(super) fn heed(&self, until: Option<Instant>) {
        self.0.lock().heeded = until;
    }

    /// What was said after so many bytes; and the end, where it is complete.
    pub(super) fn said(&self, from: usize) -> (String, Option<Finished>) {
        let state = self.0.lock();
        let text = state.text.get(from..).unwrap_or_default().to_owned();
        (text, state.finished.filter(|finished| finished.reason != FinishReason::Cancelled))
    }

    /// Whether any of them wants more now. Who wants no more while others do is ended here; of all that want no more the
    /// last is kept, to hear what was used.
    pub(super) fn demand(&self) -> Demand {
        let mut state = self.0.lock();
        let state = &mut *state;
        if state.diverged {
            return Demand::Stop;
        }
        let heeded = state.heeded.is_some_and(|until| until > Instant::now());
        let mut demand = if heeded { Demand::Run } else { Demand::Stop };
        let mut n = 0;
        while n < state.members.len() {
            match state.members[n].log.demand() {
                Demand::Stop if heeded || state.members.len() > 1 => {
                    let member = state.members.swap_remove(n);
                    let end = ending(FinishReason::Cancelled, &member.log, member.as_of, false);
                    state.left.push(member.end(end));
                    continue;
                }
                Demand::Run => demand = Demand::Run,
                Demand::Park if demand == Demand::Stop => demand = Demand::Park,
                Demand::Park | Demand::Stop => {}
            }
            n += 1;
        }
        demand
    }

    /// Ends all of them as the model did. One that is complete stays open, until its text is found elsewhere.
    pub(super) fn finish(&self, finished: &Finished) -> Vec<Ended> {
        let mut state = self.0.lock();
        if state.diverged || !state.again.is_empty() {
            drop(state);
            return self.close(&|_| vec![super::problem(ServiceError::Interrupted)]);
        }
        state.open &= finished.reason != FinishReason::Cancelled;
        state.finished = Some(*finished);
        let mut ended = std::mem::take(&mut state.left);
        ended.extend(std::mem::take(&mut state.members).into_iter().map(|member| conclude(member, finished, false)));
        ended
    }

    /// Ends all of them with these last events.
    pub(super) fn close(&self, events: &dyn Fn(AsOf) -> Vec<Event>) -> Vec<Ended> {
        let mut state = self.0.lock();
        state.open = false;
        let mut ended = std::mem::take(&mut state.left);
        for mut member in std::mem::take(&mut state.members) {
            let mut events = events(member.as_of);
            let Some(last) = events.pop() else { continue };
            events.into_iter().for_each(|event| member.say(event));
            ended.push(member.end(last));
        }
        ended
    }

    /// Takes back what all of them said, and ends them: a document that they rest on was deleted.
    pub(super) fn withdraw(&self) {
        let end = || super::problem(ServiceError::DocumentDeleted);
        self.0.lock().members.iter().for_each(|member| member.log.withdraw(end()));
        self.close(&|_| vec![end()]);
    }

    /// Nobody may come any more. Gives the answers that have ended since anybody asked.
    pub(super) fn shut(&self) -> Vec<Ended> {
        let mut state = self.0.lock();
        state.open = false;
        std::mem::take(&mut state.left)
    }

    /// Nobody may come any more; those that have come are told that it was interrupted, by their logs.
    pub(super) fn abandon(&self) -> Vec<Ended> {
        let mut state = self.0.lock();
        state.open = false;
        let interrupted = std::mem::take(&mut state.members);
        let mut ended = std::mem::take(&mut state.left);
        ended.extend(interrupted.into_iter().map(|member| member.account(Some("internal".to_owned()))));
        ended
    }

    /// The text and how the model ended, where it is complete.
    pub(super) fn outcome(&self) -> Option<(String, Finished)> {
        let (text, finished) = self.said(0);
        // One that nobody could join has kept no text.
        let open = self.0.lock().open;
        Some((text, finished.filter(|_| open)?))
    }
}

impl State {
    /// What of a text is new, where something was said before.
    fn unsaid(&mut self, mut text: String) -> Option<String> {
        if self.diverged {
            return None;
        }
        let common = self.again.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        if common < self.again.len().min(text.len()) {
            self.diverged = true;
            return None;
        }
        self.again.drain(..common);
        let new = text.split_off(common);
        (!new.is_empty()).then_some(new)
    }
}

/// The end of an answer whose model has ended; before it came, where it is `cached`: then all had been computed.
fn conclude(mut member: Member, finished: &Finished, cached: bool) -> Ended {
    let cached_prompt_tokens = if cached { finished.prompt_tokens } else { finished.cached_prompt_tokens };
    member.say(usage(&Finished { cached_prompt_tokens, ..*finished }));
    let end = ending(finished.reason, &member.log, member.as_of, cached);
    member.end(end)
}

/// What a generation took.
pub(super) fn usage(finished: &Finished) -> Event {
    Event::Usage {
        prompt_tokens: finished.prompt_tokens,
        completion_tokens: finished.completion_tokens,
        total_tokens: finished.prompt_tokens + finished.completion_tokens,
        cached_prompt_tokens: finished.cached_prompt_tokens,
        estimated: finished.estimated,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};
    use proptest::prelude::*;

    use super::*;
    use crate::answer::log::Bounds;

    fn member(id: &str) -> (Member, Arc<AnswerLog>) {
        let (writer, log) = AnswerLog::new(id.into(), Bounds::default());
        let member = Member::new(writer, Arc::clone(&log), AsOf::default(), "ip:127.0.0.1".into());
        (member, log)
    }

    fn finished(reason: FinishReason) -> Finished {
        Finished { completion_tokens: 7, ..Finished::unbegun(reason) }
    }

    /// The text of an answer, and the name of its last event.
    fn read(log: &Arc<AnswerLog>) -> (String, String) {
        let events: Vec<_> = log.reader(0).collect().now_or_never().expect("the end");
        let text = events.iter().filter_map(|(_, event)| match &**event {
            Event::Token { text } => Some(text.as_str()),
            _ => None,
        });
        (text.collect(), events.last().expect("an event").1.name().to_owned())
    }

    #[test]
    fn who_comes_late_hears_all_of_it_and_who_comes_after_its_end_too() {
        let ((first, one), (second, two), (third, three), (fourth, _)) =
            (member("1"), member("2"), member("3"), member("4"));
        let flight = Flight::new(first, true);
        flight.status(Stage::Reading, None);
        flight.sources(Vec::new());
        flight.text("a ".into());
        assert!(flight.join(second).is_ok());
        flight.text("b".into());
        let ended = flight.finish(&finished(FinishReason::Stop));
        assert_eq!(ended.len(), 2);
        assert!(flight.join(third).is_ok());
        for log in [&one, &two, &three] {
            assert_eq!(read(log), ("a b".into(), "done".into()));
            let names: Vec<_> = log.events(0, 99).iter().map(|event| event.name()).collect();
            assert!(names.contains(&"sources") && names.contains(&"status") && names.contains(&"usage"), "{names:?}");
        }
        // To who comes after it, it is one that was kept.
        let cached = [&one, &two, &three].map(|log| match **log.events(0, 99).last().expect("an event") {
            Event::Done { cached, .. } => cached,
            _ => panic!("no end"),
        });
        assert_eq!(cached, [false, false, true]);
        assert_eq!(flight.outcome().expect("complete").0, "a b");
        assert_eq!(flight.shut().iter().map(|ended| ended.cached).collect::<Vec<_>>(), [true]);
        assert!(flight.join(fourth).is_err());
    }

    #[test]
    fn nothing_can_be_read_again_of_what_is_withdrawn_and_nobody_joins_it() {
        let ((first, one), (second, two), (third, _)) = (member("1"), member("2"), member("3"));
        let flight = Flight::new(first, true);
        flight.sources(Vec::new());
        flight.text("a".into());
        assert!(flight.join(second).is_ok());
        flight.withdraw();
        for log in [&one, &two] {
            assert_eq!(read(log), (String::new(), "error".into()));
            assert!(log.is_withdrawn());
        }
        assert!(flight.join(third).is_err());
    }

    #[test]
    fn it_is_wanted_as_long_as_anybody_wants_it() {
        let ((first, one), (second, two)) = (member("1"), member("2"));
        let (reader_of_one, reader_of_two) = (one.reader(0), two.reader(0));
        let flight = Flight::new(first, true);
        assert!(flight.join(second).is_ok());
        drop(reader_of_one);
        assert_eq!(flight.demand(), Demand::Run);
        assert_eq!(read(&one), (String::new(), "done".into()));
        drop(reader_of_two);
        flight.heed(Some(Instant::now() + std::time::Duration::from_secs(60)));
        assert_eq!(flight.demand(), Demand::Run);
        flight.heed(None);
        assert_eq!(flight.demand(), Demand::Stop);
    }

    #[test]
    fn what_was_cancelled_or_failed_is_joined_by_nobody() {
        for fails in [false, true] {
            let ((first, one), (second, _)) = (member("1"), member("2"));
            let flight = Flight::new(first, true);
            flight.text("a".into());
            match fails {
                true => drop(flight.close(&|_| vec![super::super::problem(ServiceError::TooLate)])),
                false => drop(flight.finish(&finished(FinishReason::Cancelled))),
            }
            assert!(flight.outcome().is_none() && flight.join(second).is_err());
            assert_eq!(read(&one).1, if fails { "error" } else { "done" });
        }
    }

    #[test]
    fn all_go_over_to_another_one_of_the_same_evidence() {
        let ((first, one), (second, two)) = (member("1"), member("2"));
        let (mine, other) = (Flight::new(first, true), Flight::new(second, true));
        other.text("said before ".into());
        assert!(mine.move_to(&other) && mine.join(member("3").0).is_err());
        other.text("and after".into());
        other.finish(&finished(FinishReason::Stop));
        assert_eq!(read(&one), read(&two));
        let (late, log) = member("4");
        let late = Flight::new(late, true);
        other.shut();
        assert!(!late.move_to(&other));
        late.text("its own".into());
        late.finish(&finished(FinishReason::Length));
        assert_eq!(read(&log).0, "its own");
    }

    proptest! {
        #[test]
        fn begun_again_it_says_nothing_twice_and_other_words_are_an_error(
            pieces in proptest::collection::vec("[aä✓ ]{0,3}", 1..12), before in 0usize..12, cuts in proptest::collection::vec(1usize..4, 12),
            changed in proptest::option::of(0usize..40)
        ) {
            let (first, one) = member("1");
            let _reader = one.reader(0);
            let flight = Flight::new(first, true);
            let said: String = pieces.iter().take(before).map(String::as_str).collect();
            pieces.iter().take(before).for_each(|piece| flight.text(piece.clone()));
            flight.begin_again();
            let whole: String = pieces.concat();
            let mut chars: Vec<char> = whole.chars().collect();
            // Only within what was said before.
            let differs = changed.filter(|at| *at < said.chars().count());
            if let Some(at) = differs {
                chars[at] = 'x';
            }
            let mut rest = chars.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, more) = rest.split_at((*cut).min(rest.len()));
                flight.text(piece.iter().collect());
                rest = more;
            }
            prop_assert_eq!(flight.demand() == Demand::Stop, differs.is_some());
            flight.finish(&finished(FinishReason::Stop));
            let (text, last) = read(&one);
            match differs {
                None => prop_assert_eq!((text, last.as_str()), (whole, "done")),
                Some(_) => prop_assert_eq!((text, last.as_str()), (said, "error")),
            }
        }
    }
}
