//! Tests that need no GPU.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what is wanted")]

#[path = "../common/mod.rs"]
mod common;
mod compare;
mod cpu_attention;
mod cpu_extremes;
mod cpu_layouts;
mod cpu_sinks;
mod cpu_stages;
mod decode;
mod encodings;
mod encodings_reference;
mod layers;
mod lens;
mod parts;
mod plan;
mod pool;
mod problem;
mod readme;
mod reference;
mod reflection;
mod replay;
mod sequences;
mod shader_text;
mod shaders;
mod split;
mod storage;
mod tiles;
mod tuning;
