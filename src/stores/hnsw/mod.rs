//! The vector index: HNSW graphs (Malkov and Yashunin 2018, by hnsw_rs) of bounded size, and an exact scan.
//!
//! It is derived from the catalog and knows chunk numbers only. A graph cannot forget: what is deleted stays in it
//! until the graph is rebuilt, and is kept out of every result by the set of chunks that the caller allows. The set
//! is applied before anything is ranked: few allowed chunks are compared exactly, and a graph is asked for as
//! many more as it holds that are not allowed.

mod segment;
mod vectors;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use rayon::prelude::*;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use super::{ChunkId, Scored, StoreError};
use segment::{Dumped, Segment};
use vectors::{Vectors, best};

/// How the index is built and searched.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorOptions {
    /// Dimensions of a vector.
    pub dimensions: usize,
    /// Neighbours of a point in a graph.
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
    /// By exact comparison.
    Exact,
}

/// What a rebuild did.
#[derive(Debug, Clone)]
pub struct CompactReport {
    /// Chunks in the new graph.
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
    /// Memory of the vectors outside the graphs, in bytes.
    pub vector_bytes: usize,
}

/// The vector index; see the module. Searches go on beside one writer.
pub struct VectorIndex {
    folder: PathBuf,
    options: VectorOptions,
    segments: RwLock<Vec<Arc<Segment>>>,
    vectors: Vectors,
    writing: Mutex<Saved>,
    applied: AtomicU64,
}

/// What is on disk of which segment: the address of a segment is its identity, its size tells whether it grew.
struct Saved(Vec<(Arc<Segment>, u64, Dumped)>);

const MANIFEST: &str = "manifest.json";
/// Version of the files.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    dimensions: usize,
    m: usize,
    ef_construction: usize,
    applied: u64,
    segments: Vec<Dumped>,
}

impl VectorIndex {
    /// Opens the index in `folder`. What is missing or damaged is left out, and the second value says why: the
    /// caller inserts again what [`VectorIndex::chunks`] lacks.
    ///
    /// # Errors
    /// [`StoreError::Failed`] where the folder cannot be used at all.
    pub fn open(folder: &Path, options: VectorOptions) -> Result<(Self, Option<String>), StoreError> {
        std::fs::create_dir_all(folder)
            .map_err(|error| StoreError::Failed(format!("cannot make {}: {error}", folder.display())))?;
        let vectors = Vectors::new(options.dimensions);
        let mut saved = Vec::new();
        let mut trouble = Vec::new();
        let manifest = read_manifest(folder, &options).unwrap_or_else(|reason| {
            trouble.push(reason);
            None
        });
        let mut applied = manifest.as_ref().map_or(0, |manifest| manifest.applied);
        for dumped in manifest.into_iter().flat_map(|manifest| manifest.segments) {
            match Segment::load(folder, &dumped, |chunk, vector| vectors.set(chunk, vector)) {
                Ok(segment) => {
                    let size = segment.len();
                    saved.push((Arc::new(segment), size, dumped));
                }
                Err(reason) => {
                    trouble.push(reason);
                    applied = 0;
                }
            }
        }
        let index = Self {
            folder: folder.to_owned(),
            segments: RwLock::new(saved.iter().map(|(segment, ..)| Arc::clone(segment)).collect()),
            options,
            vectors,
            applied: AtomicU64::new(applied),
            writing: Mutex::new(Saved(saved)),
        };
        index.vectors.retain(&index.chunks());
        index.remove_strays();
        Ok((index, (!trouble.is_empty()).then(|| trouble.join("; "))))
    }

    /// The catalog's commit at the last save.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    /// The numbers of all chunks in the graphs, tombstones included.
    pub fn chunks(&self) -> RoaringBitmap {
        self.segments.read().iter().fold(RoaringBitmap::new(), |all, segment| all | segment.chunks())
    }

