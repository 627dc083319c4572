//! HOW: which kernel and shaders a plan picks, and what it says of them.

use crate::replay::assert_covers_its_problem;
use wgpu_attention::internal::{Entry, Storage, Tensor};
use wgpu_attention::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, BroadcastLayout, Capabilities,
    ElementType, Error, Kernel, Layout, Matrices, Plan, Problem, SegmentLayout,
};

pub(crate) const PORTABLE: Capabilities = Capabilities::PORTABLE;

/// Two sequences, four query heads on two key/value heads, 100 queries, 70 keys, 64 columns.
pub(crate) fn ordinary() -> AttentionShape {
    AttentionShape { num_kv_heads: 2, kv_len: 70, ..AttentionShape::new(2, 4, 100, 64) }
}

pub(crate) fn planned(shape: &AttentionShape, capabilities: &Capabilities) -> Result<Plan, Error> {
    planned_as(None, shape, capabilities)
}

pub(crate) fn planned_as(
    kernel: Option<Kernel>,
    shape: &AttentionShape,
    capabilities: &Capabilities,
) -> Result<Plan, Error> {
    let problem = Problem::new(shape, &AttentionOptions::default())?;
    Plan::new(problem, capabilities, kernel)
}

fn three_stage(shape: &AttentionShape) -> Plan {
    planned_as(Some(Kernel::ThreeStage), shape, &PORTABLE).unwrap()
}

#[track_caller]
pub(crate) fn assert_unsupported(result: Result<Plan, Error>, message: &str) {
    match result {
        Ok(plan) => panic!("planned {} dispatches", plan.dispatches().len()),
        Err(error) => {
            assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
            assert_eq!(error.to_string(), format!("this device's {message}"));
        }
    }
}

#[test]
fn attention_is_fused_unless_its_scores_are_asked_for() {
    let plan = planned(&ordinary(), &PORTABLE).unwrap();
    assert_eq!(plan.kernel, Kernel::Tiled);
    assert_eq!(plan.dispatches().len(), 1);
    assert_eq!(plan.workspace(), 0);
    let asked = Some(Layout::Bhsd);
    for (shape, tensor) in [
        (AttentionShape { raw_scores: asked, ..ordinary() }, Tensor::RawScores),
        (AttentionShape { capped_scores: asked, ..ordinary() }, Tensor::CappedScores),
        (AttentionShape { masked_scores: asked, ..ordinary() }, Tensor::MaskedScores),
        // With the weights the matrix is the caller's.
        (
            AttentionShape { weights: asked, masked_scores: asked, ..ordinary() },
            Tensor::MaskedScores,
        ),
    ] {
        let plan = planned(&shape, &PORTABLE).unwrap();
        assert_eq!(plan.kernel, Kernel::ThreeStage);
        let entries: Vec<Entry> =
            plan.dispatches().iter().map(|dispatch| dispatch.variant.entry).collect();
        use Entry::{ScoresTiled, Softmax, WeightedSumTiled};
        let expected = [ScoresTiled, ScoresTiled, Softmax, WeightedSumTiled];
        assert_eq!(entries, expected);
        let stored = plan.dispatches()[0].bound.iter().find(|bound| bound.name == "weights");
        assert_eq!(stored.unwrap().tensor, tensor);
        assert_eq!(plan.workspace() == 0, shape.weights.is_some(), "{tensor:?}");
    }
}

