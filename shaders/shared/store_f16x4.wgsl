// Stores four columns of `tensor` from element `index` on, if any are left.
// use pairs_f16
// needs tensor
fn store_tensor(index: u32, left: u32, columns: vec4<f32>) {
    if left > 0u {
        tensor[index / 4u] = vec4<f16>(round_four(columns));
    }
}
