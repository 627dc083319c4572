// Loads a row's query in a rolled loop. Unrolled, each load is some 50 instructions on a software
// adapter. The loop indexes `queries` at run time, so it stays in memory, and products read it
// where it lies: otherwise all of it would be copied at each step.
// use rolled, key_products, columns, load(query)
// needs HEAD_DIM, ROWS_EACH, queries

fn load_own_query(r: u32, start: u32) {
    for (var d = 0u; d < rolled(HEAD_VECTORS); d++) {
        queries[d * ROWS_EACH + r] = load_query(start + d * 4u, columns_left(HEAD_DIM, d * 4u));
    }
}
