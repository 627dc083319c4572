//! A problem that is too large for one dispatch is cut into parts, and the parts are the problem.

use crate::plan::{PORTABLE, assert_unsupported, planned, planned_as};
use crate::replay::assert_covers_its_problem;
use wgpu_attention::internal::{Entry, Params, Tensor};
use wgpu_attention::layers::{
    AdditivePlan, AdditiveShape, LinearPlan, LinearShape, PositionalPlan, PositionalShape,
    TableRows,
};
use wgpu_attention::{
    AlibiLayout, AttentionOptions, AttentionShape, BroadcastLayout, Capabilities, CuSeqlens,
    ElementType, Kernel, Layout, Plan, Problem, Strides,
};

fn axis(workgroups_per_axis: u32) -> Capabilities {
    Capabilities { workgroups_per_axis, ..PORTABLE }
}

fn bindings(binding_size: u64) -> Capabilities {
    Capabilities { binding_size, ..PORTABLE }
}

fn grids(plan: &Plan) -> Vec<[u32; 3]> {
    plan.dispatches().iter().map(|dispatch| dispatch.grid).collect()
}

#[test]
fn a_grid_that_is_too_long_is_cut_along_that_axis_alone() {
    let one = AttentionShape::new(1, 1, 64, 4);
    for (shape, expected) in [
        (AttentionShape { q_len: 64 * 4, ..one.clone() }, vec![[4, 1, 1]]),
        (AttentionShape { q_len: 64 * 4 + 1, ..one.clone() }, vec![[2, 1, 1], [3, 1, 1]]),
        (
            AttentionShape { num_heads: 5, num_kv_heads: 5, ..one.clone() },
            vec![[1, 2, 1], [1, 3, 1]],
        ),
        (AttentionShape { batch: 5, ..one.clone() }, vec![[1, 1, 2], [1, 1, 3]]),
        // Packed rows, and columns of out that share an axis with the heads.
        (AttentionShape { num_heads: 5, ..one.clone() }, vec![[3, 1, 1], [3, 1, 1]]),
        (
            AttentionShape { num_heads: 3, num_kv_heads: 3, value_dim: 500, ..one },
            vec![[1, 2, 1], [1, 4, 1]],
        ),
    ] {
        let plan = planned(&shape, &axis(4)).unwrap();
        assert_eq!(grids(&plan), expected, "{shape:?}");
        assert_covers_its_problem(&plan);
    }
}

/// Slopes of a sequence lie behind those of all sequences before it, whichever heads a part has.
#[test]
fn slopes_of_packed_sequences_stay_bound_where_heads_are_parted() {
    let starts = vec![0, 3, 7, 9];
    let shape = AttentionShape {
        cu_seqlens: Some(CuSeqlens { query: starts.clone(), key: starts }),
        alibi: Some(AlibiLayout::PerBatchAndHead),
        ..AttentionShape::new(1, 5, 9, 4).with_layout(Layout::Bshd)
    };
    let plan = planned(&shape, &axis(4)).unwrap();
    assert_eq!(grids(&plan), [[3, 2, 1], [3, 3, 1]]);
    assert_covers_its_problem(&plan);
    for dispatch in plan.dispatches() {
        let Params { alibi_offset, alibi_batch, .. } = dispatch.params();
        let window = dispatch.find(Tensor::AlibiSlopes).unwrap().window;
        let last = window.first_element + alibi_offset + 2 * alibi_batch + dispatch.grid[1] - 1;
        let end = window.start + window.size;
        assert!(u64::from(last + 1) * 4 <= end, "slope {last} past byte {end}");
    }
}

