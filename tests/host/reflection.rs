//! What Rust believes of a shader is what the shader says.

use crate::shaders::{SHADERS, Shader};
use naga::{AddressSpace, StorageAccess, TypeInner};
use std::any::type_name;
use std::mem::offset_of;
use wgpu_attention::internal::{
    Access, CacheLensParams, Constant, Entry, JoinParams, LensParams, LinearParams, Params,
    SequenceParams, Storage, TokenParams, Variant, ViewParams, bindings,
};

/// Name, offset, size and type of a field.
#[derive(Debug, PartialEq)]
struct Field {
    name: String,
    offset: usize,
    size: usize,
    kind: String,
}

fn field<S, T>(name: &str, offset: usize, _: impl Fn(&S) -> &T) -> Field {
    let kind = type_name::<T>().rsplit("::").next().unwrap();
    // A part of a block is called as in the shader, without what tells it apart in Rust.
    let kind = kind.strip_suffix("Params").unwrap_or(kind);
    Field { name: name.to_owned(), offset, size: size_of::<T>(), kind: kind.to_owned() }
}

macro_rules! fields {
    ($type:ty: $($name:ident)*) => {
        vec![$(field(stringify!($name), offset_of!($type, $name), |s: &$type| &s.$name)),*]
    };
}

fn members(shader: &Shader, name: &str) -> (Vec<Field>, u32) {
    let types = &shader.module.types;
    let (_, found) = types.iter().find(|(_, ty)| ty.name.as_deref() == Some(name)).unwrap();
    let TypeInner::Struct { members, span } = &found.inner else { panic!("{found:?}") };
    let member = |member: &naga::StructMember| {
        let ty = &types[member.ty];
        let kind = match ty.inner {
            TypeInner::Scalar(naga::Scalar::U32) => "u32",
            TypeInner::Scalar(naga::Scalar::I32) => "i32",
            TypeInner::Scalar(naga::Scalar::F32) => "f32",
            _ => ty.name.as_ref().unwrap(),
        };
        Field {
            name: member.name.clone().unwrap(),
            offset: member.offset as usize,
            size: ty.inner.size(shader.module.to_ctx()) as usize,
            kind: kind.to_owned(),
        }
    };
    (members.iter().map(member).collect(), *span)
}

#[test]
fn parameters_lie_where_rust_puts_them() {
    let params = fields!(Params: query key value out lse scores partial_out partial_lse mask bias lens mask_column
        bias_column splits out_split lse_split sequences alibi_offset alibi_batch query_segment_offset
        query_segment_batch key_segment_offset key_segment_batch pages_offset pages_batch page_len last_page sinks_offset
        q_len kv_len seen_len group band_lower band_upper kept offset scale softcap words flags
        head_dim value_dim hidden_bits);
    let view = fields!(ViewParams: offset batch head row);
    let lens = fields!(LensParams: offset most before moves);
    // No field is missing above, and none is followed by padding.
    let tokens = fields!(TokenParams: x out table positions num_heads len dim rotary_dim rotating per_row
        count last_row last_place back);
    assert_eq!(params.iter().map(|field| field.size).sum::<usize>(), size_of::<Params>());
    assert_eq!(tokens.iter().map(|field| field.size).sum::<usize>(), size_of::<TokenParams>());
    assert_eq!(view.iter().map(|field| field.size).sum::<usize>(), size_of::<ViewParams>());
    assert_eq!(lens.iter().map(|field| field.size).sum::<usize>(), size_of::<LensParams>());
    let cache_lens = fields!(CacheLensParams: first count kept added capacity);
    assert_eq!(
        cache_lens.iter().map(|field| field.size).sum::<usize>(),
        size_of::<CacheLensParams>()
    );
    let join = fields!(JoinParams: first first_out count);
    assert_eq!(join.iter().map(|field| field.size).sum::<usize>(), size_of::<JoinParams>());
    let linear = fields!(LinearParams: x_offset x_batch x_row out_offset out_batch out_row
        weight_offset bias_offset len rows in_features out_features);
    assert_eq!(linear.iter().map(|field| field.size).sum::<usize>(), size_of::<LinearParams>());
    for shader in SHADERS.iter() {
        let (found, span) = members(shader, "Params");
        let expected = match shader.variant.entry {
            Entry::CacheLens => (&cache_lens, size_of::<CacheLensParams>()),
            Entry::Rotary | Entry::Positional => (&tokens, size_of::<TokenParams>()),
            Entry::Join => (&join, size_of::<JoinParams>()),
            Entry::Linear | Entry::LinearTiled => (&linear, size_of::<LinearParams>()),
            _ => (&params, size_of::<Params>()),
        };
        assert_eq!((&found, span as usize), expected, "{}", shader.variant);
        // They have no views.
        use Entry::{CacheLens, Join, Linear, LinearTiled};
        if matches!(shader.variant.entry, Linear | LinearTiled | CacheLens | Join) {
            continue;
        }
        let (found, span) = members(shader, "View");
        assert_eq!((&found, span as usize), (&view, size_of::<ViewParams>()), "{}", shader.variant);
        if expected.0 == &params {
            let (found, span) = members(shader, "Lens");
            let expected = (&lens, size_of::<LensParams>());
            assert_eq!((&found, span as usize), expected, "{}", shader.variant);
        }
    }
}

