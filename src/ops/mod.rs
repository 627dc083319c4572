//! RECORD: one file per operation: its public type, its buffers, what it encodes.

mod attention;

pub use attention::{Attention, AttentionBuffers, Footprint};
