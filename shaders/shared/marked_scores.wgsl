// Scores as they are stored, the hidden ones marked. No visible score may look like the mark.
// use params

fn marked_scores(scores: vec4<f32>, shown: vec4<bool>) -> vec4<u32> {
    let is_nan = (bitcast<vec4<u32>>(scores) & vec4(0x7fffffffu)) > vec4(INFINITY_BITS);
    let bits = select(bitcast<vec4<u32>>(scores), vec4(NAN_BITS), is_nan);
    return select(vec4(params.hidden_bits), bits, shown);
}
