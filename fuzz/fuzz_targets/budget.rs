//! What Redis says of a budget's use. Input: numbers, as Redis gives them, as texts.
#![no_main]

use answerd_fuzz::budgets::rules::{Limits, Used};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let input = String::from_utf8_lossy(input);
    let mut numbers = input.split_whitespace().map(|number| number.parse::<f64>().unwrap_or(0.0));
    let mut number = || numbers.next().unwrap_or(0.0);
    let mut used = Used::of(number(), number(), number() as u64, number() as u64);
    let mut whole = || number() as u64;
    let limits = Limits { requests: whole(), minute: whole(), day: whole(), streams: whole() };
    let (wanted, now_ms) = ((whole(), whole()), whole());
    if let Some(standing) = used.tightest(&limits, now_ms) {
        assert!(standing.left <= standing.limit, "{standing:?}");
    }
    match used.check(&limits, wanted, now_ms) {
        Ok(()) => {
            used.take(&limits, wanted, now_ms);
            used.give_back(&limits, (wanted.1, 0), now_ms, now_ms);
        }
        Err(standing) => {
            assert!(standing.left < wanted.0.max(wanted.1), "{standing:?}");
            assert_eq!(standing.wait_ms.is_none(), standing.limit < standing_wants(&standing, wanted), "{standing:?}");
        }
    }
    used.is_unused(&limits, now_ms);
});

fn standing_wants(standing: &answerd_fuzz::budgets::rules::Standing, wanted: (u64, u64)) -> u64 {
    use answerd_fuzz::budgets::rules::Limited;
    if standing.limited == Limited::RequestsPerMinute { wanted.0 } else { wanted.1 }
}
