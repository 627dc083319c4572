// The layout of values and totals, and the stores of a row's outputs.
// use params, columns, store(out)
// needs ROWS_EACH, VALUE_DIM, VALUE_VECTORS, queries

// Vectors from one value to the next.
const VALUE_STRIDE = VALUE_VECTORS;

// Returns the same slot, as kv_len is below 2^31. A compiler cannot know that. So it keeps the
// totals, which are rarely touched, in memory, and leaves the registers to the loop over keys.
fn apart(slot: u32) -> u32 {
    return slot + (params.kv_len >> 31u);
}

// Stores a row's finished outputs, which stand in `queries`.
fn store_own_out(r: u32, start: u32, live: bool) {
    for (var d = 0u; d < VALUE_VECTORS; d++) {
        let columns = select(0u, columns_left(VALUE_DIM, d * 4u), live);
        store_out(start + d * 4u, columns, queries[d * ROWS_EACH + r]);
    }
}
