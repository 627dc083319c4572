//! RECORD: one file per operation: its public type, its buffers, what it encodes.

mod attention;
mod linear;
mod multi_head;
mod self_attention;

pub use attention::{Attention, AttentionBuffers, Footprint};
pub use linear::{Linear, LinearBuffers};
pub use multi_head::{MultiHeadAttention, MultiHeadBuffers};
pub use self_attention::{SelfAttention, SelfAttentionBuffers};
