//! How far what can be found lags behind what was accepted.
//!
//! Every accepted operation has a `seq`. It is *settled* once it is visible to searches, given up with a
//! reason, or overtaken. Everything up to [`Freshness::now`]'s `seq` is settled, so a caller that saw its own
//! write's number can ask to be held until the index has it.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::actors::stats::now_ms;

/// What answers and searches say about the index they saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct AsOf {
    /// Every operation up to this one was visible (or given up, or overtaken).
    pub seq: u64,
    /// Age of the oldest operation that was not yet visible, in milliseconds; 0 where there is none.
    pub lag_ms: u64,
    /// Operations that were not yet visible.
    pub unseen: usize,
}

/// The operations that are not settled; see the module.
#[derive(Debug)]
pub struct Freshness {
    open: Mutex<Open>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Open {
    /// `seq` to the time it was received.
    unsettled: BTreeMap<u64, i64>,
    /// Settled before they were known to be accepted: the indexer can be faster than the receiver's answer.
    early: HashSet<u64>,
    last: u64,
}

impl Freshness {
    /// Starts from what the catalog knows: its last `seq`, and the operations that wait.
    pub fn new(last: u64, waiting: impl IntoIterator<Item = (u64, i64)>) -> Self {
        let open = Open { unsettled: waiting.into_iter().collect(), early: HashSet::new(), last };
        Self { open: Mutex::new(open), changed: watch::Sender::new(()) }
    }

    /// An operation was accepted.
    pub fn accepted(&self, seq: u64, received_ms: i64) {
        let mut open = self.open.lock();
        open.last = open.last.max(seq);
        if !open.early.remove(&seq) {
            open.unsettled.insert(seq, received_ms);
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
        match open.unsettled.first_key_value() {
            None => AsOf { seq: open.last, lag_ms: 0, unseen: 0 },
            Some((first, received)) => AsOf {
                seq: first - 1,
                lag_ms: (now_ms() as i64 - received).max(0) as u64,
                unseen: open.unsettled.len(),
            },
        }
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
        assert_eq!((freshness.now().seq, freshness.now().unseen), (1, 2));
        freshness.settled([2]);
        assert_eq!(freshness.now().seq, 3);
        assert!(freshness.is_settled(5) && !freshness.is_settled(4));
        freshness.settled([4]);
        assert_eq!(freshness.now(), AsOf { seq: 5, lag_ms: 0, unseen: 0 });
    }

    #[test]
    fn an_operation_settled_before_it_was_announced_does_not_stay_open() {
        let freshness = Freshness::new(0, []);
        freshness.settled([1]);
        freshness.accepted(1, 0);
        assert_eq!(freshness.now().seq, 1);
    }
}
