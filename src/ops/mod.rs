//! RECORD: one file per operation: its public type, its buffers, what it encodes.

mod additive;
mod attention;
mod launch;
mod linear;
mod positional;
mod rotary;

pub use additive::{Additive, AdditiveBuffers};
pub use attention::{Attention, AttentionBuffers, Footprint};
pub use linear::{Linear, LinearBuffers};
pub use positional::{Positional, PositionalBuffers};
pub use rotary::{Rotary, RotaryBuffers};
