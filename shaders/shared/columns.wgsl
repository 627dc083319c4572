// How many of a row's columns there are from `column` on.
fn columns_left(dim: u32, column: u32) -> u32 {
    return max(dim, column) - column;
}
