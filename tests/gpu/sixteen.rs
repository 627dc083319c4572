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
    // Subgroups smaller than they might be do the same several times.
    let matrices = Some(Matrices { size: 16, subgroup: own.subgroup.max(32) });
    gpu.emulating(Capabilities { matrices, ..capabilities }, quartered)
}

/// Quarters in the order of rows. Keys are loaded by columns, so that the second is eight columns further on.
const QUARTERS: &str = "
alias Left8 = coop_mat8x8<f16, A>;
alias Right8 = coop_mat8x8<f16, B>;
alias Sums8 = coop_mat8x8<f32, C>;
alias Left = array<Left8, 4>;
alias Right = array<Right8, 4>;
alias Sums = array<Sums8, 4>;

fn load_left(at: u32, stride: u32) -> Left {
    let places = vec4(at, at + 8u, at + 8u * stride, at + 8u * stride + 8u);
    let first = coopLoadT<Left8>(&weights[places.x], stride);
    let second = coopLoadT<Left8>(&weights[places.y], stride);
    let third = coopLoadT<Left8>(&weights[places.z], stride);
    let fourth = coopLoadT<Left8>(&weights[places.w], stride);
    return Left(first, second, third, fourth);
}

fn load_values(at: u32, stride: u32) -> Right {
    let places = vec4(at, at + 8u, at + 8u * stride, at + 8u * stride + 8u);
    let first = coopLoadT<Right8>(&tile[places.x], stride);
    let second = coopLoadT<Right8>(&tile[places.y], stride);
    let third = coopLoadT<Right8>(&tile[places.z], stride);
    let fourth = coopLoadT<Right8>(&tile[places.w], stride);
    return Right(first, second, third, fourth);
}

fn load_keys(at: u32, stride: u32) -> Right {
    let places = vec4(at, at + 8u * stride, at + 8u, at + 8u * stride + 8u);
    let first = coopLoad<Right8>(&tile[places.x], stride);
    let second = coopLoad<Right8>(&tile[places.y], stride);
    let third = coopLoad<Right8>(&tile[places.z], stride);
    let fourth = coopLoad<Right8>(&tile[places.w], stride);
    return Right(first, second, third, fourth);
}

fn load_sums(at: u32, stride: u32) -> Sums {
    let places = vec4(at, at + 8u, at + 8u * stride, at + 8u * stride + 8u);
    let first = coopLoadT<Sums8>(&scores[places.x], stride);
    let second = coopLoadT<Sums8>(&scores[places.y], stride);
    let third = coopLoadT<Sums8>(&scores[places.z], stride);
    let fourth = coopLoadT<Sums8>(&scores[places.w], stride);
    return Sums(first, second, third, fourth);
}

fn store_sums(sums: Sums, at: u32, stride: u32) {
    let beside = at + 8u;
    let below = at + 8u * stride;
    let across = below + 8u;
    coopStoreT(sums[0], &scores[at], stride);
    coopStoreT(sums[1], &scores[beside], stride);
    coopStoreT(sums[2], &scores[below], stride);
    coopStoreT(sums[3], &scores[across], stride);
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
        ("coopLoadT<Right>(&tile[", "load_values("),
        ("coopLoad<Right>(&tile[", "load_keys("),
        ("coopLoadT<Sums>(&scores[", "load_sums("),
        ("coopStoreT(outs[d], &scores[", "store_sums(outs[d], "),
        ("coopStoreT(products, &scores[", "store_sums(products, "),
    ] {
        assert!(text.contains(operation), "no shader has {operation}");
        while let Some(at) = text.find(operation) {
            let end = at + text[at + operation.len()..].find(']').unwrap() + operation.len();
            text.replace_range(end..=end, "");
            text.replace_range(at..at + operation.len(), function);
        }
    }
    let text = text.replace("coopMultiplyAdd(", "multiply_add(");
    assert!(!text.contains("coop_mat16x16") && !text.contains("coopLoad"), "{text}");
    text + QUARTERS
}
