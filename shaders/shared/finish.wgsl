// The end of a row, once all of its keys are in: what its outputs are multiplied by, and its lse.
//
// The sink of a head is a logit that joins the sum of its rows and has no value. It is added here,
// once: the loop over keys knows nothing of it.
// Source: Xiao et al. 2023, arXiv 2309.17453, section 3.2 (a key without a value, its logit 0).
// use params, rows, softmax_state
// needs aux, lse

struct Finish {
    // Maximum and sum, the sink included.
    m: f32,
    l: f32,
    // The factor that turns exponentials under this maximum into weights, and the factor that turns
    // sums under the maximum of the keys alone into outputs.
    inverse: f32,
    factor: f32,
    // Whether the row sees no key, and whether it sees neither a key nor a sink.
    no_keys: bool,
    empty: bool,
}

fn finish_row(row: Row, m: f32, l: f32, no_keys: bool) -> Finish {
    var finish = Finish(m, l, 1.0, 1.0, no_keys, no_keys);
    if is_set(HAS_SINKS) {
        finish = finish_with_sink(finish, row);
    }
    finish.inverse = inverse_sum(finish.m, finish.l);
    finish.factor *= finish.inverse;
    return finish;
}

// The factor is that of the sums, from their maximum to the new one.
fn finish_with_sink(keys: Finish, row: Row) -> Finish {
    let bits = aux[params.sinks_offset + row.head];
    let finite = (bits & INFINITY_BITS) != INFINITY_BITS;
    // A sink of -inf is as if there were none.
    let absent = bits == MINUS_INFINITY_BITS;
    // In a row that sees no key the sink is all there is.
    if keys.no_keys && bits == INFINITY_BITS {
        return Finish(bitcast<f32>(bits), 1.0, 1.0, 1.0, true, false);
    }
    let sink = select(LOWEST, bitcast<f32>(bits), finite);
    let new_m = max(keys.m, sink);
    let rescale = exponential(keys.m - new_m);
    // A NaN, and +inf made one by its bits, shows in all of the row.
    let term = select(bitcast<f32>(bits | NAN_BITS), exponential(sink - new_m), finite);
    let l = keys.l * rescale + select(term, 0.0, absent);
    return Finish(new_m, l, 1.0, rescale, keys.no_keys, keys.no_keys && absent);
}

// Four columns of out from their sums.
fn finish_columns(finish: Finish, sums: vec4<f32>) -> vec4<f32> {
    return select(sums * finish.factor, vec4(0.0), finish.no_keys);
}

// Stores lse, if it is asked for, or the maximum and sum that it is made of: with scores like -1e9
// the lse has no digit left for the sum. Workgroups that share the row's keys store at places of
// their own.
fn finish_lse(finish: Finish, row: Row, split: u32) {
    if is_set(HAS_LSE) && row.live {
        let at = row_start(params.lse, row) + split * params.lse_split;
        if is_set(STORES_SUMS) {
            lse[at] = select(bitcast<u32>(finish.m), MINUS_INFINITY_BITS, finish.empty);
            lse[at + 1u] = bitcast<u32>(finish.l);
        } else {
            lse[at] = lse_bits(finish.m, finish.l, finish.empty);
        }
    }
}

fn lse_bits(m: f32, l: f32, empty: bool) -> u32 {
    let bits = select(bitcast<u32>(m + log(l)), NAN_BITS, is_undefined(m, l));
    // A row that sees no key but an infinite sink.
    let is_alone = bitcast<u32>(m) == INFINITY_BITS && l == 1.0;
    return select(select(bits, INFINITY_BITS, is_alone), MINUS_INFINITY_BITS, empty);
}
