//! What the service tells of itself while it runs: a sample of its figures each few seconds, and its state each second to
//! those who watch the admin page.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::time::MissedTickBehavior;

use super::{App, resident_bytes};
use crate::actors::stats::now_ms;
use crate::series::{Growth, INTERVAL, NAMES, Sample, Series};

/// How often the state is told.
const EVERY: Duration = Duration::from_secs(1);
/// And at least so often.
const AT_LEAST: Duration = Duration::from_secs(5);
/// Looking takes no more than this share of the time.
const SHARE: u32 = 10;
/// What is told and not taken yet by the slowest of those who watch.
const BEHIND: usize = 8;

/// An event for those who watch.
#[derive(Debug)]
pub struct Told {
    /// `status` or `sample`.
    pub name: &'static str,
    /// JSON.
    pub data: String,
}

/// The last hour, and who watches now.
pub struct Watching {
    /// The last hour.
    pub series: Series,
    told: broadcast::Sender<Arc<Told>>,
    cpu: Mutex<Cpu>,
}

/// How much of the processor was used, from one look to the next.
struct Cpu {
    at: Instant,
    time: Duration,
    share: f64,
}

impl Cpu {
    fn new() -> Self {
        Self { at: Instant::now(), time: cpu_time(), share: 0.0 }
    }

    /// Processor time in a second since the last look, in seconds: 1 is one core.
    fn look(&mut self) -> f64 {
        let (elapsed, now) = (self.at.elapsed(), cpu_time());
        self.share = now.saturating_sub(self.time).as_secs_f64() / elapsed.as_secs_f64().max(1e-3);
        (self.at, self.time) = (Instant::now(), now);
        self.share
    }
}

impl Default for Watching {
    fn default() -> Self {
        Self { series: Series::default(), told: broadcast::Sender::new(BEHIND), cpu: Mutex::new(Cpu::new()) }
    }
}

impl Watching {
    /// Watches from now on. Who is too slow misses what is old.
    pub fn watch(&self) -> broadcast::Receiver<Arc<Told>> {
        self.told.subscribe()
    }

    /// Processor time in a second of the last while, in seconds: 1 is one core.
    pub(super) fn cpu_share(&self) -> f64 {
        let mut cpu = self.cpu.lock();
        // Several may look at the same time.
        if cpu.at.elapsed() >= EVERY / 2 {
            cpu.look();
        }
        (cpu.share * 1e3).round() / 1e3
    }

    fn tell(&self, name: &'static str, data: String) {
        // Nobody may be there any more.
        let _ = self.told.send(Arc::new(Told { name, data }));
    }

    fn is_watched(&self) -> bool {
        self.told.receiver_count() > 0
    }
}

impl App {
    /// Begins to take samples, and to tell those who watch.
    pub(super) fn watch_itself(self: &Arc<Self>) {
        let app = Arc::downgrade(self);
        actix_rt::spawn(async move {
            let mut tick = actix_rt::time::interval(INTERVAL);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // What there is at the start grew before anybody looked.
            let mut before = Before {
                refused: Growth::default(),
                cache: Growth::default(),
                ingested: Growth::default(),
                cpu: Cpu::new(),
            };
            let mut first = true;
            loop {
                tick.tick().await;
                let Some(app) = app.upgrade() else { return };
                let sample = app.sample(&mut before).await;
                if !std::mem::take(&mut first) {
                    app.watching.tell("sample", sample.json().to_string());
                    app.watching.series.add(sample);
                }
            }
        });
        let app = Arc::downgrade(self);
        actix_rt::spawn(async move {
            let mut pause = EVERY;
            loop {
                actix_rt::time::sleep(pause).await;
                let Some(app) = app.upgrade() else { return };
                pause = EVERY;
                if app.watching.is_watched() {
                    let began = Instant::now();
                    let status = app.status().await;
                    // A store that takes long to count is not asked all the time; and nobody takes the connection for lost.
                    pause = pause.max(began.elapsed() * SHARE).min(AT_LEAST);
                    app.watching.tell("status", status.to_string());
                }
            }
        });
    }

    async fn sample(&self, before: &mut Before) -> Sample {
        let recent = self.metrics.take_recent();
        let as_of = self.library.as_of().await.ok();
        let mut sums = [0; 4];
        for pool in self.pools() {
            let admission = &pool.state.describe()["admission"];
            for (sum, name) in sums.iter_mut().zip(["waiting", "running", "parked", "refused"]) {
                *sum += admission[name].as_u64().unwrap_or(0);
            }
        }
        let [waiting, running, parked, refused] = sums;
        let kept = self.asker.as_ref().map(|asker| asker.kept.counts.all());
        let kept = |n: usize| kept.as_ref().map_or(0, |counts| counts[n].1);
        let [refused] = before.refused.since([refused]);
        let cache = before.cache.since(std::array::from_fn(kept));
        let ingested = as_of.as_ref().and_then(|as_of| before.ingested.since([as_of.seq])[0]);
        let whole = |number: u64| Some(number as f64);
        let [first_p50, first_p95] = percentiles(recent.first_token_ms);
        let [token_p50, token_p95] = percentiles(recent.token_ms);
        let figures: [Option<f64>; NAMES.len()] = [
            first_p50,
            first_p95,
            token_p50,
            token_p95,
            whole(recent.input_tokens),
            whole(recent.output_tokens),
            whole(recent.ok),
            whole(recent.cancelled),
            refused,
            whole(recent.failed),
            whole(waiting),
            whole(running),
            whole(parked),
            cache[0],
            cache[1],
            cache[2],
            cache[3],
            cache[4],
            ingested,
            as_of.as_ref().and_then(|as_of| whole(as_of.lag_events)),
            as_of.as_ref().and_then(|as_of| whole(as_of.lag_ms)),
            resident_bytes().map(|bytes| bytes as f64),
            Some(before.cpu.look()),
        ];
        Sample { at_ms: now_ms(), figures }
    }
}

/// What was read for the sample before.
struct Before {
    refused: Growth<1>,
    cache: Growth<5>,
    ingested: Growth<1>,
    cpu: Cpu,
}

/// The median and the 95th percentile.
fn percentiles(mut values: Vec<f64>) -> [Option<f64>; 2] {
    match values.is_empty() {
        true => [None, None],
        false => [0.5, 0.95].map(|share| Some(crate::eval::percentile(&mut values, share))),
    }
}

/// Processor time of this process since its start.
pub(super) fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes one `timespec`, which is there.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) } != 0;
    if failed { Duration::ZERO } else { Duration::new(time.tv_sec as u64, time.tv_nsec as u32) }
}
