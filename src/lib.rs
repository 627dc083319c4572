//! FlashAttention-class attention in WGSL on any GPU wgpu reaches.

mod error;

mod device;
mod problem;

mod plan;
mod shader;

mod context;
mod pipeline;
mod uniforms;

mod ops;

mod buffer;
mod host;

pub mod check;
pub mod cpu;

pub use device::{AdapterSummary, Capabilities, GpuOptions, adapters, adapters_blocking};
pub use error::Error;
pub use host::Gpu;
pub use ops::{Attention, AttentionBuffers};
pub use plan::{
    Access, Bound, Constant, Dispatch, Entry, Kernel, Params, Plan, Storage, Tensor, Tiles,
    Variant, ViewParams, Window,
};
pub use problem::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, Band, BroadcastLayout, BroadcastStrides,
    Inputs, Layout, Outputs, Problem, Strides, View,
};
pub use shader::assemble;
pub use wgpu;
