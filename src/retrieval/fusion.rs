//! Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): a chunk's score is the sum, over the rankings it is
//! in, of `weight / (k + rank)`. It needs no scores that can be compared, only ranks.

use std::collections::HashMap;

/// Rank (from 1) and score of a chunk in one ranking.
pub type Place = (usize, f32);

/// A chunk of the fused ranking.
#[derive(Debug, Clone, PartialEq)]
pub struct Fused {
    /// Its number.
    pub chunk: u32,
    /// Its fused score.
    pub score: f32,
    /// Its place in each of the rankings, in their order; `None` where it is not in one.
    pub ranks: Vec<Option<Place>>,
}

/// Fuses rankings, each best first and with a weight. Gives the best `limit`, best first; ties by number. A chunk that
/// is twice in one ranking counts with its better rank.
pub fn fuse(rankings: &[(&[(u32, f32)], f32)], k: f32, limit: usize) -> Vec<Fused> {
    let mut fused: HashMap<u32, Fused> = HashMap::new();
    for (n, (ranking, weight)) in rankings.iter().enumerate() {
        for (position, (chunk, score)) in ranking.iter().enumerate() {
            let entry = fused.entry(*chunk).or_insert_with(|| Fused {
                chunk: *chunk,
                score: 0.0,
                ranks: vec![None; rankings.len()],
            });
            if entry.ranks[n].is_none() {
                let rank = position + 1;
                entry.ranks[n] = Some((rank, *score));
                entry.score += weight / (k + rank as f32);
            }
        }
    }
    let mut fused: Vec<Fused> = fused.into_values().collect();
    fused.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.chunk.cmp(&b.chunk)));
    fused.truncate(limit);
    fused
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_chunk_in_both_rankings_beats_one_that_leads_a_single_one() {
        let fused = fuse(&[(&[(1, 9.0), (2, 8.0)], 1.0), (&[(3, 0.9), (2, 0.8)], 1.0)], 60.0, 10);
        assert_eq!(fused.iter().map(|hit| hit.chunk).collect::<Vec<_>>(), [2, 1, 3]);
        assert!((fused[0].score - 2.0 / 62.0).abs() < 1e-6);
        assert_eq!(fused[0].ranks, [Some((2, 8.0)), Some((2, 0.8))]);
        assert_eq!(fused[1].ranks, [Some((1, 9.0)), None]);
    }

    #[test]
    fn equal_scores_come_in_the_order_of_their_numbers() {
        let fused = fuse(&[(&[(7, 1.0)], 1.0), (&[(3, 1.0)], 1.0), (&[(5, 1.0)], 1.0)], 60.0, 10);
        assert_eq!(fused.iter().map(|hit| hit.chunk).collect::<Vec<_>>(), [3, 5, 7]);
    }

    proptest! {
        #[test]
        fn the_order_in_which_two_rankings_are_given_makes_no_difference(
            a in proptest::collection::vec((0u32..50, 0f32..1.0), 0..40),
            b in proptest::collection::vec((0u32..50, 0f32..1.0), 0..40),
        ) {
            let mut turned = fuse(&[(&b, 2.0), (&a, 1.0)], 60.0, 100);
            turned.iter_mut().for_each(|hit| hit.ranks.reverse());
            prop_assert_eq!(fuse(&[(&a, 1.0), (&b, 2.0)], 60.0, 100), turned);
        }

        #[test]
        fn a_better_rank_in_one_ranking_never_makes_a_chunk_worse(
            chunks in proptest::collection::hash_set(0u32..50, 2..40),
            other in proptest::collection::vec(0u32..50, 0..40),
            at in 1usize..40,
        ) {
            let mut ranking: Vec<(u32, f32)> = chunks.into_iter().map(|chunk| (chunk, 0.0)).collect();
            let other: Vec<(u32, f32)> = other.into_iter().map(|chunk| (chunk, 0.0)).collect();
            let at = at.min(ranking.len() - 1);
            let chunk = ranking[at].0;
            let place = |ranking: &[(u32, f32)]| {
                fuse(&[(ranking, 1.0), (&other, 1.0)], 60.0, 100).iter().position(|hit| hit.chunk == chunk)
            };
            let before = place(&ranking);
            ranking.swap(at - 1, at);
            prop_assert!(place(&ranking) <= before);
        }

        #[test]
        fn every_chunk_comes_once_in_falling_order_with_the_sum_of_its_parts(
            a in proptest::collection::vec(0u32..50, 0..40),
            b in proptest::collection::vec(0u32..50, 0..40),
            limit in 0usize..60,
        ) {
            let scored = |chunks: &[u32]| chunks.iter().map(|c| (*c, 0.0)).collect::<Vec<_>>();
            let (a, b) = (scored(&a), scored(&b));
            let fused = fuse(&[(&a, 1.0), (&b, 2.0)], 60.0, limit);
            let distinct: std::collections::BTreeSet<u32> = fused.iter().map(|hit| hit.chunk).collect();
            prop_assert_eq!(distinct.len(), fused.len());
            let all: std::collections::BTreeSet<u32> = a.iter().chain(&b).map(|(c, _)| *c).collect();
            prop_assert_eq!(fused.len(), all.len().min(limit));
            prop_assert!(fused.windows(2).all(|pair| pair[0].score >= pair[1].score));
            for hit in &fused {
                let part = |n: usize, weight: f32| hit.ranks[n].map_or(0.0, |(rank, _)| weight / (60.0 + rank as f32));
                prop_assert!((hit.score - part(0, 1.0) - part(1, 2.0)).abs() < 1e-6);
            }
        }
    }
}
