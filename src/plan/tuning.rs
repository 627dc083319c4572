//! Measured tiles of the fused kernel, in place of those that the model picks.

use super::tiles::{DecodeTiles, ForwardTile, ForwardTiles, TiledTiles, Tiles};
use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::{ElementType, Problem};
use std::fmt;
use std::str::FromStr;

/// The fastest tiles of an adapter, as [`Attention::tune`](crate::Attention::tune) finds them. As
/// text it has a line for each, so that a program can keep it: [`ToString`] and [`FromStr`] are
/// each other's inverse.
///
/// Tiles of another adapter, driver or release are as right, but may be slow. What a device has no
/// room for is passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    known: Vec<(TileKey, ForwardTile)>,
}

/// What calls with the same tiles have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TileKey {
    head_dim: u32,
    value_dim: u32,
    element: ElementType,
    /// Rows that share keys: a power of two, from 256 on the same.
    rows: u32,
}

impl TileKey {
    fn new(p: &Problem) -> Self {
        let rows = p.q_len.saturating_mul(p.group()).clamp(1, 256).next_power_of_two();
        Self { head_dim: p.head_dim, value_dim: p.value_dim, element: p.element, rows }
    }
}

impl Tuning {
    /// One tile, for a problem and those like it.
    pub(crate) fn of(problem: &Problem, tile: ForwardTile) -> Self {
        Self { known: vec![(TileKey::new(problem), tile)] }
    }

    /// Adds what another knows, in place of what is known of the same calls.
    pub(crate) fn learn(&mut self, other: &Self) {
        for &(key, tile) in &other.known {
            self.known.retain(|(known, _)| *known != key);
            self.known.push((key, tile));
        }
    }

    /// The tiles for a problem, if some are known that its device has room for.
    pub(super) fn tiles(&self, problem: &Problem, capabilities: &Capabilities) -> Option<Tiles> {
        let key = TileKey::new(problem);
        let (_, tile) = self.known.iter().find(|(known, _)| *known == key)?;
        admitted(*tile, problem, capabilities)
    }
}

/// The tile in the kernel that the device's plans take.
fn admitted(tile: ForwardTile, problem: &Problem, capabilities: &Capabilities) -> Option<Tiles> {
    match capabilities.is_software() {
        true => ForwardTiles::admitted(tile, problem, capabilities).map(Tiles::Forward),
        false if DecodeTiles::new(problem, capabilities).is_ok() => {
            DecodeTiles::admitted(tile, problem, capabilities).map(Tiles::Decode)
        }
        false => TiledTiles::admitted(tile, problem, capabilities).map(Tiles::Tiled),
    }
}

/// The model's tile and others. On a GPU: so many rows and keys of an invocation as registers have
/// room for, and workgroups of half and twice as many. On a software adapter those one step from it:
/// half or twice of each number, and the next tile ahead.
pub(crate) fn candidates(
    problem: &Problem,
    capabilities: &Capabilities,
) -> Result<Vec<ForwardTile>, Error> {
    let of_gpu = |threads, [rows_each, keys_each]: [u32; 2]| ForwardTile {
        threads,
        rows_each,
        keys_each,
        ahead: false,
    };
    let of_sizes = |each: [u32; 2]| [64, 128, 256].map(|threads| of_gpu(threads, each));
    let (own, others): (_, Vec<_>) = if capabilities.is_software() {
        let own = ForwardTiles::new(problem, capabilities)?.tile;
        let ForwardTile { threads, rows_each, keys_each, .. } = own;
        let steps = [
            ForwardTile { rows_each: rows_each * 2, ..own },
            ForwardTile { rows_each: rows_each / 2, ..own },
            ForwardTile { keys_each: keys_each * 2, ..own },
            ForwardTile { keys_each: keys_each / 2, ..own },
            ForwardTile { threads: threads * 2, ..own },
            ForwardTile { threads: threads / 2, ..own },
            ForwardTile { ahead: !own.ahead, ..own },
        ];
        (own, steps.into())
    } else if let Ok(DecodeTiles { tile: own, .. }) = DecodeTiles::new(problem, capabilities) {
        let each = [1, 2, 4].map(|keys_each| [own.rows_each, keys_each]);
        (own, each.into_iter().flat_map(of_sizes).collect())
    } else {
        let own = TiledTiles::new(problem, capabilities)?.tile;
        (own, [[8, 4], [8, 8], [4, 4]].into_iter().flat_map(of_sizes).collect())
    };
    let fits =
        |tile: &ForwardTile| *tile != own && admitted(*tile, problem, capabilities).is_some();
    Ok(std::iter::once(own).chain(others.into_iter().filter(fits)).collect())
}

const NAMES: [&str; 8] =
    ["head_dim", "value_dim", "element", "rows", "threads", "rows_each", "keys_each", "ahead"];

impl fmt::Display for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (TileKey { head_dim, value_dim, element, rows }, tile) in &self.known {
            let ForwardTile { threads, rows_each, keys_each, ahead } = tile;
            writeln!(
                f,
                "head_dim={head_dim} value_dim={value_dim} element={element} rows={rows} \
                 threads={threads} rows_each={rows_each} keys_each={keys_each} ahead={ahead}"
            )?;
        }
        Ok(())
    }
}

impl FromStr for Tuning {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refused = |line: &str| {
            let expected = format!("lines of {} as NAME=VALUE", NAMES.join(", "));
            Error::invalid("tuning", expected, format!("{line:?}"))
        };
        let mut tuning = Self::default();
        for line in text.lines() {
            let known = parsed(line).ok_or_else(|| refused(line))?;
            tuning.learn(&Self { known: vec![known] });
        }
        Ok(tuning)
    }
}

fn parsed(line: &str) -> Option<(TileKey, ForwardTile)> {
    let pairs: Option<Vec<_>> = line.split(' ').map(|pair| pair.split_once('=')).collect();
    let pairs = pairs?;
    if pairs.iter().map(|(name, _)| *name).ne(NAMES) {
        return None;
    }
    let number = |at: usize| pairs[at].1.parse::<u32>().ok();
    let elements = [ElementType::F32, ElementType::F16, ElementType::Bf16];
    let element = elements.into_iter().find(|element| element.to_string() == pairs[2].1)?;
    Some((
        TileKey { head_dim: number(0)?, value_dim: number(1)?, element, rows: number(3)? },
        ForwardTile {
            threads: number(4)?,
            rows_each: number(5)?,
            keys_each: number(6)?,
            ahead: pairs[7].1.parse().ok()?,
        },
    ))
}