#[test]
fn query_heads_that_share_a_key_head_are_parted_if_they_must() {
    // One query, more heads than a softmax or a tile of rows has workgroups for.
    let shape = AttentionShape { num_kv_heads: 1, kv_len: 9, ..AttentionShape::new(1, 300, 1, 4) };
    for kernel in [Kernel::Forward, Kernel::ForwardWide, Kernel::ThreeStage] {
        let plan = planned_as(Some(kernel), &shape, &axis(4)).unwrap();
        assert_covers_its_problem(&plan);
    }
    // The weights of one key head's eight query heads pass the limit, those of one query head do not.
    let shape = AttentionShape {
        num_kv_heads: 1,
        weights: Some(Layout::Bhsd),
        ..AttentionShape::new(1, 8, 4096, 16)
    };
    for (kernel, dispatches) in [(None, 2), (Some(Kernel::ThreeStage), 3)] {
        let plan = planned_as(kernel, &shape, &PORTABLE).unwrap();
        assert_eq!(plan.dispatches().len(), dispatches * 4);
    }
}

#[test]
fn words_of_out_that_are_too_many_to_pack_at_once_are_parted_along_out() {
    // Odd rows of 16 bits share words, 64 of which are packed by one workgroup.
    let odd = AttentionShape { element: ElementType::Bf16, ..AttentionShape::new(1, 1, 1, 131) };
    for (shape, grids_of_pack) in [
        (AttentionShape { batch: 4, ..odd.clone() }, vec![[3, 1, 1]; 2]),
        (AttentionShape { num_heads: 4, ..odd.clone() }, vec![[3, 1, 1]; 2]),
        (AttentionShape { q_len: 4, ..odd.clone() }, vec![[3, 1, 1]; 2]),
    ] {
        let plan = planned(&shape, &axis(4)).unwrap();
        let packs =
            plan.dispatches().iter().filter(|dispatch| dispatch.variant.entry == Entry::Pack);
        assert_eq!(packs.map(|pack| pack.grid).collect::<Vec<_>>(), grids_of_pack, "{shape:?}");
        assert_covers_its_problem(&plan);
    }
    let many = AttentionShape { batch: 65_535, head_dim: 1, ..odd };
    assert_eq!(planned(&many, &PORTABLE).unwrap().dispatches().len(), 4);
}

#[test]
fn real_grids_are_cut_past_65_535() {
    let one = AttentionShape::new(1, 1, 1, 4);
    let (long, many) = (64 * 65_535, 65_535);
    for (shape, axis, parts) in [
        (AttentionShape { q_len: long, ..one.clone() }, 0, 1),
        (AttentionShape { q_len: long + 1, ..one.clone() }, 0, 2),
        (AttentionShape { num_heads: many, num_kv_heads: many, ..one.clone() }, 1, 1),
        (AttentionShape { num_heads: many + 1, num_kv_heads: many + 1, ..one.clone() }, 1, 2),
        (AttentionShape { batch: many, ..one.clone() }, 2, 1),
        (AttentionShape { batch: many + 1, ..one }, 2, 2),
    ] {
        let grids = grids(&planned(&shape, &PORTABLE).unwrap());
        assert_eq!(grids.len(), parts, "{shape:?}");
        let total: u32 = grids.iter().map(|grid| grid[axis]).sum();
        assert_eq!(total, 65_535 + u32::from(parts == 2), "{shape:?}");
    }
}

#[test]
fn a_large_tensor_is_cut_along_the_axis_it_reaches_farthest_on() {
    let mib = 1 << 20;
    // Query is 4 x 8 x 1024 x 64 floats: 2 MiB a sequence that fill 8 MiB.
    let shape = AttentionShape { kv_len: 16, ..AttentionShape::new(4, 8, 1024, 64) };
    let parts = |shape: &AttentionShape, limit| {
        let plan = planned(shape, &bindings(limit)).unwrap();
        grids(&plan)
    };
    assert_eq!(parts(&shape, 8 * mib), [[16, 8, 4]]);
    assert_eq!(parts(&shape, 4 * mib), [[16, 8, 2]; 2]);
    assert_eq!(parts(&shape, mib), [[16, 4, 1]; 8]);
    assert_eq!(parts(&shape, mib / 8), [[8, 1, 1]; 64]);
    // Heads that lie side by side are not worth cutting apart.
    let interleaved = shape.clone().with_layout(Layout::Bshd);
    assert_eq!(parts(&interleaved, mib), [[8, 8, 1]; 8]);
    // A bias that all sequences and heads share shrinks only with the queries.
    let biased = AttentionShape {
        kv_len: 1024,
        bias: Some(BroadcastLayout::Sizes([1, 1, 1024, 1024])),
        ..AttentionShape::new(4, 8, 1024, 4)
    };
    assert_eq!(parts(&biased, mib), [[4, 8, 4]; 4]);
}

