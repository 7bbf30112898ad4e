//! Which passages fit into the prompt: whole ones, by rank.

use crate::retrieval::passage::Passage;

/// The question alone is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverBudget {
    /// Tokens of the question.
    pub question_tokens: usize,
    /// The most it may have.
    pub limit: usize,
}

/// How the tokens of one prompt are shared out. All counts are tokens of the model that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// What prompt and output may have together.
    pub context: usize,
    /// Kept free for the output.
    pub max_output: usize,
    /// The prompt without question and evidence: the head and the markup.
    pub fixed: usize,
    /// The most a question may have.
    pub max_question: usize,
}

impl Budget {
    /// What is left for evidence beside a question.
    ///
    /// # Errors
    /// [`OverBudget`] where the question is longer than `max_question`, or than what output and head leave.
    pub fn evidence(&self, question_tokens: usize) -> Result<usize, OverBudget> {
        let room = self.context.saturating_sub(self.max_output.saturating_add(self.fixed));
        let limit = room.min(self.max_question);
        if question_tokens > limit { Err(OverBudget { question_tokens, limit }) } else { Ok(room - question_tokens) }
    }
}

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
            chunk: 0,
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
    fn evidence_gets_what_output_head_and_question_leave() {
        let budget = Budget { context: 1000, max_output: 300, fixed: 100, max_question: 200 };
        assert_eq!(budget.evidence(50), Ok(550));
        assert_eq!(budget.evidence(201), Err(OverBudget { question_tokens: 201, limit: 200 }));
        let small = Budget { context: 450, ..budget };
        assert_eq!(small.evidence(50), Ok(0));
        assert_eq!(small.evidence(51), Err(OverBudget { question_tokens: 51, limit: 50 }));
        let none = Budget { context: 10, ..budget };
        assert_eq!(none.evidence(1), Err(OverBudget { question_tokens: 1, limit: 0 }));
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
