//! Checking a device: every operation against the CPU reference, on the machine that will run it.

mod additive;
mod attention;
mod caches;
mod cases;
mod compare;
mod data;
mod encodings;
mod layers;
mod linear;
mod merge;
mod trial;

pub use compare::{Accuracy, Bounds, Difference, compare};

use crate::error::Error;
use crate::host::Gpu;
use trial::{Task, Trial};

/// How thorough a check is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Leave out sizes that only cost another compilation, and long calls.
    pub quick: bool,
    /// Only the cases of this [`Row::name`].
    pub only: Option<&'static str>,
    /// Only what these, each a [`Row::kernel`], compute; all if empty.
    pub kernels: &'static [&'static str],
}

/// How far a check has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Cases done.
    pub done: usize,
    /// Cases in all.
    pub total: usize,
    /// What is being tried.
    pub name: &'a str,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The adapter's name, backend and driver.
    pub adapter: String,
    /// One row a kernel and kind of case.
    pub rows: Vec<Row>,
}

/// The worst of one kernel's or operation's cases of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Name of attention's kernel or of another operation, and of the limits it was held to if not the device's own.
    pub kernel: String,
    /// What was tried.
    pub name: &'static str,
    /// Number of calls.
    pub cases: usize,
    /// Largest [`Accuracy::max_relative`] of any output of the shape's element type.
    pub max_relative: f64,
    /// Largest [`Accuracy::frobenius`] of any output of the shape's element type.
    pub frobenius: f64,
    /// What they may be.
    pub bounds: Bounds,
    /// The first failure: shape, options and the worst element, or the device's error.
    pub failure: Option<String>,
}

impl Report {
    /// Whether there were cases and none failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.failure.is_none())
    }
}

/// Runs every kernel of every operation over shapes that hurt and compares with the f64 reference.
///
/// They run at the device's best and held to core WebGPU's limits, where that makes a difference,
/// and to limits so low that calls are cut into parts. A wrong result is a row of the report, not an error.
///
/// ```no_run
/// use wgpu_attention::{Gpu, GpuOptions, check};
///
/// let gpu = Gpu::open_blocking(&GpuOptions::default())?;
/// let report = check::run(&gpu, &check::CheckOptions::default(), &mut |_| {})?;
/// assert!(report.passed(), "{report:#?}");
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
///
/// # Errors
/// [`Error::Unsupported`] if the device is too small for any kernel.
pub fn run(
    gpu: &Gpu,
    options: &CheckOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, Error> {
    let info = gpu.adapter_info();
    let quick = options.quick;
    let has_matrices = gpu.capabilities().matrices.is_some();
    let mut tasks: Vec<Task> = attention::tasks(quick, has_matrices);
    tasks.extend(additive::tasks(quick));
    tasks.extend(encodings::tasks(quick));
    tasks.extend(layers::tasks(quick));
    tasks.extend(linear::tasks(quick));
    tasks.extend(merge::tasks());
    tasks.extend(caches::tasks());
    tasks.retain(|task| options.only.is_none_or(|only| only == task.name));
    let mut trial = Trial::new(gpu, options.kernels);
    let total = tasks.len();
    for (done, task) in tasks.iter().enumerate() {
        progress(Progress { done, total, name: task.name });
        (task.run)(&mut trial)?;
    }
    progress(Progress { done: total, total, name: "done" });
    let mut rows = trial.rows;
    // Rows of one kernel stand together, each kind of case where it first came up.
    rows.sort_by(|a, b| a.kernel.cmp(&b.kernel));
    let adapter = format!("{} ({}, {} {})", info.name, info.backend, info.driver, info.driver_info);
    Ok(Report { adapter, rows })
}
