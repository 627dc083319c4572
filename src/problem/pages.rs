//! Keys and values in pages of one pool, which a table names for each sequence.

use super::options::{Align, AttentionOptions};
use super::shape::{AttentionShape, PagedKeys, PresentKeys};
use crate::error::Error;
use crate::view::length;

/// A problem's pages, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// Keys of a page.
    pub page_len: u32,
    /// Pages of the pool.
    pub count: u32,
}

pub(crate) fn check_page_len(page_len: usize) -> Result<u32, Error> {
    let fits = page_len.is_power_of_two() && (16..=256).contains(&page_len);
    Error::require(fits, "page_len", "a power of two from 16 to 256", page_len)?;
    length("page_len", page_len)
}

impl Pages {
    pub(super) fn new(
        shape: &AttentionShape,
        options: &AttentionOptions,
    ) -> Result<Option<Self>, Error> {
        let Some(PagedKeys { page_len, pages, pages_per_sequence, present }) = shape.pages else {
            return Ok(None);
        };
        if let Some(present) = present {
            check_present(present, shape, options)?;
        }
        let is_packed = shape.cu_seqlens.is_some();
        Error::require(!is_packed, "pages", "none beside cu_seqlens", "some")?;
        let page_len = check_page_len(page_len)?;
        let needed = shape.kv_len.div_ceil(page_len as usize);
        for (argument, found, least) in
            [("pages_per_sequence", pages_per_sequence, needed), ("pages", pages, needed.min(1))]
        {
            let expected = format_args!("at least {least} for kv_len = {}", shape.kv_len);
            Error::require(found >= least, argument, expected, found)?;
        }
        Ok(Some(Self { page_len, count: length("pages", pages)? }))
    }
}

/// Refuses options under which a query looks at a key that is not there.
fn check_present(
    present: PresentKeys,
    shape: &AttentionShape,
    options: &AttentionOptions,
) -> Result<(), Error> {
    let PresentKeys { first, last } = present;
    let (expected, align) = ("BottomRight, as keys were evicted", options.align);
    Error::require(align == Align::BottomRight, "align", expected, format_args!("{align:?}"))?;
    let reach = last.checked_sub(shape.q_len);
    if options.window_left.is_none_or(|left| reach.is_none_or(|most| left > most)) {
        let most = reach.map_or("none, of fewer queries".to_owned(), |most| most.to_string());
        let expected = format!("at most {most}, as all but the last {last} keys were evicted");
        let found = options.window_left.map_or("none".to_owned(), |left| left.to_string());
        return Err(Error::invalid("window_left", expected, found));
    }
    let expected = format_args!("at most {first}, as keys behind them were evicted");
    Error::require(options.window_keeps <= first, "window_keeps", expected, options.window_keeps)
}
