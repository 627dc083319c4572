// Four columns of `tensor` from element `index` on, zero where none are left.
// needs tensor
fn load_tensor(index: u32, left: u32) -> vec4<f32> {
    return select(vec4(0.0), vec4<f32>(tensor[index / 4u]), left > 0u);
}
