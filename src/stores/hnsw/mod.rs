//! The vector index: HNSW graphs (Malkov and Yashunin 2018, by hnsw_rs) of bounded size, and an exact scan.
//!
//! It is derived from the catalog and knows chunk numbers only. A graph cannot forget: what is deleted stays in it
//! until the graph is rebuilt, and is kept out of every result by the set of chunks that the caller allows. The set
//! is applied before anything is ranked: few allowed chunks are compared exactly, and a graph is asked for as
//! many more as it holds that are not allowed.

mod manifest;
mod segment;
#[cfg(test)]
mod tests;
mod vectors;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use rayon::prelude::*;
use roaring::RoaringBitmap;
use serde::Serialize;

use super::{ChunkId, Scored, StoreError};
use manifest::{MANIFEST, Manifest};
use segment::{Dumped, Segment};
use vectors::best;
pub use vectors::dot;

/// Exact comparisons that cost about as much as one candidate of a graph search.
const SCAN_PER_CANDIDATE: f64 = 200.0;
/// A graph with fewer tombstones than this is not worth a rebuild, whatever their share.
const FEW_TOMBSTONES: u64 = 256;
/// Chunks moved at a time by a rebuild; an insertion waits for no more than these.
const MOVED_AT_ONCE: usize = 64;

/// How the index is built and searched.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorOptions {
    /// Dimensions of a vector.
    pub dimensions: usize,
    /// Neighbours of a point in a graph, 2 to 255.
    pub m: usize,
    /// Candidates looked at while building.
    pub ef_construction: usize,
    /// Candidates looked at while searching, at least.
    pub ef_search: usize,
    /// Chunks of a graph; the next one is begun after so many.
    pub segment_chunks: usize,
    /// Share of tombstones above which a graph is rebuilt.
    pub rebuild_share: f32,
    /// So many allowed chunks of a graph, or fewer, are compared exactly.
    pub exact_below: usize,
}

/// How a search is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// As is fastest.
    Auto,
    /// By the graphs alone, to measure them: it may miss chunks, and give fewer than there are.
    Graph,
    /// By exact comparison.
    Exact,
}

/// Calls what it is given with the live chunks; see [`VectorIndex::compact`].
pub type WithLive<'a> = dyn Fn(&mut dyn FnMut(&RoaringBitmap)) + 'a;

/// A graph that had a tombstone when it was looked; see [`VectorIndex::with_tombstones`].
pub struct Stale(Weak<Segment>);

/// What a rebuild did.
#[derive(Debug, Clone)]
pub struct CompactReport {
    /// Chunks that were put into a graph again.
    pub kept: u64,
    /// Tombstones that are gone.
    pub dropped: u64,
}

/// Figures for the admin page.
#[derive(Debug, Clone, Serialize)]
pub struct VectorStats {
    /// Graphs.
    pub segments: usize,
    /// Chunks in them.
    pub points: u64,
    /// Chunks in them that are not live.
    pub tombstones: u64,
    /// Memory of the graphs with their vectors, estimated, in bytes.
    pub memory_bytes: u64,
}

/// The vector index; see the module. Searches go on beside one writer.
pub struct VectorIndex {
    folder: PathBuf,
    options: VectorOptions,
    /// The last one is open; every other was full when the next one was begun, or is being rebuilt.
    segments: RwLock<Vec<Arc<Segment>>>,
    /// Held by whoever changes a graph, or needs it unchanged.
    writing: Mutex<Saved>,
    applied: AtomicU64,
}

/// What is on disk of which segment: the address of a segment is its identity, its size tells whether it grew.
struct Saved(Vec<(Arc<Segment>, u64, Dumped)>);

/// The saved graphs in memory, before an index is made of them.
pub struct SavedGraphs {
    folder: PathBuf,
    options: VectorOptions,
    segments: Vec<(Arc<Segment>, u64, Dumped)>,
    applied: u64,
    /// Why something is missing.
    trouble: Vec<String>,
}

impl SavedGraphs {
    /// Reads what is in `folder`, which the caller has for itself, and changes nothing there. What is missing or damaged is
    /// left out.
    ///
    /// # Errors
    /// [`StoreError::Failed`] with what is wrong about `options`.
    pub fn read(folder: &Path, options: VectorOptions) -> Result<Self, StoreError> {
        // The library ends the process on some of these.
        if options.dimensions == 0 || !(2..=255).contains(&options.m) || options.segment_chunks == 0 {
            return Err(StoreError::Failed(format!("there is no vector graph with {options:?}")));
        }
        let mut segments = Vec::new();
        let mut trouble = Vec::new();
        let manifest = Manifest::read(folder, &options).unwrap_or_else(|reason| {
            trouble.push(reason);
            None
        });
        let mut applied = manifest.as_ref().map_or(0, |manifest| manifest.applied);
        let dumped = manifest.map_or_else(Vec::new, |manifest| manifest.segments);
        // A segment is read by one thread.
        let loaded: Vec<_> = dumped.into_par_iter().map(|dumped| (Segment::load(folder, &dumped), dumped)).collect();
        for (segment, dumped) in loaded {
            match segment {
                Ok(segment) => {
                    let size = segment.len();
                    segments.push((Arc::new(segment), size, dumped));
                }
                Err(reason) => {
                    trouble.push(reason);
                    applied = 0;
                }
            }
        }
        Ok(Self { folder: folder.to_owned(), options, segments, applied, trouble })
    }
}

