//! One graph of bounded size, and its files.

use std::fs::File;
use std::io::Read;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use hnsw_rs::prelude::{AnnT, Hnsw, HnswIo};
use parking_lot::{Mutex, RwLock};
use rayon::prelude::*;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::VectorOptions;
use super::vectors::{Rows, UnitCosine};
use crate::stores::ChunkId;

/// Layers of a graph: the most the library has, and all it can dump.
const LAYERS: usize = 16;
/// The first points of a graph are put in one by one: points put in at once before there is an entry into the
/// graph are connected with nothing.
const FIRST: usize = 16;
/// Name of a dump's files, and the files.
const BASENAME: &str = "graph";
const FILES: [&str; 2] = ["graph.hnsw.data", "graph.hnsw.graph"];

type Graph = Hnsw<'static, f32, UnitCosine>;

/// A graph with the rows of its chunks. Grows only.
pub struct Segment {
    graph: Graph,
    /// Swapped whole, so that a scan holds nobody up.
    rows: RwLock<Arc<Rows>>,
    /// Points of each layer that are in the rows.
    listed: Mutex<[usize; LAYERS]>,
}

/// A dumped segment as the manifest names it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dumped {
    /// Its folder, inside that of the index.
    pub folder: String,
    /// Its files with their SHA-256.
    pub files: Vec<(String, String)>,
}

impl Segment {
    /// A segment without chunks.
    pub fn empty(options: &VectorOptions) -> Self {
        Self::with(Graph::new(options.m, options.segment_chunks, LAYERS, options.ef_construction, UnitCosine))
    }

    fn with(graph: Graph) -> Self {
        Self { graph, rows: RwLock::default(), listed: Mutex::default() }
    }

    /// Adds chunks that it lacks, on the threads of the current rayon pool. Their vectors are valid. One caller at a
    /// time.
    pub fn insert(&self, vectors: &[(ChunkId, &[f32])]) {
        let missing = FIRST.saturating_sub(self.graph.get_nb_point());
        let (first, rest) = vectors.split_at(vectors.len().min(missing));
        first.iter().for_each(|(chunk, vector)| self.graph.insert_slice((vector, *chunk as usize)));
        rest.par_iter().for_each(|(chunk, vector)| self.graph.insert_slice((vector, *chunk as usize)));
        self.list();
    }

    /// Takes the points that are new in the graph into the rows. After an insertion that panicked, the next one
    /// takes what that left.
    fn list(&self) {
        let mut listed = self.listed.lock();
        let points = self.graph.get_point_indexation();
        let mut new = Vec::new();
        for (layer, listed) in listed.iter_mut().enumerate() {
            if points.get_layer_nb_point(layer) > *listed {
                let before = new.len();
                new.extend(points.get_layer_iterator(layer).skip(*listed));
                *listed += new.len() - before;
            }
        }
        Arc::make_mut(&mut self.rows.write()).add(new);
    }

    /// Its rows as they are now.
    pub fn rows(&self) -> Arc<Rows> {
        Arc::clone(&self.rows.read())
    }

    /// How many chunks it has.
    pub fn len(&self) -> u64 {
        self.rows.read().chunks().len()
    }

    /// About the nearest `ef` chunks. The library's own filter panics when it has dropped every candidate, and
    /// visits far too much, so what is not allowed is left out by the caller.
    pub fn nearest(&self, query: &[f32], ef: usize) -> RoaringBitmap {
        self.graph.search(query, ef, ef).into_iter().map(|found| found.d_id as ChunkId).collect()
    }

    /// Writes the graph into `root/folder`, synced, and says what was written. Nothing may be inserted meanwhile.
    pub fn dump(&self, root: &Path, folder: &str) -> Result<Dumped, String> {
        let path = root.join(folder);
        let dumped = self.dump_into(&path);
        if dumped.is_err() {
            // Perhaps there is no room: what is half written must not take any. A stray otherwise.
            let _ = std::fs::remove_dir_all(&path);
        }
        Ok(Dumped { folder: folder.to_owned(), files: dumped? })
    }

    fn dump_into(&self, path: &Path) -> Result<Vec<(String, String)>, String> {
        std::fs::create_dir_all(path).map_err(|error| error.to_string())?;
        let dump = AssertUnwindSafe(|| self.graph.file_dump(path, BASENAME));
        std::panic::catch_unwind(dump)
            .map_err(|panic| crate::actors::door::panic_message(&*panic))?
            .map_err(|error| error.to_string())?;
        let sync = |path: &Path| File::open(path)?.sync_all();
        let mut files = Vec::new();
        for name in FILES {
            let file = path.join(name);
            sync(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            files.push((name.to_owned(), hash(&file)?));
        }
        sync(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(files)
    }

    /// Reads a dump, after its hashes: the library may panic or end the process on a damaged one.
    pub fn load(root: &Path, dumped: &Dumped) -> Result<Self, String> {
        let path = root.join(&dumped.folder);
        if !dumped.files.iter().map(|(name, _)| name.as_str()).eq(FILES) {
            return Err(format!("{} is not listed with both its files", path.display()));
        }
        for (name, expected) in &dumped.files {
            let found = hash(&path.join(name))?;
            if found != *expected {
                return Err(format!("{} is damaged", path.join(name).display()));
            }
        }
        // A graph borrows from its reader, so the reader stays for as long as the process: some hundred bytes a
        // segment, once at the start.
        let load = AssertUnwindSafe(|| {
            let reader: &'static mut HnswIo = Box::leak(Box::new(HnswIo::new(&path, BASENAME)));
            reader.load_hnsw::<f32, UnitCosine>()
        });
        let mut graph = std::panic::catch_unwind(load)
            .map_err(|panic| crate::actors::door::panic_message(&*panic))?
            .map_err(|error| error.to_string())?;
        // Set by the library on every reload, against the paper's advice for ordinary data.
        graph.set_extend_candidates(false);
        let segment = Self::with(graph);
        segment.list();
        Ok(segment)
    }
}

fn hash(path: &Path) -> Result<String, String> {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex::encode(digest.finalize())),
                n => digest.update(&buffer[..n]),
            }
        }
    };
    read().map_err(|error| format!("cannot read {}: {error}", path.display()))
}
