//! HOW: from a problem and a device's capabilities to kernels, tiles, grids and workspace. Pure
//! functions over plain data, so that every choice can be tested on any machine.

mod additive;
mod dispatch;
mod fit;
mod join;
mod kernels;
mod linear;
mod merge;
mod multi_head;
mod params;
mod part;
mod program;
mod self_attention;
mod storage;
mod tiles;
mod tokens;
mod tuning;
mod variant;
mod window;

pub use additive::AdditivePlan;
pub(crate) use dispatch::Bindings;
pub use dispatch::{Bound, Dispatch};

pub use join::JoinParams;
pub use linear::{LinearParams, LinearPlan};
pub use merge::MergePlan;
pub use multi_head::MultiHeadPlan;
pub(crate) use params::MOST_SEQUENCES;
pub use params::{LensParams, Params, SequenceParams, ViewParams};
pub(crate) use program::{Program, bytes, check_buffer};
pub use self_attention::SelfAttentionPlan;
pub use storage::Storage;
pub use tiles::{ForwardTile, Tiles};
pub use tokens::{PositionalPlan, RotaryPlan, TokenParams};
pub use tuning::Tuning;
pub(crate) use tuning::candidates;
pub use variant::{Access, Constant, Entry, Variant};
pub use window::Window;

use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::{Align, AttentionOptions, Problem};
use crate::tensor::{Given, Tensor};
use fit::fit;
use join::Join;
use part::{AttentionPart, Way};
use std::fmt;

/// A way to compute attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// One kernel, online softmax, never stores the `q_len x kv_len` matrix; weights, if asked for, are stored by another behind it.
    Forward,
    /// The same for head or value dims above 128 (256 where a CPU plays the GPU), in chunks of columns: slower.
    ForwardWide,
    /// The same for few queries of many keys: workgroups share the keys of a row, and their results are merged.
    Decode,
    /// Scores, softmax, weighted sum: stores the matrix, in chunks if need be.
    ThreeStage,
    /// As forward, by the adapter's cooperative matrices: f16, and dims that are multiples of theirs up to 256. Weights are
    /// f16 too: one below 5e-10 of the largest is 0, and an infinite value under it shows as NaN.
    ForwardMatrix,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Self; 5] =
        [Self::Forward, Self::ForwardWide, Self::Decode, Self::ThreeStage, Self::ForwardMatrix];
    /// Those that every device has, for every element type.
    pub const PORTABLE: [Self; 4] =
        [Self::Forward, Self::ForwardWide, Self::Decode, Self::ThreeStage];

    /// Its name, the same in the tool, the benches and the docs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::ForwardWide => "forward-wide",
            Self::Decode => "decode",
            Self::ThreeStage => "three-stage",
            Self::ForwardMatrix => "forward-matrix",
        }
    }
}

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
    pub tiles: Tiles,
    /// Whether the tiles were measured.
    pub tuned: bool,
}

