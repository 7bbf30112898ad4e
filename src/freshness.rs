//! How far what can be found lags behind what was accepted.
//!
//! Every accepted operation has a `seq`. It is *settled* once it is visible to searches, given up with a
//! reason, or overtaken. Everything up to [`Freshness::now`]'s `seq` is settled, so a caller that saw its own
//! write's number can ask to be held until the index has it. Events that a bus still holds have no `seq` yet ([`OnBus`]);
//! they count in the lag.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use crate::actors::stats::now_ms;

/// What answers and searches say about the index they saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct AsOf {
    /// Every operation up to this one was visible (or given up, or overtaken).
    pub seq: u64,
    /// Age of the oldest operation or event that was not yet visible, since it was published or received, in
    /// milliseconds; 0 where there is none.
    pub lag_ms: u64,
    /// Operations that were not yet visible, and events known to wait on the bus.
    pub lag_events: u64,
}

impl AsOf {
    /// The same with what waited on the bus ([`OnBus::now`]).
    #[must_use]
    pub fn and(self, bus: Self) -> Self {
        Self { seq: self.seq, lag_ms: self.lag_ms.max(bus.lag_ms), lag_events: self.lag_events + bus.lag_events }
    }

    /// Adds the members of this to a JSON object.
    pub fn beside(&self, mut object: Value) -> Value {
        object["seq"] = self.seq.into();
        object["lag_ms"] = self.lag_ms.into();
        object["lag_events"] = self.lag_events.into();
        object
    }
}

/// The operations that are not settled; see the module.
#[derive(Debug)]
pub struct Freshness {
    open: Mutex<Open>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Open {
    /// `seq` to the time it was published or received.
    unsettled: BTreeMap<u64, i64>,
    /// Settled before they were known to be accepted: the indexer can be faster than the receiver's answer.
    early: HashSet<u64>,
    last: u64,
}

/// Events that are no operations yet.
#[derive(Debug, Default)]
pub struct OnBus(Mutex<Bus>);

#[derive(Debug, Default)]
struct Bus {
    /// Those that the bus holds back, by its last word.
    waiting: u64,
    /// Those that it has delivered: number in the stream to the time at which they were published.
    delivered: BTreeMap<u64, i64>,
}

impl OnBus {
    /// The bus delivered an event, and holds `waiting` more.
    pub fn delivered(&self, event: u64, published_ms: i64, waiting: u64) {
        let mut bus = self.0.lock();
        bus.delivered.insert(event, published_ms);
        bus.waiting = waiting;
    }

    /// An event became an operation, or turned out to be none.
    pub fn taken(&self, event: u64) {
        self.0.lock().delivered.remove(&event);
    }

    /// So many events wait on the bus, as it says now.
    pub fn waiting(&self, events: u64) {
        self.0.lock().waiting = events;
    }

    /// A consumer begins anew: what was delivered comes again, and `waiting` events are there.
    pub fn redelivery(&self, waiting: u64) {
        *self.0.lock() = Bus { waiting, delivered: BTreeMap::new() };
    }

    /// What waits, to be told beside what a store says ([`AsOf::and`]). To be asked before the store: an event that
    /// becomes an operation in between counts twice then, and never not at all.
    pub fn now(&self) -> AsOf {
        let bus = self.0.lock();
        let oldest = bus.delivered.values().min();
        AsOf {
            seq: 0,
            lag_ms: oldest.map_or(0, |oldest| (now_ms() as i64 - oldest).max(0) as u64),
            lag_events: bus.waiting + bus.delivered.len() as u64,
        }
    }
}

impl Freshness {
    /// Starts from what the catalog knows: its last `seq`, and the operations that wait.
    pub fn new(last: u64, waiting: impl IntoIterator<Item = (u64, i64)>) -> Self {
        let open = Open { unsettled: waiting.into_iter().collect(), early: HashSet::new(), last };
        Self { open: Mutex::new(open), changed: watch::Sender::new(()) }
    }

