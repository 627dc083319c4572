// Tells finite numbers by their bits: a compiler may assume that all numbers are finite.
// use params

fn are_finite(columns: vec4<f32>) -> bool {
    return all((bitcast<vec4<u32>>(columns) & vec4(INFINITY_BITS)) != vec4(INFINITY_BITS));
}
