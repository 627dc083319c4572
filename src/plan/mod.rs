//! HOW: from a problem and a device's capabilities to kernels, tiles, grids and workspace. Pure
//! functions over plain data, so that every choice can be tested on any machine.

mod dispatch;
mod kernels;
mod params;
mod split;
mod tiles;
mod variant;

pub use dispatch::{Bound, Dispatch, Tensor, Window};
pub use params::{Params, ViewParams};
pub use tiles::Tiles;
pub use variant::{Access, Constant, Entry, Storage, Variant};

use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::Problem;
use std::fmt;

/// A way to compute attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// One kernel, online softmax, never stores the `q_len x kv_len` matrix.
    Forward,
    /// Scores, softmax, weighted sum: stores the matrix, in chunks if need be.
    ThreeStage,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Self; 2] = [Self::Forward, Self::ThreeStage];

    /// Its name, the same in the tool, the benches and the docs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::ThreeStage => "three-stage",
        }
    }
}

/// What will run, and why; plain data, made in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The validated call.
    pub problem: Problem,
    /// The device it was made for.
    pub capabilities: Capabilities,
    /// The kernel.
    pub kernel: Kernel,
    /// Why this kernel.
    pub reason: &'static str,
    /// Its tiles.
    pub tiles: Tiles,
    /// What is dispatched, in this order.
    pub dispatches: Vec<Dispatch>,
    /// Bytes of the operator's own buffer.
    pub workspace: u64,
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
        let needed = Capabilities::PORTABLE.storage_buffers;
        if capabilities.storage_buffers < needed {
            return Err(Error::Unsupported {
                what: "storage buffers per shader stage",
                expected: format!("at least {needed}"),
                found: capabilities.storage_buffers.to_string(),
            });
        }
        // Without keys nothing is stored, and the fused kernel writes the empty rows.
        let stores = problem.stores_scores() && problem.kv_len > 0;
        let (kernel, reason) = match kernel {
            Some(Kernel::Forward) if stores => {
                return Err(Error::invalid(
                    "kernel",
                    "three-stage, as weights or scores are asked for",
                    Kernel::Forward.name(),
                ));
            }
            Some(Kernel::ThreeStage) if problem.kv_len > 0 => {
                (Kernel::ThreeStage, "it was asked for")
            }
            Some(Kernel::ThreeStage) => (Kernel::Forward, "there are no keys, so no scores"),
            Some(Kernel::Forward) => (Kernel::Forward, "it was asked for"),
            None if stores => (Kernel::ThreeStage, "weights or scores are asked for"),
            None => (Kernel::Forward, "nothing asks for the matrix of scores"),
        };
        let tiles = Tiles::choose(&problem, capabilities)?;
        let parts = split::split(&problem, capabilities, |part| match kernel {
            Kernel::Forward => vec![kernels::forward(part, &tiles, capabilities)],
            Kernel::ThreeStage => kernels::three_stage(part, &tiles, capabilities),
        })?;
        let workspace = parts.iter().map(|part| part.workspace).max().unwrap_or_default();
        let dispatches = parts.into_iter().flat_map(|part| part.dispatches).collect();
        Ok(Self {
            problem,
            capabilities: *capabilities,
            kernel,
            reason,
            tiles,
            dispatches,
            workspace,
        })
    }

    /// The shaders it runs, each once.
    #[must_use]
    pub fn variants(&self) -> Vec<Variant> {
        let mut variants: Vec<Variant> =
            self.dispatches.iter().map(|dispatch| dispatch.variant.clone()).collect();
        variants.sort_unstable();
        variants.dedup();
        variants
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { problem: p, tiles, .. } = self;
        writeln!(f, "kernel      {} ({})", self.kernel.name(), self.reason)?;
        writeln!(
            f,
            "tiles       {} rows x {} keys, {} of {} head_dim and {} of {} value_dim columns at a time",
            tiles.rows, tiles.keys, tiles.head_chunk, p.head_dim, tiles.value_chunk, p.value_dim
        )?;
        if p.group() > 1 {
            writeln!(f, "rows        {} query heads share each key head's tiles", p.group())?;
        }
        match self.dispatches.as_slice() {
            [] => writeln!(f, "dispatches  none: there is nothing to compute")?,
            [first, rest @ ..] => {
                let [x, y, z] = first.grid;
                write!(f, "dispatches  {} of {x} x {y} x {z} workgroups", first.variant)?;
                let more =
                    if rest.is_empty() { String::new() } else { format!(", {} more", rest.len()) };
                writeln!(f, "{more}")?;
            }
        }
        write!(
            f,
            "memory      {} bytes of workgroup memory, {} bytes of workspace",
            tiles.workgroup_bytes(),
            self.workspace
        )
    }
}