#[test]
fn a_tensor_that_no_cut_shrinks_is_refused_at_once() {
    // One head's keys take 1 MiB, whatever the queries are.
    let shape = AttentionShape { kv_len: 4096, ..AttentionShape::new(2, 2, 1 << 10, 64) };
    let message = "bytes of one storage binding: expected at least 1048576, found 1048575";
    let stages =
        |shape: &AttentionShape, size| planned_as(Some(Kernel::ThreeStage), shape, &bindings(size));
    assert_unsupported(stages(&shape, (1 << 20) - 1), message);
    assert!(stages(&shape, 1 << 20).is_ok());
    // Key heads that lie side by side are never 1 MiB apart.
    let interleaved = AttentionShape { key: Layout::Bshd, ..shape.clone() };
    assert!(stages(&interleaved, 1 << 20).is_err());
    // The fused kernels take their keys in chunks.
    assert!(planned(&interleaved, &bindings((1 << 20) - 1)).is_ok());
    let one = AttentionShape { head_dim: 1 << 16, ..shape };
    let message = "bytes of one storage binding: expected at least 16777216, found 1048575";
    assert_unsupported(planned(&one, &bindings((1 << 20) - 1)), message);
}

#[test]
fn a_grid_that_no_cut_shortens_is_refused_by_its_size() {
    let shape = AttentionShape { value_dim: 256 * 5, ..AttentionShape::new(1, 1, 1, 4) };
    let message = "workgroups along one axis of a dispatch: expected at least 5, found 4";
    assert_unsupported(planned(&shape, &axis(4)), message);
    let shape = AttentionShape { kv_len: 32 * 4 + 1, ..AttentionShape::new(9, 1, 9, 4) };
    let software = Capabilities { processors: 2, ..axis(4) };
    assert_unsupported(planned_as(Some(Kernel::ThreeStage), &shape, &software), message);
    assert!(planned(&shape, &axis(4)).is_ok());
}

#[test]
fn scores_that_nobody_keeps_take_no_more_than_64_mib_at_a_time() {
    let most = 64 << 20;
    let shape = AttentionShape::new(4, 8, 2048, 16);
    let workspace = |capabilities: &Capabilities, parts: usize| {
        let plan = planned_as(Some(Kernel::ThreeStage), &shape, capabilities).unwrap();
        assert_eq!(plan.dispatches().len(), 3 * parts);
        let largest = plan.dispatches().iter().flat_map(|dispatch| &dispatch.bound);
        let largest = largest.filter(|bound| bound.tensor == Tensor::Workspace);
        assert_eq!(plan.workspace(), largest.map(|bound| bound.window.size).max().unwrap());
        plan.workspace()
    };
    // 4 x 8 matrices of 16 MiB.
    assert_eq!(workspace(&PORTABLE, 8), most);
    assert_eq!(workspace(&bindings(32 << 20), 16), 32 << 20);
    assert_eq!(workspace(&Capabilities { buffer_size: 8 << 20, ..PORTABLE }, 64), 8 << 20);
    // Kept scores stay where the caller wants them.
    let kept = AttentionShape { weights: Some(Layout::Bhsd), ..shape.clone() };
    let plan = planned_as(Some(Kernel::ThreeStage), &kept, &bindings(1 << 30)).unwrap();
    assert_eq!((plan.workspace(), plan.dispatches().len()), (0, 3));
}

