//! One dispatch as plain data: which shader, which parts of which tensors under which names, what
//! grid.

use super::params::{Params, SequenceParams, ViewParams};
use super::storage::Storage;
use super::variant::{Entry, Variant};
use crate::device::Capabilities;
use crate::problem::View;
use crate::tensor::Tensor;

/// The part of a buffer that a dispatch binds: it starts at an aligned offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First byte, aligned for the device.
    pub start: u64,
    /// Number of bytes.
    pub size: u64,
    /// Element at `start`.
    pub first_element: u32,
}

impl Window {
    /// Onto a tensor with so many elements in a 32-bit word.
    fn onto(per_word: u32, view: &View, capabilities: &Capabilities) -> Self {
        let step = capabilities.storage_alignment.max(4) / 4 * per_word;
        let first_element = view.offset / step * step;
        let bytes = |elements: u32| u64::from(elements.div_ceil(per_word)) * 4;
        let start = bytes(first_element);
        Self { start, size: bytes(view.extent) - start, first_element }
    }

    /// The elements of a window onto out, each as a word of its own at the start of another buffer.
    fn unpacked(self, view: &View) -> Self {
        let elements = u64::from(view.extent - self.first_element).next_multiple_of(2);
        Self { start: 0, size: elements * 4, ..self }
    }
}

/// A tensor bound through a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// What the shader calls it.
    pub name: &'static str,
    /// Which tensor.
    pub tensor: Tensor,
    /// Where it lies in its buffer.
    pub view: View,
    /// Which part of the buffer.
    pub window: Window,
}

/// One dispatch.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatch {
    /// The shader.
    pub variant: Variant,
    /// Its uniform block.
    pub params: Vec<u8>,
    /// What it binds; bindings of the shader that are not listed get a dummy.
    pub bound: Vec<Bound>,
    /// What each sequence is, if they differ; else empty.
    pub table: Vec<SequenceParams>,
    /// Workgroups along each axis.
    pub grid: [u32; 3],
}

impl Dispatch {
    /// The uniform block as the struct that mirrors it.
    #[must_use]
    pub fn params<P: bytemuck::AnyBitPattern>(&self) -> P {
        bytemuck::pod_read_unaligned(&self.params)
    }

    /// Where it binds a tensor.
    #[must_use]
    pub fn find(&self, tensor: Tensor) -> Option<&Bound> {
        self.bound.iter().find(|bound| bound.tensor == tensor)
    }

    /// This dispatch; and, if what it writes has to be packed into words of `tensor` that rows
    /// share, one that does so.
    pub(crate) fn packed_into(
        self,
        tensor: Tensor,
        storage: Storage,
        capabilities: &Capabilities,
    ) -> Vec<Self> {
        let Some(&unpacked) = self.find(Tensor::Unpacked) else { return vec![self] };
        let (name, view) = (unpacked.name, unpacked.view);
        let window = Window::onto(2, &view, capabilities);
        let words = view.extent.div_ceil(2) - window.first_element / 2;
        let bound = [Bound { name: "unpacked", ..unpacked }, Bound { name, tensor, view, window }];
        let pack = Self {
            variant: Variant::new(Entry::Pack, [storage.by_word(); 2], []),
            params: bytemuck::bytes_of(&Params { words, ..Params::default() }).to_vec(),
            bound: bound.to_vec(),
            table: Vec::new(),
            grid: [words.div_ceil(PACK_THREADS), 1, 1],
        };
        vec![self, pack]
    }
}

const PACK_THREADS: u32 = Entry::Pack.count("THREADS");

/// What a dispatch is going to bind.
#[derive(Clone)]
pub(crate) struct Bindings<'a> {
    pub(super) capabilities: &'a Capabilities,
    list: Vec<Bound>,
}

impl<'a> Bindings<'a> {
    pub(crate) fn new(capabilities: &'a Capabilities) -> Self {
        Self { capabilities, list: Vec::new() }
    }

    /// Binds a tensor of so many elements in a word under the shader's `name`, and says where it
    /// then lies. What is empty is not bound.
    pub(crate) fn bind(
        &mut self,
        name: &'static str,
        tensor: Tensor,
        per_word: u32,
        view: impl Into<Option<View>>,
    ) -> ViewParams {
        let Some(view) = view.into().filter(|view| view.extent > 0) else {
            return ViewParams::default();
        };
        let window = Window::onto(per_word, &view, self.capabilities);
        self.list.push(Bound { name, tensor, view, window });
        let View { batch, head, row, .. } = view;
        ViewParams { offset: view.offset - window.first_element, batch, head, row }
    }

    /// The same for what is written as `storage` says.
    pub(crate) fn bind_out(
        &mut self,
        tensor: Tensor,
        per_word: u32,
        view: View,
        storage: Storage,
    ) -> ViewParams {
        let place = self.bind("out", tensor, per_word, view);
        if let Some(bound) = self.list.last_mut().filter(|_| storage == Storage::Unpacked) {
            bound.tensor = Tensor::Unpacked;
            bound.window = bound.window.unpacked(&view);
        }
        place
    }

    pub(crate) fn dispatch(
        self,
        variant: Variant,
        params: &impl bytemuck::NoUninit,
        grid: [u32; 3],
    ) -> Dispatch {
        let (params, bound) = (bytemuck::bytes_of(params).to_vec(), self.list);
        Dispatch { variant, params, bound, table: Vec::new(), grid }
    }
}
