//! Matrices of 16 x 16 on an adapter that has those of 8 x 8: the kernel's text for the larger ones, in which each is four of
//! the smaller. So all of the kernel is tried but the multiplication itself.

use wgpu_attention::{Capabilities, Gpu, Matrices};

/// This device as if it had matrices as NVIDIA's are.
///
/// # Panics
/// If it has none.
pub(crate) fn with_sixteen(gpu: &Gpu) -> Gpu {
    let capabilities = *gpu.capabilities();
    let own = capabilities.matrices.expect("the adapter has no cooperative matrices");
    if own.size == 16 {
        return gpu.clone();
    }
    // Subgroups smaller than they might be share the keys of a tile.
    let matrices = Some(Matrices { size: 16, subgroup: own.subgroup.max(32) });
    gpu.emulating(Capabilities { matrices, ..capabilities }, quartered)
}

/// Quarters in the order of rows, at groups of eight columns. Keys and values are loaded by columns, so that the second is
/// eight columns further on.
const QUARTERS: &str = "
alias Left8 = coop_mat8x8<f16, A>;
alias Right8 = coop_mat8x8<f16, B>;
alias Sums8 = coop_mat8x8<f32, C>;
alias Left = array<Left8, 4>;
alias Right = array<Right8, 4>;
alias Sums = array<Sums8, 4>;

fn load_left(at: u32, stride: u32) -> Left {
    let places = vec4(at, at + 1u, at + stride, at + stride + 1u);
    let first = coopLoadT<Left8>(&weights[places.x][0u], stride);
    let second = coopLoadT<Left8>(&weights[places.y][0u], stride);
    let third = coopLoadT<Left8>(&weights[places.z][0u], stride);
    let fourth = coopLoadT<Left8>(&weights[places.w][0u], stride);
    return Left(first, second, third, fourth);
}

fn load_right(at: u32, stride: u32) -> Right {
    let places = vec4(at, at + stride, at + 1u, at + stride + 1u);
    let first = coopLoad<Right8>(&tile[places.x][0u][0u], stride);
    let second = coopLoad<Right8>(&tile[places.y][0u][0u], stride);
    let third = coopLoad<Right8>(&tile[places.z][0u][0u], stride);
    let fourth = coopLoad<Right8>(&tile[places.w][0u][0u], stride);
    return Right(first, second, third, fourth);
}

fn load_sums(at: u32, stride: u32) -> Sums {
    let places = vec4(at, at + 1u, at + stride, at + stride + 1u);
    let first = coopLoadT<Sums8>(&scores[places.x][0u], stride);
    let second = coopLoadT<Sums8>(&scores[places.y][0u], stride);
    let third = coopLoadT<Sums8>(&scores[places.z][0u], stride);
    let fourth = coopLoadT<Sums8>(&scores[places.w][0u], stride);
    return Sums(first, second, third, fourth);
}

fn store_sums(sums: Sums, at: u32, stride: u32) {
    let beside = at + 1u;
    let below = at + stride;
    let across = below + 1u;
    coopStoreT(sums[0], &scores[at][0u], stride);
    coopStoreT(sums[1], &scores[beside][0u], stride);
    coopStoreT(sums[2], &scores[below][0u], stride);
    coopStoreT(sums[3], &scores[across][0u], stride);
}

fn multiply_add(a: Left, b: Right, c: Sums) -> Sums {
    let first = coopMultiplyAdd(a[0], b[0], c[0]);
    let second = coopMultiplyAdd(a[0], b[1], c[1]);
    let third = coopMultiplyAdd(a[2], b[0], c[2]);
    let fourth = coopMultiplyAdd(a[2], b[1], c[3]);
    return Sums(
        coopMultiplyAdd(a[1], b[2], first),
        coopMultiplyAdd(a[1], b[3], second),
        coopMultiplyAdd(a[3], b[2], third),
        coopMultiplyAdd(a[3], b[3], fourth),
    );
}
";

/// The text with a function for each operation on matrices, where it has any.
fn quartered(text: String) -> String {
    if !text.contains("alias Left = coop_mat16x16") {
        return text;
    }
    let mut text: String = text
        .lines()
        .filter(|line| !(line.starts_with("alias ") && line.contains("coop_mat16x16")))
        .map(|line| format!("{line}\n"))
        .collect();
    for (operation, function) in [
        ("coopLoadT<Left>(&weights[", "load_left("),
        ("coopLoad<Right>(&tile[", "load_right("),
        ("coopLoadT<Sums>(&scores[", "load_sums("),
        ("coopStoreT(outs[d], &scores[", "store_sums(outs[d], "),
        ("coopStoreT(products, &scores[", "store_sums(products, "),
        ("coopStoreT(products[t], &scores[", "store_sums(products[t], "),
    ] {
        assert!(text.contains(operation), "no shader has {operation}");
        while let Some(at) = text.find(operation) {
            // The index of a group of eight, in which a matrix starts at the first.
            let end = at + text[at..].find("[0u], ").unwrap();
            let from = text[at..end].find("][0u]").map_or(end - 1, |at_index| at + at_index);
            text.replace_range(from..end + "[0u]".len(), "");
            text.replace_range(at..at + operation.len(), function);
        }
    }
    let text = text.replace("coopMultiplyAdd(", "multiply_add(");
    assert!(!text.contains("coop_mat16x16") && !text.contains("coopLoad"), "{text}");
    text + QUARTERS
}
