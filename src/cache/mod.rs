//! Caches of keys and values: shapes and bookkeeping, then buffers and what is recorded.

mod lens;
mod pool;
mod shape;
mod uploads;

mod store;

mod contiguous;
mod paged;
mod step;

pub use contiguous::KvCache;
pub use lens::CacheLensParams;
pub use paged::{PagedBatch, PagedKvCache};
pub use pool::{PagedCacheShape, PagedSequence};
pub use shape::{CacheRotary, KvCacheShape};
pub use step::CacheStep;
pub use store::CacheTokens;