impl VectorIndex {
    /// Opens the index of what was saved. What could not be read is left out, and the second value says why: the
    /// caller inserts again what [`VectorIndex::chunks`] lacks.
    ///
    /// # Errors
    /// [`StoreError::Failed`] where the folder cannot be made.
    pub fn open(saved: SavedGraphs) -> Result<(Self, Option<String>), StoreError> {
        let SavedGraphs { folder, options, segments, applied, trouble } = saved;
        std::fs::create_dir_all(&folder)
            .map_err(|error| StoreError::Failed(format!("cannot make {}: {error}", folder.display())))?;
        let index = Self {
            folder,
            segments: RwLock::new(segments.iter().map(|(segment, ..)| Arc::clone(segment)).collect()),
            options,
            applied: AtomicU64::new(applied),
            writing: Mutex::new(Saved(segments)),
        };
        index.remove_strays(&index.writing.lock());
        Ok((index, (!trouble.is_empty()).then(|| trouble.join("; "))))
    }

    /// The catalog's commit at the last save; 0 where something was lost since.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    /// The numbers of all chunks in the graphs, tombstones included.
    pub fn chunks(&self) -> RoaringBitmap {
        self.segments.read().iter().fold(RoaringBitmap::new(), |all, segment| all | segment.rows().chunks())
    }

    /// Adds chunks, on the threads of the current rayon pool; those that are in already are skipped. No search gives
    /// them before its caller allows them.
    ///
    /// # Errors
    /// [`StoreError::Failed`] where a vector has the wrong length or is not of norm 1; nothing was added then.
    pub fn insert(&self, chunks: &[(ChunkId, &[f32])]) -> Result<(), StoreError> {
        for (chunk, vector) in chunks {
            self.check(vector).map_err(|reason| StoreError::Failed(format!("the vector of chunk {chunk} {reason}")))?;
        }
        let _writing = self.writing.lock();
        let mut known = self.chunks();
        let new: Vec<_> = chunks.iter().copied().filter(|(chunk, _)| known.insert(*chunk)).collect();
        self.place(&new);
        Ok(())
    }

    /// Puts chunks into the open segment, and into new ones where that is full.
    fn place(&self, mut chunks: &[(ChunkId, &[f32])]) {
        while !chunks.is_empty() {
            let segment = self.open_segment();
            let room = self.options.segment_chunks.saturating_sub(segment.len() as usize).max(1);
            let (now, later) = chunks.split_at(chunks.len().min(room));
            segment.insert(now);
            chunks = later;
        }
    }

    /// The last segment, or a new one where that is full.
    fn open_segment(&self) -> Arc<Segment> {
        let mut segments = self.segments.write();
        if let Some(last) = segments.last()
            && (last.len() as usize) < self.options.segment_chunks
        {
            return Arc::clone(last);
        }
        let segment = Arc::new(Segment::empty(&self.options));
        segments.push(Arc::clone(&segment));
        segment
    }

    fn check(&self, vector: &[f32]) -> Result<(), String> {
        if vector.len() != self.options.dimensions {
            return Err(format!("has {} dimensions, the index has {}", vector.len(), self.options.dimensions));
        }
        let norm = dot(vector, vector);
        // NaN is not within the range either.
        if !(0.99..=1.01).contains(&norm) {
            return Err(format!("is not of norm 1: its square is {norm}"));
        }
        Ok(())
    }

    /// The allowed chunks nearest to `query` with their cosine similarity, best first; ties by number. The segments
    /// are searched on the threads of the current rayon pool.
    ///
    /// # Errors
    /// [`StoreError::Failed`] where the query's vector has the wrong length or is not of norm 1.
    pub fn search(
        &self,
        query: &[f32],
        limit: usize,
        allowed: &RoaringBitmap,
        plan: Plan,
    ) -> Result<Vec<Scored>, StoreError> {
        self.check(query).map_err(|reason| StoreError::Failed(format!("the query's vector {reason}")))?;
        let segments = self.segments.read().clone();
        let mut found: Vec<Scored> = segments
            .par_iter()
            .flat_map_iter(|segment| self.search_segment(segment, query, limit, allowed, plan))
            .collect();
        best(&mut found, usize::MAX);
        // While a graph is rebuilt, a chunk can be in two. It has the same score in both.
        found.dedup_by_key(|hit| hit.chunk);
        found.truncate(limit);
        Ok(found)
    }

