// The layout of values and totals, and the stores of a row's outputs, on a software adapter.
// use rolled, columns, store(out)
// needs ROWS_EACH, VALUE_DIM, VALUE_VECTORS, queries

// Vectors from one value to the next. A power of two would cost two address instructions in place
// of one.
const VALUE_STRIDE = VALUE_VECTORS + 1u;

// Totals need no place apart: outs_gpu.wgsl frees registers, and here there are none to free.
fn apart(slot: u32) -> u32 {
    return slot;
}

// Stores a row's finished outputs, which stand in `queries`, in a rolled loop as in
// queries_software.wgsl.
fn store_own_out(r: u32, start: u32, live: bool) {
    for (var d = 0u; d < rolled(VALUE_VECTORS); d++) {
        let columns = select(0u, columns_left(VALUE_DIM, d * 4u), live);
        store_out(start + d * 4u, columns, queries[d * ROWS_EACH + r]);
    }
}
