//! The maintainer does what can wait: saves the vector graphs, rebuilds the one with too many tombstones,
//! and removes from the catalog what no search can show any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use roaring::RoaringBitmap;

use super::compute::Compute;
use super::door::{Factory, Role};
use crate::stores::StoreError;
use crate::stores::embedded::Indexes;

/// Time for a round of maintenance.
pub struct Maintain {
    /// Save all there is, now: at a shutdown.
    pub last: bool,
}

/// The maintainer; see the module.
pub struct Maintainer {
    indexes: Arc<Indexes>,
    compute: Arc<Compute>,
    saved: Arc<parking_lot::Mutex<Saved>>,
}

struct Saved {
    points: u64,
    commit: u64,
    at: Instant,
}

impl Maintainer {
    /// The factory of the maintainer.
    pub fn factory(indexes: Arc<Indexes>, compute: Arc<Compute>) -> Factory<Self> {
        Arc::new(move || {
            let saved =
                Saved { points: indexes.vectors.chunks().len(), commit: indexes.vectors.applied(), at: Instant::now() };
            let maintainer = Self {
                indexes: Arc::clone(&indexes),
                compute: Arc::clone(&compute),
                saved: Arc::new(parking_lot::Mutex::new(saved)),
            };
            async move { Ok(maintainer) }.boxed_local()
        })
    }
}

impl Role for Maintainer {
    type Message = Maintain;
    type Reply = ();
    type Error = StoreError;
    const SERIAL: bool = true;

    fn handle(&mut self, message: Maintain) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let (indexes, saved) = (Arc::clone(&self.indexes), Arc::clone(&self.saved));
        let compute = Arc::clone(&self.compute);
        async move {
            compute
                .run(move || {
                    fail::fail_point!("maintainer");
                    round(&indexes, &mut saved.lock(), message.last)
                })
                .await
        }
        .boxed_local()
    }
}

fn round(indexes: &Indexes, saved: &mut Saved, last: bool) -> Result<(), StoreError> {
    indexes.catalog.flush()?;
    let Some(view) = indexes.views.current() else { return Ok(()) };
    let commit = view.commit;
    let points = indexes.vectors.chunks().len();
    let new = points.saturating_sub(saved.points);
    let interval = Duration::from_secs(indexes.config.index.save_interval_s);
    // What is not saved is inserted again from the catalog after a crash: milliseconds a chunk. So a save,
    // which writes whole graphs, waits for a tenth of growth while documents pour in, and for the interval after.
    let grown = new > 1000.max(points / 10);
    let rested = commit != saved.commit && saved.at.elapsed() >= interval;
    if commit != saved.commit && (last || grown || rested) {
        indexes.vectors.save(commit)?;
        *saved = Saved { points, commit, at: Instant::now() };
    }
    if last {
        return Ok(());
    }
    // Not beyond this point: an old view keeps what it shows from being removed.
    drop(view);
    let with_live = |work: &mut dyn FnMut(&RoaringBitmap)| {
        // While the indexer changes nothing: what is in a graph and not live can then not become live.
        let _changing = indexes.changing.lock();
        if let Some(view) = indexes.views.current() {
            work(&view.live);
        }
    };
    if let Some(report) = indexes.vectors.compact(&with_live) {
        tracing::info!(?report, "a vector graph was rebuilt without its tombstones");
        saved.commit = 0;
    }
    let oldest = indexes.views.oldest_commit();
    for first in indexes.catalog.purge(oldest)? {
        indexes.documents.remove([first]);
    }
    Ok(())
}
