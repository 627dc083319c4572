//! FlashAttention-class attention in WGSL on any GPU that wgpu reaches, on your own device, buffers
//! and command encoder, with a CPU reference that says what is right.
//!
//! One call from slices, for those who want an answer:
//!
//! ```
//! use wgpu_attention::{AttentionOptions, AttentionShape, Gpu, GpuOptions, Inputs, cpu};
//!
//! // One sequence of 3 words, 2 heads of 4 numbers each: [batch, num_heads, len, head_dim].
//! let shape = AttentionShape::new(1, 2, 3, 4);
//! let options = AttentionOptions { causal: true, ..AttentionOptions::default() };
//! let words: Vec<f32> = (0..24).map(|n| (n as f32).sin()).collect();
//! let inputs = Inputs { query: &words, key: &words, value: &words, ..Inputs::default() };
//!
//! let gpu = Gpu::open_blocking(&GpuOptions::default())?;
//! let found = gpu.attention_blocking(&shape, &options, &inputs)?;
//! let expected = cpu::attention(&shape, &options, &inputs)?;
//! assert!(found.out.iter().zip(&expected.out).all(|(&f, e)| (f64::from(f) - e).abs() < 1e-5));
//! # Ok::<(), wgpu_attention::Error>(())
//! ```
//!
//! Recorded into your own encoder, for an application that has a device already: [`Attention`] with
//! `plan` and `encode`, or `bind` and [`Call::record`] for a pass of yours; see
//! `examples/own_encoder.rs`. Make one [`Gpu::from_device`] for your device and every operator and
//! cache from it ([`Gpu::attention_operator`], [`Gpu::kv_cache`] and so on): they share pipelines, tuning and
//! workspace. `Attention::new(&device, &queue, ..)` and its like make operators that share nothing.
//!
//! An application that passes its own device needs wgpu 30, the same as [`wgpu`] here.
//!
//! # What there is
//!
//! - [`Attention`]: masks, windows, grouped heads, packed batches and more, all options of
//!   [`AttentionShape`] and [`AttentionOptions`], on the fused kernel that fits ([`Kernel`]).
//! - [`layers`]: [`Linear`](layers::Linear), [`MultiHeadAttention`](layers::MultiHeadAttention)
//!   with PyTorch's parameters and masks, the [`SelfAttention`](layers::SelfAttention) of many
//!   tutorials, rotary and other positional encodings, additive attention, and
//!   [`Merge`](layers::Merge) for results over parts of the keys. They have the same verbs.
//! - [`cache`]: keys and values of tokens that have been seen, contiguous
//!   ([`KvCache`](cache::KvCache)) or in pages ([`PagedKvCache`](cache::PagedKvCache)).
//! - 16 bits: [`ElementType`] stores f16 or bf16 and sums in f32. Slices of them are `half::f16`
//!   and `half::bf16`, with the feature `half`.
//! - [`Attention::tune`]: the tile sizes that are fastest on your GPU, measured and kept.
//! - [`cpu`]: the reference in f64. [`check`]: every kernel against it, on the machine it runs on.
//!
//! # How a call flows
//!
//! The modules below stand in the order in which a call passes through them.
//!
//! 1. **What**: an [`AttentionShape`] and [`AttentionOptions`] are validated once into a
//!    [`Problem`].
//! 2. **Where**: [`Capabilities`] are a device's features and limits as plain data; [`Gpu`] opens
//!    one.
//! 3. **How**: a [`Plan`] picks kernel, tiles and grid, and cuts what is too large for the device.
//!    Pure; print it to see what will run and why.
//! 4. **Text**: the WGSL in `shaders/`, specialised by named constants. Pure.
//! 5. **Compile**: a pipeline per variant of a shader, once. Lengths are not part of a variant,
//!    head sizes and options are.
//! 6. **Record**: [`Attention::encode`] writes into your encoder and nothing else;
//!    [`Attention::bind`] makes a [`Call`] that can be recorded again and again.
//! 7. **Back** and **one-shot**: [`Gpu::attention`] uploads, runs, reads back.
//!
//! # On a device of your own
//!
//! - **A lost device** shows as [`Error::Device`] with "the device is lost" ([`Error::is_lost`])
//!   from everything that returns a `Result` and asks the device: operators and caches made on it,
//!   `prepare`, `bind`, `encode`, `append`, `tune`, one-shots. Operators made without a `Result`
//!   ([`layers::Linear::new`]) say so at `prepare` or `bind`. [`Call::encode`] asks nothing, and in
//!   a browser nothing tells. wgpu gives the reason to the device's lost callback, which this
//!   library leaves to you.
//! - **An encoder of another device** is found by wgpu, at `finish`: `encode` returns `Ok`.
//! - **Workspace** grows to what the largest call needs ([`Plan::workspace`]);
//!   [`Gpu::release_workspace`] gives it back.
//! - **First calls** compile: [`Attention::prepare`] does so ahead, and [`Attention::warm_up`] also
//!   runs what drivers compile only when it first runs.
//! - **Buffers** may be larger than their tensors, and their bytes are not looked at: see
//!   [`AttentionBuffers::check_exact`].
//!
//! # What it computes
//!
//! ```text
//! score  = scale * dot(query_i, key_j)
//! score  = softcap * tanh(score / softcap)      if a softcap is given
//! score  = score + bias - slope * |i + offset - j|
//! weight = softmax over the visible keys j
//! out_i  = sum of weight_j * value_j
//! lse_i  = ln of the sum of exp(score) over the visible keys
//! ```
//!
//! A key is hidden by the mask, by a bias of `-inf`, by causality or by a window; all apply
//! together. A hidden key adds nothing, not even NaN. A row that sees no key has out 0, weights 0
//! and lse `-inf`. Values whose weighted sum passes the largest f32 give infinity.
#![cfg_attr(docsrs, feature(doc_cfg))] // docs.rs then says what a feature brings

