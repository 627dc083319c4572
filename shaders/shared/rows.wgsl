// Rows of a tile. The query heads that share a key/value head are packed into the rows of one tile,
// so that a key read once serves them all: row = query * group + head within the group.
// use params

struct Row {
    batch: u32,
    head: u32,
    query: u32,
    // False for the rows that fill up the last tile: they repeat the last row and store nothing.
    live: bool,
}

fn locate_row(index: u32, batch: u32, kv_head: u32) -> Row {
    let last = params.q_len * params.group - 1u;
    let row = min(index, last);
    let head = kv_head * params.group + row % params.group;
    return Row(batch, head, row / params.group, index <= last);
}

fn row_start(view: View, row: Row) -> u32 {
    return view.offset + row.batch * view.batch + row.head * view.head + row.query * view.row;
}

fn head_start(view: View, batch: u32, kv_head: u32) -> u32 {
    return view.offset + batch * view.batch + kv_head * view.head;
}
