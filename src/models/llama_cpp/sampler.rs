//! Choosing the next token from logits: penalties, temperature, nucleus.
//!
//! Own code rather than llama.cpp's chain, which first makes an array of candidates of the whole vocabulary: the
//! likeliest token is found in one pass over the logits, and a draw sorts only what its nucleus needs.

use std::collections::{HashMap, VecDeque};

use crate::models::Sampling;

/// Generated tokens back that the repetition penalty looks at.
const PENALTY_WINDOW: usize = 64;
/// A token this many times the temperature below the likeliest one has 2e-9 of its weight, and all such tokens of a
/// vocabulary of 100,000 together 0.0002 of it: they are left out.
const NEGLIGIBLE: f32 = 20.0;

/// Buffers that sequences share.
#[derive(Default)]
pub(super) struct Scratch {
    logits: Vec<f32>,
    weights: Vec<(f32, i32)>,
}

/// The sampler of one sequence.
pub(super) struct Sampler {
    sampling: Sampling,
    recent: VecDeque<i32>,
    /// How often each token was chosen, where a penalty counts it.
    chosen: HashMap<i32, u32>,
    random: u64,
}

impl Sampler {
    /// A sampler that has seen no token. The same sampling of the same logits chooses the same tokens.
    pub(super) fn new(sampling: &Sampling) -> Self {
        let seed = sampling.seed.unwrap_or_else(|| uuid::Uuid::now_v7().as_u128() as u32);
        Self { sampling: sampling.clone(), recent: VecDeque::new(), chosen: HashMap::new(), random: u64::from(seed) }
    }

    /// Chooses a token; none where the logits are no numbers.
    pub(super) fn choose(&mut self, logits: &[f32], scratch: &mut Scratch) -> Option<i32> {
        let Scratch { logits: penalised, weights } = scratch;
        let logits = if self.recent.is_empty() && self.chosen.is_empty() {
            logits
        } else {
            penalised.clear();
            penalised.extend_from_slice(logits);
            self.penalise(penalised);
            penalised
        };
        let likeliest = argmax(logits)?;
        let token =
            if self.sampling.temperature > 0.0 { self.draw(logits, likeliest, weights) } else { likeliest } as i32;
        if self.sampling.repeat_penalty != 1.0 {
            self.recent.truncate(PENALTY_WINDOW - 1);
            self.recent.push_front(token);
        }
        if self.sampling.presence_penalty != 0.0 || self.sampling.frequency_penalty != 0.0 {
            *self.chosen.entry(token).or_default() += 1;
        }
        Some(token)
    }

