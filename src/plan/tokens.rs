//! Rotary and positional encodings: which shader, in which parts.

use super::launch::Launch;
use super::params::ViewParams;
use super::storage::{Storage, of, starts_on, writing};
use super::variant::{Constant, Entry, Variant};
use super::window::Window;
use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::{Encoding, PositionalShape, RotaryPairs, RotaryShape, TokenProblem, View};

/// What an encoding will run; plain data, made in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenPlan {
    pub(crate) problem: TokenProblem,
    pub(crate) capabilities: Capabilities,
    pub(crate) launches: Vec<Launch<TokenTensor>>,
}

/// A tensor that an encoding reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenTensor {
    X,
    Out,
    /// Out before it is packed into words that rows share; the operator's own buffer.
    Unpacked,
    /// The cosines, or the only table.
    Table,
    Sines,
    Positions,
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
/// Elements that wait to be packed take no more than this at a time.
const MOST_UNPACKED: u64 = 64 << 20;

/// What a part needs more of than the device has.
struct Excess {
    what: &'static str,
    view: View,
    expected: u64,
    found: u64,
}

impl TokenPlan {
    /// Plans a rotary encoding on a device, as [`Rotary::plan`](crate::Rotary::plan) does.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too small for.
    pub fn rotary(shape: &RotaryShape, capabilities: &Capabilities) -> Result<Self, Error> {
        Self::new(TokenProblem::rotary(shape)?, capabilities)
    }

    /// Plans a positional encoding on a device, as [`Positional::plan`](crate::Positional::plan) does.
    ///
    /// # Errors
    /// As [`TokenPlan::rotary`].
    pub fn positional(shape: &PositionalShape, capabilities: &Capabilities) -> Result<Self, Error> {
        Self::new(TokenProblem::positional(shape)?, capabilities)
    }

    /// Cuts `problem` into parts that the device takes.
    pub(crate) fn new(problem: TokenProblem, capabilities: &Capabilities) -> Result<Self, Error> {
        capabilities.check_bindings()?;
        let mut launches = Vec::new();
        let mut waiting = vec![problem];
        while let Some(part) = waiting.pop() {
            if part.out.extent == 0 {
                continue;
            }
            match plan(&part, capabilities) {
                Ok(planned) => launches.extend(planned),
                Err(excess) => {
                    let [first, second] = halve(&part, &excess).ok_or(Error::Unsupported {
                        what: excess.what,
                        expected: format!("at least {}", excess.expected),
                        found: excess.found.to_string(),
                    })?;
                    waiting.extend([second, first]);
                }
            }
        }
        Ok(Self { problem, capabilities: *capabilities, launches })
    }

    /// Whether rows share words, and so are written somewhere else first.
    pub(crate) fn packs(&self) -> bool {
        self.launches.iter().any(|launch| launch.variant.entry == Entry::Pack)
    }

    /// The shaders it runs, each once.
    #[must_use]
    pub fn variants(&self) -> Vec<Variant> {
        let mut variants: Vec<_> = self.launches.iter().map(|l| l.variant.clone()).collect();
        variants.sort_unstable();
        variants.dedup();
        variants
    }
}

