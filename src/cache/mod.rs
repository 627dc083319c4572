//! Caches of keys and values: shapes and bookkeeping, then buffers and what is recorded.

pub(crate) mod pool;
pub(crate) mod ranges;
mod shape;
mod tokens;

mod rows;
mod store;
mod tables;

mod contiguous;
mod paged;
pub(crate) mod step;

pub use contiguous::KvCache;
pub use paged::{PagedBatch, PagedKvCache};
pub use pool::PagedSequence;
pub use shape::{CacheRotary, KvCacheShape, PagedCacheShape};
pub use step::CacheStep;
pub use tokens::CacheTokens;
