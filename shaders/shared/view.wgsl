// Offset and strides of a tensor [batch, head, row, column], in elements.
struct View {
    offset: u32,
    batch: u32,
    head: u32,
    row: u32,
}
