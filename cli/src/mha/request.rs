//! From tensors and flags to one call of a multi-head layer, everything checked.

use super::args::MhaArgs;
use crate::failure::Failure;
use crate::tensors::{Tensor, Tensors, require_size};
use safetensors::Dtype;
use wgpu_attention::{
    Capabilities, Error, HeadWeights, LayerMask, MultiHeadInputs, MultiHeadPlan, MultiHeadShape,
    MultiHeadWeights,
};

/// One call: what the library is asked, the elements it reads, and the sizes of its answers.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) shape: MultiHeadShape,
    pub(super) out_sizes: Vec<usize>,
    pub(super) weights_sizes: Vec<usize>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    attn_mask: Option<Mask>,
    key_padding_mask: Option<Mask>,
}

/// A mask of the file.
#[derive(Debug)]
enum Mask {
    Hidden(Vec<bool>),
    Added(Vec<f32>),
}

/// Batch, length and width of query, key or value.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    len: usize,
    width: usize,
}

impl Request {
    /// Checks flags and tensors against each other and the layer; the library finds nothing left to refuse.
    pub(super) fn new(
        args: &MhaArgs,
        weights: &MultiHeadWeights<'_>,
        tensors: &Tensors<'_>,
    ) -> Result<Self, Failure> {
        let [query, key, value] =
            [tensors.require("query")?, tensors.require("key")?, tensors.require("value")?];
        query.require_dtype(&[Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64])?;
        let is_batched = query.sizes.len() == 3;
        for other in [&key, &value] {
            other.require_dtype(&[query.dtype])?;
            if other.sizes.len() != query.sizes.len() {
                let expected = format!("{} sizes, as query", query.sizes.len());
                return Err(Failure::input(
                    other.name,
                    expected,
                    format_args!("{:?}", other.sizes),
                ));
            }
        }
        let (q, k, v) = (sizes(&query, args)?, sizes(&key, args)?, sizes(&value, args)?);
        require_size("width of query (as of the layer)", weights.embed_dim, q.width)?;
        require_size("width of key (as of the layer)", weights.kdim, k.width)?;
        require_size("width of value (as of the layer)", weights.vdim, v.width)?;
        require_size("batch of key (as of query)", q.batch, k.batch)?;
        require_size("batch of value (as of query)", q.batch, v.batch)?;
        require_size("len of value (as of key)", k.len, v.len)?;
        let asked = match (args.emit.is_empty(), args.per_head_weights) {
            (true, _) => None,
            (false, false) => Some(HeadWeights::Mean),
            (false, true) => Some(HeadWeights::PerHead),
        };
        let shape = MultiHeadShape {
            kv_len: k.len,
            batch_first: args.batch_first || !is_batched,
            weights: asked,
            ..MultiHeadShape::new(q.batch, q.len)
        };
        let planes = q.batch.saturating_mul(args.heads);
        let attn_mask = mask(tensors, "attn_mask", &[&[q.len, k.len], &[planes, q.len, k.len]])?;
        let padded = if is_batched { vec![q.batch, k.len] } else { vec![k.len] };
        let key_padding_mask = mask(tensors, "key_padding_mask", &[&padded])?;
        // What is too large for the smallest device may yet fit this one.
        match MultiHeadPlan::new(weights, &shape, &Capabilities::PORTABLE) {
            Ok(_) | Err(Error::Unsupported { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let mut weights_sizes = vec![q.len, k.len.saturating_add(weights.added_rows())];
        if args.per_head_weights {
            weights_sizes.insert(0, args.heads);
        }
        if is_batched {
            weights_sizes.insert(0, q.batch);
        }
        Ok(Self {
            shape,
            out_sizes: query.sizes.clone(),
            weights_sizes,
            query: query.floats()?,
            key: key.floats()?,
            value: value.floats()?,
            attn_mask,
            key_padding_mask,
        })
    }

    pub(super) fn inputs(&self) -> MultiHeadInputs<'_> {
        MultiHeadInputs {
            query: &self.query,
            key: &self.key,
            value: &self.value,
            attn_mask: self.attn_mask.as_ref().map(Mask::of_layer),
            key_padding_mask: self.key_padding_mask.as_ref().map(Mask::of_layer),
        }
    }
}

impl Mask {
    fn of_layer(&self) -> LayerMask<'_> {
        match self {
            Self::Hidden(mask) => LayerMask::Hidden(mask),
            Self::Added(mask) => LayerMask::Added(mask),
        }
    }
}

fn sizes(tensor: &Tensor<'_>, args: &MhaArgs) -> Result<Sizes, Failure> {
    match tensor.sizes[..] {
        [len, width] => Ok(Sizes { batch: 1, len, width }),
        [batch, len, width] if args.batch_first => Ok(Sizes { batch, len, width }),
        [len, batch, width] => Ok(Sizes { batch, len, width }),
        _ => {
            let order =
                if args.batch_first { "[batch, len, width]" } else { "[len, batch, width]" };
            let expected = format!("2 or 3 sizes, {order}");
            Err(Failure::input(tensor.name, expected, format_args!("{:?}", tensor.sizes)))
        }
    }
}

/// A mask of one of these sizes, if the file has it.
fn mask(
    tensors: &Tensors<'_>,
    name: &'static str,
    expected: &[&[usize]],
) -> Result<Option<Mask>, Failure> {
    let Some(tensor) = tensors.get(name) else { return Ok(None) };
    tensor.require_dtype(&[Dtype::BOOL, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64])?;
    if !expected.contains(&&tensor.sizes[..]) {
        let expected: Vec<String> = expected.iter().map(|sizes| format!("{sizes:?}")).collect();
        let found = format_args!("{:?}", tensor.sizes);
        return Err(Failure::input(name, expected.join(" or "), found));
    }
    Ok(Some(match tensor.dtype {
        Dtype::BOOL => Mask::Hidden(tensor.bools()?),
        _ => Mask::Added(tensor.floats()?),
    }))
}
