//! Linear layers: edges of tiles, rows by strides, 16-bit elements, and what has to be cut.

use super::data::Numbers;
use super::trial::{Call, HALVES, Route, Task, Trial, wide, with_element};
use crate::cpu;
use crate::error::Error;
use crate::host::Gpu;
use crate::layers::{LinearInputs, LinearProblem, LinearShape};
use crate::problem::{Element, ElementType, Layout, Strides};

pub(super) fn tasks(quick: bool) -> Vec<Task> {
    let mut tasks = Vec::new();
    let mut add = |name, shape: LinearShape| {
        let element = shape.element;
        tasks.push(Task::new(name, move |trial| with_element!(element, run(trial, name, &shape))));
    };
    // Without features in, out is the bias.
    let sizes = [(65, 33, 7), (130, 64, 20), (1, 129, 17), (3, 0, 5), (0, 4, 4), (257, 15, 63)];
    for (len, in_features, out_features) in sizes {
        for bias in [None, Some(0)] {
            add(
                "features",
                LinearShape { bias, ..LinearShape::new(len, in_features, out_features) },
            );
        }
    }
    add("features", LinearShape { bias: Some(0), ..LinearShape::new(300, 20, 260) });
    // From [len, batch, features] to [batch, len + 1, features], by the second of two matrices in
    // one.
    let strided = |element, width: usize| LinearShape {
        batch: 3,
        element,
        x: Layout::Strided(Strides { offset: 4, batch: 12, row: 36, ..Strides::default() }),
        out: Layout::Strided(Strides { batch: 10 * width, row: width, ..Strides::default() }),
        weight: 12 * width,
        bias: Some(width),
        ..LinearShape::new(9, 12, width)
    };
    for width in [6, 8] {
        add("strided rows", strided(ElementType::F32, width));
    }
    for &(name, element) in HALVES {
        // Features that are words, and rows that share them.
        for (in_features, out_features) in [(64, 64), (33, 7)] {
            let shape = LinearShape { element, ..LinearShape::new(70, in_features, out_features) };
            add(name, LinearShape { bias: Some(0), ..shape });
        }
        if !quick {
            add(name, strided(element, 7));
        }
    }
    tasks
}

fn run<T: Element>(
    trial: &mut Trial<'_>,
    name: &'static str,
    shape: &LinearShape,
) -> Result<(), Error> {
    let p = LinearProblem::new(shape)?;
    let mut numbers = Numbers(1);
    let [x, weight]: [Vec<T>; 2] = [p.x, p.weight].map(|view| numbers.tensor(view.extent));
    let bias: Option<Vec<T>> = p.bias.map(|view| numbers.tensor(view.extent));
    let inputs = LinearInputs { x: &x, weight: &weight, bias: bias.as_deref() };
    let expected = cpu::linear(shape, &inputs)?;
    let what = format!("{shape:?}");
    let call = Call { name, what, stored: T::TYPE, expected: vec![("out", &expected)] };
    let route = |gpu: &Gpu| {
        let plan = gpu.linear_operator().plan(shape)?;
        let dispatches = plan.dispatches().len();
        Ok(Route { kernel: "linear", steps: plan.variants(), dispatches })
    };
    trial.compare(&call, route, |gpu| Ok(vec![wide(&gpu.linear_blocking(shape, &inputs)?)]))
}
