//! The definition of a linear layer, in f64.

#[cfg(feature = "rayon")]
use rayon::prelude::*;

use crate::error::Error;
use crate::problem::{Element, LinearInputs, LinearProblem, LinearShape};

/// A linear layer by its definition, in f64: `out = x weight^T + bias`.
///
/// - x: `[batch, len, in_features]`
/// - weight: `[out_features, in_features]`
/// - bias: `[out_features]`
/// - out: `[batch, len, out_features]`; elements that its layout skips are 0
///
/// ```
/// use wgpu_attention::{LinearInputs, LinearShape, cpu};
///
/// let shape = LinearShape { bias: Some(0), ..LinearShape::new(1, 2, 1) };
/// let inputs = LinearInputs { x: &[1.0, 2.0], weight: &[3.0, 4.0], bias: Some(&[0.5]) };
/// assert_eq!(cpu::linear(&shape, &inputs)?, [11.5]);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] naming the size, layout or slice that cannot be used.
pub fn linear<T: Element>(
    shape: &LinearShape,
    inputs: &LinearInputs<'_, T>,
) -> Result<Vec<f64>, Error> {
    let p = LinearProblem::new(shape)?;
    inputs.validate(&p)?;
    let [batch, len, width] = [p.batch, p.len, p.in_features].map(|size| size as usize);
    let wide = |slice: &[T]| slice.iter().map(|x| f64::from(x.to_f32())).collect::<Vec<f64>>();
    let weight = wide(&inputs.weight[shape.weight.min(inputs.weight.len())..]);
    let bias = inputs.bias.zip(shape.bias).map(|(bias, start)| wide(&bias[start..]));
    let x = wide(inputs.x);
    let rows: Vec<&[f64]> = (0..batch * len)
        .map(|row| match width {
            0 => &[][..],
            _ => &x[p.x.index(row / len, 0, row % len, 0)..][..width],
        })
        .collect();
    let dense = project(&rows, shape.out_features, &weight, bias.as_deref());
    let mut out = vec![0.0; p.out.extent as usize];
    for (row, columns) in dense.chunks_exact(shape.out_features).enumerate() {
        let start = p.out.index(row / len, 0, row % len, 0);
        out[start..][..columns.len()].copy_from_slice(columns);
    }
    Ok(out)
}

/// `[rows, out_features]` of rows that are all of one length.
pub(super) fn project(
    rows: &[&[f64]],
    out_features: usize,
    weight: &[f64],
    bias: Option<&[f64]>,
) -> Vec<f64> {
    let row_of_out = |row: &&[f64]| -> Vec<f64> {
        let dot = |column: usize| {
            let weights = &weight[column * row.len()..][..row.len()];
            let sum: f64 = row.iter().zip(weights).map(|(x, w)| x * w).sum();
            sum + bias.map_or(0.0, |bias| bias[column])
        };
        (0..out_features).map(dot).collect()
    };
    #[cfg(feature = "rayon")]
    return rows.par_iter().flat_map_iter(row_of_out).collect();
    #[cfg(not(feature = "rayon"))]
    rows.iter().flat_map(row_of_out).collect()
}
