//! One graph of bounded size, and its files.

use std::fs::File;
use std::io::Read;
use std::panic::AssertUnwindSafe;
use std::path::Path;

use hnsw_rs::prelude::{AnnT, Hnsw, HnswIo};
use parking_lot::RwLock;
use rayon::prelude::*;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::VectorOptions;
use super::vectors::UnitCosine;
use crate::stores::{ChunkId, Scored};

/// Layers of a graph; enough for any size a segment can have.
const LAYERS: usize = 16;
/// Name of a dump's files.
const BASENAME: &str = "graph";

type Graph = Hnsw<'static, f32, UnitCosine>;

/// A graph with the numbers of its chunks.
pub struct Segment {
    graph: Graph,
    chunks: RwLock<RoaringBitmap>,
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
        let graph =
            Graph::new(options.m, options.segment_chunks, LAYERS, options.ef_construction, UnitCosine);
        Self { graph, chunks: RwLock::default() }
    }

    /// Adds chunks, on the threads of the current rayon pool. Their vectors are valid.
    pub fn insert(&self, vectors: &[(ChunkId, &[f32])]) {
        // The first points one by one: they make the entry into the graph.
        let (first, rest) = vectors.split_at(vectors.len().min(if self.len() == 0 { 16 } else { 0 }));
        first.iter().for_each(|(chunk, vector)| self.graph.insert_slice((vector, *chunk as usize)));
        rest.par_iter().for_each(|(chunk, vector)| self.graph.insert_slice((vector, *chunk as usize)));
        self.chunks.write().extend(vectors.iter().map(|(chunk, _)| *chunk));
    }

    /// Its chunks.
    pub fn chunks(&self) -> RoaringBitmap {
        self.chunks.read().clone()
    }

    /// How many chunks it has.
    pub fn len(&self) -> u64 {
        self.chunks.read().len()
    }

    /// How many of `chunks` it has.
    pub fn count(&self, chunks: &RoaringBitmap) -> u64 {
        self.chunks.read().intersection_len(chunks)
    }

    /// About the nearest `ef` chunks. The library's own filter can panic and visits far too much, so
    /// what is not allowed is left out by the caller.
    pub fn nearest(&self, query: &[f32], ef: usize) -> Vec<Scored> {
        self.graph
            .search(query, ef, ef)
            .into_iter()
            .map(|found| Scored { chunk: found.d_id as ChunkId, score: 1.0 - found.distance })
            .collect()
    }

    /// Writes the graph into `root/folder`, synced, and says what was written.
    pub fn dump(&self, root: &Path, folder: &str) -> Result<Dumped, String> {
        let path = root.join(folder);
        std::fs::create_dir_all(&path).map_err(|error| error.to_string())?;
        let dump = AssertUnwindSafe(|| self.graph.file_dump(&path, BASENAME));
        std::panic::catch_unwind(dump)
            .map_err(|panic| crate::actors::door::panic_message(&*panic))?
            .map_err(|error| error.to_string())?;
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(|error| error.to_string())? {
            let entry = entry.map_err(|error| error.to_string())?;
            let file = File::open(entry.path()).map_err(|error| error.to_string())?;
            file.sync_all().map_err(|error| error.to_string())?;
            files.push((entry.file_name().to_string_lossy().into_owned(), hash(&entry.path())?));
        }
        Ok(Dumped { folder: folder.to_owned(), files })
    }

    /// Reads a dump, after its hashes: the library may panic or end the process on a damaged one. Calls
    /// `vector` for each chunk in it.
    pub fn load(root: &Path, dumped: &Dumped, mut vector: impl FnMut(ChunkId, &[f32])) -> Result<Self, String> {
        let path = root.join(&dumped.folder);
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
        let mut chunks = RoaringBitmap::new();
        if graph.get_nb_point() > 0 {
            for point in graph.get_point_indexation() {
                let chunk = point.get_origin_id() as ChunkId;
                chunks.insert(chunk);
                vector(chunk, point.get_v());
            }
        }
        Ok(Self { graph, chunks: RwLock::new(chunks) })
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
