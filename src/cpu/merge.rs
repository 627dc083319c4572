//! Results over parts of the keys merged by the definition of lse, in f64.

use crate::error::Error;
use crate::problem::{Element, MergeInputs, MergeProblem, MergeShape, Outputs};

/// Merges out and lse over parts of the keys: out weighed by `exp(lse)`, lse the log of their sum. Gives both.
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
    inputs.validate(&problem)?;
    let (rows, columns) = (problem.lse.extent as usize, shape.value_dim);
    let mut out = vec![0.0; rows * columns];
    let mut lse = vec![f64::NEG_INFINITY; rows];
    for row in 0..rows {
        let parts: Vec<(usize, f64)> = (0..shape.parts)
            .map(|part| part * rows + row)
            .map(|at| (at, f64::from(inputs.lse[at])))
            .filter(|&(_, lse)| lse != f64::NEG_INFINITY)
            .collect();
        if parts.is_empty() {
            continue;
        }
        let most = parts.iter().map(|&(_, lse)| lse).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = parts.iter().map(|&(_, lse)| (lse - most).exp()).sum();
        lse[row] = most + sum.ln();
        for (at, lse) in parts {
            let weight = (lse - most).exp() / sum;
            let (from, to) = (&inputs.out[at * columns..], &mut out[row * columns..][..columns]);
            to.iter_mut().zip(from).for_each(|(to, from)| *to += weight * f64::from(from.to_f32()));
        }
    }
    Ok(Outputs { out, lse: Some(lse), ..Outputs::default() })
}
