//! Nothing to do, very much to do, and devices that can do little at a time.

use crate::app::App;
use crate::cache::app;
use crate::case::{Case, PLAIN, check_tensor, full, shape};
use crate::device::gpu;
use crate::errors::text;
use crate::paged_cache::pool;
use wgpu_attention::cache::CacheTokens;
use wgpu_attention::check::Bounds;
use wgpu_attention::internal::Entry;
use wgpu_attention::layers::LinearShape;
use wgpu_attention::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, Capabilities, Gpu, Kernel, Layout,
    Problem, Strides, wgpu,
};

const CAUSAL: AttentionOptions = AttentionOptions { causal: true, ..PLAIN };

fn dispatches(gpu: &Gpu, case: &Case, kernel: Kernel) -> usize {
    let operator = gpu.attention_operator(&case.options).unwrap();
    let plan = operator.plan_kernel(&case.shape, Some(kernel)).unwrap();
    // Small tensors that are joined first are no part.
    plan.dispatches().iter().filter(|dispatch| dispatch.variant.entry != Entry::Join).count()
}

#[test]
fn lengths_of_zero_are_legal() {
    for (batch, q_len, kv_len) in
        [(0, 5, 5), (2, 0, 5), (2, 5, 0), (2, 0, 0), (0, 0, 0), (0, 5, 0), (0, 0, 5)]
    {
        for options in [PLAIN, CAUSAL, AttentionOptions { align: Align::BottomRight, ..CAUSAL }] {
            let plain = shape(batch, 2, q_len, kv_len, 8);
            let stored = Some(Layout::Bhsd);
            let with_all = AttentionShape {
                mask: Some(full(&plain)),
                bias: Some(full(&plain)),
                alibi: Some(AlibiLayout::PerBatchAndHead),
                weights: stored,
                raw_scores: stored,
                capped_scores: stored,
                masked_scores: stored,
                ..plain.clone()
            };
            for shape in [plain, with_all] {
                let case = Case::new(shape, options, 1);
                case.check();
                let found = case.run(gpu(), None);
                assert!(found.out.iter().all(|&x| x == 0.0), "{case}");
                let lse = found.lse.unwrap();
                assert_eq!(lse, vec![f32::NEG_INFINITY; batch * 2 * q_len], "{case}");
            }
        }
    }
}

#[test]
fn one_query_sees_65536_keys() {
    let case = Case::new(shape(1, 2, 1, 65_536, 8), PLAIN, 1);
    case.check();
    let grouped = AttentionShape { num_kv_heads: 1, ..shape(1, 4, 1, 65_536, 8) };
    Case::new(grouped, AttentionOptions { align: Align::BottomRight, ..CAUSAL }, 2).check();
}

#[test]
fn more_workgroups_than_an_axis_takes() {
    let most = gpu().capabilities().workgroups_per_axis;
    // 70,000 sequences; 70,000 heads; 70,000 rows, each a workgroup of the softmax.
    for (axis, shape) in [
        shape(70_000, 1, 1, 3, 4),
        shape(1, 70_000, 1, 3, 4),
        AttentionShape { num_kv_heads: 1, ..shape(1, 35_000, 2, 3, 4) },
        shape(1, 1, 70_000, 3, 4),
    ]
    .into_iter()
    .enumerate()
    {
        let case = Case::new(shape, CAUSAL, axis as u64);
        case.check();
        if most == 65_535 && axis < 2 {
            assert_eq!(dispatches(gpu(), &case, Kernel::Forward), 2, "{case}");
        }
    }
}

