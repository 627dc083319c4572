//! The layers that `reference/layers.py` had from PyTorch.
#![expect(clippy::cast_possible_truncation, reason = "sizes are small, and inputs exact in f32")]

use serde_json::Value;
use std::collections::BTreeMap;
use wgpu_attention::layers::{
    HeadWeights, LayerMask, MultiHeadInputs, MultiHeadShape, MultiHeadWeights, ScaleBy,
    SelfAttentionInputs, SelfAttentionShape, SelfAttentionWeights,
};
use wgpu_attention::{BroadcastLayout, Error};

/// One call of a layer, as in the file.
pub(crate) struct LayerCase {
    json: Value,
    pub(crate) name: String,
    state: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    tensors: BTreeMap<&'static str, Vec<f32>>,
    masks: BTreeMap<&'static str, Vec<bool>>,
}

/// Every case of a layer.
pub(crate) fn cases(layer: &str) -> Vec<LayerCase> {
    let all: Vec<Value> =
        serde_json::from_str(include_str!("../host/reference/layers.json")).unwrap();
    let cases: Vec<LayerCase> =
        all.into_iter().filter(|case| case["layer"] == layer).map(LayerCase::new).collect();
    assert!(!cases.is_empty());
    cases
}

impl LayerCase {
    fn new(json: Value) -> Self {
        let entry = |(name, tensor): (&String, &Value)| {
            let sizes = floats(&tensor["dims"]).into_iter().map(|size| size as usize).collect();
            (name.clone(), (sizes, singles(&tensor["data"])))
        };
        let state = json["state"].as_object().unwrap().iter().map(entry).collect();
        let names = ["query", "key", "value", "values", "keys", "queries"];
        let tensors = names.into_iter().filter(|name| !json[name].is_null());
        let tensors = tensors.map(|name| (name, singles(&json[name]))).collect();
        let names = ["attn_mask", "key_padding_mask", "mask"];
        let masks = names.into_iter().filter(|name| !json[name].is_null());
        let bools = |name| floats(&json[name]["data"]).into_iter().map(|x| x != 0.0).collect();
        let masks = masks.map(|name| (name, bools(name))).collect();
        let name = json["name"].as_str().unwrap().to_owned();
        let mut case = Self { name, state, tensors, masks, json };
        for name in ["attn_mask", "key_padding_mask"] {
            if case.json[name]["kind"] == "added" {
                case.tensors.insert(name, singles(&case.json[name]["data"]));
            }
        }
        case
    }

    fn size(&self, name: &str) -> usize {
        self.json[name].as_u64().unwrap() as usize
    }

    fn tensor(&self, name: &str) -> &[f32] {
        &self.tensors[name]
    }

    fn find(&self, name: &str) -> Option<(&[usize], &[f32])> {
        self.state.get(name).map(|(sizes, elements)| (&sizes[..], &elements[..]))
    }

    pub(crate) fn expected(&self, output: &str) -> Vec<f64> {
        floats(&self.json["expected"][output])
    }

    pub(crate) fn multi_head_weights(&self) -> Result<MultiHeadWeights<'_>, Error> {
        let add_zero_attn = self.json["add_zero_attn"].as_bool().unwrap();
        let heads = self.size("heads");
        let weights = MultiHeadWeights::from_state_dict(heads, |name| self.find(name))?;
        Ok(MultiHeadWeights { add_zero_attn, ..weights })
    }

    pub(crate) fn multi_head_shape(&self) -> MultiHeadShape {
        MultiHeadShape {
            kv_len: self.size("kv_len"),
            batch_first: self.json["batch_first"].as_bool().unwrap(),
            weights: match self.json["weights"].as_str() {
                Some("mean") => Some(HeadWeights::Mean),
                Some("per_head") => Some(HeadWeights::PerHead),
                _ => None,
            },
            ..MultiHeadShape::new(self.size("batch"), self.size("q_len"))
        }
    }

    pub(crate) fn multi_head_inputs(&self) -> MultiHeadInputs<'_> {
        let mask = |name| match (self.masks.get(name), self.tensors.get(name)) {
            (_, Some(added)) => Some(LayerMask::Added(added)),
            (Some(hidden), None) => Some(LayerMask::Hidden(hidden)),
            (None, None) => None,
        };
        MultiHeadInputs {
            query: self.tensor("query"),
            key: self.tensor("key"),
            value: self.tensor("value"),
            attn_mask: mask("attn_mask"),
            key_padding_mask: mask("key_padding_mask"),
        }
    }

    pub(crate) fn self_attention_weights(&self) -> Result<SelfAttentionWeights<'_>, Error> {
        SelfAttentionWeights::from_state_dict(self.size("heads"), |name| self.find(name))
    }

    pub(crate) fn self_attention_shape(&self) -> SelfAttentionShape {
        let mask = self.masks.get("mask").map(|_| {
            let sizes = floats(&self.json["mask"]["dims"]);
            let sizes: Vec<usize> = sizes.into_iter().map(|size| size as usize).collect();
            BroadcastLayout::from_dims("mask", &sizes).unwrap()
        });
        SelfAttentionShape {
            kv_len: self.size("kv_len"),
            scale_by: if self.json["scale_by"] == "embed" { ScaleBy::Embed } else { ScaleBy::Head },
            mask,
            weights: true,
            ..SelfAttentionShape::new(self.size("batch"), self.size("q_len"))
        }
    }

    pub(crate) fn self_attention_inputs(&self) -> SelfAttentionInputs<'_> {
        SelfAttentionInputs {
            values: self.tensor("values"),
            keys: self.tensor("keys"),
            queries: self.tensor("queries"),
            mask: self.masks.get("mask").map(Vec::as_slice),
        }
    }
}

fn floats(array: &Value) -> Vec<f64> {
    let float = |x: &Value| match x.as_str() {
        Some(infinity) => infinity.parse().unwrap(),
        None => x.as_f64().unwrap(),
    };
    array.as_array().unwrap().iter().map(float).collect()
}

/// The inputs are exact in f32.
fn singles(array: &Value) -> Vec<f32> {
    floats(array).into_iter().map(|x| x as f32).collect()
}
