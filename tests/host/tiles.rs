//! How large tiles are, and what a device needs to have for them.

use crate::plan::{PORTABLE, assert_unsupported, planned, planned_as};
use wgpu_attention::internal::Tiles;
use wgpu_attention::{AttentionShape, Capabilities, Error, Kernel};

fn tiles(shape: &AttentionShape, kernel: Kernel, workgroup_memory: u32) -> Result<Tiles, Error> {
    // Those of three stages are of a software adapter: a GPU has others, all of one size.
    let processors = if kernel == Kernel::ThreeStage { 2 } else { 0 };
    let device = Capabilities { workgroup_memory, processors, ..PORTABLE };
    planned_as(Some(kernel), shape, &device).map(|plan| plan.tiles)
}

/// Head dims, with kernels that take them.
const KERNELS_OF_DIMS: [(usize, Kernel); 14] = [
    (1, Kernel::Forward),
    (3, Kernel::ThreeStage),
    (4, Kernel::Forward),
    (64, Kernel::Forward),
    (64, Kernel::ForwardWide),
    (72, Kernel::Forward),
    (80, Kernel::ThreeStage),
    (128, Kernel::Forward),
    (128, Kernel::ForwardWide),
    (130, Kernel::ForwardWide),
    (192, Kernel::ThreeStage),
    (256, Kernel::ForwardWide),
    (512, Kernel::ThreeStage),
    (1 << 20, Kernel::ForwardWide),
];

#[test]
fn tiles_fit_the_workgroup_memory_there_is() {
    for (dim, kernel) in KERNELS_OF_DIMS {
        let shape = AttentionShape { kv_len: 5, ..AttentionShape::new(1, 1, 100, dim) };
        let keys = [5, 8, 16, 32, 65].map(|kib| {
            let tiles = tiles(&shape, kernel, kib << 10).unwrap().size();
            let columns = match kernel {
                // Values have a vector between them.
                Kernel::Forward => tiles.head_columns + tiles.value_columns + 4,
                // Keys and values take turns.
                _ => tiles.head_columns.max(tiles.value_columns),
            };
            // And whether some value is not finite.
            let flag = if kernel == Kernel::ForwardWide { 0 } else { 4 };
            assert_eq!(tiles.workgroup_bytes, tiles.keys * columns * 4 + flag);
            assert!(tiles.workgroup_bytes <= kib << 10, "dim {dim}: {tiles:?} in {kib} KiB");
            // Four keys more would not fit, or a tile's visibility not into a word.
            let more = tiles.workgroup_bytes + 4 * columns * 4;
            assert!(tiles.keys == 32 || more > kib << 10, "dim {dim}: {tiles:?} in {kib} KiB");
            tiles.keys
        });
        assert!(keys.is_sorted() && keys[4] == 32, "dim {dim}: {keys:?}");
    }
}

#[test]
fn keys_that_are_computed_at_a_time_divide_a_tile() {
    for (dim, kernel) in KERNELS_OF_DIMS {
        for (q_len, processors) in
            [1, 8, 9, 32, 33, 300, 4_095].map(|len| [(len, 0), (len, 2)]).concat()
        {
            let shape = AttentionShape { kv_len: 5, ..AttentionShape::new(1, 1, q_len, dim) };
            let device = Capabilities { processors, ..PORTABLE };
            let tiles = planned_as(Some(kernel), &shape, &device).unwrap().tiles;
            let (keys_each, vector) = match tiles {
                // A software adapter runs vectors of eight invocations.
                Tiles::Forward(tiles) => (tiles.tile.keys_each, if processors > 0 { 8 } else { 1 }),
                _ => (4, 1),
            };
            let size = tiles.size();
            assert!(size.keys.is_multiple_of(keys_each), "{q_len} x {dim}: {tiles:?}");
            assert!(size.threads.is_power_of_two() && size.threads <= 256, "{tiles:?}");
            assert!(size.threads.is_multiple_of(vector), "{tiles:?}");
        }
    }
}

