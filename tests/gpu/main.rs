//! Tests on a real adapter. Without one they fail.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod additive;
mod app;
mod bands;
mod cache;
mod cache_random;
mod cache_steps;
mod calls;
mod case;
mod check;
#[path = "../common/mod.rs"]
mod common;
mod decode;
mod device;
mod dims;
mod encode;
mod encode_errors;
mod encodings;
mod errors;
mod extremes;
mod faults;
mod kernels;
mod layers;
mod layouts;
mod lens;
mod limits;
mod linear;
mod long;
mod lost;
mod masks;
mod matrix;
mod merge;
mod one_shot;
mod paged_cache;
mod properties;
mod sinks;
mod sixteen;
mod stages;
mod startup;
mod tune;
mod visibility;
mod weights;
mod words;
