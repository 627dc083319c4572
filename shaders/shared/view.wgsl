// Where element [batch, head, row, 0] of a tensor lies.
struct View {
    offset: u32,
    batch: u32,
    head: u32,
    row: u32,
}
