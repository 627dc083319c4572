// Four columns of `tensor` for key `j` of a tile, whose first key starts at element `start`. Keys
// past the last one, counted from the first, repeat it: they are hidden.
// use params, load(tensor)
fn staged_tensor(start: u32, j: u32, last: u32, column: u32, left: u32) -> vec4<f32> {
    return load_tensor(start + min(j, last) * params.tensor.row + column, left);
}
