//! HOW: from a problem and a device's capabilities to kernels, tiles, grids and workspace. Pure
//! functions over plain data, so that every choice can be tested on any machine.

mod choose;
mod dispatch;
mod fit;
mod join;
pub(crate) mod kernels;
mod params;
pub(crate) mod part;
mod program;
pub(crate) mod storage;
mod tiles;
mod tuning;
mod variant;

pub use choose::Kernel;
pub(crate) use dispatch::Bindings;
pub use dispatch::{Bound, Dispatch, Window};
pub(crate) use fit::{Excess, KEYS, Part, fit, halves};
pub use join::JoinParams;
pub(crate) use kernels::{COMBINE_THREADS, HIDDEN_MARK, softmax_variant};
pub(crate) use params::MOST_SEQUENCES;
pub use params::{LensParams, Params, SequenceParams, ViewParams};
pub(crate) use program::{Program, bytes, check_buffer};
pub use storage::Storage;
pub(crate) use tiles::ROW_LANES;
pub use tiles::{ForwardTile, Tiles};
pub use tuning::Tuning;
pub(crate) use tuning::candidates;
pub use variant::{Access, Binding, Constant, Entry, Variant, bindings};

use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::{Align, AttentionOptions, Problem};
use crate::tensor::{Given, Tensor};
use choose::{Choice, choose};
use join::Join;
use part::{AttentionPart, Way};
use std::fmt;

/// What will run, and why; plain data, made in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The validated call.
    pub problem: Problem,
    pub(crate) program: Program,
    /// The kernel.
    pub kernel: Kernel,
    /// Why this kernel.
    pub reason: &'static str,
    /// Its tiles.
    #[doc(hidden)]
    pub tiles: Tiles,
    /// Whether the tiles were measured.
    pub tuned: bool,
}

impl Plan {
    /// Plans `problem` on a device; `kernel` insists on one.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `kernel` cannot give what the problem asks for, [`Error::Unsupported`]
    /// if the device is too small for it.
    pub fn new(
        problem: Problem,
        capabilities: &Capabilities,
        kernel: Option<Kernel>,
    ) -> Result<Self, Error> {
        Self::tuned(problem, capabilities, kernel, &Tuning::default())
    }

    /// As [`Plan::new`], with tiles that were measured where there are any.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn tuned(
        problem: Problem,
        capabilities: &Capabilities,
        kernel: Option<Kernel>,
        tuning: &Tuning,
    ) -> Result<Self, Error> {
        capabilities.check_bindings()?;
        let Choice { kernel, tiles, reason } = choose(&problem, capabilities, tuning, kernel)?;
        let way = Way::new(&problem, tiles, kernel == Kernel::Decode, capabilities)?;
        let attention = fit(AttentionPart::all(&problem, &way), capabilities)?;
        let mut dispatches = match attention.as_slice() {
            [] => Vec::new(),
            _ => fit(Join::all(&problem), capabilities)?,
        };
        dispatches.extend(attention);
        let given: Vec<Given> = problem.given().collect();
        Ok(Self {
            program: Program::new(capabilities, given, dispatches)?,
            problem,
            kernel,
            reason,
            tiles,
            tuned: tiles.are_measured(),
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { problem: p, tiles, .. } = self;
        let size = tiles.size();
        writeln!(f, "kernel      {} ({})", self.kernel.name(), self.reason)?;
        writeln!(
            f,
            "tiles       {} rows x {} keys; {}{}",
            size.rows,
            size.keys,
            tiles,
            if self.tuned { ", as measured" } else { "" }
        )?;
        writeln!(
            f,
            "columns     {} of head_dim {} and {} of value_dim {} at a time",
            size.head_columns, p.head_dim, size.value_columns, p.value_dim
        )?;
        writeln!(f, "hidden      {}", hiding(p))?;
        if p.group() > 1 {
            writeln!(f, "rows        {} query heads share each key head's tiles", p.group())?;
        }
        let joins = |dispatch: &&Dispatch| dispatch.variant.entry == Entry::Join;
        let mut dispatches = self.dispatches().iter().skip_while(joins);
        match dispatches.next() {
            None => writeln!(f, "dispatches  none: there is nothing to compute")?,
            Some(first) => {
                let [x, y, z] = first.grid;
                write!(f, "dispatches  {} of {x} x {y} x {z} workgroups", first.variant)?;
                match self.dispatches().len() - 1 {
                    0 => writeln!(f)?,
                    more => writeln!(f, ", {more} more")?,
                }
            }
        }
        write!(
            f,
            "memory      {} bytes of workgroup memory, {} bytes of workspace",
            size.workgroup_bytes,
            self.workspace()
        )
    }
}

/// What hides keys from queries, in the words of the options and the shape.
fn hiding(p: &Problem) -> String {
    let AttentionOptions { causal, window_left, window_keeps, window_right, align, .. } = p.options;
    let is_ragged = p.sequences.is_some() || p.packed.is_some();
    let mut all = Vec::new();
    all.extend(causal.then(|| "causal".to_owned()));
    all.extend(window_left.map(|left| match window_keeps {
        0 => format!("window_left {left}"),
        kept => format!("window_left {left} but the first {kept}"),
    }));
    all.extend(window_right.map(|right| format!("window_right {right}")));
    if !all.is_empty() {
        all.push(match align {
            Align::TopLeft => "counted from the first key".to_owned(),
            Align::BottomRight if is_ragged || p.lens.is_some_and(|lens| lens.moves) => {
                "counted from the last key".to_owned()
            }
            Align::BottomRight => format!("counted from the last key (offset {})", p.offset),
            Align::Offset(offset) => format!("counted from key {offset}"),
        });
    }
    for (name, is_given) in [
        ("kv_lens", p.sequences.is_some() && p.packed.is_none()),
        ("lens", p.lens.is_some()),
        ("cu_seqlens", p.packed.is_some()),
        ("segments", p.has(Tensor::Segments)),
        ("mask", p.has(Tensor::Mask)),
        ("bias where -inf", p.has(Tensor::Bias)),
    ] {
        all.extend(is_given.then(|| name.to_owned()));
    }
    if all.is_empty() { "no key".to_owned() } else { format!("by {}", all.join(", ")) }
}
