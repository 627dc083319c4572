// Products of this invocation's query with the keys of one tile.
//
// An invocation owns a row. All of them read the same key at the same time, a broadcast, from a
// tile that they staged together. A long head_dim goes through the tile in chunks. Loops over
// columns are nested in two: drivers unroll only a short inner loop, and must unroll it to keep its
// array in registers.
// use rows, transform, columns, load(query), staged(key)
// needs HEAD_CHUNK, HEAD_DIM, HEAD_STEP, KEYS, ROWS, tile

const HEAD_CHUNKS = (HEAD_DIM + HEAD_CHUNK - 1u) / HEAD_CHUNK;

var<private> query_chunk: array<vec4<f32>, HEAD_CHUNK / 4u>;
var<private> products: array<vec4<f32>, KEYS / 4u>;

fn load_query_chunk(start: u32, chunk: u32) {
    for (var d = 0u; d < HEAD_CHUNK / 4u; d++) {
        let column = chunk * HEAD_CHUNK + d * 4u;
        query_chunk[d] = load_query(start + column, columns_left(HEAD_DIM, column));
    }
}

// Leaves the products in `products`. Call in uniform control flow, with the tile free for use; it
// is free again afterwards.
fn score_tile(query_start: u32, key_start: u32, last: u32, lane: u32) {
    for (var slot = 0u; slot < KEYS / 4u; slot++) {
        products[slot] = vec4(0.0);
    }
    for (var chunk = 0u; chunk < HEAD_CHUNKS; chunk++) {
        if HEAD_CHUNKS > 1u {
            load_query_chunk(query_start, chunk);
        }
        stage_keys(key_start, last, chunk, lane);
        workgroupBarrier();
        for (var slot = 0u; slot < KEYS / 4u; slot++) {
            let at = slot * HEAD_CHUNK;
            var four = products[slot];
            for (var first = 0u; first < HEAD_CHUNK / 4u; first += HEAD_STEP) {
                for (var step = 0u; step < HEAD_STEP; step++) {
                    let d = first + step;
                    let q = query_chunk[d];
                    four.x += dot(q, tile[at + d]);
                    four.y += dot(q, tile[at + HEAD_CHUNK / 4u + d]);
                    four.z += dot(q, tile[at + HEAD_CHUNK / 2u + d]);
                    four.w += dot(q, tile[at + HEAD_CHUNK / 4u * 3u + d]);
                }
            }
            products[slot] = four;
        }
        workgroupBarrier();
    }
}

fn stage_keys(key_start: u32, last: u32, chunk: u32, lane: u32) {
    for (var slot = lane; slot < KEYS * HEAD_CHUNK / 4u; slot += ROWS) {
        let column = chunk * HEAD_CHUNK + slot % (HEAD_CHUNK / 4u) * 4u;
        let left = columns_left(HEAD_DIM, column);
        tile[slot] = staged_key(key_start, slot / (HEAD_CHUNK / 4u), last, column, left);
    }
}

// The scores of the four keys in `slot`.
fn transform_scores(row: Row, slope: f32, j: u32, slot: u32) -> vec4<f32> {
    let four = products[slot];
    return vec4(
        transform_score(row, slope, j, four.x, bias_at(row, j)),
        transform_score(row, slope, j + 1u, four.y, bias_at(row, j + 1u)),
        transform_score(row, slope, j + 2u, four.z, bias_at(row, j + 2u)),
        transform_score(row, slope, j + 3u, four.w, bias_at(row, j + 3u)),
    );
}
