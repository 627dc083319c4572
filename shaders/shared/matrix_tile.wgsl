// Queries, keys and values as f16 in workgroup memory, from which matrices are loaded. A matrix
// load knows neither strides between heads nor the end of a tensor, so it reads nothing else.
// use params, rows, row_block, tile, finite, load(query), staged(key), staged(value)
// needs HEAD_DIM, HEAD_TILES, KEYS, MATRIX_SIZE, NOT_FINITE, ROWS, THREADS, TILE_STRIDE, VALUE_DIM
// needs WEIGHT_STRIDE, Left, queries, reasons, tile, weights

// The workgroup's queries, as many columns as a matrix has at a time, through `weights`.
fn load_queries(block: RowBlock, base: u32, lane: u32) {
    for (var d = 0u; d < HEAD_TILES; d++) {
        for (var slot = lane; slot < ROWS * MATRIX_SIZE / 4u; slot += THREADS) {
            let r = slot / (MATRIX_SIZE / 4u);
            let column = slot % (MATRIX_SIZE / 4u) * 4u;
            let start = row_start(params.query, block_row(block, r));
            let four = vec4<f16>(load_query(start + d * MATRIX_SIZE + column, 4u));
            let place = r * WEIGHT_STRIDE + column;
            weights[place] = four.x;
            weights[place + 1u] = four.y;
            weights[place + 2u] = four.z;
            weights[place + 3u] = four.w;
        }
        workgroupBarrier();
        queries[d] = coopLoadT<Left>(&weights[base * WEIGHT_STRIDE], WEIGHT_STRIDE);
        workgroupBarrier();
    }
}

fn stage_keys(place: TilePlace, kv_head: u32, last: u32, lane: u32) {
    let start = tile_start(params.key, place, kv_head);
    for (var slot = lane; slot < KEYS * HEAD_DIM / 4u; slot += THREADS) {
        let j = slot / (HEAD_DIM / 4u);
        let column = slot % (HEAD_DIM / 4u) * 4u;
        stage_four(j * TILE_STRIDE + column, staged_key(start, j, last, column, 4u));
    }
}

// Notes whether all are finite.
fn stage_values(place: TilePlace, kv_head: u32, last: u32, lane: u32) {
    let start = tile_start(params.value, place, kv_head);
    for (var slot = lane; slot < KEYS * VALUE_DIM / 4u; slot += THREADS) {
        let j = slot / (VALUE_DIM / 4u);
        let column = slot % (VALUE_DIM / 4u) * 4u;
        let four = staged_value(start, j, last, column, 4u);
        stage_four(j * TILE_STRIDE + column, four);
        if !are_finite(four) {
            atomicOr(&reasons, NOT_FINITE);
        }
    }
}

fn stage_four(place: u32, columns: vec4<f32>) {
    let four = vec4<f16>(columns);
    tile[place] = four.x;
    tile[place + 1u] = four.y;
    tile[place + 2u] = four.z;
    tile[place + 3u] = four.w;
}
