//! The definition of a linear layer, in f64.

use super::shared::{project, wide};
use crate::error::Error;
use crate::layers::{LayerProblem, LinearInputs, LinearProblem, LinearShape};
use crate::problem::Element;

/// A linear layer by its definition, in f64: `out = x weight^T + bias`.
///
/// - x: `[batch, len, in_features]`
/// - weight: `[out_features, in_features]`
/// - bias: `[out_features]`
/// - out: `[batch, len, out_features]`; elements that its layout skips are 0
///
/// # Errors
/// [`Error::Invalid`] naming the size, layout or slice that cannot be used.
pub fn linear<T: Element>(
    shape: &LinearShape,
    inputs: &LinearInputs<'_, T>,
) -> Result<Vec<f64>, Error> {
    let p = LinearProblem::new(shape)?;
    p.validate(inputs)?;
    let [batch, len, width] = [shape.batch, shape.len, shape.in_features];
    let weight = wide(&inputs.weight[shape.weight.min(inputs.weight.len())..]);
    let bias = inputs.bias.zip(shape.bias).map(|(bias, start)| wide(&bias[start..]));
    let x = wide(inputs.x);
    let rows = (0..batch * len).map(|row| match width {
        0 => &[][..],
        _ => &x[p.x.index(row / len, 0, row % len, 0)..][..width],
    });
    let dense = project(rows, shape.out_features, &weight, bias.as_deref());
    let mut out = vec![0.0; p.out.extent as usize];
    for (row, columns) in dense.chunks_exact(shape.out_features).enumerate() {
        let start = p.out.index(row / len, 0, row % len, 0);
        out[start..][..columns.len()].copy_from_slice(columns);
    }
    Ok(out)
}
