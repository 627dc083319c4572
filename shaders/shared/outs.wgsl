// The layout of values, and the stores of a row's outputs.
// use rolled, columns, store(out)
// needs ROWS_EACH, VALUE_DIM, VALUE_VECTORS, queries

// Vectors from one value to the next. A power of two would cost two address instructions in place
// of one.
const VALUE_STRIDE = VALUE_VECTORS + 1u;

// Stores a row's finished outputs, which stand in `queries`, in a rolled loop as in
// queries.wgsl.
fn store_own_out(r: u32, start: u32, live: bool) {
    for (var d = 0u; d < rolled(VALUE_VECTORS); d++) {
        let columns = select(0u, columns_left(VALUE_DIM, d * 4u), live);
        store_out(start + d * 4u, columns, queries[d * ROWS_EACH + r]);
    }
}
