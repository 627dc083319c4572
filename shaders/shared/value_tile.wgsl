// Adds weighted values of one tile to this invocation's row of out.
// use settle, columns, staged(value)
// needs KEYS, ROWS, VALUE_CHUNK, VALUE_DIM, VALUE_STEP, tile

// Outputs: running sums over the last few tiles, and totals over all before.
var<private> acc: array<vec4<f32>, VALUE_CHUNK / 4u>;
var<private> settled_acc: array<vec4<f32>, VALUE_CHUNK / 4u>;

fn settle_values() {
    for (var d = 0u; d < VALUE_CHUNK / 4u; d++) {
        let columns = settle_columns(settled_acc[d], acc[d]);
        settled_acc[d] = columns.total;
        acc[d] = columns.rest;
    }
}

fn stage_values(value_start: u32, last: u32, first_column: u32, lane: u32) {
    for (var slot = lane; slot < KEYS * VALUE_CHUNK / 4u; slot += ROWS) {
        let column = first_column + slot % (VALUE_CHUNK / 4u) * 4u;
        let left = columns_left(VALUE_DIM, column);
        tile[slot] = staged_value(value_start, slot / (VALUE_CHUNK / 4u), last, column, left);
    }
}

// Four keys whose values all count.
fn add_values(slot: u32, weights: vec4<f32>) {
    let at = slot * VALUE_CHUNK;
    for (var first = 0u; first < VALUE_CHUNK / 4u; first += VALUE_STEP) {
        for (var step = 0u; step < VALUE_STEP; step++) {
            let d = first + step;
            acc[d] += weights.x * tile[at + d]
                + weights.y * tile[at + VALUE_CHUNK / 4u + d]
                + weights.z * tile[at + VALUE_CHUNK / 2u + d]
                + weights.w * tile[at + VALUE_CHUNK / 4u * 3u + d];
        }
    }
}

// Four keys of which only the visible ones count, whatever the others hold: 0 * NaN is NaN.
fn add_visible_values(slot: u32, weights: vec4<f32>, visible: vec4<bool>) {
    let at = slot * VALUE_CHUNK;
    let none = vec4(0.0);
    for (var first = 0u; first < VALUE_CHUNK / 4u; first += VALUE_STEP) {
        for (var step = 0u; step < VALUE_STEP; step++) {
            let d = first + step;
            acc[d] += select(none, weights.x * tile[at + d], visible.x)
                + select(none, weights.y * tile[at + VALUE_CHUNK / 4u + d], visible.y)
                + select(none, weights.z * tile[at + VALUE_CHUNK / 2u + d], visible.z)
                + select(none, weights.w * tile[at + VALUE_CHUNK / 4u * 3u + d], visible.w);
        }
    }
}
