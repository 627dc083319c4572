// Loads a row's query in a rolled loop: unrolled, a software adapter makes some 50 instructions of each load. As
// the loop indexes `queries` at run time it stays in memory, and products read it where it lies, in
// place of copying all of it at each step.
// use rolled, key_products, columns, load(query)
// needs HEAD_DIM, ROWS_EACH, queries

fn load_own_query(r: u32, start: u32) {
    for (var d = 0u; d < rolled(HEAD_VECTORS); d++) {
        queries[d * ROWS_EACH + r] = load_query(start + d * 4u, columns_left(HEAD_DIM, d * 4u));
    }
}