    fn search_segment(
        &self,
        segment: &Segment,
        query: &[f32],
        limit: usize,
        allowed: &RoaringBitmap,
        plan: Plan,
    ) -> Vec<Scored> {
        let rows = segment.rows();
        let (here, points) = (rows.chunks().intersection_len(allowed), rows.chunks().len());
        if here == 0 || limit == 0 {
            return Vec::new();
        }
        // As many more as are not allowed, evenly spread; and some, as they are not.
        let wanted = self.options.ef_search.max(limit) as f64;
        let ef = if here == points { wanted } else { wanted * points as f64 / here as f64 * 1.2 };
        let graph_is_slower = here <= self.options.exact_below as u64 || ef * SCAN_PER_CANDIDATE > here as f64;
        if plan == Plan::Exact || (plan == Plan::Auto && graph_is_slower) {
            return rows.scan(query, limit, allowed);
        }
        // Compared exactly once more: that gives the same score for a chunk however it was found.
        let near = segment.nearest(query, (ef as usize).min(points as usize));
        let found = rows.scan(query, limit, &(near & allowed));
        if plan == Plan::Auto && (found.len() as u64) < here.min(limit as u64) {
            return rows.scan(query, limit, allowed);
        }
        found
    }

    /// Rebuilds the graph with the largest share of tombstones, if that is above the limit: moves its live chunks into
    /// the open graph, and drops it. Takes seconds to minutes; searches and inserts go on.
    ///
    /// `with_live` calls what it is given with the live chunks, while none that is in a graph can become live: once to
    /// choose, and once to drop the old graph.
    pub fn compact(&self, with_live: &WithLive<'_>) -> Option<CompactReport> {
        let mut chosen = None;
        with_live(&mut |live| chosen = self.choose(live));
        let (old, keep) = chosen?;
        Some(self.move_all(&old, &keep, with_live))
    }

    /// The graphs that have a tombstone now, for [`VectorIndex::rebuild`]; the open one is the last. To be begun with that
    /// one: what is moved out of the others then goes into the one that follows it, and is moved once.
    pub fn with_tombstones(&self, with_live: &WithLive<'_>) -> Vec<Stale> {
        let mut stale = Vec::new();
        with_live(&mut |live| {
            let _writing = self.writing.lock();
            let segments = self.segments.read();
            let some = segments.iter().filter(|segment| dead(segment, live) > 0);
            stale = some.map(|segment| Stale(Arc::downgrade(segment))).collect();
        });
        stale
    }

    /// Rebuilds a graph without its tombstones, whatever their share, as [`VectorIndex::compact`] does. None where it is
    /// gone already.
    pub fn rebuild(&self, stale: &Stale, with_live: &WithLive<'_>) -> Option<CompactReport> {
        let old = stale.0.upgrade()?;
        let mut keep = None;
        with_live(&mut |live| {
            let _writing = self.writing.lock();
            let mut segments = self.segments.write();
            if segments.iter().any(|segment| Arc::ptr_eq(segment, &old)) {
                self.close(&mut segments, &old);
                keep = Some(old.rows().chunks() & live);
            }
        });
        Some(self.move_all(&old, &keep?, with_live))
    }

    /// Moves what is to be kept of a closed segment, and what becomes live of it meanwhile, to where there is room, and
    /// drops it.
    fn move_all(&self, old: &Arc<Segment>, keep: &RoaringBitmap, with_live: &WithLive<'_>) -> CompactReport {
        let (rows, mut kept) = (old.rows(), 0);
        let vectors: Vec<(ChunkId, &[f32])> = rows.of(keep).collect();
        for some in vectors.chunks(MOVED_AT_ONCE) {
            let _writing = self.writing.lock();
            kept += self.move_from(old, some);
        }
        with_live(&mut |live| {
            let _writing = self.writing.lock();
            // What has become live meanwhile; mostly nothing.
            let late: Vec<(ChunkId, &[f32])> = rows.of(&(live - keep)).collect();
            kept += self.move_from(old, &late);
            self.segments.write().retain(|segment| !Arc::ptr_eq(segment, old));
        });
        CompactReport { kept, dropped: old.len().saturating_sub(kept) }
    }