#[test]
fn what_would_take_forever_is_refused_soon() {
    let message = "dispatches per call: expected more than 16384, found 16384";
    let largest = 1 << 30;
    let tiny = AttentionShape { kv_len: 1, ..AttentionShape::new(1, 1, 1, 1) };
    let long = AttentionShape { q_len: largest, kv_len: 1 << 20, ..tiny.clone() };
    assert_unsupported(planned_as(Some(Kernel::ThreeStage), &long, &PORTABLE), message);
    for shape in [
        AttentionShape { batch: largest, ..tiny.clone() },
        AttentionShape { num_heads: largest, num_kv_heads: largest, ..tiny.clone() },
    ] {
        assert_unsupported(planned(&shape, &PORTABLE), message);
    }
    let every_other = (0..1 << 17).map(|batch| batch % 2).collect();
    let lens = AttentionShape { batch: 1 << 17, kv_lens: Some(every_other), ..tiny.clone() };
    assert_eq!(planned(&lens, &PORTABLE).unwrap().dispatches().len(), 1 << 8, "512 in each");
    let most = |batch| planned(&AttentionShape { batch, ..tiny.clone() }, &axis(1));
    assert_eq!(most(16_384).unwrap().dispatches().len(), 16_384);
    assert_unsupported(most(16_385), message);
    // What is long, but not in tiny pieces, is worth the wait: these fill all of 32 bits.
    for (shape, parts) in [
        (long, 1 << 9),
        (AttentionShape { num_heads: largest, num_kv_heads: 1, ..tiny.clone() }, 1 << 9),
        (AttentionShape { batch: 1 << 25, value_dim: 127, ..tiny }, 1 << 10),
    ] {
        let device = Capabilities { dispatch_work: u64::MAX, ..PORTABLE };
        let plan = planned(&shape, &device).unwrap();
        assert_eq!(plan.dispatches().len(), parts, "{shape:?}");
    }
}

#[test]
fn a_dispatch_has_no_more_work_than_it_may() {
    let most = 1 << 26;
    let device = Capabilities { dispatch_work: most, ..PORTABLE };
    let shape = AttentionShape::new(3, 4, 1000, 64);
    for kernel in [Kernel::Forward, Kernel::ThreeStage] {
        let plan = planned_as(Some(kernel), &shape, &device).unwrap();
        let work = |d: &wgpu_attention::internal::Dispatch| {
            u64::from(d.grid[2])
                * u64::from(d.params::<Params>().q_len)
                * u64::from(d.params::<Params>().kv_len)
                * 128
        };
        assert!(plan.dispatches().len() >= 3 * 4 * 2, "{kernel:?}: {}", plan.dispatches().len());
        assert!(plan.dispatches().iter().all(|dispatch| work(dispatch) <= most), "{kernel:?}");
    }
    // What cannot be cut runs all the same.
    let least = Capabilities { dispatch_work: 1, ..PORTABLE };
    let one = planned_as(None, &AttentionShape::new(1, 1, 200, 64), &least).unwrap();
    assert_eq!(one.dispatches().len(), 1);
}

#[test]
fn work_alone_is_never_too_much() {
    let device = Capabilities { binding_size: 8 << 30, buffer_size: 8 << 30, ..PORTABLE };
    let long = |num_kv_heads| {
        let shape = AttentionShape { num_kv_heads, ..AttentionShape::new(1, 32, 1 << 19, 128) };
        AttentionShape { element: ElementType::F16, ..shape }
    };
    let plan = |kernel, num_kv_heads| planned_as(Some(kernel), &long(num_kv_heads), &device);
    for num_kv_heads in [1, 8, 32] {
        for kernel in [Kernel::Forward, Kernel::ForwardWide] {
            let plan = plan(kernel, num_kv_heads).unwrap();
            assert!(plan.dispatches().len() <= 1 << 11, "{} dispatches", plan.dispatches().len());
            // Query heads that share keys stay together.
            assert!(
                plan.dispatches()
                    .iter()
                    .all(|d| d.params::<Params>().group as usize == 32 / num_kv_heads)
            );
        }
    }
}

