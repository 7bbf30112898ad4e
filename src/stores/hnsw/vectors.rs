//! The vectors themselves, for exact scans, and the distance that the graphs use.

use std::collections::HashMap;

use parking_lot::RwLock;
use roaring::RoaringBitmap;

use crate::stores::{ChunkId, Scored};

/// Rows of a block. Small, so that a block whose chunks are all gone is soon given back.
const ROWS: u32 = 64;

/// Inner product of two vectors of one length; of unit vectors, their cosine similarity.
///
/// Written as independent sums, so that the compiler can keep them in vector registers.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 32;
    let mut sums = [0.0f32; LANES];
    let (a_lanes, b_lanes) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_lanes.remainder().iter().zip(b_lanes.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_lanes.zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] = x[lane].mul_add(y[lane], sums[lane]);
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// Cosine distance of unit vectors. Unlike the library's own it does not panic on rounding.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnitCosine;

impl hnsw_rs::prelude::Distance<f32> for UnitCosine {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        (1.0 - dot(a, b)).max(0.0)
    }
}

/// All vectors by chunk number, in blocks of consecutive numbers.
pub struct Vectors {
    dimensions: usize,
    blocks: RwLock<HashMap<u32, Box<[f32]>>>,
}

impl Vectors {
    /// No vectors, of so many dimensions.
    pub fn new(dimensions: usize) -> Self {
        Self { dimensions, blocks: RwLock::default() }
    }

    /// Sets the vector of a chunk.
    pub fn set(&self, chunk: ChunkId, vector: &[f32]) {
        let mut blocks = self.blocks.write();
        let block = blocks
            .entry(chunk / ROWS)
            .or_insert_with(|| vec![0.0; ROWS as usize * self.dimensions].into_boxed_slice());
        let row = (chunk % ROWS) as usize * self.dimensions;
        block[row..row + self.dimensions].copy_from_slice(vector);
    }

    /// Copies of the vectors of chunks.
    pub fn get(&self, chunks: &RoaringBitmap) -> Vec<(ChunkId, Vec<f32>)> {
        let blocks = self.blocks.read();
        let copy = |chunk: ChunkId| {
            let row = (chunk % ROWS) as usize * self.dimensions;
            Some((chunk, blocks.get(&(chunk / ROWS))?[row..row + self.dimensions].to_vec()))
        };
        chunks.iter().filter_map(copy).collect()
    }

    /// The best of `chunks` by exact comparison, best first; ties by number.
    pub fn scan(&self, query: &[f32], limit: usize, chunks: &RoaringBitmap) -> Vec<Scored> {
        let blocks = self.blocks.read();
        let mut scored = Vec::with_capacity(chunks.len() as usize);
        let mut at = (u32::MAX, None);
        for chunk in chunks {
            if at.0 != chunk / ROWS {
                at = (chunk / ROWS, blocks.get(&(chunk / ROWS)));
            }
            if let Some(block) = at.1 {
                let row = (chunk % ROWS) as usize * self.dimensions;
                scored.push(Scored { chunk, score: dot(query, &block[row..row + self.dimensions]) });
            }
        }
        best(&mut scored, limit);
        scored
    }

    /// Gives back the blocks of which no chunk is in `keep`.
    pub fn retain(&self, keep: &RoaringBitmap) {
        let in_use = |block: &u32| keep.range_cardinality(block * ROWS..(block + 1) * ROWS) > 0;
        self.blocks.write().retain(|block, _| in_use(block));
    }

    /// Memory of the vectors, in bytes.
    pub fn bytes(&self) -> usize {
        self.blocks.read().len() * ROWS as usize * self.dimensions * size_of::<f32>()
    }
}

/// Keeps the best, best first; ties by number.
pub fn best(scored: &mut Vec<Scored>, limit: usize) {
    let order = |a: &Scored, b: &Scored| b.score.total_cmp(&a.score).then(a.chunk.cmp(&b.chunk));
    if limit > 0 && scored.len() > limit {
        scored.select_nth_unstable_by(limit - 1, order);
    }
    scored.truncate(limit);
    scored.sort_unstable_by(order);
}
