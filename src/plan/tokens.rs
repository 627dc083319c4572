//! Rotary and positional encodings: which shader, in which parts.

use super::dispatch::{Bindings, Dispatch};
use super::fit::{Excess, Part, fit};
use super::params::ViewParams;
use super::program::Program;
use super::storage::{Storage, of, starts_on, writing};
use super::variant::{Constant, Entry, Variant};
use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::{Encoding, PositionalShape, RotaryPairs, RotaryShape, TokenProblem, View};
use crate::tensor::Tensor;

/// What a rotary encoding will run; plain data, made in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryPlan {
    pub(crate) problem: TokenProblem,
    pub(crate) program: Program,
}

/// What a positional encoding will run; plain data, made in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct PositionalPlan {
    pub(crate) problem: TokenProblem,
    pub(crate) program: Program,
}

/// The uniform block of rotary.wgsl and positional.wgsl. Mirrors shaders/shared/tokens.wgsl, which a host test checks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[expect(missing_docs, reason = "the names are those of RotaryShape, or explained in the shader")]
pub struct TokenParams {
    pub x: ViewParams,
    pub out: ViewParams,
    pub table: ViewParams,
    pub positions: ViewParams,
    pub num_heads: u32,
    pub len: u32,
    pub dim: u32,
    pub rotary_dim: u32,
    pub rotating: u32,
    pub per_row: u32,
    pub count: u32,
    pub last_row: u32,
    pub last_place: u32,
    pub back: u32,
}

const THREADS: u32 = Entry::Rotary.count("THREADS");
const _: () = assert!(Entry::Positional.count("THREADS") == THREADS);

impl RotaryPlan {
    /// Plans a rotary encoding on a device, as [`Rotary::plan`](crate::Rotary::plan) does.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too small for.
    pub fn new(shape: &RotaryShape, capabilities: &Capabilities) -> Result<Self, Error> {
        let problem = TokenProblem::rotary(shape)?;
        Ok(Self { problem, program: problem.program(capabilities)? })
    }
}

impl PositionalPlan {
    /// Plans a positional encoding on a device, as [`Positional::plan`](crate::Positional::plan) does.
    ///
    /// # Errors
    /// As [`RotaryPlan::new`].
    pub fn new(shape: &PositionalShape, capabilities: &Capabilities) -> Result<Self, Error> {
        let problem = TokenProblem::positional(shape)?;
        Ok(Self { problem, program: problem.program(capabilities)? })
    }
}

impl TokenProblem {
    /// What runs on a device.
    pub(crate) fn program(&self, capabilities: &Capabilities) -> Result<Program, Error> {
        capabilities.check_bindings()?;
        Program::new(capabilities, self.given(), fit(vec![*self], capabilities)?)
    }
}

impl Part for TokenProblem {
    fn is_empty(&self) -> bool {
        self.out.extent == 0
    }

    fn dispatches(&self, capabilities: &Capabilities) -> Vec<Dispatch> {
        let (storage, out) = storages(self, capabilities);
        let (entry, own) = match self.encoding {
            // The kernel copies the columns that it does not rotate: those of a copy are all such.
            Encoding::Rotary { .. } | Encoding::Copy => {
                let interleaved = RotaryPairs::Interleaved;
                let is_interleaved =
                    matches!(self.encoding, Encoding::Rotary { pairs, .. } if pairs == interleaved);
                let to_place = self.places.is_some();
                (Entry::Rotary, vec![("INTERLEAVED", is_interleaved), ("TO_PLACE", to_place)])
            }
            Encoding::Positional => (Entry::Positional, vec![("HAS_X", self.x.is_some())]),
        };
        // What is unpacked is written elsewhere, so x can be read where it is.
        let in_place = self.in_place && out != Storage::Unpacked;
        let flags = [
            ("IN_PLACE", in_place),
            ("HAS_POSITIONS", self.positions.is_some() && self.from_lens.is_none()),
            ("FROM_LENS", self.from_lens.is_some()),
        ];
        let constants = own.into_iter().chain(flags);
        let constants = constants.map(|(name, on)| (name, Constant::Flag(on)));
        let variant = Variant::new(entry, [storage, out], constants);

        let mut params = params(self);
        let mut bindings = Bindings::new(capabilities);
        let per_word = self.element.per_word();
        params.x = bindings.bind("x", Tensor::X, per_word, self.x.filter(|_| !in_place));
        for (name, tensor) in self.tables().into_iter().flatten() {
            params.table = bindings.bind(name, tensor, 1, self.table);
        }
        params.positions = bindings.bind("positions", Tensor::Positions, 1, self.positions);
        params.out = bindings.bind_out(self.written(), per_word, self.out, out);
        let groups = params.count.div_ceil(THREADS);
        let most = capabilities.workgroups_per_axis;
        let grid = [groups.min(most), groups.div_ceil(most), 1];
        let encode = bindings.dispatch(variant, &params, grid);
        encode.packed_into(self.written(), storage, capabilities)
    }

