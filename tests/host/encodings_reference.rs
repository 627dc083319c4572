//! The answers that `reference/encodings.py` had from PyTorch.

use crate::reference::{floats, singles};
use serde_json::Value;
use wgpu_attention::check::{Bounds, compare};
use wgpu_attention::{
    RotaryInputs, RotaryPairs, RotaryShape, RotaryTable, TableRows, alibi_slopes, cpu, sinusoidal,
};

fn cases(kind: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("reference/encodings.json")).unwrap();
    all[kind].as_array().unwrap().clone()
}

fn sizes(case: &Value) -> Vec<usize> {
    floats(&case["sizes"]).into_iter().map(|size| size as usize).collect()
}

fn check(what: &Value, found: &[f32], expected: &[f64]) {
    let accuracy = compare(found, expected).unwrap();
    let bounds = Bounds { max_relative: 3e-7, frobenius: 3e-7 };
    assert!(accuracy.within(&bounds) && accuracy.compared > 0, "{what}: {accuracy}");
}

#[test]
fn the_reference_rotates_as_pytorch_does() {
    for case in cases("rotary") {
        let [batch, num_heads, len, head_dim, rotary_dim] = sizes(&case)[..] else { panic!() };
        let interleaved = case["interleaved"].as_bool().unwrap();
        let positions: Vec<u64> =
            floats(&case["positions"]).into_iter().map(|position| position as u64).collect();
        let base = case["base"].as_f64().unwrap();
        let table = RotaryTable::new(rotary_dim, base, positions).unwrap();
        let shape = RotaryShape {
            rotary_dim,
            pairs: if interleaved { RotaryPairs::Interleaved } else { RotaryPairs::Half },
            rows: TableRows::PerToken,
            ..RotaryShape::new(batch, num_heads, len, head_dim)
        };
        let x = singles(&case["x"]);
        let inputs = RotaryInputs { x: &x, cos: &table.cos, sin: &table.sin, positions: None };
        let found = cpu::rotary(&shape, &inputs).unwrap();
        let found: Vec<f32> = found.into_iter().map(|x| x as f32).collect();
        check(&case["name"], &found, &floats(&case["out"]));
    }
}

#[test]
fn sinusoids_and_slopes_are_those_of_pytorch() {
    for case in cases("sinusoidal") {
        let size = |name: &str| case[name].as_u64().unwrap();
        let (len, dim, base) = (size("len"), size("dim"), case["base"].as_f64().unwrap());
        let found = sinusoidal(len as usize, dim as usize, base, size("offset")).unwrap();
        check(&case, &found, &floats(&case["out"]));
    }
    for case in cases("slopes") {
        let heads = case["heads"].as_u64().unwrap();
        check(&case, &alibi_slopes(heads as usize), &floats(&case["out"]));
    }
}
