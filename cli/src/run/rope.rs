//! `--rope`: q and the new k are rotated before they attend.

use super::args::RopeChoice;
use super::vectors::{Sequence, Sizes, Vectors};
use crate::adapter::Machine;
use crate::failure::Failure;
use crate::rope::table;
use crate::tensors::Tensors;
use wgpu_attention::layers::{RotaryInputs, RotaryPairs, RotaryShape, RotaryTable, TableRows};
use wgpu_attention::{CuSeqlens, Element, Layout};

/// The angles, and where what they rotate lies.
#[derive(Debug)]
pub(super) struct Rope {
    table: RotaryTable,
    query: Rotated,
    key: Rotated,
}

/// One side, rotated in place.
#[derive(Debug)]
struct Rotated {
    shape: RotaryShape,
    positions: Option<Vec<u32>>,
}

impl Rope {
    /// Of a call whose sizes belong together. Sequences without padding each begin at position 0.
    pub(super) fn new(
        choice: RopeChoice,
        tensors: &Tensors,
        q: &Vectors<'_>,
        k: &Sequence<'_>,
        starts: Option<&CuSeqlens>,
    ) -> Result<Self, Failure> {
        let Some([cos, sin]) = tensors.pair(["cos", "sin"])? else {
            return Err(Failure::input("--rope", "tensors cos and sin", "none"));
        };
        let past = k.past.as_ref().map_or(0, |past| past.sizes.len);
        let longest = match starts {
            Some(CuSeqlens { query, key }) => {
                [query, key].map(|starts| lens(starts).max().unwrap_or_default())
            }
            None => [q.sizes.len, k.new.sizes.len],
        };
        let needed = past.saturating_add(longest[0].max(longest[1]));
        let dim = q.sizes.dim;
        let (rows, width) = match *cos.sizes {
            [rows, width] if (1..=dim / 2).contains(&width) => (rows, width),
            _ => return Err(cos.refuse(format_args!("[positions, R/2] of an R from 2 to {dim}"))),
        };
        if rows < needed {
            return Err(cos.refuse(format_args!("at least {needed} rows, one for each position")));
        }
        let side = |(sizes, x): (Sizes, Layout), starts: Option<&Vec<usize>>| Rotated {
            shape: RotaryShape {
                rotary_dim: 2 * width,
                pairs: match choice {
                    RopeChoice::Half => RotaryPairs::Half,
                    RopeChoice::Interleaved => RotaryPairs::Interleaved,
                },
                rows: match starts {
                    Some(_) => TableRows::Named { rows },
                    None => TableRows::From { start: past, rows },
                },
                x,
                out: None,
                ..RotaryShape::new(sizes.batch, sizes.heads, sizes.len, sizes.dim)
            },
            positions: starts.map(|starts| positions(starts)),
        };
        Ok(Self {
            table: table(cos, sin)?,
            query: side((q.sizes, q.layout()), starts.map(|starts| &starts.query)),
            key: side(k.new_rows(), starts.map(|starts| &starts.key)),
        })
    }

    /// Rotates the elements of q, and of k behind what is cached.
    pub(super) fn rotate<T: Element>(
        &self,
        machine: &Machine,
        [query, key]: [&mut Vec<T>; 2],
    ) -> Result<(), Failure> {
        for (side, x) in [(&self.query, query), (&self.key, key)] {
            let inputs = RotaryInputs {
                x,
                cos: &self.table.cos,
                sin: &self.table.sin,
                positions: side.positions.as_deref(),
            };
            *x = machine.rotary(&RotaryShape { element: T::TYPE, ..side.shape }, &inputs)?;
        }
        Ok(())
    }
}

/// The lengths of sequences without padding.
fn lens(starts: &[usize]) -> impl Iterator<Item = usize> {
    starts.windows(2).map(|pair| pair[1].saturating_sub(pair[0]))
}

/// Where each token stands in its own sequence.
fn positions(starts: &[usize]) -> Vec<u32> {
    lens(starts).flat_map(|len| 0..u32::try_from(len).unwrap_or(u32::MAX)).collect()
}