impl Plan {
    /// Plans `problem` on a device; `kernel` insists on one.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `kernel` cannot give what the problem asks for, [`Error::Unsupported`] if
    /// the device is too small for it.
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
        let most = tiles::most_columns(capabilities);
        let is_wide = problem.head_dim.max(problem.value_dim) > most;
        let (kernel, reason) = choose(&problem, is_wide, capabilities, tuning, kernel)?;
        let entry = match kernel {
            Kernel::Forward => Entry::AttentionForward,
            Kernel::Decode if !is_wide => Entry::AttentionForward,
            Kernel::ForwardMatrix => Entry::AttentionForwardMatrix,
            _ => Entry::AttentionForwardWide,
        };
        let is_fused = kernel != Kernel::ThreeStage;
        let tile = tuning.tile(&problem, capabilities);
        let tiles = match entry {
            _ if !is_fused => Tiles::products(&problem, capabilities)?,
            Entry::AttentionForward => Tiles::forward(&problem, capabilities, tile)?,
            Entry::AttentionForwardMatrix => Tiles::matrix(&problem, capabilities)?,
            _ => Tiles::chunked(&problem, capabilities)?,
        };
        // Those that were measured are of another kernel.
        let weights_tiles = match problem.stores_weights() && is_fused {
            true => Tiles::forward(&problem, capabilities, None)?,
            false => tiles,
        };
        // Of sequences one after the other some may have no keys, and so no scores.
        let fused_tiles = match &problem.pieces {
            Some(_) if !is_fused => Tiles::chunked(&problem, capabilities)?,
            _ => tiles,
        };
        let splits = match kernel {
            Kernel::Decode => tiles.splits(&problem, capabilities).max(2),
            _ => 1,
        };
        let most_keys = match is_fused {
            true => most_keys(entry, &fused_tiles, &problem, capabilities),
            // Each of three stages takes less than a turn a key, and what decides visibility.
            false => capabilities.loop_turns / (1 + tiles.visibility_turns(&problem)),
        };
        let way = Way {
            fused: is_fused.then_some(entry),
            tiles,
            fused_tiles,
            weights_tiles,
            splits: (kernel == Kernel::Decode).then_some(splits),
            most_keys,
        };
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
            tuned: tile.is_some() && is_fused && entry == Entry::AttentionForward,
        })
    }
}

/// The kernel that gives what the problem asks for, and why it.
fn choose(
    problem: &Problem,
    is_wide: bool,
    capabilities: &Capabilities,
    tuning: &Tuning,
    asked: Option<Kernel>,
) -> Result<(Kernel, &'static str), Error> {
    let weighs = problem.stores_weights();
    let stores = problem.stores_scores() || (weighs && is_wide);
    let refuse = |kernel: Kernel, expected| Err(Error::invalid("kernel", expected, kernel.name()));
    if problem.pages.is_some() && stores {
        let expected = "none with scores, or weights of long dims, as three-stage reads no pages";
        return Err(Error::invalid("pages", expected, "some"));
    }
    match asked {
        Some(kernel) if stores && kernel != Kernel::ThreeStage => {
            refuse(kernel, "three-stage, as scores are asked for, or weights of long dims")
        }
        Some(kernel @ (Kernel::ForwardWide | Kernel::ForwardMatrix)) if weighs => {
            refuse(kernel, "forward, decode or three-stage, as weights are asked for")
        }
        Some(kernel @ Kernel::Forward) if is_wide => {
            refuse(kernel, "forward-wide, decode or three-stage, as a dim is too long")
        }
        Some(kernel @ Kernel::ThreeStage) if problem.pages.is_some() => {
            refuse(kernel, "a fused kernel, as three-stage reads no pages")
        }
        Some(Kernel::ThreeStage) if problem.kv_len == 0 => {
            Ok((Kernel::ForwardWide, "there are no keys, so no scores"))
        }
        Some(kernel) => Ok((kernel, "it was asked for")),
        None if problem.stores_scores() => Ok((Kernel::ThreeStage, "scores are asked for")),
        None if stores => Ok((Kernel::ThreeStage, "weights are asked for, of a long dim")),
        None if is_decode(problem, is_wide, capabilities, tuning) => {
            Ok((Kernel::Decode, "few queries of many keys, which workgroups share"))
        }
        None if weighs => Ok((Kernel::Forward, "a second pass over the keys gives the weights")),
        // A CPU that plays the GPU multiplies matrices at an eighth of its speed: lavapipe 26, 0.017 TFLOP/s and 0.128.
        None if !capabilities.is_software() && Tiles::matrix(problem, capabilities).is_ok() => {
            Ok((Kernel::ForwardMatrix, "nothing asks for scores; the adapter has matrices of f16"))
        }
        None if is_wide => {
            Ok((Kernel::ForwardWide, "nothing asks for scores; a dim is too long for forward"))
        }
        None => Ok((Kernel::Forward, "nothing asks for scores")),
    }
}

