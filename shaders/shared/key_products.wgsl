// Products of this invocation's rows, whose queries are in `queries`, with the keys of a tile.
// use lockstep, columns, staged(key)
// needs HEAD_DIM, HEAD_PART, HEAD_PARTS, KEYS, KEYS_EACH, ROWS_EACH, queries

const HEAD_VECTORS = HEAD_PARTS * HEAD_PART;

var<workgroup> key_tile: array<array<vec4<f32>, HEAD_VECTORS>, KEYS>;

// The products of each row with KEYS_EACH keys, later their scores, then their weights.
var<private> terms: array<f32, KEYS_EACH * ROWS_EACH>;

fn stage_keys(start: u32, last: u32, lane: u32) {
    let slots = slots_of(lane, KEYS * HEAD_VECTORS);
    for (var slot = slots.begin; slot < slots.end; slot += SLOT_STEP) {
        key_tile[slot / HEAD_VECTORS][slot % HEAD_VECTORS] = key_columns(start, last, slot);
    }
}

// The four columns that belong in a slot of the tile.
fn key_columns(start: u32, last: u32, slot: u32) -> vec4<f32> {
    let column = slot % HEAD_VECTORS * 4u;
    return staged_key(start, slot / HEAD_VECTORS, last, column, columns_left(HEAD_DIM, column));
}

// The products of each row's query with KEYS_EACH keys from j on, into `terms`.
fn multiply(j: u32) {
    for (var slot = 0u; slot < KEYS_EACH * ROWS_EACH; slot++) {
        terms[slot] = 0.0;
    }
    multiply_part(j, 0u);
    if HEAD_PARTS > 1u {
        multiply_part(j, HEAD_PART);
    }
    if HEAD_PARTS > 2u {
        multiply_part(j, 2u * HEAD_PART);
    }
    if HEAD_PARTS > 3u {
        multiply_part(j, 3u * HEAD_PART);
    }
}

fn multiply_part(j: u32, first: u32) {
    for (var step = 0u; step < HEAD_PART; step++) {
        let d = min(first + step, HEAD_VECTORS - 1u);
        for (var c = 0u; c < KEYS_EACH; c++) {
            let columns = key_tile[j + c][d];
            for (var r = 0u; r < ROWS_EACH; r++) {
                terms[c * ROWS_EACH + r] += dot(queries[d * ROWS_EACH + r], columns);
            }
        }
    }
}