fn plan(part: &TokenProblem, device: &Capabilities) -> Result<Vec<Launch<TokenTensor>>, Excess> {
    let (storage, out) = storages(part, device);
    let is_unpacked = out == Storage::Unpacked;
    let (entry, own) = match part.encoding {
        Encoding::Rotary { pairs, .. } => {
            let is_interleaved = pairs == RotaryPairs::Interleaved;
            let to_place = part.places.is_some();
            (Entry::Rotary, vec![("INTERLEAVED", is_interleaved), ("TO_PLACE", to_place)])
        }
        Encoding::Positional => (Entry::Positional, vec![("HAS_X", part.x.is_some())]),
    };
    // What is unpacked is written elsewhere, so x can be read where it is.
    let in_place = part.in_place && !is_unpacked;
    let flags = [
        ("IN_PLACE", in_place),
        ("HAS_POSITIONS", part.positions.is_some() && part.from_lens.is_none()),
        ("FROM_LENS", part.from_lens.is_some()),
    ];
    let variant = Variant {
        entry,
        storage,
        out,
        constants: own
            .into_iter()
            .chain(flags)
            .map(|(name, on)| (name, Constant::Flag(on)))
            .collect(),
    };

    let mut params = params(part);
    let mut bound = Vec::new();
    let per_word = part.element.per_word();
    let mut bind = |number, tensor, per_word, view: &View| {
        let window = Window::onto(per_word, view, device);
        bound.push((number, tensor, window));
        let excess = (window.size > device.binding_size).then_some(Excess {
            what: "bytes of one storage binding",
            view: *view,
            expected: window.size,
            found: device.binding_size,
        });
        excess.map_or(Ok((ViewParams::within(view, &window), window)), Err)
    };
    if let Some(x) = part.x.filter(|_| !in_place) {
        (params.x, _) = bind(1, TokenTensor::X, per_word, &x)?;
    }
    // Rows that are only copied have no table.
    if part.table.extent > 0 {
        (params.table, _) = bind(6, TokenTensor::Table, 1, &part.table)?;
        if entry == Entry::Rotary {
            bind(7, TokenTensor::Sines, 1, &part.table)?;
        }
    }
    if let Some(positions) = part.positions {
        (params.positions, _) = bind(8, TokenTensor::Positions, 1, &positions)?;
    }
    let (place, window) = bind(4, TokenTensor::Out, per_word, &part.out)?;
    params.out = place;

    let mut launches = Vec::new();
    if is_unpacked {
        launches.push(Launch::pack(
            storage,
            [TokenTensor::Unpacked, TokenTensor::Out],
            &part.out,
            window,
        ));
        let unpacked = Window::unpacked(&window, &part.out);
        if let Some(last) = bound.last_mut() {
            *last = (4, TokenTensor::Unpacked, unpacked);
        }
        let most = MOST_UNPACKED.min(device.binding_size).min(device.buffer_size);
        let workgroups = launches[0].grid[0];
        for (what, expected, found) in [
            ("bytes of workspace", unpacked.size, most),
            (
                "workgroups along one axis of a dispatch",
                workgroups.into(),
                device.workgroups_per_axis.into(),
            ),
        ] {
            if expected > found {
                return Err(Excess { what, view: part.out, expected, found });
            }
        }
    }
    let groups = params.count.div_ceil(THREADS);
    let most = device.workgroups_per_axis;
    let grid = [groups.min(most), groups.div_ceil(most), 1];
    launches
        .insert(0, Launch { variant, params: bytemuck::bytes_of(&params).to_vec(), bound, grid });
    Ok(launches)
}

/// How x is read and out is written.
fn storages(part: &TokenProblem, capabilities: &Capabilities) -> (Storage, Storage) {
    // What an invocation writes starts at multiples of these, besides the row itself.
    let starts = match part.encoding {
        Encoding::Rotary { pairs: RotaryPairs::Half, rotary_dim } => [part.dim, rotary_dim / 2],
        Encoding::Rotary { rotary_dim, .. } => [part.dim, rotary_dim],
        Encoding::Positional => [part.dim, part.dim],
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
        Encoding::Positional => (0, 0, part.dim.div_ceil(4)),
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

/// Two halves along the axis on which what is too large reaches farthest.
fn halve(part: &TokenProblem, excess: &Excess) -> Option<[TokenProblem; 2]> {
    let reach = |stride: u32, size: u32| u64::from(stride) * u64::from(size - 1);
    let View { batch, head, row, .. } = excess.view;
    let is_named_table = part.positions.is_some() && excess.view == part.table;
    // Tokens that go to places stay together where fewer of them have as many.
    let stay = part.places.is_some() && (part.from_lens.is_some() || excess.view == part.out);
    let tokens = if stay { 1 } else { part.len };
    let axes =
        [(0, reach(row, tokens)), (1, reach(head, part.num_heads)), (2, reach(batch, part.batch))];
    let (axis, longest) = axes.into_iter().max_by_key(|&(_, reach)| reach)?;
    if longest == 0 || is_named_table {
        return None;
    }
    let whole = [0..part.len, 0..part.num_heads, 0..part.batch];
    let middle = whole[axis].end / 2;
    Some([0..middle, middle..whole[axis].end].map(|range| {
        let mut ranges = whole.clone();
        ranges[axis] = range;
        let [tokens, heads, batches] = ranges;
        part.slice(&batches, &heads, &tokens)
    }))
}
