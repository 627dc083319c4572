//! RECORD: one file per operation: its public type, its buffers, what it encodes.

mod additive;
mod attention;
mod cache;
mod cache_store;
mod linear;
mod merge;
mod multi_head;
mod paged_cache;
mod positional;
mod rotary;
mod self_attention;
mod tune;
mod warm_up;

pub use additive::{Additive, AdditiveBuffers};
pub use attention::{Attention, AttentionBuffers};
pub use cache::{CacheStep, CacheTokens, KvCache};
pub use linear::{Linear, LinearBuffers};
pub use merge::{Merge, MergeBuffers};
pub use multi_head::{MultiHeadAttention, MultiHeadBuffers};
pub use paged_cache::{PagedBatch, PagedKvCache};
pub use positional::{Positional, PositionalBuffers};
pub use rotary::{Rotary, RotaryBuffers};
pub use self_attention::{SelfAttention, SelfAttentionBuffers};
