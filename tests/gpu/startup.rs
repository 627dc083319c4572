//! How pipelines come to be: on several threads, each once, and from what an earlier run compiled.

use crate::case::{Case, PLAIN, shape};
use crate::device::gpu;
use std::collections::HashSet;
use std::thread;
use wgpu_attention::internal::Variant;
use wgpu_attention::{
    AlibiLayout, AttentionOptions, AttentionShape, BroadcastLayout, Capabilities, CuSeqlens,
    ElementType, Error, Gpu, Kernel, Layout, PagedKeys, Plan, SegmentLayout,
};

/// Three stages, and so three pipelines at least.
fn case() -> Case {
    let shape = AttentionShape { weights: Some(Layout::Bhsd), ..shape(1, 2, 9, 20, 8) };
    Case::new(shape, PLAIN, 1)
}

/// The shared device, with no pipelines yet.
pub(crate) fn fresh() -> Gpu {
    Gpu::with_capabilities(gpu().device(), gpu().queue(), *gpu().capabilities())
}

fn plan(gpu: &Gpu, case: &Case) -> Plan {
    let operator = gpu.attention_operator(&case.options).unwrap();
    operator.plan_kernel(&case.shape, Some(Kernel::ThreeStage)).unwrap()
}

#[test]
fn threads_that_prepare_one_plan_compile_each_variant_once() {
    let (gpu, case) = (fresh(), case());
    let plan = plan(&gpu, &case);
    let variants: HashSet<&Variant> = plan.dispatches().iter().map(|one| &one.variant).collect();
    assert!(variants.len() >= 3, "{plan}");
    let operator = gpu.attention_operator(&case.options).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| operator.prepare_blocking(&plan).unwrap());
        }
    });
    assert_eq!(operator.footprint().pipelines, variants.len());
    assert_eq!(case.verdict_of(&gpu), Ok(()));
    operator.prepare_blocking(&plan).unwrap();
}

#[test]
fn of_shaders_compiled_together_the_broken_one_is_named() {
    let case = case();
    let gpu = fresh().broken("fn softmax(", "fn softmax(nonsense");
    let operator = gpu.attention_operator(&case.options).unwrap();
    let plan = plan(&gpu, &case);
    for _ in 0..2 {
        match operator.prepare_blocking(&plan) {
            Err(Error::Shader { pipeline, message }) => {
                assert!(pipeline.starts_with("softmax"), "{pipeline}: {message}");
            }
            other => panic!("expected an error of the shader, found {other:?}"),
        }
    }
    // The others are there, and it is not.
    let variants: HashSet<&Variant> = plan.dispatches().iter().map(|one| &one.variant).collect();
    assert_eq!(operator.footprint().pipelines, variants.len() - 1);
}

#[test]
fn lower_limits_and_other_texts_share_what_is_the_same() {
    let (gpu, case) = (fresh(), case());
    let weights = |gpu: &Gpu| case.run(gpu, Some(Kernel::ThreeStage)).weights;
    let pipelines =
        |gpu: &Gpu| gpu.attention_operator(&case.options).unwrap().footprint().pipelines;
    let all = plan(&gpu, &case).variants().len();
    let broken = gpu.broken("- finish.m) * finish", "- finish.m) * 1.01 * finish");
    let wrong = weights(&broken);
    // The text of one stage differs: the others are there.
    assert_eq!((pipelines(&broken), pipelines(&gpu)), (all, all - 1));
    let expected = weights(&gpu);
    assert_ne!(wrong, expected);
    assert_eq!(weights(&broken), wrong);
    let lower = gpu.masked(&Capabilities { dispatch_work: 1 << 30, ..*gpu.capabilities() });
    assert_eq!(pipelines(&lower), all);
    assert_eq!(weights(&lower), expected);
    // Changed once more where there is nothing to find it is as wrong as before.
    assert_ne!(weights(&broken.broken("no shader says this", "nor this")), expected);
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "pipeline caches are Vulkan's")]
fn pipelines_of_an_earlier_run_give_the_same_bits() {
    let (cold, case) = (fresh(), case());
    let expected = case.run(&cold, None);
    let data = cold.pipeline_cache_data().unwrap();
    let warm = cold.with_pipeline_cache(&data).unwrap();
    assert_eq!(warm.attention_operator(&case.options).unwrap().footprint().pipelines, 0);
    assert_eq!(case.run(&warm, None), expected);
    // And so it goes on.
    let again = warm.pipeline_cache_data().unwrap();
    assert_eq!(case.run(&cold.with_pipeline_cache(&again).unwrap(), None), expected);
}

