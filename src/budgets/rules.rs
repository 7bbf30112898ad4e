//! The arithmetic of budgets: pure, with the time as an argument.
//!
//! What is allowed in a minute is a token bucket: it holds a minute's worth, and fills up evenly, so that a caller may use
//! all of it at once and then as much as comes back. A day is one that begins at midnight UTC.

use serde::Serialize;
use utoipa::ToSchema;

/// Milliseconds of a minute, and of a day.
const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

/// What somebody may have; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests in a minute.
    pub requests: u64,
    /// Tokens in a minute.
    pub minute: u64,
    /// Tokens in a day.
    pub day: u64,
    /// Answers open at the same time.
    pub streams: u64,
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Limited {
    /// Requests in a minute.
    RequestsPerMinute,
    /// Tokens in a minute.
    TokensPerMinute,
    /// Tokens in a day.
    TokensPerDay,
    /// Answers open at the same time.
    Streams,
}

impl Limited {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::RequestsPerMinute => "requests per minute",
            Self::TokensPerMinute => "tokens per minute",
            Self::TokensPerDay => "tokens per day",
            Self::Streams => "answers at the same time",
        }
    }
}

/// How one limit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub limited: Limited,
    /// How much there is of it.
    pub limit: u64,
    /// How much is left now.
    pub left: u64,
    /// In how many milliseconds all of it is there again, or, where something was refused, enough of it; none where it
    /// never will be.
    pub wait_ms: Option<u64>,
}

impl Standing {
    /// The share of it that is left: of several limits, the one with the least is reached next.
    pub fn share_left(&self) -> f64 {
        self.left as f64 / self.limit as f64
    }
}

/// What was used of one budget.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Used {
    requests: Bucket,
    minute: Bucket,
    day: u64,
    day_number: u64,
}

/// What is missing from a full bucket, at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Bucket {
    missing: f64,
    at_ms: u64,
}

/// How much of a minute's worth comes back from one time to another.
fn back(limit: u64, from_ms: u64, to_ms: u64) -> f64 {
    to_ms.saturating_sub(from_ms) as f64 * limit as f64 / MINUTE_MS as f64
}

impl Bucket {
    fn at(self, limit: u64, now_ms: u64) -> Self {
        // Where the limit was lowered, or there was none, nothing beyond it is missing.
        let missing = self.missing.min(limit as f64) - back(limit, self.at_ms, now_ms);
        Self { missing: missing.max(0.0), at_ms: now_ms.max(self.at_ms) }
    }

    fn take(&mut self, limit: u64, tokens: u64, now_ms: u64) {
        *self = self.at(limit, now_ms);
        if limit > 0 {
            self.missing += tokens as f64;
        }
    }

    /// How it stands, and when so much can be taken.
    fn standing(self, limited: Limited, limit: u64, wanted: u64) -> Standing {
        let left = (limit as f64 - self.missing).max(0.0);
        let lacks = if wanted == 0 { self.missing } else { wanted as f64 - left };
        let wait = (lacks.max(0.0) * MINUTE_MS as f64 / limit as f64).ceil() as u64;
        Standing { limited, limit, left: left as u64, wait_ms: (wanted <= limit).then_some(wait) }
    }
}

impl Used {
    /// What is missing of requests and of tokens, and used of the day, as it was counted elsewhere at a time.
    pub fn of(requests: f64, minute: f64, day: u64, at_ms: u64) -> Self {
        let bucket = |missing| Bucket { missing, at_ms };
        Self { requests: bucket(requests), minute: bucket(minute), day, day_number: at_ms / DAY_MS }
    }

    /// How the limits stand, as far as there are any, when so many requests and tokens are wanted.
    fn standings(&self, limits: &Limits, (requests, tokens): (u64, u64), now_ms: u64) -> Vec<Standing> {
        let mut all = Vec::new();
        if limits.requests > 0 {
            let bucket = self.requests.at(limits.requests, now_ms);
            all.push(bucket.standing(Limited::RequestsPerMinute, limits.requests, requests));
        }
        if limits.minute > 0 {
            all.push(self.minute.at(limits.minute, now_ms).standing(Limited::TokensPerMinute, limits.minute, tokens));
        }
        if limits.day > 0 {
            let used = if self.day_number == now_ms / DAY_MS { self.day } else { 0 };
            let left = limits.day.saturating_sub(used);
            let midnight = DAY_MS - now_ms % DAY_MS;
            let wait = if used == 0 || (tokens > 0 && tokens <= left) { 0 } else { midnight };
            let wait_ms = (tokens <= limits.day).then_some(wait);
            all.push(Standing { limited: Limited::TokensPerDay, limit: limits.day, left, wait_ms });
        }
        all
    }

    /// The limit of which the least is left, by its share.
    pub fn tightest(&self, limits: &Limits, now_ms: u64) -> Option<Standing> {
        let standings = self.standings(limits, (0, 0), now_ms).into_iter();
        standings.min_by(|a, b| a.share_left().total_cmp(&b.share_left()))
    }

    /// Whether so many requests and tokens can be taken.
    ///
    /// # Errors
    /// The limit that is in the way, with how long; the longest.
    pub fn check(&self, limits: &Limits, wanted: (u64, u64), now_ms: u64) -> Result<(), Standing> {
        let lacks = |standing: &Standing| match standing.limited {
            Limited::RequestsPerMinute => standing.left < wanted.0,
            _ => standing.left < wanted.1,
        };
        let standings = self.standings(limits, wanted, now_ms);
        let longest = standings.into_iter().filter(lacks).max_by_key(|standing| standing.wait_ms.unwrap_or(u64::MAX));
        longest.map_or(Ok(()), Err)
    }

