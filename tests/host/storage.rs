//! How elements are loaded and stored: one, two or four at a time.

use crate::plan::{PORTABLE, ordinary, planned, planned_as};
use wgpu_attention::internal::{Entry, Storage, Tensor};
use wgpu_attention::{
    AttentionShape, BroadcastLayout, Capabilities, ElementType, Kernel, Layout, Strides,
};

#[test]
fn four_elements_at_a_time_need_every_row_to_start_on_a_multiple_of_four() {
    let storage = |shape: &AttentionShape| {
        let plan = planned(shape, &PORTABLE).unwrap();
        let storage = &plan.dispatches()[0].variant.storage;
        assert!(storage.values().all(|other| *other == storage["query"]), "{storage:?}");
        storage["query"]
    };
    let good = Strides { offset: 4, batch: 100_000, head: 25_000, row: 68 };
    let with = |strides| AttentionShape { query: Layout::Strided(strides), ..ordinary() };
    for shape in [
        ordinary(),
        ordinary().with_layout(Layout::Bshd),
        with(good),
        AttentionShape { head_dim: 4, value_dim: 12, ..ordinary() },
        // No step is ever taken from the only sequence to a next one.
        AttentionShape { batch: 1, ..with(Strides { batch: 1, ..good }) },
        // Only query, key, value and out are loaded four at a time.
        AttentionShape { mask: Some(BroadcastLayout::Sizes([1, 1, 1, 70])), ..ordinary() },
        AttentionShape { kv_len: 71, lse: Some(Layout::Bhsd), ..ordinary() },
    ] {
        assert_eq!(storage(&shape), Storage::F32x4, "{shape:?}");
    }
    let odd = [
        Strides { offset: 2, ..good },
        Strides { batch: 100_001, ..good },
        Strides { head: 25_003, ..good },
        Strides { row: 66, ..good },
    ];
    let odd = odd.into_iter().flat_map(|strides| {
        let layout = Layout::Strided(strides);
        [
            AttentionShape { query: layout, ..ordinary() },
            AttentionShape { key: layout, ..ordinary() },
            AttentionShape { value: layout, ..ordinary() },
            AttentionShape { out: layout, ..ordinary() },
        ]
    });
    let padded = ordinary().with_layout(Layout::Strided(good));
    let single = AttentionShape::new(1, 1, 1, 64);
    let dims = [
        AttentionShape { head_dim: 63, ..ordinary() },
        AttentionShape { value_dim: 66, ..ordinary() },
        // Rows that start on multiples of four and do not end there.
        AttentionShape { head_dim: 63, ..padded.clone() },
        AttentionShape { value_dim: 66, ..padded },
        AttentionShape { head_dim: 3, ..single.clone() },
        AttentionShape { value_dim: 2, ..single },
    ];
    for shape in odd.chain(dims) {
        assert_eq!(storage(&shape), Storage::F32, "{shape:?}");
    }
}

const HALVES: [ElementType; 2] = [ElementType::F16, ElementType::Bf16];

#[test]
fn only_a_device_with_f16_gets_shaders_with_f16() {
    for (element, shader_f16, dim, expected) in [
        (ElementType::F16, true, 64, Storage::F16x4),
        (ElementType::F16, true, 6, Storage::F16),
        (ElementType::F16, false, 64, Storage::F16WordsX4),
        (ElementType::F16, false, 6, Storage::F16Words),
        (ElementType::Bf16, true, 64, Storage::Bf16WordsX4),
        (ElementType::Bf16, false, 6, Storage::Bf16Words),
        (ElementType::F32, true, 64, Storage::F32x4),
    ] {
        let shape = AttentionShape { element, ..AttentionShape::new(1, 2, 9, dim) };
        let device = Capabilities { shader_f16, ..PORTABLE };
        let variant = planned(&shape, &device).unwrap().dispatches()[0].variant.clone();
        let names = ["query", "key", "value", "out"];
        assert_eq!(variant.storage, names.map(|name| (name, expected)).into(), "{element}, {dim}");
        assert_eq!(expected.needs_f16(), element == ElementType::F16 && shader_f16);
    }
}

/// Two invocations that each write one half of a word would race.
#[test]
fn halves_of_words_that_rows_share_are_packed_afterwards() {
    let even = Strides { offset: 4, batch: 100_000, head: 25_000, row: 66 };
    let out = |strides| AttentionShape { out: Layout::Strided(strides), ..ordinary() };
    for (shape, shares) in [
        (ordinary(), false),
        (out(even), false),
        // Inputs may begin in the middle of a word.
        (
            AttentionShape { query: Layout::Strided(Strides { offset: 3, ..even }), ..ordinary() },
            false,
        ),
        (AttentionShape { head_dim: 63, ..ordinary() }, false),
        (AttentionShape { value_dim: 63, ..ordinary() }, true),
        (AttentionShape { value_dim: 63, ..out(even) }, true),
        (out(Strides { offset: 3, ..even }), true),
        (out(Strides { batch: 100_001, ..even }), true),
        (out(Strides { head: 25_001, ..even }), true),
        (out(Strides { row: 65, ..even }), true),
    ] {
        for (element, kernel) in
            HALVES.into_iter().flat_map(|element| Kernel::PORTABLE.map(|kernel| (element, kernel)))
        {
            let shape = AttentionShape { element, ..shape.clone() };
            let plan = planned_as(Some(kernel), &shape, &PORTABLE).unwrap();
            let last = plan.dispatches().last().unwrap();
            assert_eq!(last.variant.entry == Entry::Pack, shares, "{shape:?}");
            let written = if shares { Tensor::Unpacked } else { Tensor::Out };
            assert!(last.bound.iter().any(|bound| bound.tensor == written), "{shape:?}");
        }
        let f16 = AttentionShape { element: ElementType::F16, ..shape };
        let device = Capabilities { shader_f16: true, ..PORTABLE };
        assert_eq!(planned(&f16, &device).unwrap().dispatches().len(), 1, "f16 need no packing");
    }
}

#[test]
fn what_waits_to_be_packed_takes_no_more_than_64_mib_at_a_time() {
    // 16.9 million elements, each as f32, pass 64 MiB.
    let shape = AttentionShape { kv_len: 1, ..AttentionShape::new(1, 2, 1 << 16, 126) };
    let shape = AttentionShape { value_dim: 129, element: ElementType::Bf16, ..shape };
    let plan = planned(&shape, &Capabilities { workgroups_per_axis: 1 << 20, ..PORTABLE }).unwrap();
    assert!(plan.workspace() <= 64 << 20, "{} bytes", plan.workspace());
    assert!(plan.workspace() >= 32 << 20, "{} bytes", plan.workspace());
}
