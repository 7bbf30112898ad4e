//! Waiting until an operation is settled, where another process may be the one that settles it.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::sync::broadcast;

use super::StoreError;
use super::document_store::{DocumentStore, OperationState};

/// Pauses between two looks for what another process may have done.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_millis(500);

/// The operations that this process settles, as it does.
pub(super) struct Settled(broadcast::Sender<u64>);

impl Default for Settled {
    fn default() -> Self {
        Self(broadcast::channel(4096).0)
    }
}

impl Settled {
    /// Tells those who wait that an operation is settled.
    pub fn tell(&self, seq: u64) {
        // Nobody may be waiting.
        let _ = self.0.send(seq);
    }

    /// What [`DocumentStore::settle`] promises, by asking the store.
    pub async fn settle(&self, store: &dyn DocumentStore, seq: u64, limit: Duration) -> Result<bool, StoreError> {
        let settled = || async { Ok(!matches!(store.outcome(seq).await?, Some((OperationState::Received, _)))) };
        self.until(limit, |other| other == seq, settled).await
    }

    /// What [`DocumentStore::reach`] promises, by asking the store.
    pub async fn reach(&self, store: &dyn DocumentStore, seq: u64, limit: Duration) -> Result<bool, StoreError> {
        let reached = || async { Ok(store.standing().await?.as_of.seq >= seq) };
        self.until(limit, |_| true, reached).await
    }

    /// Waits until `done` says so: it is asked whenever this process has settled an operation that `concerns` it, and
    /// every now and then, as another process may have.
    async fn until<D>(
        &self,
        limit: Duration,
        concerns: impl Fn(u64) -> bool,
        done: impl Fn() -> D,
    ) -> Result<bool, StoreError>
    where
        D: Future<Output = Result<bool, StoreError>>,
    {
        let end = Instant::now() + limit;
        let mut settled = self.0.subscribe();
        let mut pause = FIRST_LOOK;
        loop {
            if done().await? {
                return Ok(true);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let heard = async {
                loop {
                    match settled.recv().await {
                        Ok(seq) if !concerns(seq) => {}
                        // Also where some were missed.
                        _ => return,
                    }
                }
            };
            let _ = tokio::time::timeout(pause.min(left), heard).await;
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    }
}
