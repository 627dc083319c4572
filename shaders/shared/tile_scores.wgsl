// Products of the queries of a workgroup and a tile of keys, 16 columns at a time.
// use params, rows, row_block, block_key, columns, register_tile, tile_visibility, load(query)
// use load(key)
// needs KEYS_EACH, ROWS_EACH, scores

// Where the rows begin that this invocation stages.
var<private> query_starts: array<u32, QUERY_SLOTS>;
var<private> key_starts: array<u32, KEY_SLOTS>;

fn find_queries(block: RowBlock, lane: u32) {
    for (var t = 0u; t < QUERY_SLOTS; t++) {
        query_starts[t] = row_start(params.query, block_row(block, staged_row(lane, t)));
    }
}

// Puts the products into `scores`, and, if asked for, into `visible` which of the keys are.
fn multiply_tile(block: RowBlock, first_key: u32, sees: bool, place: TilePosition) {
    for (var t = 0u; t < KEY_SLOTS; t++) {
        key_starts[t] = key_start(block, params.key, first_key + staged_row(place.lane, t));
    }
    for (var s = 0u; s < ROWS_EACH * KEYS_EACH; s++) {
        scores[s] = 0.0;
    }
    // The bound is one that no compiler knows, so that none unrolls the loop.
    for (var column = 0u; column < params.head_dim; column += CHUNK) {
        stage_chunk(block, first_key, column, sees && column == 0u, place);
        multiply_chunk(place);
    }
}

// Some columns of queries and keys, and, if asked for, which of the keys are visible.
fn stage_chunk(block: RowBlock, first_key: u32, column: u32, sees: bool, place: TilePosition) {
    let own = column + place.lane % VECTORS * 4u;
    let left = columns_left(params.head_dim, own);
    var queries: array<vec4<f32>, QUERY_SLOTS>;
    var keys: array<vec4<f32>, KEY_SLOTS>;
    for (var t = 0u; t < QUERY_SLOTS; t++) {
        queries[t] = load_query(query_starts[t] + own, left);
    }
    for (var t = 0u; t < KEY_SLOTS; t++) {
        keys[t] = load_key(key_starts[t] + own, left);
    }
    workgroupBarrier();
    for (var t = 0u; t < QUERY_SLOTS; t++) {
        stage_left(staged_row(place.lane, t), place.lane % VECTORS, queries[t]);
    }
    for (var t = 0u; t < KEY_SLOTS; t++) {
        stage_right(staged_row(place.lane, t), place.lane % VECTORS, keys[t]);
    }
    if sees {
        see_keys(block, first_key, place.lane);
    }
    workgroupBarrier();
}
