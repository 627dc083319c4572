//! FlashAttention-class attention in WGSL on any GPU wgpu reaches.

pub mod check;
pub mod cpu;
mod error;
mod problem;

pub use error::Error;
pub use problem::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, Band, BroadcastLayout, BroadcastStrides,
    Inputs, Layout, Outputs, Problem, Strides, View,
};