    /// Takes them.
    pub fn take(&mut self, limits: &Limits, (requests, tokens): (u64, u64), now_ms: u64) {
        self.requests.take(limits.requests, requests, now_ms);
        self.minute.take(limits.minute, tokens, now_ms);
        let day = now_ms / DAY_MS;
        if self.day_number != day {
            (self.day_number, self.day) = (day, 0);
        }
        self.day = self.day.saturating_add(tokens);
    }

    /// Gives back what was taken at a time and not used of it. What came back by itself meanwhile does not come twice: it is
    /// as if only what was used had been taken.
    pub fn give_back(&mut self, limits: &Limits, (taken, used): (u64, u64), taken_ms: u64, now_ms: u64) {
        self.minute = self.minute.at(limits.minute, now_ms);
        let back = back(limits.minute, taken_ms, now_ms);
        let missing = |tokens: u64| (tokens as f64 - back).max(0.0);
        self.minute.missing = (self.minute.missing - (missing(taken) - missing(used))).max(0.0);
        // What was taken before midnight is not of this day.
        if self.day_number == taken_ms / DAY_MS {
            self.day = self.day.saturating_sub(taken.saturating_sub(used));
        }
    }

    /// Whether nothing is used of it any more.
    pub fn is_unused(&self, limits: &Limits, now_ms: u64) -> bool {
        self.standings(limits, (0, 0), now_ms).iter().all(|standing| standing.left == standing.limit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { requests: 60, minute: 600, day: 1000, streams: 0 };

    #[test]
    fn a_minute_comes_back_evenly_and_a_day_at_midnight() {
        let mut used = Used::default();
        used.take(&LIMITS, (1, 600), 0);
        let refused = used.check(&LIMITS, (1, 100), 0).unwrap_err();
        assert_eq!((refused.limited, refused.left, refused.wait_ms), (Limited::TokensPerMinute, 0, Some(10_000)));
        assert_eq!(used.check(&LIMITS, (1, 100), 10_000), Ok(()));
        used.take(&LIMITS, (1, 400), 60_000);
        let refused = used.check(&LIMITS, (1, 1), 120_000).unwrap_err();
        assert_eq!((refused.limited, refused.wait_ms), (Limited::TokensPerDay, Some(DAY_MS - 120_000)));
        assert_eq!(used.check(&LIMITS, (1, 600), DAY_MS), Ok(()));
    }

    #[test]
    fn what_can_never_be_had_says_so() {
        let refused = Used::default().check(&LIMITS, (1, 601), 0).unwrap_err();
        assert_eq!((refused.limited, refused.wait_ms), (Limited::TokensPerMinute, None));
        assert_eq!(Used::default().check(&Limits::default(), (1, u64::MAX), 0), Ok(()));
    }

    #[test]
    fn what_was_reserved_and_not_used_is_there_again() {
        let mut used = Used::default();
        used.take(&LIMITS, (1, 500), 0);
        used.give_back(&LIMITS, (500, 50), 0, 0);
        assert_eq!(used.check(&LIMITS, (1, 550), 0), Ok(()));
        // Over midnight, what is given back is of the day before.
        let (mut used, days) = (Used::default(), Limits { minute: 0, ..LIMITS });
        used.take(&days, (1, 500), DAY_MS - 1);
        used.take(&days, (1, 100), DAY_MS + 60_000);
        used.give_back(&days, (500, 0), DAY_MS - 1, DAY_MS + 60_000);
        assert_eq!(used.tightest(&days, DAY_MS + 60_000).map(|standing| standing.left), Some(900));
    }

    #[test]
    fn what_came_back_by_itself_does_not_come_twice() {
        let mut used = Used::default();
        used.take(&LIMITS, (1, 600), 0);
        // All of it is there again, and is taken by somebody else.
        used.take(&LIMITS, (1, 400), 60_000);
        used.give_back(&LIMITS, (600, 0), 0, 60_000);
        assert!(used.check(&LIMITS, (1, 201), 60_000).is_err());
    }

    #[test]
    fn a_limit_that_is_set_later_counts_from_then_on() {
        let (mut used, none) = (Used::default(), Limits::default());
        for n in 0..1000 {
            used.take(&none, (1, 1000), n);
        }
        let limits = Limits { requests: 60, minute: 600, ..none };
        assert_eq!(used.check(&limits, (1, 600), 1000), Ok(()));
    }

    proptest! {
        /// Whatever is asked for and when: no more is had than the limits allow.
        #[test]
        fn nobody_has_more_than_allowed(asked in proptest::collection::vec((1..300_u64, 0..20_000_u64), 1..60)) {
            let (mut used, mut now, mut had) = (Used::default(), 0, Vec::new());
            for (tokens, later) in asked {
                now += later;
                match used.check(&LIMITS, (1, tokens), now) {
                    Ok(()) => {
                        used.take(&LIMITS, (1, tokens), now);
                        had.push((now, tokens));
                    }
                    Err(refused) => {
                        // So long it said, and then it can be had.
                        let wait = refused.wait_ms.expect("it can be had at some time");
                        prop_assert!(refused.limited == Limited::TokensPerDay || used.check(&LIMITS, (1, tokens), now + wait + 1).is_ok());
                    }
                }
            }
            let day: u64 = had.iter().map(|(_, tokens)| tokens).sum();
            prop_assert!(day <= LIMITS.day);
            for (begin, _) in &had {
                let minute: u64 = had.iter().filter(|(at, _)| (*begin..begin + 60_000).contains(at)).map(|(_, t)| t).sum();
                // A full bucket, and what comes back meanwhile.
                prop_assert!(minute <= 2 * LIMITS.minute);
            }
        }
    }
}