    /// Two halves along the axis on which what is too large reaches farthest.
    fn cut(&self, excess: &Excess) -> Option<Vec<Self>> {
        // A grid shrinks with each of the sizes.
        let even = View { batch: 1, head: 1, row: 1, ..View::default() };
        let view = match excess {
            Excess::Memory { bound, .. } | Excess::Words { bound, .. } => bound.view,
            Excess::Grid { .. } => even,
            _ => return None,
        };
        let reach = |stride: u32, size: u32| u64::from(stride) * u64::from(size - 1);
        let View { batch, head, row, .. } = view;
        let is_named_table = self.positions.is_some() && view == self.table;
        // Tokens that go to places stay together where fewer of them have as many.
        let stay = self.places.is_some() && (self.from_lens.is_some() || view == self.out);
        let tokens = if stay { 1 } else { self.len };
        let axes = [
            (0, reach(row, tokens)),
            (1, reach(head, self.num_heads)),
            (2, reach(batch, self.batch)),
        ];
        let (axis, longest) = axes.into_iter().max_by_key(|&(_, reach)| reach)?;
        if longest == 0 || is_named_table {
            return None;
        }
        let whole = [0..self.len, 0..self.num_heads, 0..self.batch];
        let half = |range| {
            let mut ranges = whole.clone();
            ranges[axis] = range;
            let [tokens, heads, batches] = ranges;
            self.slice(&batches, &heads, &tokens)
        };
        let middle = whole[axis].end / 2;
        Some(vec![half(0..middle), half(middle..whole[axis].end)])
    }
}

/// How x is read and out is written.
fn storages(part: &TokenProblem, capabilities: &Capabilities) -> (Storage, Storage) {
    // What an invocation writes starts at multiples of these, besides the row itself.
    let starts = match part.encoding {
        Encoding::Rotary { pairs: RotaryPairs::Half, rotary_dim } => [part.dim, rotary_dim / 2],
        Encoding::Rotary { rotary_dim, .. } => [part.dim, rotary_dim],
        Encoding::Positional | Encoding::Copy => [part.dim, part.dim],
    };
    let on = |count: u32| starts.iter().all(|start| start.is_multiple_of(count));
    let by_four =
        on(4) && starts_on(&part.out, 4) && part.x.as_ref().is_none_or(|x| starts_on(x, 4));
    let storage = of(part.element, by_four, capabilities);
    (storage, writing(storage, !on(2) || !starts_on(&part.out, 2)))
}

/// Everything but the views, which depend on what is bound.
fn params(part: &TokenProblem) -> TokenParams {
    let (rotary_dim, rotating, copying) = match part.encoding {
        // In place, there is nothing to copy.
        Encoding::Rotary { pairs, rotary_dim } => {
            let copied = if part.in_place { 0 } else { part.dim - rotary_dim };
            let rotating = match pairs {
                RotaryPairs::Half => (rotary_dim / 2).div_ceil(4),
                RotaryPairs::Interleaved => rotary_dim.div_ceil(4),
            };
            (rotary_dim, rotating, copied.div_ceil(4))
        }
        Encoding::Positional | Encoding::Copy => (0, 0, part.dim.div_ceil(4)),
    };
    let per_row = rotating + copying;
    TokenParams {
        num_heads: part.num_heads,
        len: part.len,
        dim: part.dim,
        rotary_dim,
        rotating,
        per_row,
        // No two elements of out share a place below 2^32, and each row has fewer invocations than elements.
        count: part.batch * part.num_heads * part.len * per_row,
        last_row: part.last_row,
        last_place: part.places.unwrap_or_default().saturating_sub(1),
        back: part.from_lens.unwrap_or_default(),
        ..TokenParams::default()
    }
}