/// Calls that use everything that can be cut: sequences, heads that share keys, rows, and all that
/// counts from a row.
fn cases() -> Vec<Case> {
    let plain = AttentionShape { num_kv_heads: 5, ..shape(3, 10, 20, 60, 8) };
    let masked = AttentionShape {
        mask: Some(full(&plain)),
        bias: Some(full(&plain)),
        alibi: Some(AlibiLayout::PerBatchAndHead),
        sinks: true,
        ..plain.clone()
    };
    let band = AttentionOptions {
        softcap: Some(3.0),
        causal: true,
        window_left: Some(25),
        align: Align::BottomRight,
        ..PLAIN
    };
    let long = AttentionShape { num_kv_heads: 1, ..shape(2, 2, 200, 60, 8) };
    let odd = AttentionShape { value_dim: 3, ..shape(2, 3, 70, 50, 5) }.with_layout(Layout::Bshd);
    let stored = AttentionShape {
        weights: Some(Layout::Bhsd),
        masked_scores: Some(Layout::Bhsd),
        ..masked.clone()
    };
    vec![
        Case::new(plain, CAUSAL, 1),
        Case::new(masked, band, 2),
        Case::new(long, AttentionOptions { align: Align::Offset(-50), ..CAUSAL }, 3),
        Case::new(odd, AttentionOptions { window_left: Some(7), ..PLAIN }, 4),
        Case::new(stored, band, 5),
    ]
}

/// Runs `cases` on a device that is masked to `capabilities`; `cut` if they have to come in parts.
fn check_masked(cases: &[Case], capabilities: &Capabilities, cut: bool) {
    let gpu = gpu().masked(capabilities);
    let mut parts = 0;
    for case in cases {
        case.check_on(&gpu);
        let stores = Problem::new(&case.shape, &case.options).unwrap().stores_scores();
        if !stores {
            parts += dispatches(&gpu, case, Kernel::Forward) - 1;
        }
    }
    assert_eq!(parts > 0, cut, "{capabilities:?}");
}

#[test]
fn the_portable_tier_gives_the_same_answer() {
    check_masked(&cases(), &Capabilities::PORTABLE, false);
}

#[test]
fn a_device_with_few_workgroups_an_axis_takes_it_in_parts() {
    let few = Capabilities { workgroups_per_axis: 2, ..*gpu().capabilities() };
    check_masked(&cases(), &few, true);
}

#[test]
fn a_device_with_small_bindings_takes_it_in_parts() {
    let small = Capabilities { binding_size: 8 << 10, ..*gpu().capabilities() };
    check_masked(&cases(), &small, true);
    // Windows into a buffer start where the device lets them, so some begin before their first element.
    check_masked(&cases(), &Capabilities { storage_alignment: 256, ..small }, true);
}

#[test]
fn little_workgroup_memory_gives_the_same_answer() {
    for (bytes, head_dim) in [(16 << 10, 128), (5 << 10, 128), (5 << 10, 300)] {
        let little = Capabilities { workgroup_memory: bytes, ..*gpu().capabilities() };
        let case = Case::new(shape(1, 2, 35, 67, head_dim), CAUSAL, 1);
        case.check_on(&gpu().masked(&little));
    }
}

#[test]
fn parts_are_the_whole_to_the_bit() {
    let few = Capabilities { workgroups_per_axis: 2, ..*gpu().capabilities() };
    let few = gpu().masked(&few);
    for case in cases() {
        let kernel = Some(Kernel::ThreeStage);
        let (whole, parts) = (case.run(gpu(), kernel), case.run(&few, kernel));
        assert_eq!(whole, parts, "{case}");
        case.compare("parts", &parts, &case.expected(), &Bounds::F32);
    }
}

/// Three sequences that lie 80 MiB apart: no binding of core WebGPU's size reaches from the first to the
/// last.
#[test]
fn tensors_larger_than_a_binding_come_in_parts() {
    const APART: usize = 20 << 20;
    let packed = Case::new(shape(3, 2, 40, 33, 8), CAUSAL, 1);
    let sequence =
        |data: &[f32], batch: usize| data[batch * data.len() / 3..][..data.len() / 3].to_vec();
    let apart = |data: &[f32]| {
        let mut spread = vec![0.0; 2 * APART + data.len() / 3];
        for batch in 0..3 {
            spread[batch * APART..][..data.len() / 3].copy_from_slice(&sequence(data, batch));
        }
        spread
    };
    let mut spread = packed.clone();
    let layout =
        |len: usize| Layout::Strided(Strides { offset: 0, batch: APART, head: len * 8, row: 8 });
    (spread.shape.key, spread.shape.value) = (layout(33), layout(33));
    spread.shape.out = layout(40);
    spread.tensors.key = apart(&packed.tensors.key);
    spread.tensors.value = apart(&packed.tensors.value);
    if gpu().capabilities().binding_size == Capabilities::PORTABLE.binding_size {
        assert!(dispatches(gpu(), &spread, Kernel::Forward) > 1);
    }
    let expected = packed.expected().out;
    let found = spread.run(&gpu().masked(&Capabilities::PORTABLE), None).out;
    for batch in 0..3 {
        let (len, start) = (expected.len() / 3, batch * expected.len() / 3);
        let what = format!("sequence {batch}, {packed}");
        check_tensor(
            &what,
            &found[batch * APART..][..len],
            &expected[start..][..len],
            &Bounds::F32,
        );
    }
}

