//! One call on every set of limits that makes a difference, and the row of the report that it ends
//! in.

use super::compare::{Accuracy, Bounds, compare};
use super::report::Row;
use crate::device::Capabilities;
use crate::error::Error;
use crate::host::Gpu;
use crate::problem::{Element, ElementType};

/// Runs a case wherever it makes a difference, on whichever thread has time.
type Run = dyn Fn(&mut Trial<'_>) -> Result<(), Error> + Send + Sync;

/// One thing to try.
pub(super) struct Task {
    /// [`Row::name`].
    pub(super) name: &'static str,
    pub(super) run: Box<Run>,
}

impl Task {
    pub(super) fn new(
        name: &'static str,
        run: impl Fn(&mut Trial<'_>) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// What is called, and what it should give.
pub(super) struct Call<'a> {
    /// [`Row::name`].
    pub(super) name: &'static str,
    /// Shape and options.
    pub(super) what: String,
    /// What out is stored as; the other outputs are f32.
    pub(super) stored: ElementType,
    /// Name and elements of each output, out first.
    pub(super) expected: Vec<(&'static str, &'a [f64])>,
}

/// How a set of limits does a call: two that do it in the same `steps` need not both be tried.
pub(super) struct Route<S> {
    pub(super) kernel: &'static str,
    pub(super) steps: S,
    pub(super) dispatches: usize,
}

/// Limits that a kernel is held to.
struct Tier {
    name: &'static str,
    gpu: Gpu,
    /// Whether it is only for what happens when a call has to be cut into parts.
    cuts: bool,
}

/// What a kernel's name ends in, by the limits it is held to.
pub(super) const TIERS: [&str; 3] = ["", ", core limits", ", cut"];

/// Limits so low that these small cases are cut along every axis.
const CUT: Capabilities = Capabilities {
    binding_size: 40 << 10,
    workgroups_per_axis: 3,
    workgroup_memory: 8 << 10,
    ..Capabilities::PORTABLE
};

/// A check as far as it has got.
pub(super) struct Trial<'a> {
    tiers: [Tier; 3],
    /// [`CheckOptions::kernels`](super::CheckOptions::kernels).
    kernels: &'a [&'a str],
    pub(super) rows: Vec<Row>,
}

impl<'a> Trial<'a> {
    pub(super) fn new(gpu: &Gpu, kernels: &'a [&'a str]) -> Self {
        let tier = |name, capabilities, cuts| Tier { name, gpu: gpu.masked(capabilities), cuts };
        let [own, portable, cut] = TIERS;
        let tiers = [
            tier(own, gpu.capabilities(), false),
            tier(portable, &Capabilities::PORTABLE, false),
            tier(cut, &CUT, true),
        ];
        Self { tiers, kernels, rows: Vec::new() }
    }

    /// Runs a call wherever it is planned in a way of its own; `run` gives the outputs in the order
    /// of [`Call::expected`].
    pub(super) fn compare<S: PartialEq>(
        &mut self,
        call: &Call<'_>,
        route: impl Fn(&Gpu) -> Result<Route<S>, Error>,
        run: impl Fn(&Gpu) -> Result<Vec<Vec<f32>>, Error>,
    ) -> Result<(), Error> {
        let mut tried: Vec<(S, usize)> = Vec::new();
        for tier in &self.tiers {
            let Route { kernel, steps, dispatches } = match route(&tier.gpu) {
                // What cannot be cut so small, and what is of the device and not of core limits.
                Err(_) if tier.cuts => continue,
                Err(Error::Unsupported { what: "cooperative matrices", .. })
                    if !tier.name.is_empty() =>
                {
                    continue;
                }
                route => route?,
            };
            let is_known = tried.iter().any(|known| known.0 == steps && known.1 == dispatches);
            let whole = tried.first().map_or(0, |(_, dispatches)| *dispatches);
            if is_known || (tier.cuts && dispatches < whole + 3) {
                continue;
            }
            tried.push((steps, dispatches));
            let kernel = format!("{kernel}{}", tier.name);
            if self.kernels.is_empty() || self.kernels.contains(&&*kernel) {
                let found = run(&tier.gpu);
                // No fault of the kernel's.
                if found.as_ref().is_err_and(Error::is_lost) {
                    return found.map(drop);
                }
                record(&mut self.rows, kernel, call, found);
            }
        }
        Ok(())
    }
}

/// Adds one result to the row of its kernel and kind.
fn record(
    rows: &mut Vec<Row>,
    kernel: String,
    call: &Call<'_>,
    found: Result<Vec<Vec<f32>>, Error>,
) {
    let known = rows.iter().position(|row| row.kernel == kernel && row.name == call.name);
    let at = known.unwrap_or(rows.len());
    if known.is_none() {
        rows.push(Row {
            kernel,
            name: call.name,
            cases: 0,
            max_relative: 0.0,
            frobenius: 0.0,
            bounds: Bounds::of(call.stored),
            failure: None,
        });
    }
    let row = &mut rows[at];
    row.cases += 1;
    let outputs = match found {
        Ok(found) if found.len() == call.expected.len() => found,
        Ok(found) => {
            let (expected, found) = (call.expected.len(), found.len());
            return fail(row, call, &format!("expected {expected} outputs, found {found}"));
        }
        Err(error) => return fail(row, call, &error.to_string()),
    };
    for (at, (found, (name, expected))) in outputs.iter().zip(&call.expected).enumerate() {
        let stored = if at == 0 { call.stored } else { ElementType::F32 };
        match compare(found, expected) {
            Ok(accuracy) => {
                let Accuracy { max_relative, frobenius, .. } = accuracy;
                if !accuracy.within(&Bounds::of(stored)) {
                    fail(row, call, &format!("{name}: {accuracy}"));
                }
                // The row's bounds are those of out.
                if stored == call.stored {
                    row.max_relative = row.max_relative.max(max_relative);
                    row.frobenius = row.frobenius.max(frobenius);
                }
            }
            Err(error) => fail(row, call, &format!("{name}: {error}")),
        }
    }
}

fn fail(row: &mut Row, call: &Call<'_>, why: &str) {
    row.failure.get_or_insert_with(|| format!("{why}; {}", call.what));
}

pub(super) fn wide<T: Element>(stored: &[T]) -> Vec<f32> {
    stored.iter().map(|x| x.to_f32()).collect()
}

/// The 16-bit elements that are built in, and what their rows are called.
pub(super) const HALVES: &[(&str, ElementType)] = if cfg!(feature = "half") {
    &[("f16", ElementType::F16), ("bf16", ElementType::Bf16)]
} else {
    &[]
};

/// Calls a function of element types with the one that a value names, if it is built in.
macro_rules! with_element {
    ($element:expr, $function:ident($($argument:expr),*)) => {
        match $element {
            crate::problem::ElementType::F32 => $function::<f32>($($argument),*),
            #[cfg(feature = "half")]
            crate::problem::ElementType::F16 => $function::<half::f16>($($argument),*),
            #[cfg(feature = "half")]
            crate::problem::ElementType::Bf16 => $function::<half::bf16>($($argument),*),
            #[cfg(not(feature = "half"))]
            _ => Ok(()),
        }
    };
}
pub(super) use with_element;