fn count(variant: &Variant, name: &str) -> u32 {
    match variant.constants[name] {
        Constant::Count(count) => count,
        Constant::Flag(_) => panic!("{variant}"),
    }
}

#[test]
fn the_entry_point_is_called_as_its_file_and_has_the_plans_invocations() {
    for Shader { variant, tiles, module, .. } in SHADERS.iter() {
        let [entry] = &module.entry_points[..] else { panic!("{variant}") };
        assert_eq!(entry.name, variant.entry.name());
        assert_eq!(entry.stage, naga::ShaderStage::Compute);
        let threads = match variant.entry {
            Entry::Pack | Entry::HeadMean | Entry::UniformRows | Entry::AttentionCombine => 64,
            Entry::Rotary
            | Entry::Positional
            | Entry::CacheLens
            | Entry::AdditiveForward
            | Entry::Join => 64,
            Entry::Linear | Entry::Softmax | Entry::AttentionWeights => count(variant, "THREADS"),
            Entry::LinearTiled | Entry::ScoresTiled | Entry::WeightedSumTiled => 128,
            _ => tiles.unwrap().size().threads,
        };
        assert_eq!(entry.workgroup_size, [threads, 1, 1], "{variant}");
    }
}

#[test]
fn bindings_have_the_numbers_access_and_elements_that_the_host_binds() {
    for Shader { variant, module, .. } in SHADERS.iter() {
        let mut found = Vec::new();
        for (_, global) in module.global_variables.iter() {
            let Some(binding) = global.binding else { continue };
            assert_eq!(binding.group, 0, "{variant}");
            if binding.binding == 11 {
                assert!(variant.is_ragged() && global.space == AddressSpace::Uniform, "{variant}");
                let bytes = module.types[global.ty].inner.size(module.to_ctx()) as usize;
                assert_eq!(bytes, 512 * size_of::<SequenceParams>(), "{variant}");
                continue;
            }
            if binding.binding == 0 {
                assert_eq!(global.space, AddressSpace::Uniform, "{variant}");
                assert_eq!(module.types[global.ty].name.as_deref(), Some("Params"), "{variant}");
                continue;
            }
            let AddressSpace::Storage { access } = global.space else { panic!("{global:?}") };
            let access = match access {
                StorageAccess::LOAD => Access::Read,
                _ => Access::ReadWrite,
            };
            let name = global.name.as_deref().unwrap();
            found.push((binding.binding, name, access));
            let TypeInner::Array { base, stride, .. } = module.types[global.ty].inner else {
                panic!("{variant}: {name} is no array");
            };
            let storage = match (variant.storage.get(name), name) {
                (Some(storage), _) => *storage,
                (None, "x" | "out") if variant.entry == Entry::Join => Storage::Unpacked,
                (
                    None,
                    "lse" | "partial_lse" | "mask" | "aux" | "unpacked" | "positions" | "lens",
                ) => Storage::Unpacked,
                (None, "weights")
                    if ["softmax", "additive_forward", "scores", "scores_tiled"]
                        .contains(&variant.entry.name()) =>
                {
                    Storage::Unpacked
                }
                (None, _) => Storage::F32,
            };
            let (expected_stride, expected_scalar) = match storage {
                Storage::F32 => (4, naga::Scalar::F32),
                Storage::F32x4 => (16, naga::Scalar::F32),
                Storage::F16 => (2, naga::Scalar::F16),
                Storage::F16x4 => (8, naga::Scalar::F16),
                Storage::F16WordsX4 | Storage::Bf16WordsX4 => (8, naga::Scalar::U32),
                Storage::F16Words | Storage::Bf16Words | Storage::Unpacked => {
                    (4, naga::Scalar::U32)
                }
            };
            let scalar = module.types[base].inner.scalar().unwrap();
            assert_eq!((stride, scalar), (expected_stride, expected_scalar), "{variant}: {name}");
        }
        let listed = bindings(variant.entry);
        let mut listed: Vec<_> = listed.map(|b| (b.number, b.name, b.access)).collect();
        listed.sort_unstable_by_key(|(number, ..)| *number);
        found.sort_unstable_by_key(|(number, ..)| *number);
        assert_eq!(found, listed, "{variant}");
        assert!(found.len() <= 8, "core WebGPU has no more storage buffers in a stage");
    }
}

