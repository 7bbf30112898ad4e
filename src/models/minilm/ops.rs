//! The element-wise parts of the forward pass, each one pass over its data, written as plain loops over slices so that
//! the compiler makes vector instructions of them.

/// `e^x` with a relative error below 3e-7 (Cephes' `expf`: range reduction by ln 2, polynomial of degree 5).
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    // ln 2 in two parts, so that the difference is exact.
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 0.166_666_65);
    let p = p.mul_add(r, 0.5);
    let p = (p * r).mul_add(r, r) + 1.0;
    // 2^n: added to 1.5 * 2^23, `n` stands in the lowest bits. A cast would saturate, which does not vectorise.
    p * f32::from_bits(((n + 12_582_912.0).to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// The error function with an absolute error below 5e-7 (Abramowitz and Stegun 7.1.26).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / a.mul_add(0.327_591_1, 1.0);
    let p = 1.061_405_4_f32;
    let p = p.mul_add(t, -1.453_152_1);
    let p = p.mul_add(t, 1.421_413_7);
    let p = p.mul_add(t, -0.284_496_72);
    let p = p.mul_add(t, 0.254_829_6);
    (1.0 - p * t * exp(-a * a)).copysign(x)
}

/// Adds a bias to each row.
pub(super) fn add_bias(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        for (value, b) in row.iter_mut().zip(bias) {
            *value += b;
        }
    }
}

/// Adds a bias to each row, then gelu, exact: `x / 2 (1 + erf(x / sqrt 2))`.
pub(super) fn bias_gelu(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        for (value, b) in row.iter_mut().zip(bias) {
            let x = *value + b;
            *value = 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
        }
    }
}

/// Sum of a row in independent lanes.
#[inline(always)]
fn sum(row: &[f32], each: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 32];
    let chunks = row.chunks_exact(32);
    let rest: f32 = chunks.remainder().iter().map(|value| each(*value)).sum();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += each(*value);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Layer normalisation of each row (Ba, Kiros and Hinton 2016).
pub(super) fn layer_norm(rows: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    let n = weight.len() as f32;
    for row in rows.chunks_exact_mut(weight.len()) {
        let mean = sum(row, |x| x) / n;
        let variance = sum(row, |x| (x - mean) * (x - mean)) / n;
        let scale = 1.0 / (variance + epsilon).sqrt();
        for ((value, w), b) in row.iter_mut().zip(weight).zip(bias) {
            *value = ((*value - mean) * scale).mul_add(*w, *b);
        }
    }
}

/// `state = layer_norm(state + rows + bias)`, row by row.
pub(super) fn add_norm(state: &mut [f32], rows: &[f32], bias: &[f32], (weight, shift): (&[f32], &[f32]), epsilon: f32) {
    let width = bias.len();
    for (target, row) in state.chunks_exact_mut(width).zip(rows.chunks_exact(width)) {
        for ((t, r), b) in target.iter_mut().zip(row).zip(bias) {
            *t += r + b;
        }
        layer_norm(target, weight, shift, epsilon);
    }
}

/// Softmax of `scale` times each row.
pub(super) fn softmax(rows: &mut [f32], width: usize, scale: f32) {
    for row in rows.chunks_exact_mut(width) {
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
        for value in row.iter_mut() {
            *value = exp((*value - highest) * scale);
        }
        let share = 1.0 / sum(row, |x| x);
        for value in row.iter_mut() {
            *value *= share;
        }
    }
}

/// The mean of the rows, scaled to norm 1.
pub(super) fn mean_normalised(rows: &[f32], width: usize) -> Vec<f32> {
    let mut mean = vec![0.0f32; width];
    for row in rows.chunks_exact(width) {
        for (m, value) in mean.iter_mut().zip(row) {
            *m += value;
        }
    }
    let count = (rows.len() / width).max(1) as f32;
    mean.iter_mut().for_each(|m| *m /= count);
    // As torch's `normalize` bounds it.
    let norm = sum(&mean, |x| x * x).sqrt().max(1e-12);
    mean.iter_mut().for_each(|m| *m /= norm);
    mean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_erf_are_as_exact_as_f32_needs() {
        for n in -80_000..80_000 {
            let x = n as f32 / 1000.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= exact * 3e-7, "exp({x})");
        }
        // Values of erf to ten digits.
        for (x, exact) in
            [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0), (4.0, 0.999_999_984_6)]
        {
            assert!((f64::from(erf(x)) - exact).abs() < 5e-7, "erf({x}) = {}", erf(x));
            assert!((f64::from(erf(-x)) + exact).abs() < 5e-7);
        }
    }

    #[test]
    fn softmax_rows_sum_to_one_and_normalised_rows_have_mean_zero() {
        let mut rows: Vec<f32> = (0..80).map(|n| (n * 37 % 19) as f32).collect();
        softmax(&mut rows, 40, 0.5);
        assert!(rows.chunks(40).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-5));
        let mut rows: Vec<f32> = (0..40).map(|n| (n * n) as f32).collect();
        layer_norm(&mut rows, &[1.0; 40], &[0.0; 40], 1e-12);
        assert!(rows.iter().sum::<f32>().abs() < 1e-3);
    }
}
