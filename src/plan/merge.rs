//! Merging results over parts of the keys: the last kernel of `decode`, on results of the caller's.

use super::launch::Launch;
use super::params::{Params, ViewParams};
use super::storage::{self, Storage, of, starts_on};
use super::variant::{Entry, Variant};
use super::window::Window;
use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::{MergeProblem, MergeShape, View};

/// What merging will run; plain data, made in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct MergePlan {
    pub(crate) problem: MergeProblem,
    pub(crate) capabilities: Capabilities,
    pub(crate) launches: Vec<Launch<MergeTensor>>,
}

/// A tensor that merging reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MergeTensor {
    PartialOut,
    PartialLse,
    Out,
    Lse,
    /// Out before it is packed into words that rows share; the operator's own buffer.
    Unpacked,
}

const THREADS: u32 = Entry::AttentionCombine.count("THREADS");
/// Elements that wait to be packed take no more than this at a time.
const MOST_UNPACKED: u64 = 64 << 20;

impl MergePlan {
    /// Plans a merge on a device, as [`Merge::plan`](crate::Merge::plan) does.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too small for.
    pub fn new(shape: &MergeShape, capabilities: &Capabilities) -> Result<Self, Error> {
        let problem = MergeProblem::new(shape)?;
        capabilities.check_bindings()?;
        let mut launches = Vec::new();
        let mut waiting = vec![problem];
        while let Some(part) = waiting.pop() {
            if part.out.extent == 0 {
                continue;
            }
            match plan(&part, capabilities) {
                Ok(planned) => launches.extend(planned),
                Err(excess) => match halve(&part) {
                    Some([first, second]) => waiting.extend([second, first]),
                    None => return Err(excess),
                },
            }
        }
        Ok(Self { problem, capabilities: *capabilities, launches })
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

fn plan(part: &MergeProblem, device: &Capabilities) -> Result<Vec<Launch<MergeTensor>>, Error> {
    let by_four = part.value_dim.is_multiple_of(4) && starts_on(&part.partial_out, 4);
    let storage = of(part.element, by_four, device);
    let out = storage::writing(storage, !part.value_dim.is_multiple_of(2));
    let entry = Entry::AttentionCombine;
    let variant = Variant { entry, storage, out, constants: [].into() };

    let mut bound = Vec::new();
    let mut bind = |number, tensor, per_word, view: View| {
        if view.extent == 0 {
            return Ok(Default::default());
        }
        let window = Window::onto(per_word, &view, device);
        within("bytes of one storage binding", window.size, device.binding_size)?;
        bound.push((number, tensor, window));
        Ok::<_, Error>(ViewParams::within(&view, &window))
    };
    let per_word = part.element.per_word();
    let partial_out = part.all_parts(part.partial_out, part.out_step);
    let partial_lse = part.all_parts(part.partial_lse, part.lse_step);
    let params = Params {
        partial_out: bind(12, MergeTensor::PartialOut, per_word, partial_out)?,
        partial_lse: bind(13, MergeTensor::PartialLse, 1, partial_lse)?,
        lse: bind(5, MergeTensor::Lse, 1, part.lse)?,
        out: bind(4, MergeTensor::Out, per_word, part.out)?,
        splits: part.parts,
        out_split: part.out_step,
        lse_split: part.lse_step,
        q_len: part.q_len,
        value_dim: part.value_dim,
        flags: Params::HAS_LSE,
        ..Params::default()
    };
    let vectors = part.q_len * part.value_dim.div_ceil(4);
    let grid = [vectors.div_ceil(THREADS), part.num_heads, part.batch];
    let mut pack = None;
    if let (Storage::Unpacked, Some(last)) = (out, bound.last_mut()) {
        let window = last.2;
        let unpacked = Window::unpacked(&window, &part.out);
        *last = (4, MergeTensor::Unpacked, unpacked);
        let most = MOST_UNPACKED.min(device.binding_size).min(device.buffer_size);
        within("bytes of workspace", unpacked.size, most)?;
        let tensors = [MergeTensor::Unpacked, MergeTensor::Out];
        pack = Some(Launch::pack(storage, tensors, &part.out, window));
    }
    let merge = Launch { variant, params: bytemuck::bytes_of(&params).to_vec(), bound, grid };
    let launches: Vec<_> = [merge].into_iter().chain(pack).collect();
    for groups in launches.iter().flat_map(|launch| launch.grid) {
        let most = device.workgroups_per_axis;
        within("workgroups along one axis of a dispatch", groups.into(), most.into())?;
    }
    Ok(launches)
}

fn within(what: &'static str, needed: u64, found: u64) -> Result<(), Error> {
    if needed <= found {
        return Ok(());
    }
    let expected = format!("at least {needed}");
    Err(Error::Unsupported { what, expected, found: found.to_string() })
}

/// Two halves along the first axis that has two.
fn halve(part: &MergeProblem) -> Option<[MergeProblem; 2]> {
    let whole = [0..part.batch, 0..part.num_heads, 0..part.q_len];
    let axis = whole.iter().position(|range| range.end > 1)?;
    let middle = whole[axis].end / 2;
    Some([0..middle, middle..whole[axis].end].map(|range| {
        let mut ranges = whole.clone();
        ranges[axis] = range;
        part.slice(&ranges)
    }))
}
