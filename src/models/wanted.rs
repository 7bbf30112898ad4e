//! What is wanted of a generation: how its tokens are chosen, and whether there are to be more of them. Knows no engine.

use serde::Serialize;

/// How tokens are chosen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sampling {
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// Nucleus sampling: the smallest set of tokens with this much probability.
    pub top_p: f32,
    /// Divides the logits of the last 64 generated tokens; 1.0 is none.
    pub repeat_penalty: f32,
    /// Taken off the logit of each generated token, once (OpenAI's definition); 0 is none.
    pub presence_penalty: f32,
    /// Taken off the logit of each generated token, as often as it was (OpenAI's definition); 0 is none.
    pub frequency_penalty: f32,
    /// Seed of the sampler; without one, any.
    pub seed: Option<u32>,
}

impl Default for Sampling {
    /// The likeliest token, without penalties.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
        }
    }
}

/// What a sink wants of its engine now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// More tokens.
    Run,
    /// None for now: its readers are behind. Others may have the place meanwhile.
    Park,
    /// None any more.
    Stop,
}