mod element;
mod error;
mod tensor;
mod view;

mod device;
mod problem;
mod tables;

mod plan;
mod shader;

mod call;
mod context;
mod lost;
mod pipeline;
mod scope;
mod uniforms;
mod verbs;

mod attention;
mod tune;
mod warm_up;

mod buffer;
mod host;

pub mod cache;
pub mod check;
pub mod cpu;
pub mod layers;

pub use attention::{Attention, AttentionBuffers};
pub use buffer::BufferRange;
pub use call::Call;
pub use context::Footprint;
pub use device::{AdapterSummary, Capabilities, GpuOptions, Matrices, adapters, adapters_blocking};
pub use element::{Element, ElementType};
pub use error::Error;
#[cfg(feature = "half")]
pub use half;
pub use host::Gpu;
pub use plan::{ForwardTile, Kernel, Plan, Tuning};
pub use problem::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, CuSeqlens, Inputs, Outputs, PagedKeys,
    PresentKeys, Problem, SegmentLayout,
};
pub use tables::alibi_slopes;
pub use view::{BroadcastLayout, BroadcastStrides, Layout, Strides};
pub use wgpu;

/// What the tests of this crate look at; no part of its interface.
#[doc(hidden)]
pub mod internal {
    pub use crate::cache::pool::{PagePool, PoolGrowth};
    pub use crate::cache::ranges::{AppendRange, CopyRange, SequenceRow};
    pub use crate::cache::step::CacheLensParams;
    pub use crate::layers::linear::LinearParams;
    pub use crate::layers::tokens::TokenParams;
    pub use crate::plan::{
        Access, Bound, Constant, Dispatch, Entry, JoinParams, LensParams, Params, SequenceParams,
        Storage, Tiles, Variant, ViewParams, Window,
    };
    pub use crate::problem::{Band, Lens, PackedSequence, Pages, Sequence, SmallTensors};
    pub use crate::shader::{Binding, assemble, bindings};
    pub use crate::tensor::{Tensor, Views};
    pub use crate::view::View;
}