#[test]
fn weights_are_a_second_pass_over_the_keys() {
    let asked = Some(Layout::Bhsd);
    let lse_bound = |plan: &Plan, at: usize| {
        let bound = plan.dispatches()[at].bound.iter();
        bound
            .map(|bound| bound.tensor)
            .filter(|t| [Tensor::Lse, Tensor::Sums].contains(t))
            .collect()
    };
    for (lse, expected) in [(None, vec![Tensor::Sums]), (asked, vec![Tensor::Sums, Tensor::Lse])] {
        let shape = AttentionShape { weights: asked, lse, ..ordinary() };
        let plan = planned(&shape, &PORTABLE).unwrap();
        assert_eq!(plan.kernel, Kernel::Tiled);
        let entries: Vec<Entry> = plan.dispatches().iter().map(|d| d.variant.entry).collect();
        assert_eq!(entries, [Entry::AttentionTiled, Entry::ScoresTiled]);
        // A maximum and a sum for each of 2 x 4 x 100 rows, which the first writes and the second reads.
        assert_eq!(plan.workspace(), 2 * 4 * 100 * 2 * 4);
        let found: [Vec<Tensor>; 2] = [lse_bound(&plan, 0), lse_bound(&plan, 1)];
        assert_eq!(found, [vec![Tensor::Sums], expected]);
        // 70 keys are no multiple of the four that are stored at once on a software adapter.
        let plan = planned(&shape, &SOFTWARE).unwrap();
        assert_eq!(plan.dispatches()[1].variant.storage["weights"], Storage::F32);
    }
    let even = AttentionShape { weights: asked, kv_len: 72, ..ordinary() };
    let plan = planned(&even, &SOFTWARE).unwrap();
    assert_eq!(plan.dispatches()[1].variant.storage["weights"], Storage::F32x4);
    let wide = AttentionShape { weights: asked, value_dim: 129, ..ordinary() };
    assert_eq!(planned(&wide, &PORTABLE).unwrap().kernel, Kernel::Tiled);
    let wide = AttentionShape { value_dim: 257, ..wide };
    assert_eq!(planned(&wide, &SOFTWARE).unwrap().kernel, Kernel::ThreeStage);
}

const SOFTWARE: Capabilities = Capabilities { processors: 2, ..PORTABLE };

/// A GPU has one kernel for all dims. A software adapter, and a device below the limits of any GPU, has another for
/// long ones.
#[test]
fn long_dims_take_the_wide_kernel_where_no_gpu_is() {
    let small = Capabilities { workgroup_memory: 8 << 10, ..PORTABLE };
    for (head_dim, value_dim, device, kernel) in [
        (128, 128, PORTABLE, Kernel::Tiled),
        (129, 64, PORTABLE, Kernel::Tiled),
        (1 << 20, 1, PORTABLE, Kernel::Tiled),
        (1, 1 << 20, PORTABLE, Kernel::Tiled),
        (128, 128, small, Kernel::Forward),
        (129, 64, small, Kernel::ForwardWide),
        (64, 129, small, Kernel::ForwardWide),
        (1 << 20, 1, small, Kernel::ForwardWide),
        (256, 256, SOFTWARE, Kernel::Forward),
        (257, 64, SOFTWARE, Kernel::ForwardWide),
    ] {
        let shape = AttentionShape { head_dim, value_dim, kv_len: 5, ..ordinary() };
        assert_eq!(planned(&shape, &device).unwrap().kernel, kernel, "{head_dim} {value_dim}");
    }
}

#[test]
fn a_kernel_that_is_asked_for_is_taken_or_refused_by_name() {
    for kernel in Kernel::PORTABLE {
        let plan = planned_as(Some(kernel), &ordinary(), &PORTABLE).unwrap();
        assert_eq!(plan.kernel, kernel);
        // The scores of 2 x 4 x 100 x 70 pairs, contiguous.
        let scores = 4 * 2 * 4 * 100 * 70;
        // Two parts of the keys, with an out of 64 columns, a maximum and a sum for each row.
        let partial = 4 * 2 * 2 * 4 * 100 * 66;
        let expected = match kernel {
            Kernel::ThreeStage => scores,
            Kernel::Decode => partial,
            _ => 0,
        };
        assert_eq!(plan.workspace(), expected);
    }
    let wide = AttentionShape { value_dim: 129, ..ordinary() };
    let kept = AttentionShape { weights: Some(Layout::Bhsd), ..ordinary() };
    let no_wide = "tiled, forward-wide, decode or three-stage, as a dim is too long";
    let no_weights = "forward, tiled, decode or three-stage, as weights are asked for";
    let no_scores = "three-stage, as scores are asked for, or weights of long dims";
    let wide_kept = AttentionShape { value_dim: 257, ..kept.clone() };
    let shown = AttentionShape { raw_scores: Some(Layout::Bhsd), ..ordinary() };
    for (shape, device, kernel, expected) in [
        (wide, PORTABLE, Kernel::Forward, no_wide),
        (kept, PORTABLE, Kernel::ForwardWide, no_weights),
        (wide_kept.clone(), PORTABLE, Kernel::ForwardWide, no_weights),
        (wide_kept.clone(), SOFTWARE, Kernel::ForwardWide, no_scores),
        (wide_kept, SOFTWARE, Kernel::Decode, no_scores),
        (shown.clone(), PORTABLE, Kernel::Forward, no_scores),
        (shown, PORTABLE, Kernel::Decode, no_scores),
    ] {
        let error = planned_as(Some(kernel), &shape, &device).unwrap_err();
        assert!(error.is_invalid());
        let found = kernel.name();
        assert_eq!(error.to_string(), format!("kernel: expected {expected}, found {found}"));
    }
}

