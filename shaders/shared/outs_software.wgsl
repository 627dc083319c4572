// Where values lie in their tile and totals in their array, and how rows are stored, on a software adapter.
// use rolled, columns, store(out)
// needs ROWS_EACH, VALUE_DIM, VALUE_VECTORS, queries

// From a value's vectors to the next one's: of a power of two, its compiler would make each address twice.
const VALUE_STRIDE = VALUE_VECTORS + 1u;

// There are no registers to keep totals apart from.
fn apart(slot: u32) -> u32 {
    return slot;
}

// Stores a row's finished outputs, which stand in `queries`: a rolled loop may index it, see
// queries_software.wgsl.
fn store_own_out(r: u32, start: u32, live: bool) {
    for (var d = 0u; d < rolled(VALUE_VECTORS); d++) {
        let columns = select(0u, columns_left(VALUE_DIM, d * 4u), live);
        store_out(start + d * 4u, columns, queries[d * ROWS_EACH + r]);
    }
}
