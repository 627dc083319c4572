// Four columns of `tensor`, two to a word, from element `index` on, zero where fewer are left. A
// row may begin in the middle of a word.
// use pairs
// needs tensor
fn load_tensor(index: u32, left: u32) -> vec4<f32> {
    let word = index / 2u;
    let first = unpack_pair(tensor[word]);
    let second = unpack_pair(tensor[word + 1u]);
    var found = vec4(first, second);
    if index % 2u == 1u {
        found = vec4(found.yzw, unpack_pair(tensor[word + 2u]).x);
    }
    return select(vec4(0.0), found, vec4(left) > vec4(0u, 1u, 2u, 3u));
}
