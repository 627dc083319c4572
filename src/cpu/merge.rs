//! Results over parts of the keys merged by the definition of lse, in f64.

use super::shared::{attend, wide};
use crate::error::Error;
use crate::layers::{LayerProblem, MergeInputs, MergeProblem, MergeShape};
use crate::problem::{Element, Outputs};

/// Merges out and lse over parts of the keys: out weighed by `exp(lse)`, lse the log of their sum.
/// Gives both.
///
/// A part whose lse is `-inf` is left out; where all are, out is 0 and lse `-inf`.
///
/// # Errors
/// [`Error::Invalid`] naming the size or slice that cannot be used.
///
/// Source: Juravsky et al., "Hydragen", arXiv 2402.05099, section 3.1.
pub fn merge<T: Element>(
    shape: &MergeShape,
    inputs: &MergeInputs<'_, T>,
) -> Result<Outputs<f64>, Error> {
    let problem = MergeProblem::new(shape)?;
    problem.validate(inputs)?;
    let (rows, columns) = (problem.lse.extent as usize, shape.value_dim);
    let parts = wide(inputs.partial_out);
    let mut out = vec![0.0; rows * columns];
    let mut lse = Vec::new();
    for row in 0..rows {
        let at = |part: usize| part * rows + row;
        let score = |part| {
            Some(f64::from(inputs.partial_lse[at(part)])).filter(|lse| *lse != f64::NEG_INFINITY)
        };
        let scores: Vec<Option<f64>> = (0..shape.parts).map(score).collect();
        let out = &mut out[row * columns..][..columns];
        lse.push(attend(out, &scores, None, |part| &parts[at(part) * columns..]).lse);
    }
    Ok(Outputs { out, lse: Some(lse), ..Outputs::default() })
}
