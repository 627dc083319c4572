//! Positional encodings by their definition, in f64.

use super::shared::{add_scaled, indices, wide};
use crate::error::Error;
use crate::layers::{
    LayerProblem, PositionalInputs, PositionalShape, RotaryInputs, RotaryPairs, RotaryShape,
    TokenProblem,
};
use crate::problem::Element;

/// Rotates pairs of columns: `a cos - b sin` and `a sin + b cos`, in f64.
///
/// Gives what stands in out, or in x if that is rotated in place; elements that out's layout skips
/// are 0.
///
/// # Errors
/// [`Error::Invalid`] naming the size, layout or slice that cannot be used.
///
/// Source: Su et al., "RoFormer", arXiv 2104.09864, equation 34.
pub fn rotary<T: Element>(
    shape: &RotaryShape,
    inputs: &RotaryInputs<'_, T>,
) -> Result<Vec<f64>, Error> {
    let problem = TokenProblem::rotary(shape)?;
    problem.validate(inputs)?;
    let half = problem.width() as usize;
    Ok(encode(&problem, inputs.x, inputs.positions, |row, table| {
        for pair in 0..half {
            let [a, b] = match shape.pairs {
                RotaryPairs::Interleaved => [2 * pair, 2 * pair + 1],
                RotaryPairs::Half => [pair, pair + half],
            };
            let (cos, sin) =
                (f64::from(inputs.cos[table + pair]), f64::from(inputs.sin[table + pair]));
            [row[a], row[b]] = [row[a] * cos - row[b] * sin, row[a] * sin + row[b] * cos];
        }
    }))
}

/// Adds a row of the table to each token, or writes it if there is no x, in f64.
///
/// Gives what [`rotary`] does.
///
/// # Errors
/// [`Error::Invalid`] naming the size, layout or slice that cannot be used.
///
/// Source: Vaswani et al., arXiv 1706.03762, section 3.5.
pub fn positional<T: Element>(
    shape: &PositionalShape,
    inputs: &PositionalInputs<'_, T>,
) -> Result<Vec<f64>, Error> {
    let problem = TokenProblem::positional(shape)?;
    problem.validate(inputs)?;
    Ok(encode(&problem, inputs.x.unwrap_or_default(), inputs.positions, |row, table| {
        add_scaled(row, 1.0, &inputs.table[table..]);
    }))
}

/// Each token, or zeros if there is no x, changed by `change`, which is given the place of its row
/// in the table.
fn encode<T: Element>(
    problem: &TokenProblem,
    x: &[T],
    positions: Option<&[u32]>,
    change: impl Fn(&mut [f64], usize),
) -> Vec<f64> {
    let x = wide(x);
    // In place, what stands between the rows stays.
    let mut out = if problem.in_place { x.clone() } else { vec![0.0; problem.out.extent as usize] };
    for [batch, head, i] in indices([problem.batch, problem.num_heads, problem.len]) {
        let row = &mut out[problem.out.index(batch, head, i, 0)..][..problem.dim as usize];
        if let Some(view) = problem.x {
            row.copy_from_slice(&x[view.index(batch, head, i, 0)..][..row.len()]);
        }
        change(row, problem.table_start(positions, batch, i));
    }
    out
}
