//! Additive attention: dims, masks, weights, 16-bit elements.

use super::data::{Numbers, mask};
use super::trial::{Call, HALVES, Route, Task, Trial, wide, with_element};
use crate::cpu;
use crate::error::Error;
use crate::host::Gpu;
use crate::layers::{AdditiveInputs, AdditiveProblem, AdditiveShape};
use crate::problem::Element;
use crate::tensor::Tensor;

/// So many keys that their sums drift unless the kernel takes care.
const LONG_ROWS: &str = "long rows";

pub(super) fn tasks(quick: bool) -> Vec<Task> {
    let mut tasks = Vec::new();
    let mut add = |name, shape: AdditiveShape| {
        let run =
            move |trial: &mut Trial<'_>| with_element!(shape.element, run(trial, name, &shape));
        tasks.push(Task::new(name, run));
    };
    let base = AdditiveShape::new(2, [19, 70], [8, 12, 8], 16);
    let weights = AdditiveShape { weights: true, ..base };
    add("additive dims", base);
    add("additive dims", AdditiveShape { bias: false, q_len: 1, kv_len: 33, ..base });
    if !quick {
        add("additive dims", AdditiveShape::new(1, [9, 40], [3, 5, 7], 70));
        add("additive dims", AdditiveShape::new(1, [9, 40], [5, 4, 300], 6));
        add("additive dims", AdditiveShape { q_len: 70, kv_len: 300, ..base });
    }
    add(LONG_ROWS, AdditiveShape::new(1, [9, 8_192], [4, 4, 4], 4));
    add("additive weights", weights);
    add("additive weights", AdditiveShape { kv_len: 1, ..weights });
    for sizes in [[2, 19, 70], [2, 1, 70]] {
        add("additive mask", AdditiveShape { mask: Some(sizes), ..base });
    }
    add("additive mask", AdditiveShape { mask: Some([1, 19, 70]), ..weights });
    for &(name, element) in HALVES {
        // Rows that share words, then not.
        add(name, AdditiveShape { element, ..AdditiveShape::new(1, [9, 40], [3, 5, 7], 6) });
        if !quick {
            add(name, AdditiveShape { element, ..base });
        }
    }
    tasks
}

fn run<T: Element>(
    trial: &mut Trial<'_>,
    name: &'static str,
    shape: &AdditiveShape,
) -> Result<(), Error> {
    let p = AdditiveProblem::new(shape)?;
    let mut numbers = Numbers(4);
    let tensors = [Tensor::Query, Tensor::Key, Tensor::Value];
    let parameters = [Tensor::QueryWeight, Tensor::KeyWeight, Tensor::ValueWeight];
    let mut make = |tensor| numbers.tensor(p.view(tensor).unwrap_or_default().extent);
    let [query, mut key, value]: [Vec<T>; 3] = tensors.map(&mut make);
    let [w_q, w_k, w_v]: [Vec<T>; 3] = parameters.map(&mut make);
    if name == LONG_ROWS {
        // All weights but the first one alike: sums that round each term alike show it.
        key[shape.key_dim..].fill(T::from_f64(0.0));
    }
    let b: Option<Vec<T>> = p.view(Tensor::InBias).map(|view| numbers.tensor(view.extent));
    let mask = p.view(Tensor::Mask).map(|view| mask(&mut numbers, view.extent));
    let inputs = AdditiveInputs {
        query: &query,
        key: &key,
        value: &value,
        w_q: &w_q,
        w_k: &w_k,
        w_v: &w_v,
        b: b.as_deref(),
        mask: mask.as_deref(),
    };
    let expected = cpu::additive(shape, &inputs)?;
    let weights = expected.weights.as_deref().map(|weights| ("weights", weights));
    let expected = [("out", &expected.out[..])].into_iter().chain(weights).collect();
    let call = Call { name, what: format!("{shape:?}"), stored: T::TYPE, expected };
    let route = |gpu: &Gpu| {
        let plan = gpu.additive_operator().plan(shape)?;
        let (steps, dispatches) = (plan.variants(), plan.dispatches().len());
        Ok(Route { kernel: "additive", steps, dispatches })
    };
    trial.compare(&call, route, |gpu| {
        let found = gpu.additive_blocking(shape, &inputs)?;
        Ok(std::iter::once(wide(&found.out)).chain(found.weights).collect())
    })
}
