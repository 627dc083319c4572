// The sink of a head: a logit that joins the sum of its rows and has no value. It comes in last, so that it is
// read once and the loop over the keys knows nothing of it.
// Source: Xiao et al. 2023, arXiv 2309.17453, section 3.2 (a key without a value, its logit 0).
// use params, rows, softmax_state

// Maximum and sum of a row, what brings sums under the old maximum under this one, and whether both are of
// nothing.
struct Total {
    m: f32,
    l: f32,
    rescale: f32,
    empty: bool,
}

fn with_sink(row: Row, m: f32, l: f32, empty: bool) -> Total {
    if !is_set(HAS_SINKS) {
        return Total(m, l, 1.0, empty);
    }
    let bits = aux[params.sinks_offset + row.head];
    let finite = (bits & INFINITY_BITS) != INFINITY_BITS;
    // A sink of -inf is as if there were none.
    let absent = bits == MINUS_INFINITY_BITS;
    // Of a row that sees no key the sink is all there is.
    if empty && bits == INFINITY_BITS {
        return Total(bitcast<f32>(bits), 1.0, 1.0, false);
    }
    let sink = select(LOWEST, bitcast<f32>(bits), finite);
    let new_m = max(m, sink);
    let rescale = exponential(m - new_m);
    // A NaN, and +inf made one by its bits, shows in all of the row.
    let term = select(bitcast<f32>(bits | NAN_BITS), exponential(sink - new_m), finite);
    return Total(new_m, l * rescale + select(term, 0.0, absent), rescale, empty && absent);
}
