//! A circuit breaker: what does not answer is left alone for a while, so that nobody waits for it in vain.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Failures in a row that open it.
const FAILURES: u32 = 3;
/// How long it is open at first; doubles up to [`LONGEST`] as long as the probe after it fails too.
const FIRST: Duration = Duration::from_secs(1);
/// The longest that it is open.
const LONGEST: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// In a row, while it is closed.
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    /// Until when nothing is tried.
    until: Instant,
    pause: Duration,
    /// Whether one has been let through since the last failure.
    probed: bool,
    reason: String,
}

impl Breaker {
    /// Whether it may be tried. While it is open, by one each time its pause has passed.
    pub fn admits(&self) -> bool {
        match &mut self.0.lock().open {
            None => true,
            Some(open) if Instant::now() >= open.until => {
                open.until = Instant::now() + open.pause;
                open.probed = true;
                true
            }
            Some(_) => false,
        }
    }

    /// It worked. Whether it was open.
    pub fn succeeded(&self) -> bool {
        let mut state = self.0.lock();
        state.failures = 0;
        state.open.take().is_some()
    }

    /// It failed. Whether that opened it.
    pub fn failed(&self, reason: &str) -> bool {
        let mut state = self.0.lock();
        let reason = reason.to_owned();
        match &mut state.open {
            // Others that had begun before it opened say nothing new.
            Some(open) if !open.probed => {}
            Some(open) => {
                let pause = (open.pause * 2).min(LONGEST);
                *open = Open { until: Instant::now() + pause, pause, probed: false, reason };
            }
            None => {
                state.failures += 1;
                if state.failures >= FAILURES {
                    state.open = Some(Open { until: Instant::now() + FIRST, pause: FIRST, probed: false, reason });
                    return true;
                }
            }
        }
        false
    }

    /// Why it is open, if it is.
    pub fn trouble(&self) -> Option<String> {
        self.0.lock().open.as_ref().map(|open| open.reason.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(breaker: &Breaker) {
        if let Some(open) = &mut breaker.0.lock().open {
            open.until = Instant::now();
        }
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_when_a_probe_works() {
        let breaker = Breaker::default();
        assert!(!breaker.failed("a") && !breaker.failed("b"));
        assert!(!breaker.succeeded());
        assert!(!breaker.failed("c") && !breaker.failed("d") && breaker.admits());
        assert!(breaker.failed("e"));
        assert_eq!((breaker.admits(), breaker.trouble().as_deref()), (false, Some("e")));
        pass(&breaker);
        assert!(breaker.admits() && !breaker.admits(), "one probe at a time");
        assert!(breaker.succeeded() && breaker.admits() && breaker.trouble().is_none());
    }

    #[test]
    fn each_probe_that_fails_doubles_its_pause_and_no_late_failure_does() {
        let breaker = Breaker::default();
        (0..3).for_each(|_| assert!(!breaker.failed("a") || breaker.trouble().is_some()));
        (0..9).for_each(|_| assert!(!breaker.failed("late")));
        let pause = || breaker.0.lock().open.as_ref().map(|open| open.pause);
        assert_eq!((pause(), breaker.trouble().as_deref()), (Some(FIRST), Some("a")));
        for n in 1..9 {
            pass(&breaker);
            assert!(breaker.admits());
            breaker.failed("probe");
            assert_eq!(pause(), Some((FIRST * 2u32.pow(n)).min(LONGEST)));
        }
    }
}
