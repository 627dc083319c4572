// Makes rows that see no key attend to all keys alike: out is the mean of the values, and all
// weights are equal. A workgroup owns one row, and returns at once unless its lse is that of an
// empty row.

const THREADS = 64u;
alias Value = f32;
alias Out = f32;

@group(0) @binding(3) var<storage, read> value: array<Value>;
@group(0) @binding(4) var<storage, read_write> out: array<Out>;
@group(0) @binding(5) var<storage, read> lse: array<u32>;
@group(0) @binding(9) var<storage, read_write> weights: array<f32>;

// use params, locate, rows, settle, columns, load(value), store(out)

@compute @workgroup_size(THREADS)
fn uniform_rows(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let sequence = locate_sequence(workgroup);
    let row = query_row(workgroup.x, workgroup.y, sequence, true);
    if lse[row_start(params.lse, row)] != MINUS_INFINITY_BITS {
        return;
    }
    let weight = 1.0 / f32(params.kv_len);
    let value_start = head_start(params.value, sequence, row.head / params.group);
    for (var column = lane * 4u; column < params.value_dim; column += THREADS * 4u) {
        let left = columns_left(params.value_dim, column);
        var sum = SettledColumns(vec4(0.0), vec4(0.0));
        for (var j = 0u; j < params.kv_len; j++) {
            sum.rest += load_value(value_start + j * params.value.row + column, left);
            if settles_after(j, 1u) {
                sum = settle_columns(sum.total, sum.rest);
            }
        }
        store_out(row_start(params.out, row) + column, left, (sum.total + sum.rest) * weight);
    }
    if is_set(HAS_WEIGHTS) {
        for (var j = lane; j < params.kv_len; j += THREADS) {
            weights[row_start(params.scores, row) + j] = weight;
        }
    }
}
