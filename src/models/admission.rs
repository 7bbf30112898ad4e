//! Whether a request may wait for a model: bounded by requests and by tokens of prompts, and by when it could expect
//! its first token, as measured on those before it.
//!
//! A caller with nothing in line is let in beyond both bounds, up to a quarter more: so that one who fills the line
//! does not shut out those that would go before it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

/// Weight of the newest measurement in the averages.
const NEWEST: f64 = 0.2;

/// What may wait.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests that may wait.
    pub requests: usize,
    /// Tokens of the prompts of those that may wait.
    pub prefill_tokens: usize,
    /// The latest time at which a request that somebody waits for is to have its first token.
    pub first_token: Duration,
}

/// The state of one model's admission.
#[derive(Debug, Clone)]
pub struct Admission {
    limits: Limits,
    /// Requests that wait, by caller.
    callers: HashMap<Arc<str>, usize>,
    waiting: usize,
    waiting_tokens: usize,
    running: usize,
    engines: Engines,
    refused: u64,
    /// Seconds from the start of a sequence to its first token, and tokens of its prompt that were computed for it;
    /// older ones count less.
    reading: (f64, f64),
    /// Seconds that a sequence has its place.
    hold_s: Option<f64>,
}

/// The engines of a model, as they are now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Engines {
    /// Sequences they run at once.
    pub slots: usize,
    /// Sequences that wait for their readers: they have a place only as long as nobody else wants it.
    pub parked: usize,
}

/// A request that would wait.
#[derive(Debug, Clone)]
pub struct Newcomer {
    /// Who asks.
    pub caller: Arc<str>,
    /// Tokens of its prompt, at most.
    pub prompt_tokens: usize,
    /// Requests that wait and would go after it, where it is let in.
    pub behind: usize,
    /// Until when it is to have its first token.
    pub objective: Duration,
}

/// Why a request may not wait, with the counts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Refusal {
    /// What is full.
    #[serde(skip)]
    pub reason: String,
    /// When there may be room, in seconds, as measured.
    #[serde(skip)]
    pub retry_after_s: u64,
    /// Requests that wait.
    pub waiting: usize,
    /// The most that may.
    pub max_waiting: usize,
    /// Sequences that run.
    pub running: usize,
    /// The most that may.
    pub slots: usize,
    /// Tokens of the prompts of those that wait.
    pub waiting_prompt_tokens: usize,
    /// The most there may be.
    pub max_waiting_prompt_tokens: usize,
    /// When this request could expect its first token, in milliseconds.
    pub expected_first_token_ms: u64,
}

