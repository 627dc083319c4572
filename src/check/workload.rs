//! Calls to be timed: on made-up tensors, and compared with the reference first.

mod attention;
mod layers;
#[cfg(test)]
mod tests;

use super::data::Numbers;
use super::{Bounds, compare};
use crate::buffer::{download, read, upload};
use crate::call::Call;
use crate::error::Error;
use crate::host::Gpu;
use crate::plan::ForwardTile;
use crate::problem::{Element, ElementType};

/// A call of one operation on tensors of its own, for those who time it: its result is compared
/// with the reference first.
///
/// Tensors are noise of variance 1, the same everywhere, and parameters of layers leave that
/// variance as it is. What a call writes holds NaN before, so that what is never written cannot
/// pass.
///
/// ```no_run
/// use wgpu_attention::check::{Stopwatch, Workload};
/// use wgpu_attention::{Gpu, GpuOptions};
///
/// let gpu = Gpu::open_blocking(&GpuOptions::default())?;
/// let workload = Workload::linear(&gpu, [1, 512, 768, 768])?;
/// Stopwatch::new(&gpu)?.lap(|encoder| workload.encode(encoder, 0))?;
/// assert_eq!(workload.compare()?.failure, None);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
pub struct Workload<'g> {
    kernel: &'static str,
    tuned: Option<(ForwardTile, f64)>,
    prepare: Box<dyn Fn() -> Result<(), Error> + 'g>,
    bind: Box<dyn Fn(usize) -> Result<Call, Error> + 'g>,
    compare: Box<dyn Fn() -> Result<Compared, Error> + 'g>,
}

/// How a result compares with the reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// Rows of out that were compared: all, or samples where that would take seconds.
    pub rows: usize,
    /// How many rows there are.
    pub of: usize,
    /// Their largest error, relative to the largest expected element.
    pub max_relative: f64,
    /// What is wrong: an error out of bounds, or an element that no call of these tensors could
    /// give.
    pub failure: Option<String>,
}

impl Workload<'_> {
    /// The kernel of attention, or the operation.
    #[must_use]
    pub fn kernel(&self) -> &'static str {
        self.kernel
    }

    /// The fastest tile, and how many times its time the tile takes that would have been planned.
    #[must_use]
    pub fn tuned(&self) -> Option<(ForwardTile, f64)> {
        self.tuned
    }

    /// Compiles the call's pipelines now rather than when it is first recorded.
    ///
    /// # Errors
    /// [`Error::Shader`].
    pub fn prepare_blocking(&self) -> Result<(), Error> {
        (self.prepare)()
    }

    /// Records the call into `encoder`, told how many were recorded before.
    ///
    /// # Errors
    /// What binding a call can end in.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, turn: usize) -> Result<(), Error> {
        (self.bind)(turn)?.encode(encoder);
        Ok(())
    }

    /// Downloads what the last submitted call wrote, and compares it with the f64 reference.
    ///
    /// # Errors
    /// [`Error::Device`]; a wrong result is no error.
    pub fn compare(&self) -> Result<Compared, Error> {
        (self.compare)()
    }
}

impl Compared {
    /// Some rows of an output of `of` rows.
    fn new(
        name: &str,
        found: &[f32],
        expected: &[f64],
        stored: ElementType,
        [rows, of]: [usize; 2],
    ) -> Result<Self, Error> {
        let accuracy = compare(found, expected)?;
        let failure = (!accuracy.within(&Bounds::of(stored)))
            .then(|| format!("{name}: {accuracy}, of {rows} rows of {of}"));
        Ok(Self { rows, of, max_relative: accuracy.max_relative, failure })
    }

    /// Of the same rows of another output.
    fn and(self, other: Self) -> Self {
        let max_relative = self.max_relative.max(other.max_relative);
        Self { max_relative, failure: self.failure.or(other.failure), ..self }
    }

    /// Fails for an element that is no number, or further from 0 than any can be but for rounding,
    /// compared or not.
    fn bounded<T: Element>(self, name: &str, found: &[T], largest: Option<f32>) -> Self {
        let is_inside = |x: f32| x.is_finite() && largest.is_none_or(|most| x.abs() <= 1.01 * most);
        let wrong = found.iter().map(|x| x.to_f32()).enumerate().find(|(_, x)| !is_inside(*x));
        let expected =
            largest.map_or("a number".to_owned(), |largest| format!("at most {largest}"));
        let failure =
            wrong.map(|(at, wrong)| format!("{name}[{at}]: expected {expected}, found {wrong}"));
        Self { failure: failure.or(self.failure), ..self }
    }
}

/// Noise of variance 1, that of scores too. It comes again after a prime number of elements, and so
/// nowhere in the same place of a row.
fn noise<T: Element>(seed: u64, count: usize) -> Vec<T> {
    let mut numbers = Numbers(seed);
    let number = |_| T::from_f64(f64::from(numbers.unit()) * 3_f64.sqrt());
    let block: Vec<T> = (0..count.min(1_000_003)).map(number).collect();
    block.iter().copied().cycle().take(count).collect()
}

/// A buffer for a kernel to write so many bytes to: NaN of every type.
fn unwritten(gpu: &Gpu, name: &'static str, bytes: usize) -> Result<wgpu::Buffer, Error> {
    upload(gpu.device(), name, &vec![0xff; bytes])
}

/// The first `len` elements of a buffer.
pub(super) fn contents<T: bytemuck::Pod>(
    gpu: &Gpu,
    buffer: &wgpu::Buffer,
    len: usize,
) -> Result<Vec<T>, Error> {
    let encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let mapped = pollster::block_on(download(gpu.device(), gpu.queue(), encoder, &[buffer]))?;
    mapped.first().map_or(Ok(Vec::new()), |copy| read(copy, len))
}
