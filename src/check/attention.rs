//! Attention: each case on the fused kernels, there with the weights too, and on the one that gives
//! the scores.

use super::cases::{Case, cases};
use super::data::Tensors;
use super::trial::{Call, Route, Task, Trial, wide, with_element};
use crate::cpu;
use crate::error::Error;
use crate::plan::Plan;
use crate::problem::{AttentionShape, Element, Layout, Problem};

pub(super) fn tasks(quick: bool, has_matrices: bool) -> Vec<Task> {
    let task = |case: Case| {
        Task::new(case.name, move |trial| with_element!(case.shape.element, run(trial, &case)))
    };
    cases(quick, has_matrices).into_iter().map(task).collect()
}

fn run<T: Element>(trial: &mut Trial<'_>, case: &Case) -> Result<(), Error> {
    let Case { name, shape, options, data, kernel } = case;
    let problem = Problem::new(shape, options)?;
    let tensors: Tensors<T> = Tensors::new(&problem, *data, problem.kv_len.into());
    let inputs = tensors.inputs();
    // Sequences without padding have no matrix, and three-stage, which gives scores and the weights
    // of long dims, reads no pages.
    let is_wide = shape.head_dim.max(shape.value_dim) > 128;
    let has_weights = shape.cu_seqlens.is_none() && (shape.pages.is_none() || !is_wide);
    let weights = has_weights.then_some(Layout::Bhsd);
    let masked_scores = weights.filter(|_| shape.pages.is_none());
    let weighed = AttentionShape { weights, ..shape.clone() };
    let full = AttentionShape { masked_scores, ..weighed.clone() };
    let expected = cpu::attention(&full, options, &inputs)?;
    // What insists on a kernel has no need of the others.
    let others = [(&weighed, weights), (&full, masked_scores)].into_iter();
    let others = others.filter(|(_, asked)| kernel.is_none() && asked.is_some());
    let others = others.map(|(shape, _)| (shape, None));
    for (shape, kernel) in std::iter::once((shape, *kernel)).chain(others) {
        let problem = Problem::new(shape, options)?;
        let outputs = [
            ("out", Some(&expected.out)),
            ("lse", expected.lse.as_ref().filter(|_| shape.lse.is_some())),
            ("weights", expected.weights.as_ref().filter(|_| shape.weights.is_some())),
            (
                "masked_scores",
                expected.masked_scores.as_ref().filter(|_| shape.masked_scores.is_some()),
            ),
        ];
        let outputs = outputs.into_iter().filter_map(|(name, output)| Some((name, &output?[..])));
        let call = Call {
            name,
            what: format!("{shape:?} {options:?}"),
            stored: T::TYPE,
            expected: outputs.collect(),
        };
        let route = |gpu: &crate::Gpu| {
            let plan = Plan::new(problem.clone(), gpu.capabilities(), kernel)?;
            let dispatches = plan.dispatches().len();
            Ok(Route { kernel: plan.kernel.name(), steps: plan.dispatches().to_vec(), dispatches })
        };
        trial.compare(&call, route, |gpu| {
            let found = gpu.attention_with(shape, options, &inputs, kernel);
            let found = pollster::block_on(found)?;
            let others = [found.lse, found.weights, found.masked_scores];
            Ok(std::iter::once(wide(&found.out)).chain(others.into_iter().flatten()).collect())
        })?;
    }
    Ok(())
}
