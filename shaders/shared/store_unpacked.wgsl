// Stores four columns of `tensor`, or as many as are left, for pack.wgsl, where rows share words.
// Each is an f32 with all bits inverted, so that 0 marks an empty place.
// needs tensor
fn store_tensor(index: u32, left: u32, columns: vec4<f32>) {
    // A NaN whose bits turn into 0 becomes another.
    let bits = bitcast<vec4<u32>>(columns);
    let turned = max(~bits, vec4(1u));
    if left > 0u {
        tensor[index] = turned.x;
    }
    if left > 1u {
        tensor[index + 1u] = turned.y;
    }
    if left > 2u {
        tensor[index + 2u] = turned.z;
    }
    if left > 3u {
        tensor[index + 3u] = turned.w;
    }
}