#[test]
fn without_keys_nothing_is_stored() {
    let asked = Some(Layout::Bhsd);
    let shape = AttentionShape {
        kv_len: 0,
        weights: asked,
        masked_scores: asked,
        lse: asked,
        mask: Some(BroadcastLayout::Sizes([1, 1, 100, 0])),
        ..ordinary()
    };
    for (asked, kernel) in [
        (None, Kernel::Tiled),
        (Some(Kernel::Forward), Kernel::Forward),
        (Some(Kernel::ForwardWide), Kernel::ForwardWide),
        (Some(Kernel::ThreeStage), Kernel::ForwardWide),
    ] {
        let plan = planned_as(asked, &shape, &PORTABLE).unwrap();
        assert_eq!(plan.kernel, kernel);
        assert_eq!(plan.workspace(), 0);
        let [dispatch] = plan.dispatches() else { panic!("{:?}", plan.dispatches()) };
        let bound: Vec<Tensor> = dispatch.bound.iter().map(|bound| bound.tensor).collect();
        assert_eq!(bound, [Tensor::Query, Tensor::Out, Tensor::Lse]);
    }
}

#[test]
fn without_rows_nothing_is_dispatched() {
    for kernel in [None, Some(Kernel::ThreeStage)] {
        for shape in [
            AttentionShape { batch: 0, ..ordinary() },
            AttentionShape { q_len: 0, ..ordinary() },
            AttentionShape { batch: 0, q_len: 0, kv_len: 0, ..ordinary() },
        ] {
            let plan = planned_as(kernel, &shape, &PORTABLE).unwrap();
            assert!(plan.dispatches().is_empty() && plan.variants().is_empty());
            assert_eq!(plan.workspace(), 0);
        }
    }
}

#[test]
fn lengths_causality_and_windows_need_no_new_shader() {
    let asked = Some(Layout::Bhsd);
    let shape = |batch, q_len, kv_len| AttentionShape {
        batch,
        q_len,
        kv_len,
        lse: asked,
        mask: Some(BroadcastLayout::Sizes([1, 1, 1, kv_len])),
        ..ordinary()
    };
    for kernel in Kernel::PORTABLE {
        let variants = |shape: &AttentionShape, options: &AttentionOptions| {
            let problem = Problem::new(shape, options).unwrap();
            Plan::new(problem, &PORTABLE, Some(kernel)).unwrap().variants()
        };
        let first = variants(&shape(1, 33, 1), &AttentionOptions::default());
        let expected = match kernel {
            Kernel::ThreeStage => 3,
            Kernel::Decode => 2,
            _ => 1,
        };
        assert_eq!(first.len(), expected);
        let options = AttentionOptions {
            causal: true,
            window_left: Some(9),
            window_keeps: 4,
            window_right: Some(3),
            scale: Some(0.3),
            ..AttentionOptions::default()
        };
        // The last is cut into many parts.
        for (batch, q_len, kv_len) in [(1, 64, 64), (3, 257, 4097), (2, 1 << 19, 999)] {
            assert_eq!(variants(&shape(batch, q_len, kv_len), &options), first);
        }
    }
}

