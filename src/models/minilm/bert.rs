//! The encoder: BERT (Devlin et al. 2018) in f32. Texts of a batch lie one after another in one matrix, so that nothing
//! is padded; only attention looks at each text by itself.

use std::path::Path;

use gemm::{Parallelism, gemm};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::ops;

/// The parts of `config.json` that the forward pass depends on.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct BertConfig {
    pub model_type: String,
    pub hidden_act: String,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_attention_heads: usize,
    pub num_hidden_layers: usize,
    pub max_position_embeddings: usize,
    pub vocab_size: usize,
    pub layer_norm_eps: f32,
}

/// A linear layer: weight `[out, in]` row by row, and bias.
struct Linear {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

struct Layer {
    /// Query, key and value in one: `[3 hidden, hidden]`.
    qkv: Linear,
    attended: Linear,
    attended_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

/// The weights.
pub(super) struct Bert {
    config: BertConfig,
    words: Vec<f32>,
    /// Position embeddings, each with the embedding of the first token type added: all texts are of that type.
    positions: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
}

/// Buffers of one thread, kept from batch to batch.
#[derive(Default)]
pub(super) struct Workspace {
    state: Vec<f32>,
    qkv: Vec<f32>,
    scores: Vec<f32>,
    attended: Vec<f32>,
    wide: Vec<f32>,
    narrow: Vec<f32>,
}

impl Bert {
    /// Reads the weights.
    pub(super) fn read(config: BertConfig, bytes: &[u8], path: &Path) -> Result<Self, String> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| {
            format!("{} is damaged or no safetensors file ({error}); fetch it again with `make setup`", path.display())
        })?;
        let tensor = |name: &str, shape: &[usize]| -> Result<Vec<f32>, String> {
            // Exported models name the encoder's tensors with or without this prefix.
            let found = tensors.tensor(name).or_else(|_| tensors.tensor(&format!("bert.{name}")));
            let view = found.map_err(|_| format!("{} has no tensor {name}: it is no BERT encoder", path.display()))?;
            if view.dtype() != Dtype::F32 || view.shape() != shape {
                return Err(format!(
                    "{}: the tensor {name} is {:?} {:?}, expected F32 {shape:?}",
                    path.display(),
                    view.dtype(),
                    view.shape()
                ));
            }
            let values =
                view.data().chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
            let values: Vec<f32> = values.collect();
            if values.iter().all(|value| value.is_finite()) {
                Ok(values)
            } else {
                Err(format!("{}: the tensor {name} has values that are no numbers", path.display()))
            }
        };
        let linear = |name: &str, out: usize, input: usize| -> Result<Linear, String> {
            Ok(Linear {
                weight: tensor(&format!("{name}.weight"), &[out, input])?,
                bias: tensor(&format!("{name}.bias"), &[out])?,
            })
        };
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let norm = |name: &str| -> Result<Norm, String> {
            Ok(Norm {
                weight: tensor(&format!("{name}.LayerNorm.weight"), &[hidden])?,
                bias: tensor(&format!("{name}.LayerNorm.bias"), &[hidden])?,
            })
        };
        let layer = |n: usize| -> Result<Layer, String> {
            let at = format!("encoder.layer.{n}");
            let mut qkv = Linear { weight: Vec::new(), bias: Vec::new() };
            for part in ["query", "key", "value"] {
                let part = linear(&format!("{at}.attention.self.{part}"), hidden, hidden)?;
                qkv.weight.extend(part.weight);
                qkv.bias.extend(part.bias);
            }
            Ok(Layer {
                qkv,
                attended: linear(&format!("{at}.attention.output.dense"), hidden, hidden)?,
                attended_norm: norm(&format!("{at}.attention.output"))?,
                up: linear(&format!("{at}.intermediate.dense"), wide, hidden)?,
                down: linear(&format!("{at}.output.dense"), hidden, wide)?,
                norm: norm(&format!("{at}.output"))?,
            })
        };
        let mut positions = tensor("embeddings.position_embeddings.weight", &[config.max_position_embeddings, hidden])?;
        let types = tensor("embeddings.token_type_embeddings.weight", &[2, hidden])?;
        ops::add_bias(&mut positions, &types[..hidden]);
        Ok(Self {
            words: tensor("embeddings.word_embeddings.weight", &[config.vocab_size, hidden])?,
            positions,
            norm: norm("embeddings")?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?,
            config,
        })
    }

