//! Choosing the next token from logits: repetition penalty, temperature, nucleus sampling (Holtzman et al. 2020).

use crate::models::Sampling;

/// Tokens back that the repetition penalty looks at.
const PENALTY_WINDOW: usize = 64;
/// Candidates that the nucleus is taken from. Beyond them is next to no probability.
const CANDIDATES: usize = 128;

/// The sampler of one sequence.
pub(super) struct Sampler {
    sampling: Sampling,
    recent: std::collections::VecDeque<i32>,
    random: u64,
}

impl Sampler {
    /// A sampler for one sequence.
    pub(super) fn new(sampling: Sampling) -> Self {
        let random = u64::from(sampling.seed) ^ 0x9e37_79b9_7f4a_7c15;
        Self { sampling, recent: std::collections::VecDeque::with_capacity(PENALTY_WINDOW), random }
    }

    /// Chooses a token.
    pub(super) fn choose(&mut self, logits: &[f32]) -> i32 {
        let token = if self.sampling.temperature <= 0.0 { self.likeliest(logits) } else { self.sample(logits) };
        if self.recent.len() == PENALTY_WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(token);
        token
    }

    /// A logit after the repetition penalty (Keskar et al. 2019).
    fn penalised(&self, token: i32, logit: f32) -> f32 {
        let penalty = self.sampling.repeat_penalty;
        if !self.recent.contains(&token) {
            logit
        } else if logit > 0.0 {
            logit / penalty
        } else {
            logit * penalty
        }
    }

    fn likeliest(&self, logits: &[f32]) -> i32 {
        if self.sampling.repeat_penalty == 1.0 {
            return argmax(logits);
        }
        // Few tokens are penalised: the best of the others, against the best of them.
        let mut rest = logits.to_vec();
        for token in &self.recent {
            if let Some(logit) = rest.get_mut(*token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        let mut best = argmax(&rest);
        let mut highest = rest.get(best as usize).copied().unwrap_or(f32::NEG_INFINITY);
        for &token in &self.recent {
            let logit = self.penalised(token, logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY));
            if logit > highest {
                (best, highest) = (token, logit);
            }
        }
        best
    }

    fn sample(&mut self, logits: &[f32]) -> i32 {
        let mut candidates: Vec<(i32, f32)> =
            logits.iter().enumerate().map(|(token, logit)| (token as i32, *logit)).collect();
        let by_logit = |a: &(i32, f32), b: &(i32, f32)| b.1.total_cmp(&a.1);
        // The penalty lowers some: with as many more, none that counts is missed.
        let wanted = CANDIDATES + PENALTY_WINDOW;
        if candidates.len() > wanted {
            candidates.select_nth_unstable_by(wanted - 1, by_logit);
            candidates.truncate(wanted);
        }
        for (token, logit) in &mut candidates {
            *logit = self.penalised(*token, *logit);
        }
        candidates.sort_unstable_by(by_logit);
        candidates.truncate(CANDIDATES);
        let Some(&(first, highest)) = candidates.first() else { return 0 };
        let temperature = self.sampling.temperature;
        let weights: Vec<f32> = candidates.iter().map(|(_, logit)| ((logit - highest) / temperature).exp()).collect();
        let total: f32 = weights.iter().sum();
        // The nucleus: the fewest that have this share.
        let mut nucleus = 0.0;
        let mut count = 0;
        for weight in &weights {
            nucleus += weight;
            count += 1;
            if nucleus >= self.sampling.top_p * total {
                break;
            }
        }
        let mut left = self.uniform() * nucleus;
        for ((token, _), weight) in candidates.iter().zip(&weights).take(count) {
            left -= weight;
            if left <= 0.0 {
                return *token;
            }
        }
        first
    }

    /// A number from 0 to 1: SplitMix64 (Steele, Lea and Flood 2014).
    fn uniform(&mut self) -> f32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// The place of the largest value; the first of equals.
fn argmax(logits: &[f32]) -> i32 {
    // The maximum first, which vectorises, then where it is.
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|logit| *logit == highest).unwrap_or(0) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f32, top_p: f32, repeat_penalty: f32, seed: u32) -> Sampler {
        Sampler::new(Sampling { temperature, top_p, repeat_penalty, seed })
    }

    #[test]
    fn without_temperature_the_likeliest_token_is_chosen() {
        assert_eq!(sampler(0.0, 1.0, 1.0, 1).choose(&[0.1, 3.0, 2.9]), 1);
    }

    #[test]
    fn the_penalty_moves_on_from_a_repeated_token() {
        let mut sampler = sampler(0.0, 1.0, 1.2, 1);
        assert_eq!([0; 3].map(|_| sampler.choose(&[0.1, 3.0, 2.9])), [1, 2, 1]);
    }

    #[test]
    fn a_seed_repeats_its_choices_and_the_nucleus_bounds_them() {
        let logits: Vec<f32> = (0..1000).map(|n| -(n as f32) * 0.5).collect();
        let draw = |seed| {
            let mut sampler = sampler(1.0, 0.6, 1.0, seed);
            (0..50).map(|_| sampler.choose(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        // The first two have 0.63 of the probability.
        assert!(draw(7).iter().all(|token| *token < 2) && draw(7).contains(&1));
    }
}
