// Multiply-adds of cooperative matrices that stay where they are: a subgroup's sums are written
// once, at the end, and are the same in every subgroup.

enable f16;
enable wgpu_cooperative_matrix;

alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
/// Rows and columns of each.
const SIZE = 8u;
/// Sums that do not wait for each other: 1, 2 or 4.
const SUMS = 4u;
const THREADS = 32u;

struct Params {
    rounds: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
var<workgroup> factors: array<f16, SIZE * SIZE>;

@compute @workgroup_size(THREADS)
fn matrix(@builtin(local_invocation_index) thread: u32) {
    for (var at = thread; at < SIZE * SIZE; at += THREADS) {
        factors[at] = f16(0.03125);
    }
    workgroupBarrier();
    let left = coopLoadT<Left>(&factors[0], SIZE);
    let right = coopLoadT<Right>(&factors[0], SIZE);
    var a = Sum();
    var b = Sum();
    var c = Sum();
    var d = Sum();
    for (var round = 0u; round < params.rounds; round += 1u) {
        a = coopMultiplyAdd(left, right, a);
        if SUMS > 1u {
            b = coopMultiplyAdd(left, right, b);
        }
        if SUMS > 2u {
            c = coopMultiplyAdd(left, right, c);
            d = coopMultiplyAdd(left, right, d);
        }
    }
    coopStoreT(a, &out[0], SIZE);
    coopStoreT(b, &out[SIZE * SIZE], SIZE);
    coopStoreT(c, &out[2u * SIZE * SIZE], SIZE);
    coopStoreT(d, &out[3u * SIZE * SIZE], SIZE);
}
