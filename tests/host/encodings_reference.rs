//! The answers that `reference/encodings.py` had from PyTorch.

use crate::reference::{floats, singles};
use serde_json::Value;
use wgpu_attention::check::{Bounds, compare};
use wgpu_attention::layers::{
    AdditiveInputs, AdditiveShape, RotaryInputs, RotaryPairs, RotaryShape, RotaryTable, TableRows,
    sinusoidal,
};
use wgpu_attention::{alibi_slopes, cpu};

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

#[test]
fn the_reference_adds_queries_and_keys_as_pytorch_does() {
    for case in cases("additive") {
        let sizes = sizes(&case);
        let [batch, q_len, kv_len, query_dim, key_dim, value_dim, hidden] = sizes[..] else {
            panic!()
        };
        let [query, key, value, w_q, w_k, w_v] =
            ["query", "keys", "values", "w_q", "w_k", "w_v"].map(|name| singles(&case[name]));
        let b = case["b"].as_array().map(|_| singles(&case["b"]));
        let flags = case["mask"]["data"].as_array();
        let mask = flags.map(|data| data.iter().map(|m| m.as_bool().unwrap()).collect::<Vec<_>>());
        let dims = mask.as_ref().map(|_| {
            let dims = floats(&case["mask"]["dims"]);
            let mut sizes = [1; 3];
            for (size, dim) in sizes[3 - dims.len()..].iter_mut().zip(dims) {
                *size = dim as usize;
            }
            sizes
        });
        let shape = AdditiveShape {
            bias: b.is_some(),
            mask: dims,
            weights: true,
            ..AdditiveShape::new(batch, [q_len, kv_len], [query_dim, key_dim, value_dim], hidden)
        };
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
        let found = cpu::additive(&shape, &inputs).unwrap();
        for (name, found) in [("out", found.out), ("weights", found.weights.unwrap())] {
            let found: Vec<f32> = found.into_iter().map(|x| x as f32).collect();
            check(&case["name"], &found, &floats(&case[name]));
        }
    }
}
