//! A multi-head layer with parameters by PyTorch's names, two sentences of different lengths:
//! `cargo run --example multi_head`.

use std::collections::HashMap;
use std::error::Error;
use wgpu_attention::check::{Bounds, compare};
use wgpu_attention::layers::{
    HeadWeights, LayerMask, MultiHeadInputs, MultiHeadShape, MultiHeadWeights,
};
use wgpu_attention::{Gpu, GpuOptions, cpu};

const WIDTH: usize = 64;
const HEADS: usize = 4;
const LEN: usize = 12;

fn main() -> Result<(), Box<dyn Error>> {
    // As a safetensors file of `nn.MultiheadAttention(64, 4).state_dict()` would have them: shape and elements.
    let wave =
        |step: f32, n: usize| (0..n).map(|i| (i as f32 * step).sin() * 0.2).collect::<Vec<_>>();
    let state = HashMap::from([
        ("in_proj_weight", (vec![3 * WIDTH, WIDTH], wave(0.7, 3 * WIDTH * WIDTH))),
        ("in_proj_bias", (vec![3 * WIDTH], wave(0.9, 3 * WIDTH))),
        ("out_proj.weight", (vec![WIDTH, WIDTH], wave(1.1, WIDTH * WIDTH))),
        ("out_proj.bias", (vec![WIDTH], wave(1.3, WIDTH))),
    ]);
    let find = |name: &str| state.get(name).map(|(shape, elements)| (&shape[..], &elements[..]));
    let weights = MultiHeadWeights::from_state_dict(HEADS, find)?;

    // [batch, len, width]; the second sentence is five words long, the rest is padding.
    let words = wave(2.1, 2 * LEN * WIDTH);
    let is_padding: Vec<bool> = (0..2 * LEN).map(|at| at >= LEN + 5).collect();
    let inputs = MultiHeadInputs {
        query: &words,
        key: &words,
        value: &words,
        key_padding_mask: Some(LayerMask::Hidden(&is_padding)),
        attn_mask: None,
    };
    let shape = MultiHeadShape { weights: Some(HeadWeights::Mean), ..MultiHeadShape::new(2, LEN) };

    let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    println!("{}", gpu.adapter_info().name);
    let found = gpu.multi_head_attention_blocking(&weights, &shape, &inputs)?;
    let rows = found.weights.ok_or("the shape asks for weights")?;
    println!("the last word's weights, over the heads: {:.2?}", &rows[rows.len() - LEN..]);

    let expected = cpu::multi_head_attention(&weights, &shape, &inputs)?;
    let accuracy = compare(&found.out, &expected.out)?;
    println!("{accuracy}");
    if accuracy.within(&Bounds::F32) { Ok(()) } else { Err("they differ".into()) }
}
