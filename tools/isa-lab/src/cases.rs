//! The library's kernels for shapes that matter, planned for a GPU of a family.

use crate::model::Family;
use wgpu_attention as wa;
use wgpu_attention::internal::{Entry, Variant};
use wgpu_attention::layers::{LinearPlan, LinearShape};

/// A planned call, or why a family does not have it.
pub struct Case {
    pub name: &'static str,
    pub shaders: Result<Vec<Shader>, String>,
}

/// A shader of a call.
pub struct Shader {
    pub variant: Variant,
    /// What an invocation has to multiply in a tile of keys, if the loops of a tile are known.
    pub work: Option<Work>,
}

/// A tile of keys: the loop over tiles, and a loop over chunks of columns inside of it.
#[derive(Clone, Copy)]
pub struct Work {
    /// Multiply-adds of an invocation: rows * keys * (head_dim + value_dim) / invocations.
    pub macs: f64,
    /// Turns of the loop over chunks, if there is one.
    pub chunks: Option<u32>,
}

/// The case of a device without subgroups.
const PORTABLE: &str = "decode-f32-128-portable";

/// Columns of a chunk, as in `shaders/shared/register_tile.wgsl`.
const CHUNK: u32 = 16;

/// Cases that a family's driver is known not to compile.
pub const EXCUSED: [(&str, &str); 6] = [
    ("navi21", "matrix-f16-64"),
    ("navi21", "matrix-f16-128"),
    ("navi21", "matrix-f16-256"),
    ("gfx1201", "matrix-f16-64"),
    ("gfx1201", "matrix-f16-128"),
    ("gfx1201", "matrix-f16-256"),
];

/// What a GPU of a family would tell wgpu.
pub fn capabilities(family: &Family) -> wa::Capabilities {
    wa::Capabilities {
        workgroup_memory: 64 << 10,
        workgroup_invocations: 1024,
        binding_size: 2 << 30,
        buffer_size: 4 << 30,
        storage_alignment: 16,
        uniform_alignment: 16,
        shader_f16: true,
        subgroup: 32,
        matrices: family.matrices.map(|[size, subgroup]| wa::Matrices { size, subgroup }),
        timestamps: true,
        ..wa::Capabilities::PORTABLE
    }
}

fn plain(head_dim: usize) -> wa::AttentionShape {
    wa::AttentionShape::new(1, 8, 2048, head_dim)
}

fn stored(element: wa::ElementType, head_dim: usize) -> wa::AttentionShape {
    wa::AttentionShape { element, ..plain(head_dim) }
}

fn decode(element: wa::ElementType) -> wa::AttentionShape {
    let shape = wa::AttentionShape::new(1, 32, 1, 128);
    wa::AttentionShape { num_kv_heads: 8, kv_len: 4096, element, ..shape }
}

type Attention = (&'static str, wa::AttentionShape, bool, Option<wa::Kernel>);

fn attentions() -> Vec<Attention> {
    use wa::ElementType::{Bf16, F16, F32};
    use wa::Kernel::{Decode, ForwardMatrix, ThreeStage, Tiled};
    let weights = wa::AttentionShape { weights: Some(wa::Layout::Bhsd), ..plain(64) };
    vec![
        ("forward-f32-64", plain(64), false, Some(Tiled)),
        ("forward-f32-128", plain(128), false, Some(Tiled)),
        ("forward-f32-256", plain(256), false, Some(Tiled)),
        ("forward-f16-64", stored(F16, 64), false, Some(Tiled)),
        ("forward-f16-128", stored(F16, 128), false, Some(Tiled)),
        ("forward-f16-256", stored(F16, 256), false, Some(Tiled)),
        ("forward-bf16-64", stored(Bf16, 64), false, Some(Tiled)),
        ("forward-bf16-128", stored(Bf16, 128), false, Some(Tiled)),
        ("causal-f32-64", plain(64), true, Some(Tiled)),
        ("decode-f32-128", decode(F32), false, Some(Decode)),
        ("decode-f16-128", decode(F16), false, Some(Decode)),
        ("decode-bf16-128", decode(Bf16), false, Some(Decode)),
        (PORTABLE, decode(F32), false, Some(Decode)),
        ("matrix-f16-64", stored(F16, 64), false, Some(ForwardMatrix)),
        ("matrix-f16-128", stored(F16, 128), false, Some(ForwardMatrix)),
        ("matrix-f16-256", stored(F16, 256), false, Some(ForwardMatrix)),
        ("weights-f32-64", weights, false, Some(Tiled)),
        ("three-stage-f32-64", plain(64), false, Some(ThreeStage)),
    ]
}

/// Every case; `tiles` are those of `wgpu-attention tune`, as text.
pub fn cases(capabilities: &wa::Capabilities, tuning: &wa::Tuning) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (name, shape, causal, kernel) in attentions() {
        let options = wa::AttentionOptions { causal, ..Default::default() };
        let problem = wa::Problem::new(&shape, &options).map_err(|e| format!("{name}: {e}"))?;
        let subgroup = if name == PORTABLE { 0 } else { capabilities.subgroup };
        let own = wa::Capabilities { subgroup, ..*capabilities };
        let shaders = match wa::Plan::tuned(problem, &own, kernel, tuning) {
            Ok(plan) => Ok(shaders(&plan)),
            Err(error @ wa::Error::Unsupported { .. }) => Err(error.to_string()),
            Err(error) => return Err(format!("{name}: {error}")),
        };
        cases.push(Case { name, shaders });
    }
    let linear = LinearShape::new(512, 768, 768);
    let plan = LinearPlan::new(&linear, capabilities).map_err(|e| e.to_string())?;
    let shader = |variant| Shader { variant, work: None };
    let shaders = Ok(plan.variants().into_iter().map(shader).collect());
    cases.push(Case { name: "linear-f32", shaders });
    Ok(cases)
}

fn shaders(plan: &wa::Plan) -> Vec<Shader> {
    let (size, problem) = (plan.tiles.size(), &plan.problem);
    let work = |variant: &Variant| {
        let columns = problem.head_dim + size.value_columns.min(problem.value_dim);
        let macs = f64::from(size.rows * size.keys) * f64::from(columns) / f64::from(size.threads);
        match variant.entry {
            Entry::AttentionTiled => {
                Some(Work { macs, chunks: Some(problem.head_dim.div_ceil(CHUNK)) })
            }
            // It loads long queries anew, as many columns at a time as a tile has keys.
            Entry::AttentionForwardMatrix => {
                let chunks = (problem.head_dim > 128).then(|| problem.head_dim / size.keys);
                Some(Work { macs, chunks })
            }
            Entry::AttentionDecode => Some(Work { macs, chunks: None }),
            Entry::ScoresTiled => {
                let macs = macs * f64::from(problem.head_dim) / f64::from(columns);
                Some(Work { macs, chunks: Some(problem.head_dim.div_ceil(CHUNK)) })
            }
            _ => None,
        }
    };
    let shader = |variant| Shader { work: work(&variant), variant };
    plan.variants().into_iter().map(shader).collect()
}