impl Admission {
    /// With nobody there yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            callers: HashMap::new(),
            waiting: 0,
            waiting_tokens: 0,
            running: 0,
            engines: Engines::default(),
            refused: 0,
            reading: (0.0, 0.0),
            hold_s: None,
        }
    }

    /// Lets a request wait.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was counted then.
    pub fn admit(&mut self, newcomer: &Newcomer) -> Result<(), Refusal> {
        let Limits { requests, prefill_tokens, .. } = self.limits;
        let prompt_tokens = newcomer.prompt_tokens;
        let (expected, objective) = (self.expected_first_token(newcomer), newcomer.objective);
        let (running, slots) = (self.computing(), self.engines.slots);
        let inside = running + self.waiting;
        let ahead = inside.saturating_sub(slots);
        let known = self.callers.contains_key(&newcomer.caller);
        let beyond = |limit: usize| if known { limit } else { limit + limit.div_ceil(4) };
        let reason = if inside < slots {
            None
        } else if ahead >= beyond(requests) {
            Some(format!("{ahead} requests wait for the model, the limit is {requests}"))
        } else if ahead > 0 && self.waiting_tokens + prompt_tokens > beyond(prefill_tokens) {
            let waiting = self.waiting_tokens;
            Some(format!(
                "prompts of {waiting} tokens wait for the model, with this one there would be more than {prefill_tokens}"
            ))
        } else if expected > objective {
            let (expected, most) = (expected.as_secs_f64(), objective.as_secs_f64());
            Some(format!("its first token could be expected after {expected:.1} s, the limit is {most} s"))
        } else {
            None
        };
        let Some(reason) = reason else {
            self.waiting += 1;
            self.waiting_tokens += prompt_tokens;
            *self.callers.entry(Arc::clone(&newcomer.caller)).or_default() += 1;
            return Ok(());
        };
        self.refused += 1;
        let wait = self.turn_s().max(expected.saturating_sub(objective).as_secs_f64());
        Err(Refusal {
            reason,
            retry_after_s: whole_seconds(wait),
            waiting: ahead,
            max_waiting: requests,
            running,
            slots,
            waiting_prompt_tokens: self.waiting_tokens,
            max_waiting_prompt_tokens: prefill_tokens,
            expected_first_token_ms: u64::try_from(expected.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// When a request that comes now could expect its first token. Zero before anything was measured.
    pub fn expected_first_token(&self, newcomer: &Newcomer) -> Duration {
        let before = (self.computing() + self.waiting).saturating_sub(newcomer.behind);
        let wait = (before + 1).saturating_sub(self.engines.slots) as f64 * self.hold_s.map_or(0.0, |_| self.turn_s());
        let read = newcomer.prompt_tokens as f64 * self.read_s().unwrap_or(0.0);
        Duration::try_from_secs_f64(wait + read).unwrap_or(Duration::MAX)
    }

    /// After how many seconds there may be a place, as measured.
    pub fn retry_after_s(&self) -> u64 {
        whole_seconds(self.turn_s())
    }

    /// A place is free once a sequence ends, of which there are as many as slots.
    fn turn_s(&self) -> f64 {
        self.hold_s.unwrap_or(1.0) / self.engines.slots.max(1) as f64
    }

    fn read_s(&self) -> Option<f64> {
        let (seconds, tokens) = self.reading;
        (tokens > 0.0).then(|| seconds / tokens)
    }

    /// The prompt of a request that waits is known: it was taken to have `before` tokens and has `now`.
    pub fn resize(&mut self, before: usize, now: usize) {
        self.waiting_tokens = self.waiting_tokens + now - before.min(self.waiting_tokens + now);
    }

    /// The engines are so now.
    pub fn engines(&mut self, engines: Engines) {
        self.engines = engines;
    }

    fn computing(&self) -> usize {
        self.running.saturating_sub(self.engines.parked)
    }

    /// A request that waited begins.
    pub fn begin(&mut self, caller: &Arc<str>, prompt_tokens: usize) {
        self.leave(caller, prompt_tokens);
        self.running += 1;
    }

    /// A request that waited is gone.
    pub fn leave(&mut self, caller: &Arc<str>, prompt_tokens: usize) {
        self.waiting = self.waiting.saturating_sub(1);
        self.waiting_tokens = self.waiting_tokens.saturating_sub(prompt_tokens);
        if let Some(own) = self.callers.get_mut(caller) {
            *own -= 1;
            if *own == 0 {
                self.callers.remove(caller);
            }
        }
    }

    /// A sequence that ran has ended.
    pub fn end(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// A sequence had its first token so long after its start; so many tokens of its prompt had to be computed for it.
    pub fn measured_first_token(&mut self, computed: usize, time: Duration) {
        let (seconds, tokens) = &mut self.reading;
        *seconds = *seconds * (1.0 - NEWEST) + time.as_secs_f64();
        *tokens = *tokens * (1.0 - NEWEST) + computed.max(1) as f64;
    }

    /// A sequence had its place for so long.
    pub fn measured_hold(&mut self, time: Duration) {
        let measured = time.as_secs_f64();
        self.hold_s = Some(self.hold_s.map_or(measured, |before| before + NEWEST * (measured - before)));
    }

    /// For the admin page.
    pub fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "waiting": self.waiting,
            "waiting_prompt_tokens": self.waiting_tokens,
            "running": self.computing(),
            "parked": self.running - self.computing(),
            "slots": self.engines.slots,
            "refused": self.refused,
            "first_token_ms_per_prompt_token": self.read_s().map(|s| s * 1e3),
            "sequence_ms": self.hold_s.map(|s| s * 1e3),
        })
    }

    /// Those that wait or run: zero where all have ended.
    pub fn inside(&self) -> usize {
        self.waiting + self.running
    }
}

fn whole_seconds(seconds: f64) -> u64 {
    seconds.ceil().clamp(1.0, 600.0) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn admission(slots: usize, requests: usize, prefill_tokens: usize) -> Admission {
        let limits = Limits { requests, prefill_tokens, first_token: Duration::from_secs(60) };
        let mut admission = Admission::new(limits);
        admission.engines(Engines { slots, parked: 0 });
        admission
    }

    fn newcomer(caller: &str, prompt_tokens: usize) -> Newcomer {
        Newcomer { caller: caller.into(), prompt_tokens, behind: 0, objective: Duration::from_secs(10) }
    }

    fn run(admission: &mut Admission, count: usize) {
        for _ in 0..count {
            admission.admit(&newcomer("a", 100)).unwrap();
            admission.begin(&"a".into(), 100);
        }
    }

    #[test]
    fn a_free_slot_is_given_whatever_the_limits_say() {
        let mut admission = admission(2, 1, 50);
        admission.measured_first_token(1, Duration::from_secs(1));
        run(&mut admission, 2);
        assert!(admission.admit(&newcomer("a", 100)).is_err());
    }

    #[test]
    fn those_that_wait_are_bounded_by_number_and_by_tokens() {
        let mut by_number = admission(1, 2, 10_000);
        run(&mut by_number, 1);
        (0..2).for_each(|_| by_number.admit(&newcomer("a", 100)).unwrap());
        let refusal = by_number.admit(&newcomer("a", 100)).unwrap_err();
        assert_eq!((refusal.waiting, refusal.max_waiting, refusal.running, refusal.slots), (2, 2, 1, 1));
        assert!(refusal.reason.contains("2 requests wait"), "{}", refusal.reason);
        let mut by_tokens = admission(1, 100, 250);
        run(&mut by_tokens, 1);
        (0..2).for_each(|_| by_tokens.admit(&newcomer("a", 100)).unwrap());
        let refusal = by_tokens.admit(&newcomer("a", 100)).unwrap_err();
        assert_eq!((refusal.waiting_prompt_tokens, refusal.max_waiting_prompt_tokens), (200, 250));
        assert!(by_tokens.admit(&newcomer("a", 50)).is_ok());
    }

    #[test]
    fn one_caller_who_fills_the_line_does_not_shut_others_out() {
        let mut admission = admission(1, 4, 10_000);
        run(&mut admission, 1);
        (0..4).for_each(|_| admission.admit(&newcomer("a", 100)).unwrap());
        assert!(admission.admit(&newcomer("a", 100)).is_err());
        assert!(admission.admit(&newcomer("b", 100)).is_ok());
        assert!(admission.admit(&newcomer("b", 100)).is_err());
        assert!(admission.admit(&newcomer("c", 100)).is_err(), "there is an end to it");
    }

    #[test]
    fn who_would_wait_too_long_is_told_when_to_come_again() {
        let mut admission = admission(2, 100, 100_000);
        admission.measured_hold(Duration::from_secs(6));
        admission.measured_first_token(100, Duration::from_secs(1));
        run(&mut admission, 2);
        // One has to end, which one of two does every 3 s; then a second for its own prompt.
        assert_eq!(admission.expected_first_token(&newcomer("a", 100)), Duration::from_secs(4));
        (0..3).for_each(|_| admission.admit(&newcomer("a", 100)).unwrap());
        let refusal = admission.admit(&newcomer("a", 100)).unwrap_err();
        assert_eq!((refusal.expected_first_token_ms, refusal.retry_after_s), (13_000, 3));
        // Who would go before the others waits for none of them.
        let first = Newcomer { behind: 3, ..newcomer("b", 100) };
        assert_eq!(admission.expected_first_token(&first), Duration::from_secs(4));
        assert!(admission.admit(&first).is_ok());
        // Who has more time may wait longer.
        assert!(admission.admit(&Newcomer { objective: Duration::from_secs(60), ..newcomer("a", 100) }).is_ok());
    }

    #[test]
    fn a_short_prompt_says_little_about_a_long_one() {
        let mut admission = admission(1, 10, 100_000);
        admission.measured_first_token(1000, Duration::from_secs(2));
        admission.measured_first_token(10, Duration::from_millis(500));
        let expected = admission.expected_first_token(&newcomer("a", 1000)).as_secs_f64();
        assert!((2.0..3.0).contains(&expected), "{expected}");
    }

    proptest! {
        #[test]
        fn counts_return_to_zero(steps in proptest::collection::vec((0u8..4, 1usize..500, 0u8..3), 0..200)) {
            let mut admission = admission(2, 8, 2_000);
            let (mut waiting, mut running) = (Vec::new(), 0);
            for (step, tokens, caller) in steps {
                let caller: Arc<str> = caller.to_string().into();
                match step {
                    0 | 1 => if admission.admit(&newcomer(&caller, tokens)).is_ok() { waiting.push((caller, tokens)) },
                    2 => if let Some((caller, before)) = waiting.pop() {
                        admission.resize(before, tokens);
                        admission.begin(&caller, tokens);
                        running += 1;
                    },
                    _ if running > 0 => { admission.end(); running -= 1; }
                    _ => if let Some((caller, tokens)) = waiting.pop() { admission.leave(&caller, tokens) },
                }
                prop_assert_eq!(admission.inside(), waiting.len() + running);
            }
            waiting.iter().for_each(|(caller, tokens)| admission.leave(caller, *tokens));
            (0..running).for_each(|_| admission.end());
            prop_assert_eq!((admission.inside(), admission.waiting_tokens, admission.callers.len()), (0, 0, 0));
        }
    }
}
