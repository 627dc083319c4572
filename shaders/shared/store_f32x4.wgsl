// Stores four columns of `tensor` from element `index` on, if any are left.
// needs tensor
fn store_tensor(index: u32, left: u32, columns: vec4<f32>) {
    if left > 0u {
        tensor[index / 4u] = columns;
    }
}
