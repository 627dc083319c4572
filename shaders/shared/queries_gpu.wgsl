// Loads a row's query. The loop can be unrolled, so that `queries` stays in registers.
// use key_products, columns, load(query)
// needs HEAD_DIM, ROWS_EACH, queries

fn load_own_query(r: u32, start: u32) {
    for (var d = 0u; d < HEAD_VECTORS; d++) {
        queries[d * ROWS_EACH + r] = load_query(start + d * 4u, columns_left(HEAD_DIM, d * 4u));
    }
}
