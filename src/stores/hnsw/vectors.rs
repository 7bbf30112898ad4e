//! Arithmetic on vectors: the inner product, the distance that the graphs use, and rows of vectors to scan.

use std::sync::Arc;

use hnsw_rs::prelude::Point;
use roaring::RoaringBitmap;

use crate::stores::{ChunkId, Scored};

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
            // Without the instruction it would be a call of a function.
            sums[lane] = if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
                x[lane].mul_add(y[lane], sums[lane])
            } else {
                sums[lane] + x[lane] * y[lane]
            };
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

/// A chunk and its vector, which is the graph's own copy.
type Row = (ChunkId, Arc<Point<'static, f32>>);

/// The vectors of a segment in the order of their chunks.
#[derive(Clone, Default)]
pub struct Rows {
    rows: Vec<Row>,
    chunks: RoaringBitmap,
}

impl Rows {
    /// Adds points of a graph; of two with one chunk the first stays.
    pub fn add(&mut self, points: Vec<Arc<Point<'static, f32>>>) {
        for point in points {
            let chunk = point.get_origin_id() as ChunkId;
            if self.chunks.insert(chunk) {
                self.rows.push((chunk, point));
            }
        }
        // Nearly sorted already, which this sort makes use of.
        self.rows.sort_by_key(|(chunk, _)| *chunk);
    }

    /// The chunks that have a row.
    pub fn chunks(&self) -> &RoaringBitmap {
        &self.chunks
    }

    /// The rows of those of `chunks` that have one, in order.
    pub fn of(&self, chunks: &RoaringBitmap) -> impl Iterator<Item = (ChunkId, &[f32])> {
        let mut rest = self.rows.as_slice();
        (chunks & &self.chunks).into_iter().filter_map(move |chunk| {
            // Mostly it is the next one; where it is not, a binary search.
            if rest.first()?.0 != chunk {
                rest = &rest[rest.partition_point(|(other, _)| *other < chunk)..];
            }
            let (first, others) = rest.split_first()?;
            rest = others;
            Some((chunk, first.1.get_v()))
        })
    }

    /// The best of `chunks` by exact comparison, best first; ties by number.
    pub fn scan(&self, query: &[f32], limit: usize, chunks: &RoaringBitmap) -> Vec<Scored> {
        let mut scored: Vec<Scored> =
            self.of(chunks).map(|(chunk, vector)| Scored { chunk, score: dot(query, vector) }).collect();
        best(&mut scored, limit);
        scored
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inner_product_counts_every_dimension() {
        for length in [0, 1, 31, 32, 33, 64, 100, 384] {
            let a: Vec<f32> = (0..length).map(|n| (n % 7) as f32 - 3.0).collect();
            let b: Vec<f32> = (0..length).map(|n| (n % 5) as f32 - 2.0).collect();
            // Small whole numbers: exact in any order.
            assert_eq!(dot(&a, &b), a.iter().zip(&b).map(|(x, y)| x * y).sum::<f32>(), "{length}");
        }
    }

    #[test]
    fn the_best_are_ordered_by_score_and_then_by_number() {
        let hit = |chunk, score| Scored { chunk, score };
        let all = [hit(5, 0.5), hit(1, 0.5), hit(2, 0.9), hit(4, 0.5), hit(3, -0.1)];
        for limit in 0..7 {
            let mut some = all.to_vec();
            best(&mut some, limit);
            let expected = [hit(2, 0.9), hit(1, 0.5), hit(4, 0.5), hit(5, 0.5), hit(3, -0.1)];
            assert_eq!(some, expected[..limit.min(5)]);
        }
    }
}
