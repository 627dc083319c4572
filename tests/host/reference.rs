//! The answers that `reference/generate.py` had from PyTorch.

use serde_json::Value;
use wgpu_attention::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, BroadcastLayout, Inputs, Layout,
};

/// One problem, as in the file.
pub(crate) struct Case {
    json: Value,
    pub(crate) shape: AttentionShape,
    pub(crate) options: AttentionOptions,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    mask: Option<Vec<bool>>,
    bias: Option<Vec<f32>>,
    alibi_slopes: Option<Vec<f32>>,
}

pub(crate) fn cases() -> Vec<Value> {
    serde_json::from_str(include_str!("reference/attention.json")).unwrap()
}

impl Case {
    pub(crate) fn named(name: &str) -> Self {
        Self::new(cases().into_iter().find(|case| case["name"] == name).unwrap())
    }

    fn new(json: Value) -> Self {
        let sizes: Vec<usize> = floats(&json["sizes"]).iter().map(|&size| size as usize).collect();
        let [batch, num_heads, num_kv_heads, q_len, kv_len, head_dim, value_dim] = sizes[..] else {
            panic!("sizes: expected 7, found {sizes:?}")
        };
        let layout = if json["layout"] == "bshd" { Layout::Bshd } else { Layout::Bhsd };
        let asked = |name: &str| json["expected"].get(name).map(|_| Layout::Bhsd);
        let broadcast = |name: &'static str| {
            let dims = dims(&json[name])?;
            Some(BroadcastLayout::from_dims(name, &dims).unwrap())
        };
        let shape = AttentionShape {
            num_kv_heads,
            kv_len,
            value_dim,
            mask: broadcast("mask"),
            bias: broadcast("bias"),
            alibi: dims(&json["alibi_slopes"]).map(|dims| match dims.len() {
                1 => AlibiLayout::PerHead,
                _ => AlibiLayout::PerBatchAndHead,
            }),
            lse: asked("lse"),
            weights: asked("weights"),
            raw_scores: asked("raw_scores"),
            capped_scores: asked("capped_scores"),
            masked_scores: asked("masked_scores"),
            ..AttentionShape::new(batch, num_heads, q_len, head_dim).with_layout(layout)
        };
        let options = AttentionOptions {
            scale: json["scale"].as_f64().map(|scale| scale as f32),
            softcap: json["softcap"].as_f64().map(|softcap| softcap as f32),
            causal: json["causal"].as_bool().unwrap(),
            window_left: json["window_left"].as_u64().map(|window| window as usize),
            window_keeps: 0,
            window_right: json["window_right"].as_u64().map(|window| window as usize),
            align: match (json["align"].as_str(), json["align"].as_i64()) {
                (Some("top_left"), _) => Align::TopLeft,
                (Some("bottom_right"), _) => Align::BottomRight,
                (_, offset) => Align::Offset(offset.unwrap()),
            },
        };
        let data = |name: &str| json[name].get("data").map(singles);
        Self {
            shape,
            options,
            query: singles(&json["query"]),
            key: singles(&json["key"]),
            value: singles(&json["value"]),
            mask: data("mask").map(|mask| mask.into_iter().map(|m| m != 0.0).collect()),
            bias: data("bias"),
            alibi_slopes: data("alibi_slopes"),
            json,
        }
    }

    pub(crate) fn inputs(&self) -> Inputs<'_> {
        Inputs {
            query: &self.query,
            key: &self.key,
            value: &self.value,
            mask: self.mask.as_deref(),
            bias: self.bias.as_deref(),
            alibi_slopes: self.alibi_slopes.as_deref(),
            segments: None,
            lens: None,
            pages: None,
            sinks: None,
        }
    }

    /// What PyTorch says, if the file has it, of one of the outputs.
    pub(crate) fn expected(&self, output: &str) -> Option<Vec<f64>> {
        self.json["expected"].get(output).map(floats)
    }
}

fn dims(tensor: &Value) -> Option<Vec<usize>> {
    Some(floats(tensor.get("dims")?).into_iter().map(|dim| dim as usize).collect())
}

pub(crate) fn floats(array: &Value) -> Vec<f64> {
    let float = |x: &Value| match x.as_str() {
        Some(infinity) => infinity.parse().unwrap(),
        None => x.as_f64().unwrap(),
    };
    array.as_array().unwrap().iter().map(float).collect()
}

/// The inputs are exact in f32.
pub(crate) fn singles(array: &Value) -> Vec<f32> {
    floats(array).into_iter().map(|x| x as f32).collect()
}
