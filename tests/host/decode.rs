//! Keys that workgroups share, and keys that come in chunks: together they are all keys, each once.

use crate::plan::{PORTABLE, assert_unsupported, planned, planned_as};
use wgpu_attention::internal::{Bound, Dispatch, Entry, Params, Tensor};
use wgpu_attention::{
    Align, AttentionOptions, AttentionShape, BroadcastLayout, Capabilities, Kernel, Layout, Plan,
    Problem, SegmentLayout,
};

fn decode() -> AttentionShape {
    AttentionShape { num_kv_heads: 8, kv_len: 4_096, ..AttentionShape::new(1, 32, 1, 128) }
}

fn find(dispatch: &Dispatch, tensor: Tensor) -> &Bound {
    dispatch.bound.iter().find(|bound| bound.tensor == tensor).unwrap()
}

#[test]
fn few_queries_of_many_keys_are_shared_by_workgroups() {
    let large = Capabilities { binding_size: u64::MAX, buffer_size: u64::MAX, ..PORTABLE };
    for (shape, splits) in [
        // 64 keys each.
        (decode(), 64),
        // 512 workgroups in all.
        (AttentionShape { batch: 4, ..decode() }, 16),
        (AttentionShape { kv_len: 1_000, ..decode() }, 15),
        // 8,192 keys each, at most.
        (AttentionShape { batch: 100, kv_len: 40_000, ..decode() }, 5),
        // Tiles of 64 keys, of which each has four.
        (AttentionShape { q_len: 32, ..decode() }, 16),
        (AttentionShape { q_len: 3, batch: 4, ..decode() }, 8),
    ] {
        let plan = planned(&shape, &large).unwrap();
        assert_eq!(plan.kernel, Kernel::Decode, "{shape:?}");
        let [over_keys, combine] = plan.dispatches() else { panic!("{:?}", plan.dispatches()) };
        assert_eq!(
            [over_keys.params::<Params>().splits, combine.params::<Params>().splits],
            [splits; 2],
            "{shape:?}"
        );
        assert_eq!(over_keys.grid[1], 8 * splits);
    }
    // One workgroup has them all.
    for shape in
        [AttentionShape { kv_len: 127, ..decode() }, AttentionShape { batch: 64, ..decode() }]
    {
        let plan = planned(&shape, &large).unwrap();
        assert_eq!((plan.kernel, plan.dispatches().len()), (Kernel::Decode, 1), "{shape:?}");
    }
    for shape in [
        AttentionShape { q_len: 3, kv_len: 511, ..decode() },
        AttentionShape { q_len: 33, ..decode() },
        AttentionShape { q_len: 3, batch: 17, ..decode() },
    ] {
        assert_eq!(planned(&shape, &PORTABLE).unwrap().kernel, Kernel::Tiled, "{shape:?}");
    }
}

#[test]
fn a_window_leaves_few_keys_to_share() {
    let options = AttentionOptions {
        causal: true,
        window_left: Some(1_600),
        align: Align::BottomRight,
        ..AttentionOptions::default()
    };
    let problem = Problem::new(&decode(), &options).unwrap();
    let plan = Plan::new(problem, &PORTABLE, None).unwrap();
    assert_eq!(plan.dispatches()[0].params::<Params>().splits, 25);
}

