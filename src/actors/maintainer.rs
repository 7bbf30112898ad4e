//! The maintainer does what can wait: saves the vector graphs, rebuilds the one with too many tombstones,
//! removes from the catalog what no search can show any more, and rids all files of what was deleted a while ago.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use roaring::RoaringBitmap;

use super::compute::Compute;
use super::door::{Factory, Role};
use super::stats::now_ms;
use crate::stores::StoreError;
use crate::stores::embedded::Indexes;
use crate::stores::hnsw::{Stale, WithLive};

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
    /// The graphs that are yet to be rid of what was deleted; none where that is not under way.
    stale: Option<Vec<Stale>>,
}

impl Saved {
    /// All is saved, of this commit.
    fn all(&mut self, indexes: &Indexes, commit: u64) {
        (self.points, self.commit, self.at) = (indexes.vectors.chunks().len(), commit, Instant::now());
    }
}

impl Maintainer {
    /// The factory of the maintainer.
    pub fn factory(indexes: Arc<Indexes>, compute: Arc<Compute>) -> Factory<Self> {
        Arc::new(move || {
            let saved = Saved {
                points: indexes.vectors.chunks().len(),
                commit: indexes.vectors.applied(),
                at: Instant::now(),
                stale: None,
            };
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
    /// The deletions of which nothing is left in the files, until the catalog is told that their receipts say so.
    type Reply = Vec<u64>;
    type Error = StoreError;
    const SERIAL: bool = true;

    fn handle(&mut self, message: Maintain) -> LocalBoxFuture<'static, Result<Vec<u64>, StoreError>> {
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

fn round(indexes: &Indexes, saved: &mut Saved, last: bool) -> Result<Vec<u64>, StoreError> {
    indexes.catalog.flush()?;
    let Some(view) = indexes.views.current() else { return Ok(Vec::new()) };
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
        saved.all(indexes, commit);
    }
    if last {
        return Ok(Vec::new());
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
    let oldest = indexes.views.oldest_commit();
    for first in indexes.catalog.purge(oldest)? {
        indexes.documents.remove([first]);
    }
    // A round rebuilds one graph at most, for either reason: all else of the rounds goes on meanwhile, and who stops waits
    // for no more than that one.
    if let Some(commit) = to_expunge(indexes)? {
        return expunge(indexes, saved, commit, &with_live);
    }
    if let Some(report) = indexes.vectors.compact(&with_live) {
        tracing::info!(?report, "a vector graph was rebuilt without its tombstones");
        saved.commit = 0;
    }
    // Those whose receipts do not say so yet.
    let finished = indexes.expunging.lock().finished;
    indexes.catalog.expunged(finished)
}

/// Has the indexer rid its files of what was deleted `[index] expunge_s` ago or before; once it has, the commit up to which.
fn to_expunge(indexes: &Indexes) -> Result<Option<u64>, StoreError> {
    let mut expunging = indexes.expunging.lock();
    if expunging.wanted == expunging.finished {
        let before = now_ms().saturating_sub(indexes.config.index.expunge_s * 1000);
        if let Some(commit) = indexes.catalog.to_expunge(before as i64, expunging.finished)? {
            expunging.wanted = commit;
            indexes.stored.notify_one();
        }
    }
    let ready = expunging.wanted != expunging.finished && expunging.done == expunging.wanted;
    Ok(ready.then_some(expunging.wanted))
}

/// Rids all other files of it, a graph each round. Those that have something of it are known from the beginning: what dies
/// while they are rebuilt is for the next time.
fn expunge(
    indexes: &Indexes,
    saved: &mut Saved,
    commit: u64,
    with_live: &WithLive<'_>,
) -> Result<Vec<u64>, StoreError> {
    let stale = saved.stale.get_or_insert_with(|| indexes.vectors.with_tombstones(with_live));
    while let Some(graph) = stale.pop() {
        if let Some(report) = indexes.vectors.rebuild(&graph, with_live) {
            tracing::info!(?report, left = stale.len(), "a vector graph was rebuilt to be rid of what was deleted");
            saved.commit = 0;
            if !stale.is_empty() {
                return Ok(Vec::new());
            }
        }
    }
    let Some(view) = indexes.views.current().map(|view| view.commit) else { return Ok(Vec::new()) };
    indexes.vectors.save(view)?;
    saved.all(indexes, view);
    if !indexes.catalog.truncate_log()? {
        return Ok(Vec::new());
    }
    let gone = indexes.catalog.expunged(commit)?;
    indexes.expunging.lock().finished = commit;
    saved.stale = None;
    tracing::info!(deletions = gone.len(), "nothing is left of them in the files");
    Ok(gone)
}