#[test]
#[cfg(not(target_os = "linux"))]
fn where_there_are_no_pipeline_caches_their_use_is_refused() {
    let gpu = gpu();
    assert!(gpu.pipeline_cache_data().is_none());
    let refused = gpu.with_pipeline_cache(&[]);
    assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "pipeline caches are Vulkan's")]
fn damaged_or_foreign_cache_data_are_refused() {
    let gpu = fresh();
    let data = gpu.pipeline_cache_data().unwrap();
    let refused = |damaged: &[u8]| match gpu.with_pipeline_cache(damaged) {
        Err(error @ Error::Invalid { .. }) => {
            assert!(error.to_string().contains(&format!("{} other bytes", damaged.len())));
        }
        other => panic!("{} bytes: {other:?}", damaged.len()),
    };
    for at in 0..data.len() {
        let mut damaged = data.clone();
        damaged[at] ^= 1;
        refused(&damaged);
    }
    refused(&[]);
    refused(&data[1..]);
    refused(&data[..data.len() - 1]);
    refused(&[&data[..], &[0]].concat());
    refused(&[0; 4096]);
    assert!(gpu.with_pipeline_cache(&data).is_ok());
}

/// Whatever its shaders read, it finds nothing to do, ends, and leaves the device as it was.
#[test]
fn every_kind_of_plan_is_warmed_up() {
    let stored = Some(Layout::Bhsd);
    let plain = shape(2, 2, 40, 70, 16);
    let full = Some(BroadcastLayout::Sizes([2, 2, 40, 70]));
    let starts = CuSeqlens { query: vec![0, 9, 40], key: vec![0, 30, 70] };
    let shapes = [
        plain.clone(),
        AttentionShape { weights: stored, raw_scores: stored, ..plain.clone() },
        AttentionShape { weights: stored, kv_lens: Some(vec![70, 3]), ..plain.clone() },
        AttentionShape { lens: true, sinks: true, ..plain.clone() },
        AttentionShape { pages: Some(PagedKeys::new(16, 9, 5)), ..plain.clone() },
        AttentionShape {
            mask: full,
            bias: full,
            alibi: Some(AlibiLayout::PerHead),
            ..plain.clone()
        },
        AttentionShape { segments: Some(SegmentLayout::PerSide), ..plain.clone() },
        AttentionShape { batch: 1, cu_seqlens: Some(starts), ..plain.clone() },
        AttentionShape { element: ElementType::F16, ..plain.clone() },
        AttentionShape { element: ElementType::Bf16, head_dim: 7, value_dim: 5, ..plain },
    ];
    let causal = AttentionOptions { causal: true, window_left: Some(20), ..PLAIN };
    let mut count = 0;
    for options in [PLAIN, causal] {
        let operator = gpu().attention_operator(&options).unwrap();
        for shape in &shapes {
            for kernel in Kernel::ALL {
                if let Ok(plan) = operator.plan_kernel(shape, Some(kernel)) {
                    operator
                        .warm_up_blocking(&plan)
                        .unwrap_or_else(|error| panic!("{plan}: {error}"));
                    count += 1;
                }
            }
        }
    }
    assert!(count >= 60, "{count}");
    case().check_on(gpu());
}

#[test]
fn workspace_is_given_back_and_made_anew() {
    // Scores that nobody keeps.
    let (gpu, case) = (fresh(), Case::new(shape(1, 2, 9, 20, 8), PLAIN, 1));
    let expected = case.run(&gpu, Some(Kernel::ThreeStage));
    let grown = gpu.footprint().workspace;
    let operator = gpu.attention_operator(&case.options).unwrap();
    assert_eq!(grown, 2 * 9 * 20 * 4);
    gpu.release_workspace();
    assert_eq!((gpu.footprint().workspace, operator.footprint().workspace), (0, 0));
    assert_eq!(case.run(&gpu, Some(Kernel::ThreeStage)), expected);
    assert_eq!(gpu.footprint().workspace, grown);
}
