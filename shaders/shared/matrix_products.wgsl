// Products of the matrices of a subgroup: queries and keys into `scores`, weights and values into
// `outs`.
// use params, matrix_tile
// needs GROUPS, HEAD_DIM, HEAD_TILES, KEEPS_QUERIES, KEYS, KEY_GROUPS, KEY_STRIDE, KEY_TILES
// needs MATRIX_SIZE, STRIDE, VALUE_TILES, Left, Right, Sums, outs, queries, scores, tile, weights

// The first row of a subgroup, and its part of the keys.
struct Share {
    base: u32,
    part: u32,
    parts: u32,
}

// A key of NaN spoils its own column of the scores alone, a query its row.
fn multiply_keys(share: Share, lane: u32) {
    if !KEEPS_QUERIES {
        multiply_keys_anew(share, lane);
        return;
    }
    for (var t = share.part; t < KEY_TILES; t += share.parts) {
        let j = t * MATRIX_SIZE;
        var products = Sums();
        for (var d = 0u; d < HEAD_TILES; d++) {
            // Loaded by columns, keys are transposed.
            let at = j * KEY_GROUPS + d * MATRIX_SIZE / 8u;
            let right = coopLoad<Right>(&tile[at][0u][0u], KEY_STRIDE);
            products = coopMultiplyAdd(queries[d], right, products);
        }
        coopStoreT(products, &scores[share.base * GROUPS + j / 8u][0u], STRIDE);
    }
}

// The same with queries that are staged anew for each tile.
fn multiply_keys_anew(share: Share, lane: u32) {
    var products: array<Sums, KEY_TILES>;
    for (var t = 0u; t < KEY_TILES; t++) {
        products[t] = Sums();
    }
    // The bound is one that no compiler knows, so that none unrolls the loop.
    for (var column = 0u; column < params.head_dim; column += KEYS) {
        stage_queries(column, lane);
        let left_tiles = min(KEY_TILES, (HEAD_DIM - column) / MATRIX_SIZE);
        for (var d = 0u; d < select(left_tiles, KEY_TILES, HEAD_DIM % KEYS == 0u); d++) {
            let group = d * MATRIX_SIZE / 8u;
            let left = coopLoadT<Left>(&weights[share.base * GROUPS + group][0u], STRIDE);
            for (var t = share.part; t < KEY_TILES; t += share.parts) {
                let at = t * MATRIX_SIZE * KEY_GROUPS + column / 8u + group;
                let right = coopLoad<Right>(&tile[at][0u][0u], KEY_STRIDE);
                products[t] = coopMultiplyAdd(left, right, products[t]);
            }
        }
    }
    for (var t = share.part; t < KEY_TILES; t += share.parts) {
        let at = share.base * GROUPS + t * MATRIX_SIZE / 8u;
        coopStoreT(products[t], &scores[at][0u], STRIDE);
    }
}

fn multiply_values(share: Share) {
    for (var t = share.part; t < KEY_TILES; t += share.parts) {
        let j = t * MATRIX_SIZE;
        let left = coopLoadT<Left>(&weights[share.base * GROUPS + j / 8u][0u], STRIDE);
        for (var d = 0u; d < VALUE_TILES; d++) {
            let right = coopLoad<Right>(&tile[d * MATRIX_SIZE * GROUPS + j / 8u][0u][0u], STRIDE);
            outs[d] = coopMultiplyAdd(left, right, outs[d]);
        }
    }
}
