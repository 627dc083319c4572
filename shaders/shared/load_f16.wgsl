// Four columns of `tensor` from element `index` on, zero where fewer are left.
// needs tensor
fn load_tensor(index: u32, left: u32) -> vec4<f32> {
    let found = vec4(tensor[index], tensor[index + 1u], tensor[index + 2u], tensor[index + 3u]);
    return select(vec4(0.0), vec4<f32>(found), vec4(left) > vec4(0u, 1u, 2u, 3u));
}
