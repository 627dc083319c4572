//! Which kernel, with which tiles, and why: decided once for a call.

use super::tiles::{
    DecodeTiles, ForwardTiles, MatrixTiles, ProductTiles, TiledTiles, Tiles, WideTiles,
    most_columns,
};
use super::tuning::Tuning;
use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::Problem;

/// A way to compute attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kernel {
    /// One kernel with online softmax that never stores the `q_len x kv_len` matrix, for software
    /// adapters. If weights are asked for, a second kernel stores them.
    Forward,
    /// The same for GPUs: both products of tiles in registers, for dims of any length.
    Tiled,
    /// As forward for long head or value dims, in chunks of columns: slower.
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
    pub const ALL: [Self; 6] = [
        Self::Forward,
        Self::Tiled,
        Self::ForwardWide,
        Self::Decode,
        Self::ThreeStage,
        Self::ForwardMatrix,
    ];
    /// The kernels that every device has, for every element type.
    pub const PORTABLE: [Self; 5] =
        [Self::Forward, Self::Tiled, Self::ForwardWide, Self::Decode, Self::ThreeStage];

    /// Its name, the same in the tool, the benches and the docs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Tiled => "tiled",
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
    let wide = || WideTiles::new(problem, capabilities).map(Tiles::Wide);
    let matrix = || MatrixTiles::new(problem, capabilities).map(Tiles::Matrix);
    let measured = tuning.tiles(problem, capabilities);
    let forward = || match measured {
        Some(tiles @ Tiles::Forward(_)) => Ok(tiles),
        _ => ForwardTiles::new(problem, capabilities).map(Tiles::Forward),
    };
    let tiled = || match measured {
        Some(tiles @ Tiles::Tiled(_)) => Ok(tiles),
        _ => TiledTiles::new(problem, capabilities).map(Tiles::Tiled),
    };
    // On a GPU, unless a caller lowers its limits below those of any.
    let is_tiled = !capabilities.is_software() && tiled().is_ok();
    let stores = problem.stores_scores() || (weighs && is_wide && !is_tiled);
    check(problem, asked, stores, is_wide)?;
    let fast = if is_tiled { Kernel::Tiled } else { Kernel::Forward };
    let fused = || match is_tiled {
        true => tiled(),
        false if is_wide => wide(),
        false => forward(),
    };
    let few = || match measured {
        Some(tiles @ Tiles::Decode(_)) => Some(tiles),
        _ if capabilities.is_software() => None,
        _ => DecodeTiles::new(problem, capabilities).map(Tiles::Decode).ok(),
    };
    let are_shared = || {
        let longest = problem.counted_rows().map(|(_, line)| line.q_len()).max();
        longest.unwrap_or_default() <= MOST_QUERIES
            && fused().is_ok_and(|tiles| tiles.size().splits(problem, capabilities) > 1)
    };
    let (kernel, reason) = match asked {
        Some(Kernel::ThreeStage) if problem.kv_len == 0 => {
            (Kernel::ForwardWide, "there are no keys, so no scores")
        }
        Some(kernel) => (kernel, "it was asked for"),
        None if problem.stores_scores() => (Kernel::ThreeStage, "scores are asked for"),
        None if stores => (Kernel::ThreeStage, "weights are asked for, of a long dim"),
        None if few().is_some() => {
            (Kernel::Decode, "few rows, whose keys come straight from memory")
        }
        None if are_shared() => {
            (Kernel::Decode, "few queries of many keys, which workgroups share")
        }
        None if weighs => (fast, "a second pass over the keys gives the weights"),
        // A software adapter multiplies matrices at a fraction of its speed.
        None if !capabilities.is_software() && matrix().is_ok() => {
            (Kernel::ForwardMatrix, "nothing asks for scores; the adapter has matrices of f16")
        }
        None if is_wide && !is_tiled => {
            (Kernel::ForwardWide, "nothing asks for scores; a dim is too long for forward")
        }
        None => (fast, "nothing asks for scores"),
    };
    let tiles = match kernel {
        Kernel::Forward => forward(),
        Kernel::Tiled => tiled(),
        Kernel::Decode => few().map_or_else(fused, Ok),
        Kernel::ForwardWide => wide(),
        Kernel::ForwardMatrix => matrix(),
        Kernel::ThreeStage => ProductTiles::new(problem, capabilities).map(Tiles::Products),
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
            "forward, tiled, decode or three-stage, as weights are asked for"
        }
        Kernel::Forward if is_wide => {
            "tiled, forward-wide, decode or three-stage, as a dim is too long"
        }
        _ => return Ok(()),
    };
    Err(Error::invalid("kernel", expected, kernel.name()))
}