#[test]
fn a_shader_knows_only_what_concerns_it() {
    let sizes = Some(BroadcastLayout::Sizes([1, 1, 1, 70]));
    let bare = AttentionShape { value_dim: 128, ..ordinary() };
    let full = AttentionShape {
        lse: Some(Layout::Bhsd),
        mask: sizes,
        bias: sizes,
        alibi: Some(AlibiLayout::PerHead),
        ..bare.clone()
    };
    let capped = AttentionOptions { softcap: Some(9.0), ..AttentionOptions::default() };
    let name = |shape: &AttentionShape, options: &AttentionOptions, kernel, entry: Entry| {
        let problem = Problem::new(shape, options).unwrap();
        let variants = Plan::new(problem, &PORTABLE, Some(kernel)).unwrap().variants();
        variants.into_iter().find(|variant| variant.entry == entry).unwrap().to_string()
    };
    for (kernel, entry, flags, foreign) in [
        (
            Kernel::Forward,
            Entry::AttentionForward,
            vec!["has_alibi", "has_bias", "has_softcap"],
            "hidden",
        ),
        (
            Kernel::ForwardWide,
            Entry::AttentionForwardWide,
            vec!["has_alibi", "has_bias", "has_softcap"],
            "hidden",
        ),
        (
            Kernel::ThreeStage,
            Entry::ScoresTiled,
            vec!["has_alibi", "has_bias", "has_softcap"],
            "value",
        ),
        (Kernel::ThreeStage, Entry::Softmax, vec![], "dim"),
        (Kernel::ThreeStage, Entry::WeightedSumTiled, vec!["has_bias"], "head"),
    ] {
        let unused = name(&bare, &AttentionOptions::default(), kernel, entry);
        assert!(!unused.contains("has_"), "{unused}");
        let used = name(&full, &capped, kernel, entry);
        let found: Vec<&str> = used.split('/').filter(|part| part.starts_with("has_")).collect();
        assert_eq!(found, flags, "{used}");
        let rest: Vec<&str> = used.split('/').filter(|part| !part.starts_with("has_")).collect();
        assert_eq!(rest.join("/"), unused);
        assert!(!used.contains(foreign), "{used}");
    }
}

#[test]
fn a_plan_says_what_runs_and_why() {
    let plan = planned(&ordinary(), &PORTABLE).unwrap();
    assert_eq!(
        plan.to_string(),
        format!(
            "kernel      tiled (nothing asks for scores)\n\
             tiles       64 rows x 64 keys; 128 threads, each 8 rows and 4 keys at a time\n\
             columns     16 of head_dim 64 and 64 of value_dim 64 at a time\n\
             hidden      no key\n\
             rows        2 query heads share each key head's tiles\n\
             dispatches  {} of 4 x 2 x 2 workgroups\n\
             memory      10512 bytes of workgroup memory, 0 bytes of workspace",
            plan.dispatches()[0].variant
        )
    );
    let text = three_stage(&AttentionShape::new(1, 1, 10, 130)).to_string();
    for part in [
        "kernel      three-stage (it was asked for)",
        "16 of head_dim 130 and 192 of value_dim 130",
        " of 1 x 1 x 1 workgroups, 2 more\n",
        "400 bytes of workspace",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains("share"), "{text}");
    let empty = three_stage(&AttentionShape::new(0, 1, 10, 4)).to_string();
    assert!(empty.contains("dispatches  none: there is nothing to compute\n"), "{empty}");
}

/// A GPU with matrices of this size.
fn with_matrices(size: u32) -> Capabilities {
    let matrices = Some(Matrices { size, subgroup: 32 });
    Capabilities { matrices, shader_f16: true, workgroup_memory: 48 << 10, ..PORTABLE }
}

fn of_f16(head_dim: usize, value_dim: usize) -> AttentionShape {
    AttentionShape { element: ElementType::F16, head_dim, value_dim, ..ordinary() }
}

#[test]
fn hardware_with_matrices_takes_them_for_f16_and_dims_that_fit() {
    let matrix = Kernel::ForwardMatrix;
    for (device, shape, kernel) in [
        (with_matrices(16), of_f16(64, 128), matrix),
        (with_matrices(16), of_f16(256, 256), matrix),
        (with_matrices(8), of_f16(72, 8), matrix),
        (with_matrices(16), of_f16(72, 64), Kernel::Tiled),
        (with_matrices(16), of_f16(272, 64), Kernel::Tiled),
        (with_matrices(16), ordinary(), Kernel::Tiled),
        (
            with_matrices(16),
            AttentionShape { element: ElementType::Bf16, ..ordinary() },
            Kernel::Tiled,
        ),
        (PORTABLE, of_f16(64, 64), Kernel::Tiled),
        (Capabilities { processors: 2, ..with_matrices(8) }, of_f16(64, 64), Kernel::Forward),
        (Capabilities { shader_f16: false, ..with_matrices(8) }, of_f16(64, 64), Kernel::Tiled),
        (
            Capabilities { workgroup_memory: 4 << 10, ..with_matrices(16) },
            of_f16(64, 64),
            Kernel::Forward,
        ),
        (with_matrices(16).masked(&with_matrices(8)), of_f16(64, 64), Kernel::Tiled),
    ] {
        let plan = planned(&shape, &device).unwrap();
        assert_eq!(plan.kernel, kernel, "{shape:?} {device:?}");
        assert_covers_its_problem(&plan);
    }
    // Asked for, a CPU that plays the GPU multiplies matrices too.
    let software = Capabilities { processors: 2, ..with_matrices(8) };
    assert_eq!(planned_as(Some(matrix), &of_f16(64, 64), &software).unwrap().kernel, matrix);
    assert_eq!(PORTABLE.matrices, None);
}