    /// Adds chunks, on the threads of the current rayon pool. No search gives them before its caller allows them.
    ///
    /// # Errors
    /// [`StoreError::Failed`] where a vector has the wrong length or is not of norm 1; nothing was added then.
    pub fn insert(&self, chunks: &[(ChunkId, &[f32])]) -> Result<(), StoreError> {
        for (chunk, vector) in chunks {
            self.check(vector).map_err(|reason| StoreError::Failed(format!("the vector of chunk {chunk} {reason}")))?;
        }
        let _writing = self.writing.lock();
        let mut rest = chunks;
        while !rest.is_empty() {
            let segment = self.open_segment();
            let room = self.options.segment_chunks.saturating_sub(segment.len() as usize).max(1);
            let (now, later) = rest.split_at(rest.len().min(room));
            now.iter().for_each(|(chunk, vector)| self.vectors.set(*chunk, vector));
            segment.insert(now);
            rest = later;
        }
        Ok(())
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
        let norm = vectors::dot(vector, vector);
        // NaN is not within the range either.
        if !(0.99..=1.01).contains(&norm) {
            return Err(format!("is not of norm 1: its square is {norm}"));
        }
        Ok(())
    }

    /// The allowed chunks nearest to `query` with their cosine similarity, best first; ties by number.
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
        if plan == Plan::Exact || allowed.len() <= self.options.exact_below as u64 {
            return Ok(self.vectors.scan(query, limit, allowed));
        }
        let segments = self.segments.read().clone();
        let mut found: Vec<Scored> =
            segments.par_iter().flat_map_iter(|segment| self.search_segment(segment, query, limit, allowed)).collect();
        best(&mut found, limit);
        Ok(found)
    }

    fn search_segment(
        &self,
        segment: &Segment,
        query: &[f32],
        limit: usize,
        allowed: &RoaringBitmap,
    ) -> Vec<Scored> {
        let (here, points) = (segment.count(allowed), segment.len());
        let exact = || self.vectors.scan(query, limit, &(segment.chunks() & allowed));
        if here <= self.options.exact_below as u64 {
            return exact();
        }
        // As many more as are not allowed, evenly spread; and some, as they are not.
        let wanted = self.options.ef_search.max(limit) as f64;
        let ef = if here == points { wanted } else { wanted * points as f64 / here as f64 * 1.2 };
        // Each candidate of a graph costs about as much as two hundred exact comparisons.
        if ef * 200.0 > here as f64 {
            return exact();
        }
        let mut found = segment.nearest(query, ef as usize);
        found.retain(|hit| allowed.contains(hit.chunk));
        if (found.len() as u64) < here.min(limit as u64) {
            return exact();
        }
        found
    }

    /// Rebuilds the graph with the largest share of tombstones, if that is above the limit. Takes seconds to
    /// minutes; searches and inserts go on.
    ///
    /// `with_live` calls what it is given with the live chunks, while none that is in a graph can become live: once to
    /// choose, and once to put the new graph in its place.
    pub fn compact(&self, with_live: &dyn Fn(&mut dyn FnMut(&RoaringBitmap))) -> Option<CompactReport> {
        let mut chosen = None;
        with_live(&mut |live| chosen = self.choose(live));
        let Some((old, keep)) = chosen else { return None };
        let new = Arc::new(Segment::empty(&self.options));
        let vectors = self.vectors.get(&keep);
        let slices: Vec<(ChunkId, &[f32])> = vectors.iter().map(|(chunk, v)| (*chunk, v.as_slice())).collect();
        for some in slices.chunks(1024) {
            new.insert(some);
        }
        let dropped = old.len() - keep.len();
        let mut done = false;
        with_live(&mut |live| {
            let revived = !((old.chunks() - &keep) & live).is_empty();
            let mut segments = self.segments.write();
            if let Some(at) = segments.iter().position(|segment| Arc::ptr_eq(segment, &old))
                && !revived
            {
                segments.remove(at);
                if !keep.is_empty() {
                    // In front: the last segment is the one that is open.
                    segments.insert(0, Arc::clone(&new));
                }
                done = true;
            }
        });
        done.then_some(CompactReport { kept: keep.len(), dropped })
    }

    fn choose(&self, live: &RoaringBitmap) -> Option<(Arc<Segment>, RoaringBitmap)> {
        let _writing = self.writing.lock();
        let mut segments = self.segments.write();
        let share = |segment: &Segment| 1.0 - segment.count(live) as f32 / segment.len().max(1) as f32;
        let worst = segments.iter().max_by(|a, b| share(a).total_cmp(&share(b))).cloned()?;
        // A handful of tombstones is not worth the work, whatever their share.
        if share(&worst) <= self.options.rebuild_share || worst.len() - worst.count(live) < 256 {
            return None;
        }
        if segments.last().is_some_and(|last| Arc::ptr_eq(last, &worst)) {
            // Closed to inserts from here on: what is rebuilt must not grow.
            segments.push(Arc::new(Segment::empty(&self.options)));
        }
        let keep = worst.chunks() & live;
        Some((worst, keep))
    }

    /// Writes what has changed since the last save, for the catalog's commit `applied`.
    ///
    /// # Errors
    /// [`StoreError`]; what was saved before stays.
    pub fn save(&self, applied: u64) -> Result<(), StoreError> {
        let mut saved = self.writing.lock();
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
                    segment.dump(&self.folder, &folder).map_err(|reason| self.unsaved(&reason))?
                }
            };
            now.push((segment, size, dumped));
        }
        let manifest = Manifest {
            format: FORMAT,
            dimensions: self.options.dimensions,
            m: self.options.m,
            ef_construction: self.options.ef_construction,
            applied,
            segments: now.iter().map(|(.., dumped)| dumped.clone()).collect(),
        };
        self.write_manifest(&manifest).map_err(|error| self.unsaved(&error.to_string()))?;
        saved.0 = now;
        self.applied.store(applied, Ordering::Relaxed);
        // While nothing is inserted: a vector is set before its chunk is in a graph.
        self.vectors.retain(&self.chunks());
        drop(saved);
        self.remove_strays();
        Ok(())
    }

    fn unsaved(&self, reason: &str) -> StoreError {
        let text = format!("cannot save the vector graphs in {}: {reason}", self.folder.display());
        if reason.contains("os error 28") || reason.contains("No space") {
            StoreError::Full(format!("{text}. Nothing is lost: they are built again from the catalog."))
        } else {
            StoreError::Failed(text)
        }
    }

    fn write_manifest(&self, manifest: &Manifest) -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        serde_json::to_writer(&mut file, manifest)?;
        file.flush()?;
        file.as_file().sync_all()?;
        file.persist(self.folder.join(MANIFEST)).map_err(|error| error.error)?;
        std::fs::File::open(&self.folder)?.sync_all()
    }

    /// Removes folders that no save refers to.
    fn remove_strays(&self) {
        let saved = self.writing.lock();
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
        VectorStats {
            segments: self.segments.read().len(),
            points: chunks.len(),
            tombstones: chunks.len() - chunks.intersection_len(live),
            vector_bytes: self.vectors.bytes(),
        }
    }
}

/// The manifest, `None` where there is none yet, or why it cannot be used.
fn read_manifest(folder: &Path, options: &VectorOptions) -> Result<Option<Manifest>, String> {
    let path = folder.join(MANIFEST);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    };
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|error| format!("{} is damaged: {error}", path.display()))?;
    let same = manifest.format == FORMAT
        && manifest.dimensions == options.dimensions
        && manifest.m == options.m
        && manifest.ef_construction == options.ef_construction;
    if same { Ok(Some(manifest)) } else { Err("they were built with other settings".to_owned()) }
}

#[cfg(test)]
mod tests;
