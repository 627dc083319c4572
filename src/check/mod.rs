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
mod report;
mod stopwatch;
mod trial;
mod workers;
mod workload;

pub use compare::{Accuracy, Bounds, Difference, compare};
pub use data::uniform;
pub use report::{CheckOptions, Progress, Report, Row};
pub use stopwatch::{Lap, Spread, Stopwatch, Times};
pub use workload::{Compared, Workload};

use crate::error::Error;
use crate::host::Gpu;
use crate::plan::Kernel;
use trial::{TIERS, Task};

/// What [`CheckOptions::only`] and [`CheckOptions::kernels`] can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Each [`Row::name`].
    pub cases: Vec<&'static str>,
    /// Each [`Row::kernel`].
    pub kernels: Vec<String>,
}

/// The names that a quick or a whole check can have rows of: on `gpu`, or without one on whichever
/// has the most.
#[must_use]
pub fn names(quick: bool, gpu: Option<&Gpu>) -> Names {
    let mut names = Names { cases: Vec::new(), kernels: Vec::new() };
    for group in groups(quick, gpu.is_none_or(has_matrices)) {
        if !names.cases.contains(&group.name) {
            names.cases.push(group.name);
        }
        for kernel in group.kernels {
            if !names.kernels.contains(&kernel) {
                names.kernels.push(kernel);
            }
        }
    }
    names
}

fn has_matrices(gpu: &Gpu) -> bool {
    gpu.capabilities().matrices.is_some()
}

/// Runs every kernel of every operation over shapes that hurt and compares with the f64 reference.
///
/// They run at the device's best and held to core WebGPU's limits, where that makes a difference,
/// and to limits so low that calls are cut into parts. A wrong result is a row of the report, not
/// an error. As compiling takes most of the time, a `Gpu` that opened a software adapter itself
/// opens it once more for each further core and shares the cases out; on a GPU and on a device of
/// yours they run one after the other.
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
/// [`Error::Unsupported`] if the device is too small for any kernel; [`Error::Device`] if it is
/// lost.
pub fn run(
    gpu: &Gpu,
    options: &CheckOptions<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, Error> {
    let info = gpu.adapter_info();
    let mut groups = groups(options.quick, has_matrices(gpu));
    groups.retain(|group| {
        options.only.is_none_or(|only| only == group.name) && group.has_any_of(options.kernels)
    });
    let tasks: Vec<&Task> = groups.iter().flat_map(|group| &group.tasks).collect();
    let total = tasks.len();
    let mut found: Vec<Option<Vec<Row>>> = vec![None; total];
    let mut done = 0;
    workers::run(gpu, &tasks, options, &mut |at, rows| {
        let Some(rows) = rows else {
            return progress(Progress { done, total, name: tasks[at].name, rows: &[] });
        };
        found[at] = Some(rows);
        done += 1;
        let group = group_of(&groups, at);
        let is_whole = found[group.clone()].iter().all(Option::is_some);
        let rows = if is_whole { merged(&found[group]) } else { Vec::new() };
        progress(Progress { done, total, name: tasks[at].name, rows: &rows });
    })?;
    let mut rows = Vec::new();
    let mut first = 0;
    for group in &groups {
        let found = &found[first..first + group.tasks.len()];
        let of_group = merged(found);
        // A group without an end has not been told of.
        if !of_group.is_empty() && found.iter().any(Option::is_none) {
            progress(Progress { done, total, name: group.name, rows: &of_group });
        }
        rows.extend(of_group);
        first += group.tasks.len();
    }
    // Rows of one kernel stand together, each kind of case where it first came up.
    rows.sort_by(|a: &Row, b: &Row| a.kernel.cmp(&b.kernel));
    let adapter = format!("{} ({}, {} {})", info.name, info.backend, info.driver, info.driver_info);
    Ok(Report { adapter, rows, left_out: total - done })
}

/// The cases of one name that the same kernels compute: together they make their rows.
struct Group {
    name: &'static str,
    /// Each [`Row::kernel`] that there may be.
    kernels: Vec<String>,
    tasks: Vec<Task>,
}

impl Group {
    /// Whether some of its rows may be of these kernels; none asks for no particular one.
    fn has_any_of(&self, asked: &[&str]) -> bool {
        asked.is_empty() || self.kernels.iter().any(|kernel| asked.contains(&kernel.as_str()))
    }
}

/// All cases, or those of a quick check; `has_matrices`: of the kernel of cooperative matrices too.
fn groups(quick: bool, has_matrices: bool) -> Vec<Group> {
    let under_all_limits = |kernels: &[&str]| -> Vec<String> {
        TIERS.iter().flat_map(|tier| kernels.iter().map(move |k| format!("{k}{tier}"))).collect()
    };
    let mut attention = under_all_limits(&Kernel::PORTABLE.map(Kernel::name));
    // Core limits are without matrices.
    if has_matrices && cfg!(feature = "half") {
        attention.push(Kernel::ForwardMatrix.name().to_owned());
    }
    let parts: [(Vec<String>, Vec<Task>); 7] = [
        (attention, attention::tasks(quick, has_matrices)),
        (under_all_limits(&["additive"]), additive::tasks(quick)),
        (under_all_limits(&["positional", "rotary"]), encodings::tasks(quick)),
        (under_all_limits(&["multi-head", "self-attention"]), layers::tasks(quick)),
        (under_all_limits(&["linear"]), linear::tasks(quick)),
        (under_all_limits(&["merge"]), merge::tasks()),
        (under_all_limits(&["kv-cache", "paged-kv-cache"]), caches::tasks()),
    ];
    let mut all = Vec::new();
    for (kernels, tasks) in parts {
        let mut groups: Vec<Group> = Vec::new();
        for task in tasks {
            match groups.iter_mut().find(|group| group.name == task.name) {
                Some(group) => group.tasks.push(task),
                None => groups.push(Group {
                    name: task.name,
                    kernels: kernels.clone(),
                    tasks: vec![task],
                }),
            }
        }
        all.extend(groups);
    }
    all
}

/// Which of all tasks belong to the group of this one.
fn group_of(groups: &[Group], task: usize) -> std::ops::Range<usize> {
    let mut first = 0;
    for group in groups {
        let end = first + group.tasks.len();
        if task < end {
            return first..end;
        }
        first = end;
    }
    task..task
}

/// The rows of a group from those of its cases that ran, in their order.
fn merged(found: &[Option<Vec<Row>>]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for more in found.iter().flatten().flatten() {
        match rows.iter_mut().find(|row| row.kernel == more.kernel && row.name == more.name) {
            None => rows.push(more.clone()),
            Some(row) => {
                row.cases += more.cases;
                row.max_relative = row.max_relative.max(more.max_relative);
                row.frobenius = row.frobenius.max(more.frobenius);
                row.failure = row.failure.take().or_else(|| more.failure.clone());
            }
        }
    }
    rows
}