/// wgpu itself does not check it.
#[test]
fn workgroup_memory_is_what_the_plan_says_and_the_device_has() {
    for Shader { variant, tiles, workgroup_memory, module, .. } in SHADERS.iter() {
        let globals = module.global_variables.iter().map(|(_, global)| global);
        let bytes: u32 = globals
            .filter(|global| global.space == AddressSpace::WorkGroup)
            .map(|global| module.types[global.ty].inner.size(module.to_ctx()))
            .sum();
        assert!(bytes <= *workgroup_memory, "{variant}: {bytes} of {workgroup_memory} bytes");
        let Some(tiles) = tiles else {
            let own = match variant.entry {
                Entry::AdditiveForward => 12_224,
                Entry::Linear => count(variant, "COLUMNS") << 9,
                // Two tiles of 16 columns, with a vector more each.
                Entry::LinearTiled => {
                    let left = 16 * (2 * count(variant, "ROWS_EACH") + 1);
                    16 * (left + 64 * 5)
                }
                _ => 0,
            };
            assert_eq!(bytes, own, "{variant}");
            continue;
        };
        let tiles = tiles.size();
        let planned = match variant.entry {
            Entry::AttentionForward
            | Entry::AttentionForwardWide
            | Entry::AttentionTiled
            | Entry::AttentionDecode
            | Entry::AttentionForwardMatrix => tiles.workgroup_bytes,
            Entry::AttentionWeights => {
                let vectors = count(variant, "HEAD_PARTS") * count(variant, "HEAD_PART");
                count(variant, "KEYS") * vectors * 16
            }
            // Two stages share a plan, each with a tile for its own chunk.
            Entry::Scores => tiles.keys * tiles.head_columns * 4,
            Entry::WeightedSum => tiles.keys * tiles.value_columns * 4 + 4,
            // Both tiles, which keys are visible, and of values a note.
            Entry::ScoresTiled | Entry::WeightedSumTiled => {
                let rows = 8 * count(variant, "ROWS_EACH");
                let note = if variant.entry == Entry::WeightedSumTiled { 16 } else { 0 };
                16 * (16 * (rows / 4 + 1) + 64 * 5) + 8 * rows + note
            }
            Entry::Softmax => 8 * count(variant, "THREADS"),
            _ => 0,
        };
        assert_eq!(bytes, planned, "{variant}");
        let is_own =
            !matches!(variant.entry, Entry::Softmax | Entry::AttentionWeights | Entry::ScoresTiled);
        assert!(!is_own || planned <= tiles.workgroup_bytes, "{variant}");
    }
}
