//! RECORD: one file per operation: its public type, its buffers, what it encodes.

mod attention;
mod linear;

pub use attention::{Attention, AttentionBuffers, Footprint};
pub use linear::{Linear, LinearBuffers};
