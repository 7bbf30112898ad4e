//! Which passages fit into the prompt: whole ones, by rank.

use crate::retrieval::passage::Passage;

/// Picks passages, best first, while their costs in tokens fit `available`. One that does not fit is left out
/// and smaller ones after it may still enter; one that lies within a chosen one is left out as well. Gives their
/// places in `passages`, in order.
pub fn pack(passages: &[Passage], costs: &[usize], available: usize, max_passages: usize) -> Vec<usize> {
    let mut chosen: Vec<usize> = Vec::new();
    let mut left = available;
    for (n, (passage, cost)) in passages.iter().zip(costs).enumerate() {
        if chosen.len() == max_passages {
            break;
        }
        let inside = |other: &Passage| {
            other.document_id == passage.document_id
                && other.revision == passage.revision
                && other.start <= passage.start
                && passage.end <= other.end
        };
        if *cost <= left && !chosen.iter().any(|&m| inside(&passages[m])) {
            left -= cost;
            chosen.push(n);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::retrieval::passage::Scores;

    fn passage(document: &str, start: usize, end: usize) -> Passage {
        Passage {
            document_id: document.to_owned(),
            revision: 1,
            title: String::new(),
            url: None,
            collection: String::new(),
            section: Vec::new(),
            page: None,
            start,
            end,
            text: String::new(),
            updated_at: 0,
            metadata: Default::default(),
            scores: Scores { fused: 0.0, lexical: None, vector: None },
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_smaller_ones_still_enter() {
        let passages = [passage("a", 0, 10), passage("b", 0, 10), passage("c", 0, 10)];
        assert_eq!(pack(&passages, &[60, 60, 30], 100, 9), [0, 2]);
        assert_eq!(pack(&passages, &[60, 30, 10], 100, 2), [0, 1]);
        assert_eq!(pack(&passages, &[200, 200, 200], 100, 9), Vec::<usize>::new());
    }

    #[test]
    fn a_passage_within_a_chosen_one_is_left_out_and_a_neighbour_is_not() {
        let passages = [passage("a", 0, 100), passage("a", 20, 80), passage("a", 80, 150), passage("b", 20, 80)];
        assert_eq!(pack(&passages, &[1, 1, 1, 1], 100, 9), [0, 2, 3]);
    }

    proptest! {
        #[test]
        fn the_budget_is_never_exceeded_and_rank_is_kept(
            costs in proptest::collection::vec(0usize..300, 0..20), available in 0usize..1000, most in 0usize..8
        ) {
            let passages: Vec<Passage> = (0..costs.len()).map(|n| passage(&n.to_string(), 0, 1)).collect();
            let chosen = pack(&passages, &costs, available, most);
            prop_assert!(chosen.len() <= most);
            prop_assert!(chosen.iter().map(|&n| costs[n]).sum::<usize>() <= available);
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
