// Second of the three stages: a row of scores becomes a row of weights, in place; lse on request.
//
// A workgroup owns one row. Each invocation makes three passes over its share of it: maximum, sum
// of exponentials, weights.

const THREADS = 64u;

@group(0) @binding(5) var<storage, read_write> lse: array<u32>;
@group(0) @binding(8) var<storage, read> aux: array<u32>;
@group(0) @binding(9) var<storage, read_write> weights: array<u32>;

var<workgroup> partial: array<f32, THREADS>;
var<workgroup> partial_seen: array<u32, THREADS>;

// use params, locate, rows, softmax_state, settle, finish

@compute @workgroup_size(THREADS)
fn softmax(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = query_row(workgroup.x, workgroup.y, locate_sequence(workgroup), true);
    let start = row_start(params.scores, row);

    var highest = LOWEST;
    var seen = 0u;
    for (var j = lane; j < params.kv_len; j += THREADS) {
        let bits = weights[start + j];
        let shown = bits != params.hidden_bits;
        seen |= select(0u, 1u, shown);
        highest = max(highest, select(LOWEST, bitcast<f32>(bits), shown));
    }
    partial[lane] = highest;
    partial_seen[lane] = seen;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if lane < half {
            partial[lane] = max(partial[lane], partial[lane + half]);
            partial_seen[lane] |= partial_seen[lane + half];
        }
        workgroupBarrier();
    }
    let m = partial[0];
    let no_keys = partial_seen[0] == 0u;
    workgroupBarrier();

    var sum = Settled(0.0, 0.0);
    for (var j = lane; j < params.kv_len; j += THREADS) {
        let bits = weights[start + j];
        let term = exponential(bitcast<f32>(bits) - m);
        sum.rest += select(term, 0.0, bits == params.hidden_bits);
        if settles_after(j / THREADS, 1u) {
            sum = settle(sum.total, sum.rest);
        }
    }
    partial[lane] = sum.total + sum.rest;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if lane < half {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    let finish = finish_row(row, m, partial[0], no_keys);

    for (var j = lane; j < params.kv_len; j += THREADS) {
        let bits = weights[start + j];
        let weight = exponential(bitcast<f32>(bits) - finish.m) * finish.inverse;
        weights[start + j] = select(bitcast<u32>(weight), 0u, bits == params.hidden_bits);
    }
    if lane == 0u {
        finish_lse(finish, row, 0u);
    }
}
