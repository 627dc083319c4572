// Four columns of `tensor`, which are two words, from element `index` on, zero where none are left.
// use pairs
// needs tensor
fn load_tensor(index: u32, left: u32) -> vec4<f32> {
    let words = tensor[index / 4u];
    return select(vec4(0.0), vec4(unpack_pair(words.x), unpack_pair(words.y)), left > 0u);
}
