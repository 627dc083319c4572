//! The three-stage path in f32, one plain function per kernel: [`scores`], [`softmax`],
//! [`weighted_sum`].
//!
//! Scores and weights are contiguous `[batch, num_heads, q_len, kv_len]`. Each function takes what
//! the GPU stage of the same name takes, so that a stage can be checked alone.
//!
//! ```
//! use wgpu_attention::cpu::stages::{ScoreStage, scores, softmax, weighted_sum};
//! use wgpu_attention::{AttentionOptions, AttentionShape, Inputs, Problem};
//!
//! let problem = Problem::new(&AttentionShape::new(1, 1, 2, 1), &AttentionOptions::default())?;
//! let inputs = Inputs { query: &[0.0, 0.0], key: &[1.0, 2.0], value: &[10.0, 20.0], ..Inputs::default() };
//! let masked_scores = scores(&problem, &inputs, ScoreStage::Masked)?;
//! let rows = softmax(&problem, &masked_scores, &inputs)?;
//! assert_eq!(rows.weights, [0.5; 4]);
//! assert_eq!(weighted_sum(&problem, &rows.weights, inputs.value)?, [15.0, 15.0]);
//! # Ok::<(), wgpu_attention::Error>(())
//! ```

use super::row::Row;
use super::shared;
use crate::error::Error;
use crate::problem::{Element, Inputs, Problem, View, check_len as check_given};
use crate::tensor::Tensor;

/// How far [`scores`] goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScoreStage {
    /// `scale * q . k`, of hidden keys too.
    Raw,
    /// Then the softcap, if there is one.
    Capped,
    /// Then bias and ALiBi, and `-inf` where a key is hidden.
    Masked,
}

/// The result of [`softmax`].
#[derive(Clone, Debug, PartialEq)]
pub struct Softmax {
    /// `[batch, num_heads, q_len, kv_len]`, contiguous.
    pub weights: Vec<f32>,
    /// `[batch, num_heads, q_len]`, contiguous, whatever the problem's lse layout.
    pub lse: Vec<f32>,
}

/// The scores `[batch, num_heads, q_len, kv_len]`, contiguous, up to and including `stage`.
///
/// # Errors
/// [`Error::Invalid`] naming the slice of `inputs` that does not fit the problem.
pub fn scores(
    problem: &Problem,
    inputs: &Inputs<'_>,
    stage: ScoreStage,
) -> Result<Vec<f32>, Error> {
    inputs.validate(problem)?;
    score_count(problem)?;
    let score = |row: Row<'_>, j: usize| {
        if stage == ScoreStage::Masked && !row.sees(j) {
            return f32::NEG_INFINITY;
        }
        let dot: f32 = row.query().iter().zip(row.key(j)).map(|(q, k)| q * k).sum();
        let raw = problem.scale_f32() * dot;
        if stage == ScoreStage::Raw {
            return raw;
        }
        let capped = problem.softcap.map_or(raw, |cap| cap * (raw / cap).tanh());
        if stage == ScoreStage::Capped {
            return capped;
        }
        let alibi = row.slope().map_or(0.0, |slope| -slope * row.distance(j) as f32);
        capped + row.bias(j).unwrap_or(0.0) + alibi
    };
    let keys = 0..problem.kv_len as usize;
    let rows = Row::all(problem, inputs);
    Ok(rows.flat_map(|row| keys.clone().map(move |j| score(row, j))).collect())
}

/// Softmax and lse of each row of `masked_scores` `[batch, num_heads, q_len, kv_len]`, computed in
/// f64 and rounded. It reads the `inputs` that join whole rows, and no others.
///
/// A score of `-inf` has weight 0; a row of nothing else has lse `-inf`, or that of what joins it.
/// A NaN or `+inf` makes every other weight of its row NaN, and its lse too.
///
/// # Errors
/// [`Error::Invalid`] naming the slice that does not fit the problem.
pub fn softmax(
    problem: &Problem,
    masked_scores: &[f32],
    inputs: &Inputs<'_>,
) -> Result<Softmax, Error> {
    check_len("masked_scores", masked_scores.len(), score_count(problem)?)?;
    check_given("sinks", problem.view(Tensor::Sinks).as_ref(), inputs.sinks.map(<[f32]>::len))?;
    let kv_len = problem.kv_len as usize;
    let mut weights = Vec::with_capacity(masked_scores.len());
    let mut lse = Vec::new();
    for (n, row) in Row::all(problem, inputs).enumerate() {
        let scores = &masked_scores[n * kv_len..][..kv_len];
        let score = |&score: &f32| (score != f32::NEG_INFINITY).then_some(f64::from(score));
        let scores: Vec<Option<f64>> = scores.iter().map(score).collect();
        let row = shared::softmax(&scores, row.sink());
        weights.extend(row.weights.into_iter().map(f32::from_f64));
        lse.push(f32::from_f64(row.lse));
    }
    Ok(Softmax { weights, lse })
}

/// The values `[batch, num_kv_heads, kv_len, value_dim]` summed by `weights` `[batch, num_heads,
/// q_len, kv_len]`, laid out as the problem's out; elements that its layout skips are 0.
///
/// A key whose weight is exactly 0 adds nothing, so that NaN behind a mask does not leak. Unlike in
/// [`attention`](super::attention), that holds of visible keys too, whose weight underflowed.
///
/// # Errors
/// [`Error::Invalid`] naming the slice that does not fit the problem.
pub fn weighted_sum(problem: &Problem, weights: &[f32], value: &[f32]) -> Result<Vec<f32>, Error> {
    check_len("weights", weights.len(), score_count(problem)?)?;
    // A strided value may lie in a longer slice.
    let View { extent, exact, .. } = problem.value();
    let needed = extent as usize;
    let found = if exact { value.len() } else { value.len().min(needed) };
    check_len("value", found, needed)?;
    let (kv_len, value_dim) = (problem.kv_len as usize, problem.value_dim as usize);
    let view = problem.out();
    let mut out = vec![0.0; view.extent as usize];
    let inputs = Inputs { value, ..Inputs::default() };
    for (n, row) in Row::all(problem, &inputs).enumerate() {
        let out = &mut out[row.place(&view)..][..value_dim];
        for (j, &weight) in weights[n * kv_len..][..kv_len].iter().enumerate() {
            if weight != 0.0 {
                out.iter_mut().zip(row.value(j)).for_each(|(out, value)| *out += weight * value);
            }
        }
    }
    Ok(out)
}

/// Elements of a score matrix, which only a problem that asks for one has bounded.
fn score_count(problem: &Problem) -> Result<usize, Error> {
    let one_matrix = "none, as stages have one matrix of scores";
    Error::require(problem.packed.is_none(), "cu_seqlens", one_matrix, "some")?;
    Error::require(problem.pages.is_none(), "pages", "none, as stages read no pages", "some")?;
    let rows = problem.batch as usize * problem.num_heads as usize * problem.q_len as usize;
    rows.checked_mul(problem.kv_len as usize)
        .ok_or_else(|| Error::invalid("kv_len", "scores that fit an address", problem.kv_len))
}

fn check_len(argument: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    Error::require(found == expected, argument, format_args!("{expected} elements"), found)
}
