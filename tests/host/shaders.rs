//! Every shader that a plan can ask for compiles for every backend that has what it needs, with nothing but core WebGPU
//! and what the plan was told is there.

use crate::encodings;
use crate::plan::PORTABLE;
use naga::back::{hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{ModuleInfo, ValidationFlags, Validator};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use wgpu_attention::internal::{Entry, Tiles, Variant, assemble, bindings};
use wgpu_attention::layers::{
    HeadWeights, LinearPlan, LinearShape, MultiHeadPlan, MultiHeadShape, MultiHeadWeights,
    SelfAttentionPlan, SelfAttentionShape,
};
use wgpu_attention::{
    AlibiLayout, AttentionOptions, AttentionShape, BroadcastLayout, Capabilities, ElementType,
    Kernel, Layout, Matrices, PagedKeys, Plan, Problem, SegmentLayout, Strides,
};

/// A shader that some plan asks for.
pub(crate) struct Shader {
    pub(crate) variant: Variant,
    /// Attention's alone.
    pub(crate) tiles: Option<Tiles>,
    /// Of the device that the plan was made for.
    pub(crate) workgroup_memory: u32,
    pub(crate) module: naga::Module,
    info: ModuleInfo,
}

/// Every variant of a representative product of shapes, options and devices, each once.
pub(crate) static SHADERS: LazyLock<Vec<Shader>> = LazyLock::new(|| {
    let mut variants = BTreeMap::new();
    for (shape, options, device, kernel) in calls().into_iter().chain(matrix_calls()) {
        let problem = Problem::new(&shape, &options).unwrap();
        let plan = Plan::new(problem, &device, Some(kernel)).unwrap();
        for variant in plan.variants() {
            let tiles = Some(plan.tiles);
            let least = variants.entry(variant).or_insert((tiles, device.workgroup_memory));
            least.1 = least.1.min(device.workgroup_memory);
        }
    }
    // Of tiles that were measured, on a software adapter and on a GPU.
    let ahead = "rows=1 threads=64 rows_each=1 keys_each=2 ahead=true";
    let square = "rows=16 threads=128 rows_each=8 keys_each=8 ahead=false";
    for (q_len, tile, processors) in [(1, ahead, 2), (9, square, 0)] {
        let device = Capabilities { processors, workgroup_memory: 32 << 10, ..PORTABLE };
        let tuning = format!("head_dim=64 value_dim=64 element=f32 {tile}").parse().unwrap();
        let shape = AttentionShape::new(1, 1, q_len, 64);
        let problem = Problem::new(&shape, &AttentionOptions::default()).unwrap();
        let plan = Plan::tuned(problem, &device, None, &tuning).unwrap();
        for variant in plan.variants() {
            variants.insert(variant, (Some(plan.tiles), device.workgroup_memory));
        }
    }
    for variant in layers().into_iter().chain(encodings::variants()) {
        variants.entry(variant).or_insert((None, PORTABLE.workgroup_memory));
    }
    let variants: Vec<(Variant, (Option<Tiles>, u32))> = variants.into_iter().collect();
    on_all_cores(&variants, |(variant, (tiles, workgroup_memory))| {
        let (module, info) = compile(variant);
        let variant = variant.clone();
        Shader { variant, tiles: *tiles, workgroup_memory: *workgroup_memory, module, info }
    })
});

const DIMS: [(usize, usize); 13] = [
    (1, 1),
    (3, 3),
    (4, 4),
    (64, 64),
    (72, 72),
    (80, 80),
    (128, 128),
    (130, 130),
    (192, 192),
    (256, 256),
    (512, 512),
    (192, 128),
    (4, 512),
];

/// Every combination of options, then all and none of them at all dims, then all of them on every kind of
/// device.
fn calls() -> Vec<(AttentionShape, AttentionOptions, Capabilities, Kernel)> {
    let mut calls = few_rows();
    for kernel in Kernel::PORTABLE {
        let mut add = |dims: (usize, usize), len, aligned, flags, device| {
            if kernel != Kernel::Forward || dims.0.max(dims.1) <= 128 {
                let (shape, options) = call(dims, len, aligned, flags);
                calls.push((shape, options, device, kernel));
            }
        };
        // Only the three stages can show their scores.
        let flags = if kernel == Kernel::ThreeStage { 0..128 } else { 0..64 };
        let all = flags.end - 1;
        for aligned in [false, true] {
            // Split over keys it is the same kernel.
            let few = flags.clone().filter(|&at| kernel != Kernel::Decode || at == 0 || at == all);
            few.for_each(|flags| add((64, 64), 300, aligned, flags, PORTABLE));
            for dims in DIMS {
                add(dims, 300, aligned, 0, PORTABLE);
                add(dims, 300, aligned, all, PORTABLE);
            }
        }
        for (dim, len) in
            [3, 80, 128, 512].into_iter().flat_map(|dim| [(dim, 4), (dim, 20), (dim, 300)])
        {
            add((dim, dim), len, true, all, PORTABLE);
            // No GPU has less than 16 KiB.
            let least = if kernel == Kernel::Tiled { 16 } else { 5 };
            for kib in [5, 8, 32].into_iter().filter(|&kib| kib >= least) {
                let workgroup_memory = kib << 10;
                add((dim, dim), len, true, all, Capabilities { workgroup_memory, ..PORTABLE });
            }
            add((dim, dim), len, true, all, Capabilities { processors: 2, ..PORTABLE });
        }
        for flags in [0, all] {
            let (shape, options) = call((64, 64), 300, true, flags);
            let tiny = AttentionOptions { scale: Some(1e-40), ..options };
            let software = Capabilities { processors: 2, ..PORTABLE };
            calls.push((shape.clone(), tiny, software, kernel));
            calls.push((shape, tiny, PORTABLE, kernel));
        }
        let (shape, options) = call((64, 64), 300, true, all);
        let ragged = AttentionShape { kv_lens: Some(vec![150]), ..shape };
        calls.push((ragged, options, PORTABLE, kernel));
        let (shape, options) = call((64, 64), 300, true, 0);
        calls.push((AttentionShape { lens: true, ..shape }, options, PORTABLE, kernel));
        let (shape, options) = call((64, 64), 300, true, all);
        calls.push((AttentionShape { lens: true, ..shape }, options, PORTABLE, kernel));
        if kernel != Kernel::ThreeStage {
            for (dim, flags) in [(64, 0), (64, all), (5, 0)] {
                let (shape, options) = call((dim, dim), 300, true, flags);
                for page_len in [16, 64] {
                    let pages = Some(PagedKeys::new(page_len, 19, 19));
                    let paged = AttentionShape { key: Layout::Bhsd, pages, ..shape.clone() };
                    calls.push((paged, options, PORTABLE, kernel));
                }
            }
        }
        // 16-bit elements, with and without f16 in the shader, where rows share words and where not.
        for element in [ElementType::F16, ElementType::Bf16] {
            for (shader_f16, dim, flags) in [false, true]
                .into_iter()
                .flat_map(|f16| [(f16, 64, 0), (f16, 64, all), (f16, 5, 0)])
            {
                let (shape, options) = call((dim, dim), 300, true, flags);
                let shape = AttentionShape { element, ..shape };
                for processors in [0, 2] {
                    let device = Capabilities { shader_f16, processors, ..PORTABLE };
                    calls.push((shape.clone(), options, device, kernel));
                }
            }
        }
    }
    // The same with the weights, of which 300 for each query are stored four at a time, and 290 one by one.
    let fused = |(shape, _, _, kernel): &&(AttentionShape, _, _, Kernel)| {
        matches!(kernel, Kernel::Forward | Kernel::Decode)
            && shape.head_dim.max(shape.value_dim) <= 128
    };
    let weights = Some(Layout::Bhsd);
    let weighed: Vec<_> = calls
        .iter()
        .filter(fused)
        .map(|(shape, options, device, kernel)| {
            (AttentionShape { weights, ..shape.clone() }, *options, *device, *kernel)
        })
        .collect();
    calls.extend(weighed);
    let odd = AttentionShape { weights, kv_len: 290, ..AttentionShape::new(1, 1, 300, 64) };
    calls.push((odd, AttentionOptions::default(), PORTABLE, Kernel::Forward));
    calls
}

/// The kernel that reads keys straight from memory, with and without subgroups.
fn few_rows() -> Vec<(AttentionShape, AttentionOptions, Capabilities, Kernel)> {
    let mut calls = Vec::new();
    let mut add = |dims, group: usize, aligned, flags, device| {
        let (shape, options) = call(dims, 300, aligned, flags);
        let shape = AttentionShape { q_len: 1, num_heads: group, ..shape };
        let mask = shape.mask.as_ref().map(|_| BroadcastLayout::Sizes([1, 1, 1, 300]));
        let bias = shape.bias.as_ref().map(|_| BroadcastLayout::Sizes([1, 1, 1, 300]));
        // Segments are of as many queries as keys.
        let shape = AttentionShape { mask, bias, segments: None, ..shape };
        calls.push((shape.clone(), options, device, Kernel::Decode));
        if flags == 63 {
            for element in [ElementType::F16, ElementType::Bf16] {
                let shape = AttentionShape { element, ..shape.clone() };
                calls.push((shape, options, device, Kernel::Decode));
            }
            let ragged = AttentionShape { kv_lens: Some(vec![150]), ..shape.clone() };
            let pages = Some(PagedKeys::new(16, 19, 19));
            let paged = AttentionShape { key: Layout::Bhsd, pages, ..shape.clone() };
            let tiny = AttentionOptions { scale: Some(1e-40), ..options };
            calls.push((ragged, options, device, Kernel::Decode));
            calls.push((paged, options, device, Kernel::Decode));
            calls.push((shape, tiny, device, Kernel::Decode));
        }
    };
    (0..64).for_each(|flags| add((64, 64), 4, true, flags, PORTABLE));
    for (subgroup, shader_f16) in [(0, false), (32, false), (32, true)] {
        let device = Capabilities { subgroup, shader_f16, ..PORTABLE };
        for dims in DIMS {
            [0, 63].into_iter().for_each(|flags| add(dims, 4, true, flags, device));
        }
        [1, 2, 8].into_iter().for_each(|group| add((64, 64), group, true, 63, device));
        add((64, 64), 1, false, 63, device);
    }
    calls
}

/// The kernel of cooperative matrices: every combination of options, the dims, and the kinds of device. No adapter at
/// hand has matrices of 16 x 16: tests/gpu/sixteen.rs makes them of smaller ones, and here they are translated as they are.
fn matrix_calls() -> Vec<(AttentionShape, AttentionOptions, Capabilities, Kernel)> {
    let mut calls = Vec::new();
    let mut add = |(size, subgroup), dims: (usize, usize), len, aligned, flags, kib: u32| {
        let device = Capabilities {
            matrices: Some(Matrices { size, subgroup }),
            shader_f16: true,
            workgroup_memory: kib << 10,
            // Some may be smaller.
            subgroup: if kib == 64 { subgroup } else { subgroup / 2 },
            ..PORTABLE
        };
        let (shape, options) = call(dims, len, aligned, flags);
        let shape = AttentionShape { element: ElementType::F16, ..shape };
        let ragged = AttentionShape { kv_lens: Some(vec![len / 2]), ..shape.clone() };
        calls.push((shape.clone(), options, device, Kernel::ForwardMatrix));
        if flags == 63 {
            let pages = Some(PagedKeys::new(64, 10, 10));
            let paged = AttentionShape { key: Layout::Bhsd, pages, ..shape };
            calls.push((paged, options, device, Kernel::ForwardMatrix));
            calls.push((ragged, options, device, Kernel::ForwardMatrix));
            let (shape, _) = call(dims, len, aligned, flags);
            let shape = AttentionShape { element: ElementType::F16, lens: true, ..shape };
            calls.push((shape.clone(), options, device, Kernel::ForwardMatrix));
            let tiny = AttentionOptions { scale: Some(1e-40), ..options };
            calls.push((shape, tiny, device, Kernel::ForwardMatrix));
            // Keys past a binding are merged.
            let least = dims.0.max(dims.1) as u64 * 300;
            let device = Capabilities { binding_size: least, ..device };
            let (shape, options) = call(dims, 600, aligned, 0);
            let shape = AttentionShape { element: ElementType::F16, q_len: 20, ..shape };
            calls.push((shape, options, device, Kernel::ForwardMatrix));
        }
    };
    // NVIDIA and AMD, lavapipe, Apple.
    for kind in [(16, 32), (16, 64), (8, 8), (8, 32)] {
        for aligned in [false, true] {
            for dims in [(64, 64), (128, 128), (256, 256), (64, 128), (16, 16)] {
                [0, 63].into_iter().for_each(|flags| add(kind, dims, 300, aligned, flags, 64));
            }
        }
        for (dims, len) in [((64, 64), 4), ((128, 128), 20), ((128, 128), 300)] {
            add(kind, dims, len, true, 63, 16);
        }
        add(kind, (256, 256), 300, true, 63, 32);
    }
    for kind in [(16, 32), (8, 8)] {
        (0..64).for_each(|flags| add(kind, (64, 64), 300, true, flags, 32));
    }
    calls
}

fn call(
    (head_dim, value_dim): (usize, usize),
    len: usize,
    aligned: bool,
    flags: u32,
) -> (AttentionShape, AttentionOptions) {
    let on = |flag: u32| flags >> flag & 1 == 1;
    let shape = AttentionShape::new(1, 1, len, head_dim);
    let strides = Strides { offset: usize::from(!aligned), row: head_dim, ..Strides::default() };
    let asked = on(0).then_some(Layout::Bhsd);
    let shape = AttentionShape {
        value_dim,
        query: Layout::Strided(strides),
        lse: asked,
        mask: on(1).then_some(BroadcastLayout::Sizes([1, 1, len, len])),
        bias: on(2).then_some(BroadcastLayout::Sizes([1, 1, len, len])),
        raw_scores: on(6).then_some(Layout::Bhsd),
        capped_scores: on(6).then_some(Layout::Bhsd),
        masked_scores: on(6).then_some(Layout::Bhsd),
        alibi: on(3).then_some(AlibiLayout::PerHead),
        segments: on(5).then_some(SegmentLayout::Shared),
        // With and without each of the others, but not in all combinations: they know nothing of sinks.
        sinks: [0, 2, 4].into_iter().filter(|&flag| on(flag)).count() > 1,
        ..shape
    };
    (shape, AttentionOptions { softcap: on(4).then_some(20.0), ..AttentionOptions::default() })
}

/// What the layers around attention ask for besides.
fn layers() -> Vec<Variant> {
    let mut variants = Vec::new();
    for element in [ElementType::F32, ElementType::F16, ElementType::Bf16] {
        for (features, width) in [(8, 8), (8, 7), (7, 8), (7, 7)] {
            for (rows, bias) in [(8, None), (40, Some(0))] {
                let shape =
                    LinearShape { element, bias, ..LinearShape::new(rows, features, width) };
                for (shader_f16, processors) in [(false, 0), (true, 0), (false, 2), (true, 2)] {
                    let device = Capabilities { shader_f16, processors, ..PORTABLE };
                    variants.extend(LinearPlan::new(&shape, &device).unwrap().variants());
                }
            }
        }
    }
    // Fewer columns, of less memory.
    let small = Capabilities { workgroup_memory: 8 << 10, ..PORTABLE };
    variants.extend(LinearPlan::new(&LinearShape::new(8, 8, 8), &small).unwrap().variants());
    for head_dim in [4, 5] {
        let matrix = vec![0.0; 4 * head_dim * head_dim];
        let weights = MultiHeadWeights {
            embed_dim: 2 * head_dim,
            num_heads: 2,
            kdim: 2 * head_dim,
            vdim: 2 * head_dim,
            query: &matrix,
            key: &matrix,
            value: &matrix,
            in_bias: None,
            out: &matrix,
            out_bias: None,
            extra: None,
            add_zero_attn: false,
        };
        let shape =
            MultiHeadShape { weights: Some(HeadWeights::Mean), ..MultiHeadShape::new(1, 9) };
        variants.extend(MultiHeadPlan::new(&weights, &shape, &PORTABLE).unwrap().variants());
        for weights in [false, true] {
            let mask = Some(BroadcastLayout::Sizes([1; 4]));
            let shape = SelfAttentionShape { weights, mask, ..SelfAttentionShape::new(1, 9) };
            let plan = SelfAttentionPlan::new(2, head_dim, &shape, &PORTABLE).unwrap();
            variants.extend(plan.variants());
        }
    }
    // Those of attention are here already, with their own tiles.
    let own = [Entry::Linear, Entry::LinearTiled, Entry::HeadMean, Entry::UniformRows];
    variants.retain(|variant| own.contains(&variant.entry));
    variants
}

fn on_all_cores<T: Sync, U: Send>(items: &[T], work: impl Fn(&T) -> U + Sync) -> Vec<U> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let chunks = items.chunks(items.len().div_ceil(cores).max(1));
    std::thread::scope(|scope| {
        let workers: Vec<_> = chunks
            .map(|chunk| scope.spawn(|| chunk.iter().map(&work).collect::<Vec<U>>()))
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

fn needs_f16(variant: &Variant) -> bool {
    variant.entry.needs_matrices() || variant.storage.values().any(|storage| storage.needs_f16())
}

fn compile(variant: &Variant) -> (naga::Module, ModuleInfo) {
    let text = assemble(variant);
    let module = naga::front::wgsl::parse_str(&text)
        .unwrap_or_else(|error| panic!("{variant}: {}", error.emit_to_string(&text)));
    // Nothing but core WebGPU, and f16, subgroups and matrices where the plan was told that they are
    // there.
    use naga::valid::Capabilities as Allowed;
    let mut allowed = Allowed::empty();
    allowed.set(Allowed::SHADER_FLOAT16, needs_f16(variant));
    allowed.set(Allowed::SUBGROUP, variant.needs_subgroups());
    allowed.set(Allowed::COOPERATIVE_MATRIX, variant.entry.needs_matrices());
    let info = Validator::new(ValidationFlags::all(), allowed)
        .validate(&module)
        .unwrap_or_else(|error| panic!("{variant}: {}", error.emit_to_string(&text)));
    (module, info)
}

#[test]
fn every_kernel_option_and_storage_is_among_the_shaders() {
    for entry in Entry::ALL {
        let of_entry: Vec<&Variant> = SHADERS
            .iter()
            .map(|shader| &shader.variant)
            .filter(|variant| variant.entry == entry)
            .collect();
        assert!(!of_entry.is_empty(), "no plan asks for {}", entry.name());
        for name in of_entry[0].constants.keys() {
            let mut values: Vec<_> =
                of_entry.iter().map(|variant| variant.constants[name]).collect();
            values.sort_unstable();
            values.dedup();
            assert!(values.len() > 1, "{}: {name} {values:?}", entry.name());
        }
        // Tensors that are read: what is written may also be partial results.
        let storages = of_entry.iter().flat_map(|variant| &variant.storage);
        let storages = storages.filter(|(name, _)| **name != "out" || entry == Entry::Pack);
        let storages = storages.map(|(_, storage)| *storage);
        let storages: std::collections::BTreeSet<_> = storages.collect();
        let expected = match entry {
            Entry::Softmax | Entry::HeadMean | Entry::CacheLens | Entry::Join => 0,
            // Layers with f16 inside convert theirs; matrices are of f16 alone.
            Entry::Pack | Entry::UniformRows | Entry::AttentionForwardMatrix => 2,
            // Four elements are words, too.
            _ => 8,
        };
        assert_eq!(storages.len(), expected, "{}: {storages:?}", entry.name());
    }
}

#[test]
fn every_shader_translates_to_spirv() {
    use spv::Capability::{
        CooperativeMatrixKHR, Float16, GroupNonUniform, GroupNonUniformShuffle, Shader,
        StorageBuffer16BitAccess, VulkanMemoryModel,
    };
    let options = |capabilities: &[spv::Capability]| spv::Options {
        capabilities: Some(capabilities.iter().copied().collect()),
        bounds_check_policies: checked(),
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        ..spv::Options::default()
    };
    let plain = options(&[Shader]);
    let with_f16 = options(&[Shader, Float16, StorageBuffer16BitAccess]);
    let subgroups = [GroupNonUniform, GroupNonUniformShuffle];
    let with_subgroups = options(&[&[Shader], &subgroups[..]].concat());
    let with_both =
        options(&[&[Shader, Float16, StorageBuffer16BitAccess], &subgroups[..]].concat());
    let with_matrices = options(&[
        Shader,
        Float16,
        StorageBuffer16BitAccess,
        GroupNonUniform,
        GroupNonUniformShuffle,
        CooperativeMatrixKHR,
        VulkanMemoryModel,
    ]);
    on_all_cores(&SHADERS, |shader| {
        let options = match &shader.variant {
            variant if variant.entry.needs_matrices() => &with_matrices,
            variant => match (needs_f16(variant), variant.needs_subgroups()) {
                (true, true) => &with_both,
                (true, false) => &with_f16,
                (false, true) => &with_subgroups,
                (false, false) => &plain,
            },
        };
        let pipeline = spv::PipelineOptions {
            shader_stage: naga::ShaderStage::Compute,
            entry_point: shader.variant.entry.name().to_owned(),
        };
        let words = spv::write_vec(&shader.module, &shader.info, options, Some(&pipeline));
        assert!(words.is_ok(), "{}: {words:?}", shader.variant);
    });
}

#[test]
fn every_shader_translates_to_metal() {
    on_all_cores(&SHADERS, |shader| {
        let entry = shader.variant.entry;
        let mut resources =
            msl::EntryPointResources { sizes_buffer: Some(30), ..Default::default() };
        // As wgpu counts: the buffers of a layout, one after the other.
        let mut bindings: Vec<u32> = bindings(entry).map(|binding| binding.number).collect();
        bindings.extend([0, 11]);
        bindings.sort_unstable();
        for (slot, binding) in (0..).zip(bindings) {
            let target =
                msl::BindTarget { buffer: Some(slot), mutable: true, ..Default::default() };
            resources.resources.insert(naga::ResourceBinding { group: 0, binding }, target);
        }
        let options = msl::Options {
            lang_version: match (entry.needs_matrices(), shader.variant.needs_subgroups()) {
                (true, _) => (2, 3),
                (false, true) => (2, 1),
                (false, false) => (2, 0),
            },
            per_entry_point_map: [(entry.name().to_owned(), resources)].into(),
            fake_missing_bindings: false,
            bounds_check_policies: checked(),
            zero_initialize_workgroup_memory: false,
            force_loop_bounding: false,
            ..msl::Options::default()
        };
        let pipeline = msl::PipelineOptions::default();
        let (text, names) =
            msl::write_string(&shader.module, &shader.info, &options, &pipeline).unwrap();
        let name = names.entry_point_names[0].as_ref().unwrap();
        assert!(text.contains(&format!("kernel void {name}(")), "{}:\n{text}", shader.variant);
    });
}

#[test]
fn every_shader_translates_to_hlsl() {
    let options = |shader_model| hlsl::Options {
        shader_model,
        force_loop_bounding: false,
        ..hlsl::Options::default()
    };
    // What FXC takes, and for f16 and subgroups what DXC does.
    let (plain, of_dxc) = (options(hlsl::ShaderModel::V5_1), options(hlsl::ShaderModel::V6_2));
    let pipeline = hlsl::PipelineOptions::default();
    on_all_cores(&SHADERS, |shader| {
        // naga translates no matrices to it, and no adapter of DX12 offers them.
        if shader.variant.entry.needs_matrices() {
            return;
        }
        let mut text = String::new();
        let needs_dxc = needs_f16(&shader.variant) || shader.variant.needs_subgroups();
        let options = if needs_dxc { &of_dxc } else { &plain };
        let reflection = hlsl::Writer::new(&mut text, options, &pipeline)
            .write(&shader.module, &shader.info, None)
            .unwrap();
        let name = reflection.entry_point_names[0].as_ref().unwrap();
        assert!(text.contains(&format!("void {name}(")), "{}:\n{text}", shader.variant);
    });
}

/// For tools/dawn/run, which has the compiler of Chromium look at them. It knows no matrices: wgpu shows none in a browser.
#[test]
#[ignore = "writes the texts of all shaders for tools/dawn/run"]
fn shaders_are_written_for_dawn() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shaders");
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    let portable = SHADERS.iter().filter(|shader| !shader.variant.entry.needs_matrices());
    let mut written = 0;
    for (n, Shader { variant, .. }) in portable.enumerate() {
        let file = folder.join(format!("{n:04}-{}.wgsl", variant.entry.name()));
        // A line that naga refuses.
        let enables = if variant.needs_subgroups() { "enable subgroups;\n" } else { "" };
        fs::write(file, format!("// {variant}\n{enables}{}", assemble(variant))).unwrap();
        written += 1;
    }
    assert!(written > 500, "{written}");
    println!("{written} shaders are in {}", folder.display());
}

/// As wgpu has indices checked where the driver does not.
fn checked() -> BoundsCheckPolicies {
    let restrict = BoundsCheckPolicy::Restrict;
    BoundsCheckPolicies { index: restrict, buffer: restrict, ..BoundsCheckPolicies::default() }
}

/// `%` and `/` of negative numbers differ between drivers: the GL of software adapters gave other values than Vulkan.
#[test]
fn no_shader_divides_or_takes_the_remainder_of_a_signed_integer() {
    use naga::{BinaryOperator::Divide, BinaryOperator::Modulo, Expression, ScalarKind};
    for Shader { variant, module, info, .. } in SHADERS.iter() {
        let functions = module.functions.iter().map(|(at, function)| (&info[at], function));
        let entries = (0..).zip(&module.entry_points);
        let entries = entries.map(|(at, entry)| (info.get_entry_point(at), &entry.function));
        for (info, function) in functions.chain(entries) {
            for (at, expression) in function.expressions.iter() {
                if let Expression::Binary { op: Divide | Modulo, .. } = expression {
                    let kind = info[at].ty.inner_with(&module.types).scalar_kind();
                    assert_ne!(kind, Some(ScalarKind::Sint), "{variant}: {:?}", function.name);
                }
            }
        }
    }
}