#[test]
fn a_pool_of_which_a_head_is_larger_than_a_binding_is_refused_where_it_is_made() {
    // A page of a head is 512 bytes; of three heads' pages not all start at a multiple of 2048.
    let few = Capabilities { binding_size: 6000, storage_alignment: 2048, ..*gpu().capabilities() };
    let few = gpu().masked(&few);
    let shape = |pages| pool([3, 16, pages, 8]);
    let says = "this device's bytes of one storage binding: expected at least 7680 for one head of \
                a pool of 13 pages, found 6000, in which 9 pages fit";
    assert_eq!(text(few.paged_kv_cache(&shape(13), None)), says);
    for pages in 10..20 {
        assert!(few.paged_kv_cache(&shape(pages), None).is_err(), "{pages}");
    }
    // All that fit are read.
    let mut cache = few.paged_kv_cache(&shape(9), None).unwrap();
    let sequence = cache.add();
    let app = app(&few);
    let [key, value, query, out] = [16 * 8 * 3; 4].map(|len| app.output(len));
    let mut encoder = app.encoder();
    cache.append(&mut encoder, &[sequence], &CacheTokens::new(&key, &value, 16)).unwrap();
    let batch = cache.batch(&mut encoder, &[sequence]).unwrap();
    let attention = few.attention_operator(&PLAIN).unwrap();
    let plan = attention.plan(&batch.shape(3, 1)).unwrap();
    attention.encode(&mut encoder, &plan, &batch.buffers(&query, &out)).unwrap();
    app.submit(encoder);
}

/// A device that was opened with less than WebGPU's defaults.
#[test]
fn bindings_that_do_not_fit_are_refused_when_planned() {
    let shape = AttentionShape::new(1, 2, 9, 8);
    let adapter = {
        let app = App::open();
        let wanted = gpu().adapter_info();
        let all = pollster::block_on(app.instance.enumerate_adapters(wanted.backend.into()));
        all.into_iter().find(|adapter| adapter.get_info().name == wanted.name).unwrap()
    };
    let plain = wgpu::Limits::default();
    for (required_limits, says) in [
        (
            wgpu::Limits { max_uniform_buffer_binding_size: 256, ..plain.clone() },
            "bytes of one uniform binding: expected at least 16384, found 256",
        ),
        (
            wgpu::Limits { max_dynamic_uniform_buffers_per_pipeline_layout: 1, ..plain.clone() },
            "dynamic uniform buffers per pipeline layout: expected at least 2, found 1",
        ),
        (
            wgpu::Limits { max_bindings_per_bind_group: 13, ..plain.clone() },
            "bindings of a group: expected at least 14, found 13",
        ),
    ] {
        let opened = adapter
            .request_device(&wgpu::DeviceDescriptor { required_limits, ..Default::default() });
        let (device, queue) = pollster::block_on(opened).unwrap();
        let gpu = Gpu::from_device(&device, &queue);
        let refused = text(gpu.attention_operator(&PLAIN).unwrap().plan(&shape));
        assert_eq!(refused, format!("this device's {says}"));
        let linear = gpu.linear_operator().plan(&LinearShape::new(3, 8, 8));
        assert_eq!(text(linear), format!("this device's {says}"));
    }
}
