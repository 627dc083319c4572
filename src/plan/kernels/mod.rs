//! The dispatches of attention's kernels for one part of a problem, as if the device had no limits.

mod forward;
mod three_stage;

pub(crate) use forward::COMBINE_THREADS;
pub(super) use forward::{fused, split, weights};
pub(super) use three_stage::three_stage;
pub(crate) use three_stage::{HIDDEN_MARK, softmax_variant};

use super::dispatch::{Bindings, Dispatch};
use super::params::{Params, SequenceParams};
use super::storage::{self, Storage};
use super::tiles::TileSize;
use super::variant::{Constant, Entry, Variant};
use crate::device::Capabilities;
use crate::problem::{Problem, View};
use crate::tensor::{Format, Spec, Tensor};

/// A dispatch of one of attention's kernels in the making: what it binds, and what it is told of
/// that.
pub(crate) struct Call<'a> {
    part: &'a Problem,
    bindings: Bindings<'a>,
    pub(crate) params: Params,
}

impl<'a> Call<'a> {
    pub(crate) fn new(part: &'a Problem, capabilities: &'a Capabilities) -> Self {
        Self { part, bindings: Bindings::new(capabilities), params: Params::new(part) }
    }

    /// Reads those of these tensors that the part has, by their own names.
    pub(crate) fn reads(mut self, tensors: &[Tensor]) -> Self {
        let p = self.part;
        let is_read = |tensor: &Tensor| {
            // Without keys, no page of a pool is read.
            p.kv_len > 0 || !matches!(tensor, Tensor::Key | Tensor::Value)
        };
        for &tensor in tensors.iter().filter(|tensor| is_read(tensor)) {
            let Some(view) = p.view(tensor).filter(|view| view.extent > 0) else { continue };
            let Spec { name, format, .. } = tensor.spec();
            let place = self.bindings.bind(name, tensor, format.per_word(p.element), view);
            match tensor {
                Tensor::Query => self.params.query = place,
                Tensor::Key => self.params.key = place,
                Tensor::Value => self.params.value = place,
                Tensor::Bias => (self.params.bias, self.params.bias_column) = (place, view.column),
                _ => {
                    (self.params.mask, self.params.mask_column) = (place, view.column);
                    self.params.flags |= Params::HAS_MASK;
                }
            }
        }
        self
    }

    /// Reads the small tensors that the part has.
    fn reads_small(mut self) -> Self {
        if let Some((tensor, view)) = self.part.small_tensors() {
            let place = self.bindings.bind("aux", tensor, 1, view);
            self.params.set_small(self.part, view.offset - place.offset);
        }
        self
    }

    /// Reads the maximum and sum of each row.
    fn reads_sums(mut self, (tensor, view): (Tensor, View)) -> Self {
        self.params.partial_lse = self.bindings.bind("partial_lse", tensor, 1, view);
        self
    }

    /// Writes out in the problem's element type, or in words that are packed later.
    pub(crate) fn writes_out(mut self, storage: Storage) -> Self {
        let per_word = Format::Elements.per_word(self.part.element);
        self.params.out = self.bindings.bind_out(Tensor::Out, per_word, self.part.out(), storage);
        self
    }

    /// Writes out in f32 to a buffer of the operator's own.
    pub(crate) fn writes_own_out(mut self, tensor: Tensor, view: View) -> Self {
        self.params.out = self.bindings.bind("out", tensor, 1, view);
        self
    }

    /// Writes the lse of each row, if it is asked for, or reads it.
    pub(crate) fn lse(mut self) -> Self {
        if let Some(view) = self.part.view(Tensor::Lse).filter(|view| view.extent > 0) {
            self.params.lse = self.bindings.bind("lse", Tensor::Lse, 1, view);
            self.params.flags |= Params::HAS_LSE;
        }
        self
    }

    /// Writes the maximum and sum of each row in place of its lse.
    fn writes_sums(mut self, (tensor, view): (Tensor, View)) -> Self {
        self.params.lse = self.bindings.bind("lse", tensor, 1, view);
        self.params.flags |= Params::HAS_LSE | Params::STORES_SUMS;
        self
    }

    /// Reads or writes a matrix of scores or weights.
    pub(crate) fn matrix(mut self, (tensor, view): (Tensor, View)) -> Self {
        self.params.scores = self.bindings.bind("weights", tensor, 1, view);
        self
    }

    /// A dispatch of what is bound.
    pub(crate) fn dispatch(self, variant: Variant, grid: [u32; 3]) -> Dispatch {
        self.bindings.dispatch(variant, &self.params, grid)
    }

    /// A dispatch that goes through the keys a tile at a time, in `splits` workgroups for each of
    /// `chunks` of the columns of a tile of rows. They find their sequence in a table, where
    /// sequences differ.
    fn dispatch_over_keys(
        mut self,
        (entry, constants): (Entry, Vec<(&'static str, Constant)>),
        written: Storage,
        size: TileSize,
        [chunks, splits]: [u32; 2],
    ) -> Dispatch {
        let part = self.part;
        let ragged = ("RAGGED", Constant::Flag(part.is_ragged()));
        let constants = constants.into_iter().chain([ragged]).chain(score_constants(part));
        let storages = [storage::input(part, self.bindings.capabilities), written];
        let mut grid = tile_grid(part, size, chunks);
        grid[1] = grid[1].saturating_mul(splits);
        self.params.splits = splits;
        let mut dispatch = self.dispatch(Variant::new(entry, storages, constants), grid);
        if part.is_ragged() {
            let (table, tiles) = SequenceParams::table(part, size.rows);
            (dispatch.table, dispatch.grid) = (table, [tiles, grid[1], 1]);
        }
        dispatch
    }

    /// A dispatch that writes out, and one that packs it where rows share words.
    fn dispatch_out(self, variant: Variant, grid: [u32; 3]) -> Vec<Dispatch> {
        let (part, capabilities) = (self.part, self.bindings.capabilities);
        let input = storage::input(part, capabilities);
        self.dispatch(variant, grid).packed_into(Tensor::Out, input, capabilities)
    }
}

/// `[batch, num_heads, q_len, columns]` of one part, contiguous.
fn dense(part: &Problem, columns: u32) -> View {
    let head = part.q_len.saturating_mul(columns);
    let batch = part.num_heads.saturating_mul(head);
    let extent = part.batch.saturating_mul(batch);
    View { offset: 0, batch, head, row: columns, column: 1, extent, exact: true }
}

/// A workgroup for each tile of rows and each of so many `chunks` of what belongs to it.
fn tile_grid(part: &Problem, size: TileSize, chunks: u32) -> [u32; 3] {
    let rows = part.q_len.saturating_mul(part.group());
    [rows.div_ceil(size.rows), part.num_kv_heads.saturating_mul(chunks), part.batch]
}

/// Whether sums of long rows are settled in out: other elements than f32 lose more by themselves.
fn settles(out: Storage) -> u32 {
    match out {
        Storage::F32 | Storage::F32x4 => Params::SETTLES,
        _ => 0,
    }
}

/// What the inner loops over scores ask for.
fn score_constants(part: &Problem) -> [(&'static str, Constant); 4] {
    [
        ("HAS_BIAS", part.has(Tensor::Bias)),
        ("HAS_TINY_SCALE", part.has_tiny_scale()),
        ("HAS_SOFTCAP", part.softcap.is_some()),
        ("HAS_ALIBI", part.has(Tensor::AlibiSlopes)),
    ]
    .map(|(name, flag)| (name, Constant::Flag(flag)))
}
