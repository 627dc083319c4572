//! Rotary and added encodings: pairs, partial, positions, in place, and rows that share words.

use super::data::Numbers;
use super::trial::{Call, HALVES, Route, Task, Trial, wide, with_element};
use crate::cpu;
use crate::error::Error;
use crate::host::Gpu;
use crate::layers::{
    PositionalInputs, PositionalShape, RotaryInputs, RotaryPairs, RotaryShape, TableRows,
    TokenProblem,
};
use crate::problem::{Element, Layout, Strides};

pub(super) fn tasks(quick: bool) -> Vec<Task> {
    let mut tasks = Vec::new();
    rotary_tasks(quick, &mut |name, shape: RotaryShape| {
        let run =
            move |trial: &mut Trial<'_>| with_element!(shape.element, rotary(trial, name, &shape));
        tasks.push(Task::new(name, run));
    });
    positional_tasks(&mut |name, shape: PositionalShape| {
        let run = move |trial: &mut Trial<'_>| {
            with_element!(shape.element, positional(trial, name, &shape))
        };
        tasks.push(Task::new(name, run));
    });
    tasks
}

fn rotary_tasks(quick: bool, add: &mut dyn FnMut(&'static str, RotaryShape)) {
    let base = RotaryShape::new(2, 3, 70, 64);
    let named = TableRows::Named { rows: 90 };
    for (name, pairs) in [("halves", RotaryPairs::Half), ("neighbours", RotaryPairs::Interleaved)] {
        let base = RotaryShape { pairs, ..base };
        add(name, base);
        add(name, RotaryShape { rotary_dim: 20, rows: named, ..base });
        add(name, RotaryShape { out: None, ..base });
        // Pairs that do not come in fours, columns left over.
        let odd = RotaryShape { head_dim: 11, rotary_dim: 10, ..base };
        add(name, RotaryShape { rows: TableRows::PerToken, ..odd });
        if !quick {
            let start = TableRows::From { start: 11, rows: 90 };
            let out =
                Some(Layout::Strided(Strides { offset: 3, batch: 5000, head: 1300, row: 13 }));
            add(name, RotaryShape { rows: start, x: Layout::Bshd, out, ..odd });
            add(name, RotaryShape { rotary_dim: 2, rows: named, out: None, ..odd });
        }
    }
    for &(name, element) in HALVES {
        let base = RotaryShape { element, ..base };
        add(name, base);
        let odd = RotaryShape { head_dim: 5, rotary_dim: 4, len: 33, rows: named, ..base };
        add(name, RotaryShape { pairs: RotaryPairs::Interleaved, ..odd });
        add(name, RotaryShape { out: None, ..odd });
    }
}

fn positional_tasks(add: &mut dyn FnMut(&'static str, PositionalShape)) {
    let base = PositionalShape::new(2, 70, 64);
    let named = TableRows::Named { rows: 90 };
    add("added", base);
    add("added", PositionalShape { dim: 7, rows: named, out: Some(Layout::Bhsd), ..base });
    add("written", PositionalShape { dim: 7, x: None, out: Some(Layout::Bhsd), ..base });
    for &(name, element) in HALVES {
        add(name, PositionalShape { element, ..base });
        add(name, PositionalShape { element, dim: 7, len: 33, rows: named, ..base });
    }
}

fn rotary<T: Element>(
    trial: &mut Trial<'_>,
    name: &'static str,
    shape: &RotaryShape,
) -> Result<(), Error> {
    let p = TokenProblem::rotary(shape)?;
    let mut numbers = Numbers(2);
    let x: Vec<T> = numbers.tensor(p.x.map_or(0, |view| view.extent));
    let [cos, sin]: [Vec<f32>; 2] = [p.table, p.table].map(|view| numbers.tensor(view.extent));
    let positions = positions(&p, &mut numbers);
    let inputs = RotaryInputs { x: &x, cos: &cos, sin: &sin, positions: positions.as_deref() };
    let expected = cpu::rotary(shape, &inputs)?;
    let what = format!("{shape:?}");
    let call = Call { name, what, stored: T::TYPE, expected: vec![("out", &expected)] };
    let route = |gpu: &Gpu| {
        let plan = gpu.rotary_operator().plan(shape)?;
        let (steps, dispatches) = (plan.variants(), plan.dispatches().len());
        Ok(Route { kernel: "rotary", steps, dispatches })
    };
    trial.compare(&call, route, |gpu| Ok(vec![wide(&gpu.rotary_blocking(shape, &inputs)?)]))
}

fn positional<T: Element>(
    trial: &mut Trial<'_>,
    name: &'static str,
    shape: &PositionalShape,
) -> Result<(), Error> {
    let p = TokenProblem::positional(shape)?;
    let mut numbers = Numbers(3);
    let x: Option<Vec<T>> = p.x.map(|view| numbers.tensor(view.extent));
    let table: Vec<f32> = numbers.tensor(p.table.extent);
    let positions = positions(&p, &mut numbers);
    let inputs =
        PositionalInputs { x: x.as_deref(), table: &table, positions: positions.as_deref() };
    let expected = cpu::positional(shape, &inputs)?;
    let what = format!("{shape:?}");
    let call = Call { name, what, stored: T::TYPE, expected: vec![("out", &expected)] };
    let route = |gpu: &Gpu| {
        let plan = gpu.positional_operator().plan(shape)?;
        let (steps, dispatches) = (plan.variants(), plan.dispatches().len());
        Ok(Route { kernel: "positional", steps, dispatches })
    };
    trial.compare(&call, route, |gpu| Ok(vec![wide(&gpu.positional_blocking(shape, &inputs)?)]))
}

/// Rows of the table in no order, the last one among them.
fn positions(p: &TokenProblem, numbers: &mut Numbers) -> Option<Vec<u32>> {
    let view = p.positions?;
    let any = |i| if i == 0 { p.last_row } else { numbers.unit().to_bits() % (p.last_row + 1) };
    Some((0..view.extent).map(any).collect())
}
