// Stores four columns of `tensor` from element `index` on, or as many as are left.
// use pairs_f16
// needs tensor
fn store_tensor(index: u32, left: u32, columns: vec4<f32>) {
    let rounded = vec4<f16>(round_four(columns));
    if left > 0u {
        tensor[index] = rounded.x;
    }
    if left > 1u {
        tensor[index + 1u] = rounded.y;
    }
    if left > 2u {
        tensor[index + 2u] = rounded.z;
    }
    if left > 3u {
        tensor[index + 3u] = rounded.w;
    }
}
