// The running maximum m and sum l of a row, in natural units.
// use params

// How much a score may exceed m before m follows: weights stay below e^6.
const MOST_GROWTH = 6.0;

// The maximum is taken off before the factor goes on: the factor in the scale would save a
// multiplication, but scores in the thousands would lose digits, and the lowest f32 overflow.
fn exponential(x: f32) -> f32 {
    return exp2(x * LOG2_E);
}

// Whether a row that sees keys has no weights: a score of NaN or +inf makes its sum or its maximum
// NaN or infinite, scores of -inf alone a sum of 0. Decided by bits: not every device gives NaN for
// exp2(NaN) and log(NaN).
fn is_undefined(m: f32, l: f32) -> bool {
    let bits = bitcast<u32>(l);
    let exponents = vec2(bitcast<u32>(m), bits) & vec2(INFINITY_BITS);
    return any(exponents == vec2(INFINITY_BITS)) || (bits & 0x7fffffffu) == 0u;
}

// The factor that turns exponentials into weights.
fn inverse_sum(m: f32, l: f32) -> f32 {
    // Made from l at run time, as WGSL has no NaN constant.
    return select(1.0 / l, bitcast<f32>(bitcast<u32>(l) | NAN_BITS), is_undefined(m, l));
}