#[test]
fn matrices_that_are_asked_for_and_cannot_be_had_are_refused() {
    let refused = |shape: &AttentionShape, device: &Capabilities| {
        planned_as(Some(Kernel::ForwardMatrix), shape, device).unwrap_err()
    };
    let error = refused(&of_f16(64, 72), &with_matrices(16));
    let expected = "another, or dims that are multiples of 16 up to 256";
    assert!(error.is_invalid());
    assert_eq!(
        error.to_string(),
        format!("kernel: expected {expected}, found forward-matrix of 64 and 72")
    );
    let error = refused(&ordinary(), &with_matrices(16)).to_string();
    assert_eq!(error, "kernel: expected another, or elements of f16, found forward-matrix of f32");
    let error = refused(&of_f16(64, 64), &PORTABLE);
    assert!(!error.is_invalid());
    assert!(error.to_string().contains("cooperative matrices: expected"), "{error}");
}

#[test]
fn tiles_of_matrices_fit_the_workgroup_memory_there_is() {
    let tiles = |kib: u32, q_len| {
        let device = Capabilities { workgroup_memory: kib << 10, ..with_matrices(16) };
        let shape = AttentionShape { q_len, num_heads: 2, ..of_f16(128, 128) };
        planned_as(Some(Kernel::ForwardMatrix), &shape, &device).unwrap().tiles
    };
    assert_eq!(tiles(48, 300).to_string(), "8 subgroups of 32 threads, each 16 rows");
    for (kib, q_len, rows) in
        [(48, 300, 128), (28, 300, 64), (20, 300, 32), (16, 300, 16), (48, 20, 32), (48, 1, 16)]
    {
        let tiles = tiles(kib, q_len).size();
        assert_eq!((tiles.rows, tiles.threads), (rows, 2 * rows), "{tiles:?}");
        assert!(tiles.workgroup_bytes <= kib << 10, "{tiles:?}");
    }
}

#[test]
fn a_plan_says_what_hides_keys() {
    let o = AttentionOptions::default;
    let shape = AttentionShape { kv_len: 90, ..AttentionShape::new(2, 2, 20, 8) };
    let says = |shape: &AttentionShape, options: &AttentionOptions| {
        let plan = Plan::new(Problem::new(shape, options).unwrap(), &PORTABLE, None).unwrap();
        let text = plan.to_string();
        let line = text.lines().find_map(|line| line.strip_prefix("hidden      "));
        line.unwrap_or_default().to_owned()
    };
    assert_eq!(says(&shape, &o()), "no key");
    let causal = AttentionOptions { causal: true, ..o() };
    assert_eq!(says(&shape, &causal), "by causal, counted from the first key");
    let all = AttentionOptions {
        window_left: Some(30),
        window_keeps: 4,
        window_right: Some(2),
        align: Align::BottomRight,
        ..causal
    };
    let masked = AttentionShape {
        mask: Some(BroadcastLayout::Sizes([1, 1, 20, 90])),
        bias: Some(BroadcastLayout::Sizes([1, 1, 20, 90])),
        segments: Some(SegmentLayout::PerSide),
        ..shape.clone()
    };
    assert_eq!(
        says(&masked, &all),
        "by causal, window_left 30 but the first 4, window_right 2, counted from the last key (offset 70), \
         segments, mask, bias where -inf"
    );
    let window = AttentionOptions { window_left: Some(0), align: Align::Offset(-3), ..o() };
    let ragged = AttentionShape { kv_lens: Some(vec![90, 7]), ..shape.clone() };
    assert_eq!(says(&ragged, &window), "by window_left 0, counted from key -3, kv_lens");
    let bottom = AttentionOptions { align: Align::BottomRight, ..causal };
    let found = AttentionShape { lens: true, ..shape.clone() };
    assert_eq!(says(&found, &bottom), "by causal, counted from the last key, lens");
    assert_eq!(says(&found, &o()), "by lens");
}