    /// Moves chunks of a segment to where there is room; returns how many no other segment had.
    fn move_from(&self, old: &Arc<Segment>, vectors: &[(ChunkId, &[f32])]) -> u64 {
        let segments = self.segments.read().clone();
        let others = segments.iter().filter(|segment| !Arc::ptr_eq(segment, old)).map(|segment| segment.rows());
        let others: Vec<_> = others.collect();
        let new: Vec<_> = vectors
            .iter()
            .copied()
            .filter(|(chunk, _)| !others.iter().any(|rows| rows.chunks().contains(*chunk)))
            .collect();
        drop(others);
        self.place(&new);
        new.len() as u64
    }

    /// The segment to rebuild, closed, and its live chunks.
    fn choose(&self, live: &RoaringBitmap) -> Option<(Arc<Segment>, RoaringBitmap)> {
        let _writing = self.writing.lock();
        let mut segments = self.segments.write();
        let share = |segment: &Segment| dead(segment, live) as f32 / segment.len().max(1) as f32;
        let worst = segments.iter().max_by(|a, b| share(a).total_cmp(&share(b))).cloned()?;
        let tombstones = dead(&worst, live);
        let enough = tombstones >= FEW_TOMBSTONES || tombstones == worst.len();
        if tombstones == 0 || !enough || share(&worst) <= self.options.rebuild_share {
            return None;
        }
        self.close(&mut segments, &worst);
        let keep = worst.rows().chunks() & live;
        Some((worst, keep))
    }

    /// Closes a segment to inserts, if it is the open one: what is rebuilt must not grow.
    fn close(&self, segments: &mut Vec<Arc<Segment>>, old: &Arc<Segment>) {
        if segments.last().is_some_and(|last| Arc::ptr_eq(last, old)) {
            segments.push(Arc::new(Segment::empty(&self.options)));
        }
    }

    /// Writes what has changed since the last save, for the catalog's commit `applied`. Inserts wait meanwhile.
    ///
    /// # Errors
    /// [`StoreError`]; what was saved before stays.
    pub fn save(&self, applied: u64) -> Result<(), StoreError> {
        let mut saved = self.writing.lock();
        let result = self.write_changed(&mut saved, applied);
        // Those before after a success, those of this one after a failure.
        self.remove_strays(&saved);
        result.map_err(|reason| self.unsaved(&reason))
    }

    fn write_changed(&self, saved: &mut Saved, applied: u64) -> Result<(), String> {
        let segments = self.segments.read().clone();
        let mut now = Vec::new();
        for segment in segments {
            let size = segment.len();
            let same = |(old, at, _): &&(Arc<Segment>, u64, Dumped)| Arc::ptr_eq(old, &segment) && *at == size;
            let dumped = match saved.0.iter().find(same) {
                Some((.., dumped)) => dumped.clone(),
                None if size == 0 => continue,
                None => {
                    let folder = format!("segment-{}", uuid::Uuid::now_v7().simple());
                    segment.dump(&self.folder, &folder)?
                }
            };
            now.push((segment, size, dumped));
        }
        let dumped = now.iter().map(|(.., dumped)| dumped.clone()).collect();
        Manifest::new(&self.options, applied, dumped).write(&self.folder).map_err(|error| error.to_string())?;
        saved.0 = now;
        self.applied.store(applied, Ordering::Relaxed);
        Ok(())
    }

    fn unsaved(&self, reason: &str) -> StoreError {
        let text = format!("cannot save the vector graphs in {}: {reason}", self.folder.display());
        if ["os error 28", "os error 122", "No space"].iter().any(|sign| reason.contains(sign)) {
            StoreError::Full(format!("{text}. Nothing is lost: they are built again from the catalog."))
        } else {
            StoreError::Failed(text)
        }
    }

    /// Removes folders that no save refers to.
    fn remove_strays(&self, saved: &Saved) {
        let known = |name: &str| name == MANIFEST || saved.0.iter().any(|(.., dumped)| dumped.folder == name);
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for entry in entries.filter_map(Result::ok) {
            if !entry.file_name().to_str().is_some_and(known) {
                // What cannot be removed now is a stray the next time as well.
                let path = entry.path();
                let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            }
        }
    }

    /// Figures, given the live chunks.
    pub fn stats(&self, live: &RoaringBitmap) -> VectorStats {
        let chunks = self.chunks();
        // Fitted to one measurement, 4.5 kB a point at 384 dimensions and `m` 16: the vector, what a point takes by
        // itself, and its neighbours.
        let point = 4 * self.options.dimensions + 640 + 127 * self.options.m;
        VectorStats {
            segments: self.segments.read().len(),
            points: chunks.len(),
            tombstones: chunks.len() - chunks.intersection_len(live),
            memory_bytes: chunks.len() * point as u64,
        }
    }
}

/// How many of a segment's chunks are not live.
fn dead(segment: &Segment, live: &RoaringBitmap) -> u64 {
    segment.len() - segment.rows().chunks().intersection_len(live)
}
