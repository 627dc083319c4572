//! Caches of keys and values: shapes and bookkeeping, then buffers and what is recorded.

mod pool;
mod ranges;
mod shape;
mod tokens;

mod lens;
mod rows;
mod store;
mod tables;

mod contiguous;
mod paged;
mod step;

pub use contiguous::KvCache;
pub use lens::CacheLensParams;
pub use paged::{PagedBatch, PagedKvCache};
pub use pool::{PagePool, PagedSequence, PoolGrowth};
pub use ranges::{AppendRange, CopyRange, SequenceRow};
pub use shape::{CacheRotary, KvCacheShape, PagedCacheShape};
pub use step::CacheStep;
pub use tokens::CacheTokens;