/// Each result over a part of the keys has a place of its own, all of which are merged.
fn assert_merges(plan: &Plan, splits: u32, chunks: usize) {
    let p = &plan.problem;
    let rows = p.batch * p.num_heads * p.q_len;
    let (combine, over_keys) = plan.dispatches().split_last().unwrap();
    assert_eq!(over_keys.len(), chunks);
    assert_eq!(combine.variant.entry, Entry::AttentionCombine);
    let most = splits * u32::try_from(chunks).unwrap();
    assert_eq!(combine.params::<Params>().splits, most);
    for (tensor, columns) in [(Tensor::PartialOut, p.value_dim), (Tensor::PartialLse, 2)] {
        let size = u64::from(rows * columns) * 4;
        assert_eq!(find(combine, tensor).window.size, size * u64::from(most));
        for (at, dispatch) in (0..).zip(over_keys) {
            let bound = find(dispatch, tensor);
            assert_eq!(bound.view.offset, at * splits * rows * columns);
            assert_eq!(bound.view.extent, (at + 1) * splits * rows * columns);
        }
    }
    let strides = [combine.params::<Params>().out_split, combine.params::<Params>().lse_split];
    assert_eq!(strides, [rows * p.value_dim, rows * 2]);
    let mut next = 0;
    for dispatch in over_keys {
        let params = &dispatch.params::<Params>();
        assert_eq!(
            [params.out_split, params.lse_split, params.splits],
            [strides[0], strides[1], splits]
        );
        for (tensor, view) in [(Tensor::Key, p.key()), (Tensor::Value, p.value())] {
            assert_eq!(find(dispatch, tensor).view.offset, view.index(0, 0, next, 0) as u32);
        }
        if let Some(mask) = p.view(Tensor::Mask) {
            assert_eq!(find(dispatch, Tensor::Mask).view.offset, mask.index(0, 0, 0, next) as u32);
        }
        // What counts from a key moves with the first one.
        let moved = i32::try_from(next).unwrap();
        assert_eq!(params.offset, p.offset - moved);
        let seen = p.seen_len.saturating_sub(moved.unsigned_abs()).min(params.kv_len);
        assert_eq!(params.seen_len, seen);
        for i in 0..p.q_len as usize {
            for j in 0..params.kv_len as usize {
                let distance = j as i32 - i as i32;
                let found = (distance >= params.band_lower || j < params.kept as usize)
                    && distance <= params.band_upper;
                assert_eq!(found, p.band.contains(i, next + j), "query {i}, key {}", next + j);
            }
        }
        next += params.kv_len as usize;
    }
    assert_eq!(next, p.kv_len as usize);
}

#[test]
fn keys_that_no_binding_holds_come_in_chunks() {
    // A head's keys are 64 bytes each: 6,400 in all.
    let shape = AttentionShape {
        kv_len: 100 << 6,
        mask: Some(BroadcastLayout::Sizes([1, 1, 5, 100 << 6])),
        segments: Some(SegmentLayout::PerSide),
        ..AttentionShape::new(1, 1, 5, 16)
    };
    let options = AttentionOptions {
        causal: true,
        window_left: Some(3_000),
        window_keeps: 700,
        align: Align::BottomRight,
        ..AttentionOptions::default()
    };
    for (binding_size, chunks) in [(1 << 20, 1), (256 << 10, 2), (128 << 10, 4), (110 << 10, 4)] {
        let device = Capabilities { binding_size, ..PORTABLE };
        let problem = Problem::new(&shape, &options).unwrap();
        let plan = Plan::new(problem, &device, Some(Kernel::Decode)).unwrap();
        assert_merges(&plan, plan.dispatches()[0].params::<Params>().splits, chunks);
    }
    let device = Capabilities { binding_size: 128 << 10, ..PORTABLE };
    let long = AttentionShape { q_len: 40, mask: None, ..shape };
    let plan = planned(&long, &device).unwrap();
    assert_eq!(plan.kernel, Kernel::Tiled, "which is split only for want of room");
    assert_merges(&plan, 1, 4);
}

#[test]
fn weights_keep_their_keys_together() {
    let shape = AttentionShape { kv_len: 1 << 16, ..AttentionShape::new(1, 1, 1, 64) };
    let device = Capabilities { binding_size: 1 << 20, ..PORTABLE };
    let message = "bytes of one storage binding: expected at least 16777216, found 1048576";
    assert_unsupported(planned_as(Some(Kernel::ThreeStage), &shape, &device), message);
    let weighed = AttentionShape { weights: Some(Layout::Bhsd), ..shape };
    assert_unsupported(planned(&weighed, &device), message);
}
