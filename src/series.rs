//! The last hour of this process in figures, for the charts of the admin page: a sample each five seconds.
//!
//! Counts are those of the interval, and latencies the percentiles of what ended in it; nothing ended, and there is none.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};

/// Time between two samples.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// Samples of an hour.
const KEPT: usize = 720;

/// The names of the figures, in the order of [`Sample::figures`].
pub const NAMES: [&str; 23] = [
    "first_token_p50_ms",
    "first_token_p95_ms",
    "token_p50_ms",
    "token_p95_ms",
    "input_tokens",
    "output_tokens",
    "requests_ok",
    "requests_cancelled",
    "requests_refused",
    "requests_error",
    "waiting",
    "running",
    "parked",
    "cache_evidence",
    "cache_answers",
    "cache_near",
    "cache_shared",
    "cache_generated",
    "ingested",
    "lag_events",
    "lag_ms",
    "resident_bytes",
    "cpu_share",
];

/// What was measured at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// A figure for each of [`NAMES`]; none where there is nothing to tell.
    pub figures: [Option<f64>; NAMES.len()],
}

impl Sample {
    /// Its figures by name.
    pub fn json(&self) -> Value {
        let mut members: Map<String, Value> =
            NAMES.iter().zip(self.figures).map(|(name, figure)| ((*name).to_owned(), number(figure))).collect();
        members.insert("at_ms".to_owned(), self.at_ms.into());
        members.into()
    }
}

/// The samples of the last hour; see the module.
#[derive(Debug, Default)]
pub struct Series(Mutex<VecDeque<Sample>>);

impl Series {
    /// Adds a sample.
    pub fn add(&self, sample: Sample) {
        let mut samples = self.0.lock();
        if samples.len() >= KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// All of them, a column for each figure.
    pub fn json(&self) -> Value {
        let samples = self.0.lock();
        let column = |n: usize| samples.iter().map(|sample| number(sample.figures[n])).collect::<Vec<_>>();
        let series: Map<String, Value> =
            NAMES.iter().enumerate().map(|(n, name)| ((*name).to_owned(), column(n).into())).collect();
        let times: Vec<u64> = samples.iter().map(|sample| sample.at_ms).collect();
        json!({ "interval_ms": INTERVAL.as_millis() as u64, "at_ms": times, "series": series })
    }
}

/// To three digits behind the point: more says nothing.
fn number(figure: Option<f64>) -> Value {
    figure.map_or(Value::Null, |figure| json!((figure * 1e3).round() / 1e3))
}

/// How counters grew since they were read last.
#[derive(Debug)]
pub struct Growth<const N: usize>([u64; N]);

impl<const N: usize> Default for Growth<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> Growth<N> {
    /// By how much each grew. One that shrank began anew.
    pub fn since(&mut self, now: [u64; N]) -> [Option<f64>; N] {
        let grown = std::array::from_fn(|n| Some(now[n].saturating_sub(self.0[n]) as f64));
        self.0 = now;
        grown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_kept_by_columns_and_what_is_not_known_is_null() {
        let series = Series::default();
        for n in 0..KEPT as u64 + 5 {
            let mut figures = [None; NAMES.len()];
            figures[4] = Some(n as f64 + 0.12345);
            series.add(Sample { at_ms: n, figures });
        }
        let json = series.json();
        assert_eq!(json["at_ms"].as_array().map(Vec::len), Some(KEPT));
        assert_eq!((&json["at_ms"][0], &json["series"]["input_tokens"][0]), (&json!(5), &json!(5.123)));
        assert!(json["series"]["waiting"][0].is_null());
        assert_eq!(json["series"].as_object().map(Map::len), Some(NAMES.len()));
    }

    #[test]
    fn growth_is_counted_from_the_last_reading() {
        let mut growth = Growth::<2>([10, 10]);
        assert_eq!(growth.since([13, 10]), [Some(3.0), Some(0.0)]);
        assert_eq!(growth.since([2, 11]), [Some(0.0), Some(1.0)]);
    }
}
