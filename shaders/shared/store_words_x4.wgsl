// Stores four columns of `tensor`, which are two words, from element `index` on, if any are left.
// use pairs
// needs tensor
fn store_tensor(index: u32, left: u32, columns: vec4<f32>) {
    if left > 0u {
        tensor[index / 4u] = vec2(pack_pair(columns.xy), pack_pair(columns.zw));
    }
}
