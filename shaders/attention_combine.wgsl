// Merges partial results over ranges of keys (split-KV): out and lse of each range into those of
// all keys.
//
// An invocation owns four columns of a row. A range without visible keys has lse -inf, known by its
// bits, and weighs nothing.
// Source: Dao et al. 2023, "Flash-Decoding for long-context inference"; Juravsky et al. 2024, arXiv
// 2402.05099, section 3.1.

const THREADS = 64u;
alias PartialOut = f32;
alias Out = f32;

@group(0) @binding(12) var<storage, read> partial_out: array<PartialOut>;
@group(0) @binding(13) var<storage, read> partial_lse: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<Out>;
@group(0) @binding(5) var<storage, read_write> lse: array<u32>;
@group(0) @binding(8) var<storage, read> aux: array<u32>;

// use params, locate, rows, softmax_state, settle, finish, columns, load(partial_out), store(out)

@compute @workgroup_size(THREADS)
fn attention_combine(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = workgroup.x * THREADS + lane;
    let vectors = (params.value_dim + 3u) / 4u;
    let query = index / vectors;
    if query >= params.q_len {
        return;
    }
    let row = query_row(query, workgroup.y, locate_sequence(workgroup), true);
    let column = index % vectors * 4u;
    let left = columns_left(params.value_dim, column);
    let lse_start = row_start(params.partial_lse, row);
    let out_start = row_start(params.partial_out, row) + column;

    var m = LOWEST;
    var no_keys = true;
    for (var part = 0u; part < params.splits; part++) {
        let bits = partial_lse[lse_start + part * params.lse_split];
        let sees = bits != MINUS_INFINITY_BITS;
        no_keys = no_keys && !sees;
        m = max(m, select(LOWEST, bitcast<f32>(bits), sees));
    }
    var l = Settled(0.0, 0.0);
    var columns = SettledColumns(vec4(0.0), vec4(0.0));
    for (var part = 0u; part < params.splits; part++) {
        let at = lse_start + part * params.lse_split;
        let bits = partial_lse[at];
        var sum = select(1.0, 0.0, bits == MINUS_INFINITY_BITS);
        if is_set(READS_SUMS) {
            sum = bitcast<f32>(partial_lse[at + 1u]);
        }
        // A range without weight may hold anything. Compared by its bits, a NaN has weight.
        if (bitcast<u32>(sum) & 0x7fffffffu) != 0u {
            let weight = exponential(bitcast<f32>(bits) - m) * sum;
            let partial = load_partial_out(out_start + part * params.out_split, left);
            l = settle(l.total, l.rest + weight);
            columns = settle_columns(columns.total, columns.rest + weight * partial);
        }
    }
    let finish = finish_row(row, m, l.total + l.rest, no_keys);
    let merged = finish_columns(finish, columns.total + columns.rest);
    store_out(row_start(params.out, row) + column, left, merged);
    if column == 0u {
        finish_lse(finish, row, 0u);
    }
}
