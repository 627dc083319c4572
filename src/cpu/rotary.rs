//! Positional encodings by their definition, in f64.

use crate::error::Error;
use crate::problem::{
    Element, Encoding, PositionalInputs, PositionalShape, RotaryInputs, RotaryPairs, RotaryShape,
    TokenProblem, View,
};

/// Rotates pairs of columns: `a cos - b sin` and `a sin + b cos`, in f64.
///
/// Gives what stands in out, or in x if that is rotated in place; elements that out's layout skips are 0.
///
/// ```
/// use wgpu_attention::{RotaryInputs, RotaryShape, cpu};
///
/// // One token of one head, a quarter turn.
/// let shape = RotaryShape::new(1, 1, 1, 2);
/// let inputs = RotaryInputs { x: &[3.0_f32, 1.0], cos: &[0.0], sin: &[1.0], positions: None };
/// assert_eq!(cpu::rotary(&shape, &inputs)?, [-1.0, 3.0]);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
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
    inputs.validate(&problem)?;
    let x = widen(inputs.x);
    let mut out = start(&problem, &x);
    let half = problem.width() as usize;
    for [batch, head, i] in tokens(&problem) {
        let table = problem.table_start(inputs.positions, batch, i);
        let (from, to) = (index(problem.x, batch, head, i), problem.out.index(batch, head, i, 0));
        out[to..][..shape.head_dim].copy_from_slice(&x[from..][..shape.head_dim]);
        for pair in 0..half {
            let [a, b] = columns(problem.encoding, pair, half);
            let (cos, sin) =
                (f64::from(inputs.cos[table + pair]), f64::from(inputs.sin[table + pair]));
            out[to + a] = x[from + a] * cos - x[from + b] * sin;
            out[to + b] = x[from + a] * sin + x[from + b] * cos;
        }
    }
    Ok(out)
}

/// Adds a row of the table to each token, or writes it if there is no x, in f64.
///
/// Gives what stands in out, or in x if that is added to in place; elements that out's layout skips are 0.
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
    inputs.validate(&problem)?;
    let x = widen(inputs.x.unwrap_or_default());
    let mut out = start(&problem, &x);
    for [batch, head, i] in tokens(&problem) {
        let table = problem.table_start(inputs.positions, batch, i);
        let (from, to) = (index(problem.x, batch, head, i), problem.out.index(batch, head, i, 0));
        for column in 0..shape.dim {
            let token = if x.is_empty() { 0.0 } else { x[from + column] };
            out[to + column] = token + f64::from(inputs.table[table + column]);
        }
    }
    Ok(out)
}

fn columns(encoding: Encoding, pair: usize, half: usize) -> [usize; 2] {
    match encoding {
        Encoding::Rotary { pairs: RotaryPairs::Interleaved, .. } => [2 * pair, 2 * pair + 1],
        _ => [pair, pair + half],
    }
}

fn widen<T: Element>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| f64::from(x.to_f32())).collect()
}

/// What is written over: in place, what stands between the rows stays.
fn start(problem: &TokenProblem, x: &[f64]) -> Vec<f64> {
    if problem.in_place { x.to_vec() } else { vec![0.0; problem.out.extent as usize] }
}

fn index(view: Option<View>, batch: usize, head: usize, i: usize) -> usize {
    view.map_or(0, |view| view.index(batch, head, i, 0))
}

/// Every token of every head and sequence.
fn tokens(problem: &TokenProblem) -> impl Iterator<Item = [usize; 3]> + use<> {
    let [batch, heads, len] =
        [problem.batch, problem.num_heads, problem.len].map(|size| size as usize);
    (0..batch).flat_map(move |b| (0..heads).flat_map(move |h| (0..len).map(move |i| [b, h, i])))
}
