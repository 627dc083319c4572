//! Which kernel, with which tiles, and why: decided once for a call.

use super::tiles::{ForwardTiles, MatrixTiles, ProductTiles, Tiles, WideTiles, most_columns};
use super::tuning::Tuning;
use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::Problem;

/// A way to compute attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kernel {
    /// One kernel with online softmax that never stores the `q_len x kv_len` matrix. If weights are
    /// asked for, a second kernel stores them.
    Forward,
    /// The same for head or value dims above 128 (256 on a software adapter), in chunks of columns:
    /// slower.
    ForwardWide,
    /// The same for few queries of many keys (split-KV): workgroups each take a range of keys, and
    /// a second kernel merges their results.
    Decode,
    /// Scores, softmax and weighted sum, which store the matrix, in chunks if need be.
    ThreeStage,
    /// As forward, by the adapter's cooperative matrices: f16, and dims up to 256 that are
    /// multiples of their size. Weights are f16 too: one below 5e-10 of the largest is 0, and an
    /// infinite value under it shows as NaN.
    ForwardMatrix,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Self; 5] =
        [Self::Forward, Self::ForwardWide, Self::Decode, Self::ThreeStage, Self::ForwardMatrix];
    /// The kernels that every device has, for every element type.
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

/// What was decided.
pub(super) struct Choice {
    pub(super) kernel: Kernel,
    pub(super) tiles: Tiles,
    pub(super) reason: &'static str,
}

/// Queries of a sequence, at most, for which its keys are shared.
const MOST_QUERIES: u32 = 32;

/// The kernel that gives what the problem asks for: the one that is `asked` for, or else the
/// fastest.
pub(super) fn choose(
    problem: &Problem,
    capabilities: &Capabilities,
    tuning: &Tuning,
    asked: Option<Kernel>,
) -> Result<Choice, Error> {
    let is_wide = problem.head_dim.max(problem.value_dim) > most_columns(capabilities);
    let weighs = problem.stores_weights();
    let stores = problem.stores_scores() || (weighs && is_wide);
    check(problem, asked, stores, is_wide)?;
    let wide = || WideTiles::new(problem, capabilities).map(Tiles::Wide);
    let matrix = || MatrixTiles::new(problem, capabilities).map(Tiles::Matrix);
    let fused = || match tuning.tiles(problem, capabilities) {
        _ if is_wide => wide(),
        Some(tiles) => Ok(Tiles::Forward(tiles)),
        None => ForwardTiles::new(problem, capabilities).map(Tiles::Forward),
    };
    let demanded = match asked {
        Some(Kernel::ThreeStage) if problem.kv_len == 0 => {
            Some((Kernel::ForwardWide, "there are no keys, so no scores"))
        }
        Some(kernel) => Some((kernel, "it was asked for")),
        None if problem.stores_scores() => Some((Kernel::ThreeStage, "scores are asked for")),
        None if stores => Some((Kernel::ThreeStage, "weights are asked for, of a long dim")),
        None => None,
    };
    if let Some((kernel, reason)) = demanded {
        let tiles = match kernel {
            Kernel::Forward | Kernel::Decode => fused(),
            Kernel::ForwardWide => wide(),
            Kernel::ForwardMatrix => matrix(),
            Kernel::ThreeStage => ProductTiles::new(problem, capabilities).map(Tiles::Products),
        };
        return Ok(Choice { kernel, tiles: tiles?, reason });
    }
    let tiles = fused();
    let longest = problem.counted_rows().map(|(_, line)| line.q_len()).max().unwrap_or_default();
    let are_shared = |tiles: &Tiles| tiles.size().splits(problem, capabilities) > 1;
    let (kernel, reason) = if longest <= MOST_QUERIES && tiles.as_ref().is_ok_and(are_shared) {
        (Kernel::Decode, "few queries of many keys, which workgroups share")
    } else if weighs {
        (Kernel::Forward, "a second pass over the keys gives the weights")
    // A software adapter multiplies matrices at a fraction of its speed.
    } else if !capabilities.is_software()
        && let Ok(tiles) = matrix()
    {
        let reason = "nothing asks for scores; the adapter has matrices of f16";
        return Ok(Choice { kernel: Kernel::ForwardMatrix, tiles, reason });
    } else if is_wide {
        (Kernel::ForwardWide, "nothing asks for scores; a dim is too long for forward")
    } else {
        (Kernel::Forward, "nothing asks for scores")
    };
    Ok(Choice { kernel, tiles: tiles?, reason })
}

/// Refuses a kernel that cannot give what is asked for.
fn check(
    problem: &Problem,
    asked: Option<Kernel>,
    stores: bool,
    is_wide: bool,
) -> Result<(), Error> {
    let is_paged = problem.pages.is_some();
    if is_paged && stores {
        let expected = "none with scores, or weights of long dims, as three-stage reads no pages";
        return Err(Error::invalid("pages", expected, "some"));
    }
    let Some(kernel) = asked else { return Ok(()) };
    let expected = match kernel {
        Kernel::ThreeStage if is_paged => "a fused kernel, as three-stage reads no pages",
        Kernel::ThreeStage => return Ok(()),
        _ if stores => "three-stage, as scores are asked for, or weights of long dims",
        Kernel::ForwardWide | Kernel::ForwardMatrix if problem.stores_weights() => {
            "forward, decode or three-stage, as weights are asked for"
        }
        Kernel::Forward if is_wide => "forward-wide, decode or three-stage, as a dim is too long",
        _ => return Ok(()),
    };
    Err(Error::invalid("kernel", expected, kernel.name()))
}
