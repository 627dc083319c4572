// A row's lse, or the maximum and sum that it is made of: of scores like -1e9 it has no digit left for the sum.
// use params, softmax_state, sink

fn store_lse(at: u32, total: Total) {
    if is_set(STORES_SUMS) {
        lse[at] = select(bitcast<u32>(total.m), MINUS_INFINITY_BITS, total.empty);
        lse[at + 1u] = bitcast<u32>(total.l);
    } else {
        lse[at] = lse_bits(total.m, total.l, total.empty);
    }
}