    /// An operation was accepted that was published or received at `since_ms`.
    pub fn accepted(&self, seq: u64, since_ms: i64) {
        let mut open = self.open.lock();
        open.last = open.last.max(seq);
        if !open.early.remove(&seq) {
            open.unsettled.insert(seq, since_ms);
        }
    }

    /// Operations are settled.
    pub fn settled(&self, seqs: impl IntoIterator<Item = u64>) {
        {
            let mut open = self.open.lock();
            for seq in seqs {
                if open.unsettled.remove(&seq).is_none() && seq > open.last {
                    open.early.insert(seq);
                }
            }
        }
        self.changed.send_replace(());
    }

    /// How fresh a search that begins now is.
    pub fn now(&self) -> AsOf {
        let open = self.open.lock();
        let oldest = open.unsettled.values().copied().min();
        AsOf {
            seq: open.unsettled.first_key_value().map_or(open.last, |(first, _)| first - 1),
            lag_ms: oldest.map_or(0, |oldest| (now_ms() as i64 - oldest).max(0) as u64),
            lag_events: open.unsettled.len() as u64,
        }
    }

    /// Operations that are accepted and not settled.
    pub fn unsettled(&self) -> usize {
        self.open.lock().unsettled.len()
    }

    /// Whether this one operation is settled.
    pub fn is_settled(&self, seq: u64) -> bool {
        let open = self.open.lock();
        !open.unsettled.contains_key(&seq) && (seq <= open.last || open.early.contains(&seq))
    }

    /// Waits until everything up to `seq` is settled, at most `limit`. Returns whether it is.
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping it.
    pub async fn reach(&self, seq: u64, limit: Duration) -> bool {
        self.until(limit, || self.now().seq >= seq).await
    }

    /// Waits until this one operation is settled, at most `limit`. Returns whether it is.
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping it.
    pub async fn settle(&self, seq: u64, limit: Duration) -> bool {
        self.until(limit, || self.is_settled(seq)).await
    }

    async fn until(&self, limit: Duration, done: impl Fn() -> bool) -> bool {
        let mut changed = self.changed.subscribe();
        let wait = async {
            while !done() {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_up_to_the_stated_seq_is_settled_whatever_the_order() {
        let freshness = Freshness::new(3, [(2, 0)]);
        assert_eq!(freshness.now().seq, 1);
        freshness.accepted(4, 0);
        freshness.accepted(5, 0);
        freshness.settled([5]);
        assert_eq!((freshness.now().seq, freshness.now().lag_events), (1, 2));
        freshness.settled([2]);
        assert_eq!(freshness.now().seq, 3);
        assert!(freshness.is_settled(5) && !freshness.is_settled(4));
        freshness.settled([4]);
        assert_eq!(freshness.now(), AsOf { seq: 5, lag_ms: 0, lag_events: 0 });
    }

    #[test]
    fn events_on_the_bus_count_until_they_are_operations() {
        let (freshness, bus) = (Freshness::new(0, []), OnBus::default());
        let now = now_ms() as i64;
        bus.delivered(7, now - 60_000, 12);
        bus.delivered(8, now, 11);
        let as_of = || freshness.now().and(bus.now());
        assert_eq!((as_of().seq, as_of().lag_events), (0, 13));
        assert!(as_of().lag_ms >= 60_000);
        freshness.accepted(1, now - 60_000);
        bus.taken(7);
        assert_eq!(as_of().lag_events, 13);
        assert!(as_of().lag_ms >= 60_000);
        freshness.settled([1]);
        assert!(as_of().lag_ms < 60_000);
        bus.redelivery(0);
        assert_eq!(as_of(), AsOf { seq: 1, lag_ms: 0, lag_events: 0 });
    }

    #[test]
    fn an_operation_settled_before_it_was_announced_does_not_stay_open() {
        let freshness = Freshness::new(0, []);
        freshness.settled([1]);
        freshness.accepted(1, 0);
        assert_eq!(freshness.now().seq, 1);
    }
}
