// use params

// By their bits: a compiler may assume that all numbers are finite.
fn are_finite(columns: vec4<f32>) -> bool {
    return all((bitcast<vec4<u32>>(columns) & vec4(INFINITY_BITS)) != vec4(INFINITY_BITS));
}
