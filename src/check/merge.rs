//! Merging: numbers of parts, rows that some parts or all have no key for, rows that share words.

use super::data::Numbers;
use super::trial::{Call, HALVES, Route, Task, Trial, wide, with_element};
use crate::cpu;
use crate::error::Error;
use crate::host::Gpu;
use crate::layers::{MergeInputs, MergeProblem, MergeShape};
use crate::problem::Element;

pub(super) fn tasks() -> Vec<Task> {
    let mut tasks = Vec::new();
    let mut add = |name, shape: MergeShape| {
        let run =
            move |trial: &mut Trial<'_>| with_element!(shape.element, run(trial, name, &shape));
        tasks.push(Task::new(name, run));
    };
    for (parts, value_dim) in [(1, 64), (2, 5), (7, 6), (40, 128)] {
        add("parts", MergeShape::new(parts, [2, 3, 23], value_dim));
    }
    for &(name, element) in HALVES {
        for value_dim in [64, 5] {
            add(name, MergeShape { element, ..MergeShape::new(3, [2, 3, 23], value_dim) });
        }
    }
    tasks
}

fn run<T: Element>(
    trial: &mut Trial<'_>,
    name: &'static str,
    shape: &MergeShape,
) -> Result<(), Error> {
    let p = MergeProblem::new(shape)?;
    let mut numbers = Numbers(6);
    let rows = p.lse.extent as usize;
    let lse: Vec<f32> =
        (0..shape.parts * rows).map(|at| part_lse(&mut numbers, at % rows)).collect();
    let mut out: Vec<T> = numbers.tensor((lse.len() * shape.value_dim) as u64);
    // What a part without keys says of a row is not used.
    for (columns, lse) in out.chunks_mut(shape.value_dim).zip(&lse) {
        if *lse == f32::NEG_INFINITY {
            columns.fill(T::from_f64(f64::NAN));
        }
    }
    let inputs = MergeInputs { partial_out: &out, partial_lse: &lse };
    let expected = cpu::merge(shape, &inputs)?;
    let merged = expected.lse.unwrap_or_default();
    let expected = vec![("out", &expected.out[..]), ("lse", &merged[..])];
    let call = Call { name, what: format!("{shape:?}"), stored: T::TYPE, expected };
    let route = |gpu: &Gpu| {
        let plan = gpu.merge_operator().plan(shape)?;
        let (steps, dispatches) = (plan.variants(), plan.dispatches().len());
        Ok(Route { kernel: "merge", steps, dispatches })
    };
    trial.compare(&call, route, |gpu| {
        let found = gpu.merge_blocking(shape, &inputs)?;
        Ok(std::iter::once(wide(&found.out)).chain(found.lse).collect())
    })
}

/// A third have no keys, and none of the first row's.
fn part_lse(numbers: &mut Numbers, row: usize) -> f32 {
    let lse = numbers.unit() * 20.0;
    if row == 0 || numbers.unit() < -0.3 { f32::NEG_INFINITY } else { lse }
}
