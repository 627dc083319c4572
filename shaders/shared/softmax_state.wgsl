// The running maximum m and sum l of a row, in natural units.
// use params

// How much a score may exceed m before m follows: weights stay below e^6.
const MOST_GROWTH = 6.0;

// The maximum is taken off before the factor goes on: the factor in the scale would save a
// multiplication, but scores in the thousands would lose digits, and the lowest f32 overflow.
fn exponential(x: f32) -> f32 {
    return exp2(x * LOG2_E);
}

fn lse_bits(m: f32, l: f32, empty: bool) -> u32 {
    return select(bitcast<u32>(m + log(l)), MINUS_INFINITY_BITS, empty);
}
