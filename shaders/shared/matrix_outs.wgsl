// Outputs of matrices on their way through memory: a matrix shows its numbers nowhere else.
// use params, rows, row_block, key_bits, matrix_products, store(out)
// needs GROUPS, KEYS, MATRIX_SIZE, NOT_FINITE, ROWS, STRIDE, THREADS, VALUE_TILES, Sums, factors
// needs outs, scores, tile, visible, weights

// Rescales outputs. If some value of the tile is not finite, adds all of its values too, in place
// of multiply_values: a matrix multiplies them with rows that do not see them, and 0 * NaN is NaN.
fn revise_outs(share: Share, why: u32, lane: u32) {
    for (var d = 0u; d < VALUE_TILES; d++) {
        workgroupBarrier();
        coopStoreT(outs[d], &scores[share.base * GROUPS + share.part * MATRIX_SIZE / 8u][0u], STRIDE);
        workgroupBarrier();
        for (var slot = lane; slot < ROWS * MATRIX_SIZE * share.parts; slot += THREADS) {
            let r = slot % ROWS;
            let column = slot / ROWS;
            let group = r * GROUPS + column / 8u;
            var sum = scores[group][column % 8u] * factors[r];
            if (why & NOT_FINITE) != 0u && column < MATRIX_SIZE {
                sum += visible_sum(r, d * MATRIX_SIZE + column);
            }
            scores[group][column % 8u] = sum;
        }
        workgroupBarrier();
        outs[d] = coopLoadT<Sums>(&scores[share.base * GROUPS + share.part * MATRIX_SIZE / 8u][0u], STRIDE);
    }
}

fn visible_sum(r: u32, column: u32) -> f32 {
    var sum = 0.0;
    for (var j = 0u; j < KEYS; j++) {
        let weight = f32(weights[r * GROUPS + j / 8u][j % 8u]);
        let term = weight * f32(tile[column * GROUPS + j / 8u][j % 8u / 2u][j % 2u]);
        sum += select(0.0, term, is_visible(visible[r], j));
    }
    return sum;
}

fn store_outs(block: RowBlock, share: Share, lane: u32) {
    for (var d = 0u; d < VALUE_TILES; d++) {
        workgroupBarrier();
        coopStoreT(outs[d], &scores[share.base * GROUPS + share.part * MATRIX_SIZE / 8u][0u], STRIDE);
        workgroupBarrier();
        for (var slot = lane; slot < ROWS * MATRIX_SIZE / 4u; slot += THREADS) {
            let r = slot / (MATRIX_SIZE / 4u);
            let column = slot % (MATRIX_SIZE / 4u) * 4u;
            let row = block_row(block, r);
            let start = row_start(params.out, row) + block.split * params.out_split;
            var four = vec4(0.0);
            for (var part = 0u; part < share.parts; part++) {
                let group = r * GROUPS + (part * MATRIX_SIZE + column) / 8u;
                let at = column % 8u;
                four += vec4(
                    scores[group][at],
                    scores[group][at + 1u],
                    scores[group][at + 2u],
                    scores[group][at + 3u],
                );
            }
            let columns = select(four * factors[r], vec4(0.0), visible[r] == 0u);
            store_out(start + d * MATRIX_SIZE + column, select(0u, 4u, row.live), columns);
        }
    }
}
