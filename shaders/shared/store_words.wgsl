// Stores four columns of `tensor`, two to a word, from element `index` on, or as many as are left:
// both even, so that a word is one row's alone.
// use pairs
// needs tensor
fn store_tensor(index: u32, left: u32, columns: vec4<f32>) {
    if left > 0u {
        tensor[index / 2u] = pack_pair(columns.xy);
    }
    if left > 2u {
        tensor[index / 2u + 1u] = pack_pair(columns.zw);
    }
}
