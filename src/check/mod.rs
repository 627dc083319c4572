//! Checking a device: every kernel against the CPU reference, on the machine that will run it.

mod cases;
mod compare;
mod data;

pub use compare::{Accuracy, Bounds, Difference, compare};

use crate::cpu;
use crate::device::Capabilities;
use crate::error::Error;
use crate::host::Gpu;
use crate::plan::Plan;
use crate::problem::{AttentionShape, Element, ElementType, Layout, Outputs, Problem};
use cases::{Case, cases};
use data::Tensors;

/// How thorough a check is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Leave out head sizes that only cost another compilation.
    pub quick: bool,
    /// Only the cases of this [`Row::name`].
    pub only: Option<&'static str>,
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

/// The worst of one kernel's cases of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Name of the kernel, and of the limits it was held to if not the device's own.
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

/// Limits that a kernel is held to.
struct Tier {
    name: &'static str,
    gpu: Gpu,
    /// Whether it is only for what happens when a call has to be cut into parts.
    cuts: bool,
}

/// Limits so low that these small cases are cut along every axis.
const CUT: Capabilities = Capabilities {
    binding_size: 40 << 10,
    workgroups_per_axis: 3,
    workgroup_memory: 8 << 10,
    ..Capabilities::PORTABLE
};

/// Runs every kernel over shapes that hurt and compares with the f64 reference.
///
/// Kernels run at the device's best and held to core WebGPU's limits, where that makes a difference,
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
    let tier = |name, capabilities, cuts| Tier { name, gpu: gpu.masked(capabilities), cuts };
    let tiers = [
        tier("", gpu.capabilities(), false),
        tier(", core limits", &Capabilities::PORTABLE, false),
        tier(", cut", &CUT, true),
    ];
    let mut cases = cases(options.quick);
    cases.retain(|case| options.only.is_none_or(|only| only == case.name));
    let mut rows: Vec<Row> = Vec::new();
    for (done, case) in cases.iter().enumerate() {
        progress(Progress { done, total: cases.len(), name: case.name });
        match case.shape.element {
            ElementType::F32 => try_case::<f32>(case, &tiers, &mut rows)?,
            #[cfg(feature = "half")]
            ElementType::F16 => try_case::<half::f16>(case, &tiers, &mut rows)?,
            #[cfg(feature = "half")]
            ElementType::Bf16 => try_case::<half::bf16>(case, &tiers, &mut rows)?,
            #[cfg(not(feature = "half"))]
            _ => {}
        }
    }
    progress(Progress { done: cases.len(), total: cases.len(), name: "done" });
    // Rows of one kernel stand together, each kind of case where it first came up.
    rows.sort_by(|a, b| a.kernel.cmp(&b.kernel));
    let adapter = format!("{} ({}, {} {})", info.name, info.backend, info.driver, info.driver_info);
    Ok(Report { adapter, rows })
}

/// Runs one case on every kernel and tier that does it in a way of its own.
fn try_case<T: Element>(case: &Case, tiers: &[Tier], rows: &mut Vec<Row>) -> Result<(), Error> {
    let problem = Problem::new(&case.shape, &case.options)?;
    let tensors: Tensors<T> = Tensors::new(&problem, case.data, problem.kv_len.into());
    // Sequences without padding have no matrix of scores.
    let asked = case.shape.cu_seqlens.is_none().then_some(Layout::Bhsd);
    let full = AttentionShape { weights: asked, masked_scores: asked, ..case.shape.clone() };
    let expected = cpu::attention(&full, &case.options, &tensors.inputs())?;
    for shape in [&case.shape, &full] {
        let problem = Problem::new(shape, &case.options)?;
        let mut dispatched = Vec::new();
        for tier in tiers {
            let plan = match Plan::new(problem.clone(), tier.gpu.capabilities(), None) {
                // What cannot be cut so small.
                Err(_) if tier.cuts => continue,
                plan => plan?,
            };
            if dispatched.contains(&plan.dispatches) || (tier.cuts && plan.dispatches.len() < 4) {
                continue;
            }
            let label = format!("{}{}", plan.kernel.name(), tier.name);
            dispatched.push(plan.dispatches);
            let found = tier.gpu.attention_blocking(shape, &case.options, &tensors.inputs());
            record(rows, label, case, found, &expected);
        }
    }
    Ok(())
}

/// Adds one result to the row of its kernel and kind.
fn record<T: Element>(
    rows: &mut Vec<Row>,
    kernel: String,
    case: &Case,
    found: Result<Outputs<T, f32>, Error>,
    expected: &Outputs<f64>,
) {
    let known = rows.iter().position(|row| row.kernel == kernel && row.name == case.name);
    let at = known.unwrap_or(rows.len());
    if known.is_none() {
        let (name, failure) = (case.name, None);
        let bounds = Bounds::of(T::TYPE);
        rows.push(Row {
            kernel,
            name,
            cases: 0,
            max_relative: 0.0,
            frobenius: 0.0,
            bounds,
            failure,
        });
    }
    let row = &mut rows[at];
    row.cases += 1;
    let mut fail = |what: String| {
        let call = format!("{:?} {:?}", case.shape, case.options);
        row.failure.get_or_insert(format!("{what}; {call}"));
    };
    let found = match found {
        Ok(found) => found,
        Err(error) => return fail(error.to_string()),
    };
    let out: Vec<f32> = found.out.iter().map(|x| x.to_f32()).collect();
    let stored = row.bounds;
    let pairs = optional_pairs(&found, expected).map(|(name, f, e)| (name, f, e, Bounds::F32));
    for (name, found, expected, bounds) in
        std::iter::once(("out", &out[..], &expected.out[..], stored)).chain(pairs)
    {
        match compare(found, expected) {
            Ok(accuracy) => {
                if !accuracy.within(&bounds) {
                    fail(format!("{name}: {accuracy}"));
                }
                // Of out, as the others are held to the bounds of f32.
                if name == "out" || T::TYPE == ElementType::F32 {
                    row.max_relative = row.max_relative.max(accuracy.max_relative);
                    row.frobenius = row.frobenius.max(accuracy.frobenius);
                }
            }
            Err(error) => fail(format!("{name}: {error}")),
        }
    }
}

/// Each optional output that was computed, beside what it should be.
fn optional_pairs<'a, T>(
    found: &'a Outputs<T, f32>,
    expected: &'a Outputs<f64>,
) -> impl Iterator<Item = (&'static str, &'a [f32], &'a [f64])> {
    [
        ("lse", &found.lse, &expected.lse),
        ("weights", &found.weights, &expected.weights),
        ("masked_scores", &found.masked_scores, &expected.masked_scores),
    ]
    .into_iter()
    .filter_map(|(name, found, expected)| Some((name, found.as_deref()?, expected.as_deref()?)))
}