/// Keys of a row that its kernel may go through in one dispatch.
fn most_keys(entry: Entry, tiles: &Tiles, problem: &Problem, capabilities: &Capabilities) -> u32 {
    let by_turns = match capabilities.loop_turns {
        u32::MAX => u32::MAX,
        turns => (turns / tiles.turns_per_tile(problem, entry)).max(1).saturating_mul(tiles.keys),
    };
    // The outputs of matrices are sums of f32 that nothing settles: so many keys stay within the bounds of f16.
    let by_sums = if entry == Entry::AttentionForwardMatrix { MOST_MATRIX_KEYS } else { u32::MAX };
    by_turns.min(by_sums)
}

/// An eighth of the error that f16 is allowed.
const MOST_MATRIX_KEYS: u32 = 1 << 14;

/// Queries of a sequence, at most, for which its keys are shared.
const MOST_QUERIES: u32 = 32;

fn is_decode(
    problem: &Problem,
    is_wide: bool,
    capabilities: &Capabilities,
    tuning: &Tuning,
) -> bool {
    let longest = problem.counted_lines().map(|(_, line)| line.q_len()).max().unwrap_or_default();
    let tiles = if is_wide {
        Tiles::chunked(problem, capabilities)
    } else {
        Tiles::forward(problem, capabilities, tuning.tile(problem, capabilities))
    };
    longest <= MOST_QUERIES && tiles.is_ok_and(|tiles| tiles.splits(problem, capabilities) > 1)
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { problem: p, tiles, .. } = self;
        writeln!(f, "kernel      {} ({})", self.kernel.name(), self.reason)?;
        writeln!(
            f,
            "tiles       {} rows x {} keys; {}{}",
            tiles.rows(),
            tiles.keys,
            tiles.forward_tile(),
            if self.tuned { ", as measured" } else { "" }
        )?;
        writeln!(
            f,
            "columns     {} of head_dim {} and {} of value_dim {} at a time",
            tiles.head_chunk, p.head_dim, tiles.value_chunk, p.value_dim
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
            tiles.workgroup_bytes,
            self.workspace()
        )
    }
}

/// What hides keys from queries, in the words of the options and the shape.
fn hiding(p: &Problem) -> String {
    let AttentionOptions { causal, window_left, window_keeps, window_right, align, .. } = p.options;
    let mut counted = Vec::new();
    if causal {
        counted.push("causal".to_owned());
    }
    if let Some(left) = window_left {
        let kept =
            if window_keeps > 0 { format!(" but the first {window_keeps}") } else { String::new() };
        counted.push(format!("window_left {left}{kept}"));
    }
    counted.extend(window_right.map(|right| format!("window_right {right}")));
    if !counted.is_empty() {
        let place = match (
            align,
            p.lens.is_some_and(|lens| lens.moves),
            p.sequences.is_none() && p.pieces.is_none(),
        ) {
            (Align::BottomRight, false, true) => format!(" (offset {})", p.offset),
            _ => String::new(),
        };
        counted.push(match align {
            Align::TopLeft => "counted from the first key".to_owned(),
            Align::BottomRight => format!("counted from the last key{place}"),
            Align::Offset(offset) => format!("counted from key {offset}"),
        });
    }
    let named = [
        ("kv_lens", p.sequences.is_some() && p.pieces.is_none()),
        ("lens", p.lens.is_some()),
        ("cu_seqlens", p.pieces.is_some()),
        ("segments", p.has(Tensor::Segments)),
        ("mask", p.has(Tensor::Mask)),
        ("bias where -inf", p.has(Tensor::Bias)),
    ];
    let named = named.into_iter().filter(|&(_, is_given)| is_given);
    let all: Vec<String> =
        counted.into_iter().chain(named.map(|(name, _)| name.to_owned())).collect();
    if all.is_empty() { "no key".to_owned() } else { format!("by {}", all.join(", ")) }
}
