//! One dispatch of an operation other than attention: its parameters are bytes, its tensors whatever the operation names.

use super::params::Params;
use super::storage::Storage;
use super::variant::{Entry, Variant};
use super::window::Window;
use crate::problem::View;

/// A dispatch that binds tensors `T`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Launch<T> {
    pub(crate) variant: Variant,
    /// The shader's uniform block.
    pub(crate) params: Vec<u8>,
    /// Binding number, tensor, and which part of it.
    pub(crate) bound: Vec<(u32, T, Window)>,
    pub(crate) grid: [u32; 3],
}

pub(super) const PACK_THREADS: u32 = Entry::Pack.count("THREADS");

impl<T> Launch<T> {
    /// Packs `unpacked`, written as seen through `window` onto `view` of `out`, into words that rows share.
    pub(super) fn pack(
        storage: Storage,
        [unpacked, out]: [T; 2],
        view: &View,
        window: Window,
    ) -> Self {
        let words = view.extent.div_ceil(2) - window.first_element / 2;
        let params = Params { words, ..Params::default() };
        Self {
            variant: Variant { entry: Entry::Pack, storage, out: storage, constants: [].into() },
            params: bytemuck::bytes_of(&params).to_vec(),
            bound: vec![(4, unpacked, Window::unpacked(&window, view)), (10, out, window)],
            grid: [words.div_ceil(PACK_THREADS), 1, 1],
        }
    }
}

/// Bytes that `launches` bind of a tensor, at most.
pub(crate) fn largest_of<T: PartialEq>(launches: &[Launch<T>], tensor: T) -> u64 {
    let bound = launches.iter().flat_map(|launch| &launch.bound);
    let sizes = bound.filter(|(_, own, _)| *own == tensor).map(|(_, _, window)| window.size);
    sizes.max().unwrap_or_default()
}