    /// Makes recent tokens less likely (Keskar et al. 2019, CTRL, section 4.1, with llama.cpp's rule for negative
    /// logits), each once; and all that were chosen, by OpenAI's presence and frequency penalties.
    fn penalise(&self, logits: &mut [f32]) {
        for (token, times) in &self.chosen {
            if let Some(logit) = usize::try_from(*token).ok().and_then(|token| logits.get_mut(token)) {
                *logit -= self.sampling.presence_penalty + self.sampling.frequency_penalty * *times as f32;
            }
        }
        for (n, token) in self.recent.iter().enumerate() {
            if self.recent.iter().take(n).any(|earlier| earlier == token) {
                continue;
            }
            if let Some(logit) = usize::try_from(*token).ok().and_then(|token| logits.get_mut(token)) {
                let penalty = self.sampling.repeat_penalty;
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// Draws from the nucleus: the likeliest tokens that have `top_p` of the probability together, at least one
    /// (Holtzman et al. 2020).
    fn draw(&mut self, logits: &[f32], likeliest: usize, weights: &mut Vec<(f32, i32)>) -> usize {
        let (highest, temperature) = (logits[likeliest], self.sampling.temperature);
        let floor = highest - NEGLIGIBLE * temperature;
        weights.clear();
        let counted = logits.iter().zip(0..).filter(|(logit, _)| **logit >= floor);
        weights.extend(counted.map(|(logit, token)| (((logit - highest) / temperature).exp(), token)));
        let mut share: f32 = weights.iter().map(|(weight, _)| weight).sum();
        let mut nucleus = weights.len();
        if self.sampling.top_p < 1.0 {
            let enough = share * self.sampling.top_p.max(0.0);
            let descending = |a: &(f32, i32), b: &(f32, i32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
            let mut sorted = 0;
            (share, nucleus) = (0.0, 0);
            while nucleus == 0 || (share < enough && nucleus < weights.len()) {
                if nucleus == sorted {
                    // The next likeliest ones, a few at a time: most nuclei are small.
                    let next = (sorted * 4).max(64).min(weights.len());
                    if next < weights.len() {
                        weights[sorted..].select_nth_unstable_by(next - sorted, descending);
                    }
                    weights[sorted..next].sort_unstable_by(descending);
                    sorted = next;
                }
                share += weights[nucleus].0;
                nucleus += 1;
            }
        }
        let mut left = self.uniform() * share;
        let drawn = weights[..nucleus].iter().find(|(weight, _)| {
            left -= weight;
            left < 0.0
        });
        drawn.map_or(likeliest, |(_, token)| *token as usize)
    }

    /// A number from 0 to below 1: SplitMix64 (Steele, Lea and Flood 2014).
    fn uniform(&mut self) -> f32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// The place of the largest number, the first of equals; none where it is not finite.
fn argmax(logits: &[f32]) -> Option<usize> {
    // Sixteen maxima side by side, which the compiler makes vector instructions of; then where the largest is.
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    let keep = |lane: &mut f32, logit: &f32| *lane = if *logit > *lane { *logit } else { *lane };
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, logit)| keep(lane, logit));
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, logit)| keep(lane, logit));
    let highest = lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !highest.is_finite() {
        return None;
    }
    logits.iter().position(|logit| *logit == highest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sampler(temperature: f32, top_p: f32, repeat_penalty: f32, seed: u32) -> Sampler {
        Sampler::new(&Sampling { temperature, top_p, repeat_penalty, seed: Some(seed), ..Sampling::default() })
    }

    fn choices(mut sampler: Sampler, logits: &[f32], count: usize) -> Vec<i32> {
        let mut scratch = Scratch::default();
        (0..count).filter_map(|_| sampler.choose(logits, &mut scratch)).collect()
    }

    #[test]
    fn without_temperature_the_likeliest_token_is_chosen() {
        assert_eq!(choices(sampler(0.0, 0.1, 1.0, 1), &[0.1, 3.0, 2.9], 2), [1, 1]);
    }

    #[test]
    fn the_penalty_moves_on_from_a_repeated_token() {
        assert_eq!(choices(sampler(0.0, 1.0, 1.2, 1), &[0.1, 3.0, 2.9], 3), [1, 2, 1]);
        assert_eq!(choices(sampler(0.0, 1.0, 2.0, 1), &[-1.0, -1.5], 3), [0, 1, 0]);
    }

    #[test]
    fn presence_counts_once_and_frequency_each_time() {
        let logits = [0.1, 3.0, 2.5];
        let say = |presence_penalty, frequency_penalty| {
            choices(Sampler::new(&Sampling { presence_penalty, frequency_penalty, ..Sampling::default() }), &logits, 6)
        };
        assert_eq!(say(1.0, 0.0), [1, 2, 1, 1, 1, 1]);
        assert_eq!(say(0.0, 0.4), [1, 1, 2, 1, 2, 1]);
        assert_eq!(say(-1.0, 0.0), [1; 6]);
    }

    #[test]
    fn the_penalty_forgets_what_is_longer_ago_than_its_window() {
        let logits: Vec<f32> = (0..200).map(|n| 100.0 - n as f32 * 0.01).collect();
        let chosen = choices(sampler(0.0, 1.0, 2.0, 1), &logits, 130);
        assert_eq!(chosen[..65], (0..65).collect::<Vec<i32>>());
        assert_eq!(chosen[65], 0);
    }

    #[test]
    fn a_seed_repeats_its_choices() {
        let logits: Vec<f32> = (0..1000).map(|n| -(n as f32) * 0.5).collect();
        let draw = |seed| choices(sampler(1.0, 0.95, 1.0, seed), &logits, 50);
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits: Vec<f32> = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln).to_vec();
        let drawn = choices(sampler(1.0, 1.0, 1.0, 3), &logits, 20_000);
        for (token, expected) in [(0, 0.5), (1, 0.3), (2, 0.15), (3, 0.05)] {
            let share = drawn.iter().filter(|drawn| **drawn == token).count() as f32 / 20_000.0;
            assert!((share - expected).abs() < 0.015, "token {token}: {share} instead of {expected}");
        }
    }

    #[test]
    fn logits_that_are_no_numbers_choose_nothing() {
        for logits in [vec![], vec![f32::NAN; 20], vec![f32::INFINITY, 1.0], vec![f32::NEG_INFINITY; 3]] {
            assert!(choices(sampler(0.0, 1.0, 1.0, 1), &logits, 1).is_empty(), "{logits:?}");
        }
    }

    proptest! {
        #[test]
        fn the_largest_is_found_wherever_it_is(logits in proptest::collection::vec(-100f32..100.0, 1..100)) {
            let best = argmax(&logits).unwrap();
            prop_assert!(logits.iter().all(|logit| *logit <= logits[best]));
            prop_assert!(logits[..best].iter().all(|logit| *logit < logits[best]));
        }

        #[test]
        fn only_tokens_of_the_nucleus_are_drawn(
            logits in proptest::collection::vec(-8f32..8.0, 1..400),
            top_p in 0.0f32..0.99,
            seed: u32,
        ) {
            let token = choices(sampler(0.8, top_p, 1.0, seed), &logits, 1)[0] as usize;
            // What is likelier than a token of the nucleus has less than `top_p` of the probability.
            let weight = |logit: &f32| f64::from(*logit / 0.8).exp();
            let likelier: f64 = logits.iter().filter(|logit| **logit > logits[token]).map(weight).sum();
            let all: f64 = logits.iter().map(weight).sum();
            prop_assert!(likelier <= f64::from(top_p) * all * 1.0001 + 1e-9);
        }
    }
}