#[test]
fn chunks_cover_the_columns_without_one_to_spare() {
    for (dim, kernel) in KERNELS_OF_DIMS {
        let shape = AttentionShape { kv_len: 5, ..AttentionShape::new(1, 1, 100, dim) };
        let tiles = tiles(&shape, kernel, PORTABLE.workgroup_memory).unwrap().size();
        let chunks = [tiles.head_columns, tiles.value_columns].map(|chunk| chunk as usize);
        let most = match kernel {
            Kernel::ThreeStage => [64, 32],
            _ => [128, 128],
        };
        for (chunk, most) in chunks.into_iter().zip(most) {
            assert!(chunk.is_multiple_of(4) && chunk <= most, "dim {dim}: {tiles:?}");
            assert_eq!(dim.div_ceil(chunk), dim.div_ceil(most), "dim {dim}: {tiles:?}");
        }
    }
}

#[test]
fn a_device_with_too_little_workgroup_memory_is_told_how_little() {
    let shape = AttentionShape::new(1, 1, 100, 128);
    for (kernel, least) in [(Kernel::Forward, 4164), (Kernel::ThreeStage, 1028)] {
        assert_eq!(tiles(&shape, kernel, least).unwrap().size().keys, 4);
        let device = Capabilities { workgroup_memory: least - 1, ..PORTABLE };
        let message =
            format!("bytes of workgroup memory: expected at least {least}, found {}", least - 1);
        assert_unsupported(planned_as(Some(kernel), &shape, &device), &message);
    }
}

#[test]
fn a_device_too_small_for_any_kernel_is_refused_whatever_the_kernel() {
    let few_rows = AttentionShape::new(1, 1, 8, 4);
    for kernel in [None, Some(Kernel::ThreeStage)] {
        let refused = |capabilities: Capabilities, message: &str| {
            assert_unsupported(planned_as(kernel, &few_rows, &capabilities), message);
        };
        refused(
            Capabilities { storage_buffers: 7, ..PORTABLE },
            "storage buffers per shader stage: expected at least 8, found 7",
        );
        // The softmax has 64 invocations with a maximum and a flag each.
        refused(
            Capabilities { workgroup_invocations: 63, ..PORTABLE },
            "invocations per workgroup: expected at least 64, found 63",
        );
        refused(
            Capabilities { workgroup_memory: 511, ..PORTABLE },
            "bytes of workgroup memory: expected at least 512, found 511",
        );
    }
}

#[test]
fn few_rows_take_a_small_workgroup() {
    let threads = |processors, q_len, group| {
        let shape = AttentionShape::new(1, group, q_len, 8);
        let shape = AttentionShape { num_kv_heads: 1, ..shape };
        let plan = planned(&shape, &Capabilities { processors, ..PORTABLE }).unwrap();
        plan.tiles.size().threads
    };
    let rows =
        |q_len| planned(&AttentionShape::new(1, 1, q_len, 8), &PORTABLE).unwrap().tiles.size().rows;
    // Workgroup memory has no room for eight.
    assert_eq!([1, 2, 3, 8, 9, 32, 33].map(rows), [1, 2, 4, 4, 32, 32, 64]);
    // Where a CPU plays the GPU each owns two of more than eight rows.
    let software = [1, 8, 9, 64, 65, 256, 257].map(|rows| threads(2, rows, 1));
    assert_eq!(software, [8, 8, 32, 32, 64, 64, 64]);
    for (q_len, group) in [(4, 8), (2, 16), (1, 32)] {
        assert_eq!(threads(2, q_len, group), 32);
    }
    assert_eq!(threads(2, 9, 8), 64);
}

#[test]
fn processors_share_large_workgroups_only_where_there_are_enough_of_them() {
    let threads = |processors, heads, len| {
        let shape = AttentionShape::new(1, heads, len, 64);
        planned(&shape, &Capabilities { processors, ..PORTABLE }).unwrap().tiles.size().threads
    };
    // Of up to 512 rows: four for each processor.
    assert_eq!([threads(2, 8, 512), threads(2, 8, 257), threads(2, 4, 1024)], [256; 3]);
    assert_eq!(threads(1, 1, 2048), 256);
    assert_eq!([threads(2, 7, 512), threads(4, 8, 512), threads(2, 8, 256)], [64; 3]);
}