#[test]
fn keys_outside_the_window_are_no_work() {
    let shape = AttentionShape::new(1, 8, 1 << 17, 64);
    let dispatches = |window_left| {
        let options = AttentionOptions { causal: true, window_left, ..AttentionOptions::default() };
        let problem = Problem::new(&shape, &options).unwrap();
        let device = Capabilities { binding_size: 1 << 30, ..PORTABLE };
        Plan::new(problem, &device, None).unwrap().dispatches().len()
    };
    // 2^3 heads x 2^17 queries x 2^10 keys x 2^7 columns are 2^37.
    assert_eq!(dispatches(Some(1023)), 2);
    assert_eq!(dispatches(Some(511)), 1);
    // All keys would make 256; early queries see few of them.
    assert!((128..256).contains(&dispatches(None)), "{}", dispatches(None));
}

#[test]
fn rows_longer_than_a_driver_s_loops_are_cut_along_the_keys() {
    let stops = Capabilities { processors: 2, loop_turns: 65_535, ..PORTABLE };
    let combines = |shape: &AttentionShape, kernel, device| {
        let plan = planned_as(Some(kernel), shape, device).unwrap();
        plan.dispatches().iter().any(|step| step.variant.entry == Entry::AttentionCombine)
    };
    for (kernel, dim) in [(Kernel::Forward, 128), (Kernel::ForwardWide, 300)] {
        let shape = |kv_len| AttentionShape { kv_len, ..AttentionShape::new(1, 1, 40, dim) };
        assert!(!combines(&shape(1_000), kernel, &stops));
        assert!(combines(&shape(50_000), kernel, &stops));
        // Other drivers, and windows, take them whole.
        assert!(!combines(&shape(50_000), kernel, &Capabilities { processors: 2, ..PORTABLE }));
    }
    let long = AttentionShape { kv_len: 100_000, ..AttentionShape::new(1, 1, 1, 4) };
    assert_unsupported(
        planned_as(Some(Kernel::ThreeStage), &long, &stops),
        "keys of a row before the driver stops a loop: expected at least 100000, found 65535",
    );
    assert!(planned_as(Some(Kernel::ThreeStage), &long, &PORTABLE).is_ok());
    let windowed = AttentionOptions { window_left: Some(100), causal: true, ..Default::default() };
    let problem = Problem::new(&AttentionShape::new(1, 1, 50_000, 4), &windowed).unwrap();
    let plan = Plan::new(problem, &stops, Some(Kernel::Forward)).unwrap();
    assert!(plan.dispatches().iter().all(|step| step.variant.entry == Entry::AttentionForward));
}

#[test]
fn layers_are_cut_along_the_axis_that_what_is_too_large_reaches_farthest_on() {
    // Weights of 2^28 bytes: two parts, each with a softmax, behind the projections of both sides.
    let shape = AdditiveShape::new(64, [1024, 1024], [64, 64, 64], 64);
    let plan = AdditivePlan::new(&AdditiveShape { weights: true, ..shape }, &PORTABLE).unwrap();
    assert!(plan.dispatches().len() <= 8, "{}", plan.dispatches().len());

    // A token of each of 1024 sequences, then the next: tokens are cut, not the sequences.
    let rows = Strides { batch: 1024, row: 1 << 20, ..Strides::default() };
    let (x, out) = (Layout::Strided(rows), Layout::Strided(rows));
    let shape = LinearShape { batch: 1024, x, out, ..LinearShape::new(64, 1024, 1024) };
    let plan = LinearPlan::new(&shape, &PORTABLE).unwrap();
    assert_eq!(plan.dispatches().len(), 2);
}

#[test]
fn x_may_have_the_sizes_of_the_table_that_stays_whole() {
    let shape = PositionalShape::new(1, 65_536, 129);
    let dense = Some(Layout::Bhsd);
    let rows = TableRows::Named { rows: 65_536 };
    let element = ElementType::F16;
    let shape = PositionalShape { element, rows, x: dense, out: dense, ..shape };
    assert!(PositionalPlan::new(&shape, &PORTABLE).is_ok());
}
