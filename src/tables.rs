//! Tables made on the host for positional encodings, in f64: a GPU's sine and cosine lose digits at
//! large positions.

use crate::error::Error;

/// Cosines and sines of a rotary encoding, a row for each position.
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryTable {
    /// `[positions, rotary_dim / 2]`.
    pub cos: Vec<f32>,
    /// `[positions, rotary_dim / 2]`.
    pub sin: Vec<f32>,
}

impl RotaryTable {
    /// Angles `position / base^(2i / rotary_dim)`, a row for each of the positions; the base is
    /// 10000 in the paper.
    ///
    /// ```
    /// use wgpu_attention::layers::RotaryTable;
    /// let table = RotaryTable::new(4, 10_000.0, 0..3)?;
    /// assert_eq!(table.sin[2..4], [1_f32.sin(), 0.01_f32.sin()]);
    /// # Ok::<(), wgpu_attention::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] if `rotary_dim` is odd or 0, the base is not finite and above 0, or there
    /// are 2^32 elements or more.
    ///
    /// Source: Su et al., "RoFormer", arXiv 2104.09864, section 3.2.2.
    pub fn new(
        rotary_dim: usize,
        base: f64,
        positions: impl IntoIterator<Item = u64>,
    ) -> Result<Self, Error> {
        Self::from_frequencies(&rotary_frequencies(rotary_dim, base)?, positions)
    }

    /// Angles `position * frequencies[i]`: for scaled encodings. Frequencies divided by `s` stretch
    /// a model's context `s` times by linear interpolation (Chen et al., arXiv 2306.15595); others
    /// are scaled one by one, as in YaRN.
    ///
    /// ```
    /// use wgpu_attention::layers::{RotaryTable, rotary_frequencies};
    /// let mut frequencies = rotary_frequencies(8, 10_000.0)?;
    /// frequencies.iter_mut().for_each(|frequency| *frequency /= 4.0);
    /// let stretched = RotaryTable::from_frequencies(&frequencies, 0..9)?;
    /// let plain = RotaryTable::new(8, 10_000.0, 0..3)?;
    /// assert_eq!(stretched.cos[8 * 4..], plain.cos[2 * 4..]);
    /// # Ok::<(), wgpu_attention::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are 2^32 elements or more.
    pub fn from_frequencies(
        frequencies: &[f64],
        positions: impl IntoIterator<Item = u64>,
    ) -> Result<Self, Error> {
        let positions = positions.into_iter();
        let rows = positions.size_hint().0;
        let mut cos = with_capacity(rows, frequencies.len())?;
        let mut sin = with_capacity(rows, frequencies.len())?;
        // Rows without columns are skipped: there may be any number of positions.
        for position in positions.take_while(|_| !frequencies.is_empty()) {
            for frequency in frequencies {
                let angle = position as f64 * frequency;
                cos.push(round(angle.cos()));
                sin.push(round(angle.sin()));
            }
        }
        Ok(Self { cos, sin })
    }
}

/// The angle between neighbouring positions for each pair of columns: `base^(-2i / rotary_dim)`.
///
/// # Errors
/// [`Error::Invalid`] if `rotary_dim` is odd or 0, or the base is not finite and above 0.
pub fn rotary_frequencies(rotary_dim: usize, base: f64) -> Result<Vec<f64>, Error> {
    if rotary_dim == 0 || rotary_dim % 2 == 1 {
        return Err(Error::invalid("rotary_dim", "an even number, at least 2", rotary_dim));
    }
    check_base(base)?;
    let mut frequencies = with_capacity(1, rotary_dim / 2)?;
    frequencies.extend((0..rotary_dim / 2).map(|i| frequency(i, rotary_dim, base)));
    Ok(frequencies)
}

/// The sinusoidal encoding `[len, dim]` of the positions from `offset` on: column `2i` is the sine
/// of `position / base^(2i / dim)`, column `2i + 1` the cosine of the same angle. An odd `dim` ends
/// with a sine.
///
/// ```
/// let rows = wgpu_attention::layers::sinusoidal(2, 3, 10_000.0, 0)?;
/// let angle = 10_000_f64.powf(-2.0 / 3.0);
/// assert_eq!(rows, [0.0, 1.0, 0.0, 1_f32.sin(), 1_f32.cos(), angle.sin() as f32]);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] if the base is not finite and above 0, or there are 2^32 elements or more.
///
/// Source: Vaswani et al., arXiv 1706.03762, section 3.5.
pub fn sinusoidal(len: usize, dim: usize, base: f64, offset: u64) -> Result<Vec<f32>, Error> {
    check_base(base)?;
    let mut table = with_capacity(len, dim)?;
    if len == 0 || dim == 0 {
        return Ok(table);
    }
    let frequencies: Vec<f64> = (0..dim.div_ceil(2)).map(|i| frequency(i, dim, base)).collect();
    for position in (0..len as u64).map(|i| offset.saturating_add(i)) {
        for column in 0..dim {
            let angle = position as f64 * frequencies[column / 2];
            table.push(round(if column % 2 == 0 { angle.sin() } else { angle.cos() }));
        }
    }
    Ok(table)
}

/// The slope of each head's linear bias, for
/// [`AttentionShape::alibi`](crate::AttentionShape::alibi): `2^(-8 (h + 1) / n)` if the number of
/// heads `n` is a power of two. Else the heads beyond the largest power of two below take every
/// other slope of the next one, from its first on, as the authors' code does.
///
/// ```
/// use wgpu_attention::alibi_slopes;
/// assert_eq!(alibi_slopes(4), [0.25, 0.0625, 0.015625, 0.00390625]);
/// assert_eq!(alibi_slopes(3), [0.0625, 0.00390625, 0.25]);
/// ```
///
/// Source: Press et al., "Train Short, Test Long", arXiv 2108.12409, section 3.
#[must_use]
pub fn alibi_slopes(num_heads: usize) -> Vec<f32> {
    let power = (num_heads + 1).next_power_of_two() / 2;
    let slope = |h: usize, n: usize| round((-8.0 * (h as f64 + 1.0) / n as f64).exp2());
    let rest = (0..num_heads - power.min(num_heads)).map(|h| slope(2 * h, 2 * power));
    (0..power.min(num_heads)).map(|h| slope(h, power)).chain(rest).collect()
}

fn frequency(i: usize, dim: usize, base: f64) -> f64 {
    1.0 / base.powf(2.0 * i as f64 / dim as f64)
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what is wanted")]
fn round(number: f64) -> f32 {
    number as f32
}

fn check_base(base: f64) -> Result<(), Error> {
    if base.is_finite() && base > 0.0 {
        return Ok(());
    }
    Err(Error::invalid("base", "a finite number above 0", base))
}

/// An empty vector with the capacity for these rows, if a shader could address them.
fn with_capacity<T>(rows: usize, columns: usize) -> Result<Vec<T>, Error> {
    let refuse = |expected, found| Error::invalid("table", expected, found);
    let count = rows.checked_mul(columns).filter(|&count| u32::try_from(count).is_ok());
    let too_many = || refuse("fewer than 2^32 elements", format!("{rows} rows of {columns}"));
    let count = count.ok_or_else(too_many)?;
    let mut table = Vec::new();
    let no_memory = |_| refuse("elements that fit into memory", count.to_string());
    table.try_reserve_exact(count).map_err(no_memory)?;
    Ok(table)
}