    /// Encodes texts, each given by its tokens; gives the mean of each text's last states, of norm 1.
    pub(super) fn encode(&self, texts: &[&[u32]], space: &mut Workspace) -> Vec<Vec<f32>> {
        let (hidden, wide) = (self.config.hidden_size, self.config.intermediate_size);
        let epsilon = self.config.layer_norm_eps;
        let tokens: usize = texts.iter().map(|text| text.len()).sum();
        let Workspace { state, qkv, scores, attended, wide: inner, narrow } = space;
        state.clear();
        for text in texts {
            for (position, token) in text.iter().enumerate() {
                let word = &self.words[*token as usize * hidden..][..hidden];
                let place = &self.positions[position * hidden..][..hidden];
                state.extend(word.iter().zip(place).map(|(w, p)| w + p));
            }
        }
        ops::layer_norm(state, &self.norm.weight, &self.norm.bias, epsilon);
        qkv.resize(tokens * 3 * hidden, 0.0);
        attended.resize(tokens * hidden, 0.0);
        narrow.resize(tokens * hidden, 0.0);
        inner.resize(tokens * wide, 0.0);
        for layer in &self.layers {
            product(qkv, state, &layer.qkv, hidden);
            ops::add_bias(qkv, &layer.qkv.bias);
            let mut first = 0;
            for text in texts {
                self.attend(&qkv[first * 3 * hidden..], &mut attended[first * hidden..], text.len(), scores);
                first += text.len();
            }
            product(narrow, attended, &layer.attended, hidden);
            let norm = (layer.attended_norm.weight.as_slice(), layer.attended_norm.bias.as_slice());
            ops::add_norm(state, narrow, &layer.attended.bias, norm, epsilon);
            product(inner, state, &layer.up, hidden);
            ops::bias_gelu(inner, &layer.up.bias);
            product(narrow, inner, &layer.down, wide);
            let norm = (layer.norm.weight.as_slice(), layer.norm.bias.as_slice());
            ops::add_norm(state, narrow, &layer.down.bias, norm, epsilon);
        }
        let mut first = 0;
        texts
            .iter()
            .map(|text| {
                let rows = &state[first * hidden..(first + text.len()) * hidden];
                first += text.len();
                ops::mean_normalised(rows, hidden)
            })
            .collect()
    }

    /// Attention of one text of `length` tokens, head by head.
    fn attend(&self, qkv: &[f32], out: &mut [f32], length: usize, scores: &mut Vec<f32>) {
        let hidden = self.config.hidden_size;
        let width = hidden / self.config.num_attention_heads;
        let row = 3 * hidden;
        let scale = 1.0 / (width as f32).sqrt();
        scores.resize(length * length, 0.0);
        for head in 0..self.config.num_attention_heads {
            let at = head * width;
            let (query, key, value) = (&qkv[at..], &qkv[hidden + at..], &qkv[2 * hidden + at..]);
            multiply(
                (length, length, width),
                (scores, length),
                (query, row, 1),
                // Transposed: by columns.
                (key, 1, row),
            );
            ops::softmax(&mut scores[..length * length], length, scale);
            multiply((length, width, length), (&mut out[at..], hidden), (scores, length, 1), (value, row, 1));
        }
    }
}

/// `out = rows x weight^T`.
fn product(out: &mut [f32], rows: &[f32], linear: &Linear, input: usize) {
    let output = linear.bias.len();
    multiply((rows.len() / input, output, input), (out, output), (rows, input, 1), (&linear.weight, 1, input));
}

/// `out[m, n] = a[m, k] x b[k, n]`. `out` is given with its row stride, `a` and `b` with their row and column strides.
fn multiply(
    (m, n, k): (usize, usize, usize),
    (out, out_row): (&mut [f32], usize),
    (a, a_row, a_column): (&[f32], usize, usize),
    (b, b_row, b_column): (&[f32], usize, usize),
) {
    let last = |rows: usize, columns: usize, row: usize, column: usize| (rows - 1) * row + (columns - 1) * column;
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!(
        last(m, n, out_row, 1) < out.len()
            && last(m, k, a_row, a_column) < a.len()
            && last(k, n, b_row, b_column) < b.len()
    );
    // SAFETY: every element that the strides reach lies within its slice, as was just asserted; `out` is borrowed
    // mutably and so overlaps neither `a` nor `b`.
    unsafe {
        gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_row as isize,
            false,
            a.as_ptr(),
            a_column as isize,
            a_row as isize,
            b.as_ptr(),
            b_column as isize,
            b_row as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
