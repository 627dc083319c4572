//! The comparer: two error norms, and no way for a NaN to slip through them.

use crate::error::Error;
use crate::problem::ElementType;
use std::fmt;

/// The largest errors that pass, both relative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Bound of [`Accuracy::max_relative`].
    pub max_relative: f64,
    /// Bound of [`Accuracy::frobenius`].
    pub frobenius: f64,
}

impl Bounds {
    /// For tensors stored as f32. A naive f32 run reaches about a twentieth of it.
    pub const F32: Self = Self { max_relative: 1e-5, frobenius: 1e-5 };
    /// For tensors stored as f16.
    pub const F16: Self = Self { max_relative: 2e-3, frobenius: 1e-3 };
    /// For tensors stored as bf16.
    pub const BF16: Self = Self { max_relative: 1.6e-2, frobenius: 8e-3 };

    /// For tensors stored as `element`.
    #[must_use]
    pub fn of(element: ElementType) -> Self {
        match element {
            ElementType::F32 => Self::F32,
            ElementType::F16 => Self::F16,
            ElementType::Bf16 => Self::BF16,
        }
    }
}

/// How far found values are from the expected ones.
///
/// Both errors are infinite if a value is not finite where a finite one is expected, or is not of
/// the expected kind (NaN, `inf`, `-inf`), or is not 0 where all that is expected is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// Largest absolute error, divided by the largest expected magnitude of the whole tensor.
    pub max_relative: f64,
    /// Frobenius norm of the error, divided by that of the expected values.
    pub frobenius: f64,
    /// How many elements the norms are over, those expected to be finite; 0 proves nothing.
    pub compared: usize,
    /// The first element of the largest error; none if there is no error at all.
    pub worst: Option<Difference>,
}

/// An element that is not as expected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Its index.
    pub index: usize,
    /// What the reference says.
    pub expected: f64,
    /// What it is.
    pub found: f32,
}

impl Accuracy {
    /// Whether both errors are finite and within `bounds`.
    #[must_use]
    pub fn within(&self, bounds: &Bounds) -> bool {
        // Written so that NaN, on either side, is outside.
        let passes = |error: f64, bound: f64| error.is_finite() && error <= bound;
        passes(self.max_relative, bounds.max_relative) && passes(self.frobenius, bounds.frobenius)
    }
}

impl fmt::Display for Accuracy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_relative, frobenius, compared, .. } = self;
        write!(f, "relative error {max_relative:.2e} at most, {frobenius:.2e} in Frobenius norm")?;
        write!(f, ", over {compared} finite elements")?;
        match self.worst {
            Some(Difference { index, expected, found }) => {
                write!(f, "; worst at [{index}]: expected {expected:e}, found {found:e}")
            }
            None => Ok(()),
        }
    }
}

/// Measures how far `found` is from `expected`.
///
/// The largest absolute error is taken relative to the largest expected magnitude, not element by
/// element: an output near 0 is the small difference of large terms. Values that are not finite
/// must be of the same kind in both, NaN for NaN and each infinity for itself; pairs that are stay
/// out of the norms.
///
/// ```
/// use wgpu_attention::check::{Bounds, compare};
///
/// let accuracy = compare(&[1.0, 2.0, f32::NEG_INFINITY], &[1.0, 2.002, f64::NEG_INFINITY])?;
/// assert!(!accuracy.within(&Bounds::F32));
/// assert_eq!(accuracy.worst.map(|worst| worst.index), Some(1));
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] if the lengths differ.
pub fn compare(found: &[f32], expected: &[f64]) -> Result<Accuracy, Error> {
    if found.len() != expected.len() {
        return Err(Error::invalid(
            "found",
            format!("{} elements", expected.len()),
            format!("{}", found.len()),
        ));
    }
    let finite = expected.iter().filter(|e| e.is_finite());
    let largest = finite.fold(0.0, |largest: f64, e| largest.max(e.abs()));
    let mut worst = None;
    let (mut max_error, mut compared) = (0.0, 0);
    let (mut error_squares, mut expected_squares) = (0.0, 0.0);
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let error = error(found, expected);
        if error > max_error {
            max_error = error;
            worst = Some(Difference { index, expected, found });
        }
        // Scaled by the largest, no square overflows, nor do all of them vanish.
        error_squares += relative(error, largest).powi(2);
        if expected.is_finite() {
            compared += 1;
            expected_squares += relative(expected.abs(), largest).powi(2);
        }
    }
    Ok(Accuracy {
        max_relative: relative(max_error, largest),
        frobenius: relative(error_squares.sqrt(), expected_squares.sqrt()),
        compared,
        worst,
    })
}

/// Absolute error of one element: finite if both are, 0 if both are infinite or NaN alike, else
/// infinite; never NaN.
fn error(found: f32, expected: f64) -> f64 {
    let found = f64::from(found);
    if found.is_finite() && expected.is_finite() {
        (found - expected).abs()
    } else if found == expected || (found.is_nan() && expected.is_nan()) {
        0.0
    } else {
        f64::INFINITY
    }
}

/// `error / norm`, where no error is 0 and any other is infinite if the norm is 0.
fn relative(error: f64, norm: f64) -> f64 {
    if error == 0.0 { 0.0 } else { error / norm }
}
