//! What an actor did: counted at its door, read by the overseer and the admin page.
//! Nothing here touches an actor or its mailbox.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::Serialize;
use utoipa::ToSchema;

/// What an actor is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ActorState)]
pub enum State {
    /// Being built, for the first time or again.
    Starting,
    /// Takes messages.
    Running,
    /// Could not be built; it is tried again with growing pauses.
    Failed,
    /// The process is shutting down.
    Stopped,
}

/// Why an actor was built again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RestartCause)]
pub enum Cause {
    /// A message made it panic.
    Panic,
    /// Something it owns (a thread, an engine) died.
    Died,
    /// Its mailbox closed without a word.
    Lost,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 3] = [Self::Panic, Self::Died, Self::Lost];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Died => "died",
            Self::Lost => "lost",
        }
    }
}

/// The last error of an actor.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LastError {
    /// What was wrong.
    pub message: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// A snapshot of one actor, as `/admin/status` shows it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ActorStatus {
    /// Place in the tree, parts separated by `/`.
    pub name: String,
    /// What it is doing.
    pub state: State,
    /// Messages inside: waiting or at work.
    pub depth: usize,
    /// Messages it admits at once.
    pub capacity: usize,
    /// Why the capacity is what it is.
    pub capacity_reason: &'static str,
    /// Messages answered.
    pub handled: u64,
    /// Messages answered with an error, panics included.
    pub failed: u64,
    /// Messages turned away because it was full.
    pub refused: u64,
    /// Panics.
    pub panics: u64,
    /// Times it was built again, by cause.
    pub restarts: BTreeMap<Cause, u64>,
    /// From the last panic or death until it could work again, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_recovery_ms: Option<f64>,
    /// The last error, kept when the actor is long well again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
    /// Messages at work at once, averaged over about ten seconds; for an actor that works one
    /// at a time this is its busy share.
    pub busy: f64,
    /// Time at work since the start, in seconds, summed over messages that were at work at once.
    pub busy_s: f64,
    /// Age of the message that waits longest, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_waiting_ms: Option<u64>,
    /// What the actor itself has to say (sizes, engine load, ...).
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    pub detail: serde_json::Value,
}

/// The counters of one actor. They outlive it: a rebuilt actor goes on with them.
#[derive(Debug)]
pub struct Stats {
    handled: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    panics: AtomicU64,
    busy_nanos: AtomicU64,
    slow: Mutex<Slow>,
}

#[derive(Debug)]
struct Slow {
    state: State,
    restarts: BTreeMap<Cause, u64>,
    recent_restarts: VecDeque<Instant>,
    down_since: Option<Instant>,
    last_recovery: Option<Duration>,
    last_error: Option<LastError>,
    waiting: VecDeque<Instant>,
    busy: f64,
    sampled: (Instant, u64),
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            handled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            busy_nanos: AtomicU64::new(0),
            slow: Mutex::new(Slow {
                state: State::Starting,
                restarts: BTreeMap::new(),
                recent_restarts: VecDeque::new(),
                down_since: None,
                last_recovery: None,
                last_error: None,
                waiting: VecDeque::new(),
                busy: 0.0,
                sampled: (Instant::now(), 0),
            }),
        }
    }
}

impl Stats {
    /// A message was admitted.
    pub(super) fn admitted(&self) {
        self.slow.lock().waiting.push_back(Instant::now());
    }

    /// A message was turned away.
    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The oldest waiting message left the mailbox.
    pub(super) fn taken(&self) {
        self.slow.lock().waiting.pop_front();
    }

    /// A message was answered after `busy` of work.
    pub(super) fn answered(&self, busy: Duration, error: Option<String>) {
        self.handled.fetch_add(1, Ordering::Relaxed);
        self.busy_nanos.fetch_add(busy.as_nanos() as u64, Ordering::Relaxed);
        if let Some(message) = error {
            self.failed.fetch_add(1, Ordering::Relaxed);
            self.error(message);
        }
    }

    /// Remembers an error that no message was answered with.
    pub(super) fn error(&self, message: String) {
        self.slow.lock().last_error = Some(LastError { message, at_ms: now_ms() });
    }

    /// A message made the actor panic.
    pub(super) fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// The actor goes down and will be built again. Returns how often that happened within `window`.
    pub(super) fn restarting(&self, cause: Cause, message: String, window: Duration) -> usize {
        let mut slow = self.slow.lock();
        let now = Instant::now();
        *slow.restarts.entry(cause).or_default() += 1;
        slow.recent_restarts.push_back(now);
        while slow.recent_restarts.front().is_some_and(|t| now - *t > window) {
            slow.recent_restarts.pop_front();
        }
        slow.state = State::Starting;
        slow.down_since.get_or_insert(now);
        if cause == Cause::Lost {
            // They went with its mailbox.
            slow.waiting.clear();
        }
        slow.last_error = Some(LastError { message, at_ms: now_ms() });
        slow.recent_restarts.len()
    }

    /// The actor could not be built.
    pub(super) fn unbuildable(&self, message: String) {
        let mut slow = self.slow.lock();
        slow.state = State::Failed;
        slow.last_error = Some(LastError { message, at_ms: now_ms() });
    }

    /// The actor takes messages (again).
    ///
    /// Whether it did before.
    pub(super) fn running(&self) -> bool {
        let mut slow = self.slow.lock();
        slow.state = State::Running;
        let down_since = slow.down_since.take();
        if let Some(since) = down_since {
            slow.last_recovery = Some(since.elapsed());
        }
        down_since.is_some()
    }

    /// The process is shutting down.
    pub(super) fn stopped(&self) {
        self.slow.lock().state = State::Stopped;
    }

    /// What the actor is doing.
    pub fn state(&self) -> State {
        self.slow.lock().state
    }

    /// Restarts within `window`, and the last error: what readiness asks.
    pub fn recent_restarts(&self, window: Duration) -> (usize, Option<LastError>) {
        let slow = self.slow.lock();
        let recent = slow.recent_restarts.iter().filter(|t| t.elapsed() <= window).count();
        (recent, slow.last_error.clone())
    }

    /// Folds the work since the last call into the busy average; called about once a second.
    pub(super) fn sample(&self) {
        let total = self.busy_nanos.load(Ordering::Relaxed);
        let mut slow = self.slow.lock();
        let (at, before) = slow.sampled;
        let elapsed = at.elapsed().as_nanos().max(1) as f64;
        let share = (total - before) as f64 / elapsed;
        let weight = (elapsed / 1e10).min(1.0);
        slow.busy += (share - slow.busy) * weight;
        slow.sampled = (Instant::now(), total);
    }

    /// A snapshot for the admin page.
    pub(super) fn status(
        &self,
        name: &str,
        depth: usize,
        capacity: usize,
        capacity_reason: &'static str,
        detail: serde_json::Value,
    ) -> ActorStatus {
        let slow = self.slow.lock();
        ActorStatus {
            name: name.to_owned(),
            state: slow.state,
            depth,
            capacity,
            capacity_reason,
            handled: self.handled.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            panics: self.panics.load(Ordering::Relaxed),
            restarts: slow.restarts.clone(),
            last_recovery_ms: slow.last_recovery.map(|d| d.as_secs_f64() * 1e3),
            last_error: slow.last_error.clone(),
            busy: (slow.busy * 1000.0).round() / 1000.0,
            busy_s: (self.busy_nanos.load(Ordering::Relaxed) / 1_000_000) as f64 / 1e3,
            oldest_waiting_ms: slow.waiting.front().map(|t| t.elapsed().as_millis() as u64),
            detail,
        }
    }
}
