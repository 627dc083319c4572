//! FlashAttention-class attention in WGSL on any GPU wgpu reaches.

mod error;

mod device;
mod problem;

mod host;

pub mod cpu;

pub use device::{AdapterSummary, Capabilities, GpuOptions, adapters, adapters_blocking};
pub use error::Error;
pub use host::Gpu;
pub use problem::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, Band, BroadcastLayout, BroadcastStrides,
    Inputs, Layout, Outputs, Problem, Strides, View,
};
pub use wgpu;
