// Stores four columns of `tensor` from element `index` on, or as many as are left.
// needs tensor
fn store_tensor(index: u32, left: u32, columns: vec4<f32>) {
    if left > 0u {
        tensor[index] = columns.x;
    }
    if left > 1u {
        tensor[index + 1u] = columns.y;
    }
    if left > 2u {
        tensor[index + 2u] = columns.z;
    }
    if left > 3u {
        tensor[index + 3u] = columns.w;
    }
}
