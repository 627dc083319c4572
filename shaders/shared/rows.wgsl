// Rows of a tile. The query heads that share a key/value head are packed into the rows of one tile,
// so that a key read once serves them all: row = query * group + head within the group.
// use params, sequence, view

struct Row {
    batch: u32,
    head: u32,
    // The query's number within the sequence, and within the tensor.
    query: u32,
    index: u32,
    // The key that the query stands at.
    place: i32,
    // False for the rows that fill up the last tile: they repeat the last row and store nothing.
    live: bool,
}

// The row of this number from the sequence's first on.
fn locate_row(number: u32, sequence: Sequence, kv_head: u32) -> Row {
    let last = sequence.q_len * params.group - 1u;
    let row = min(number, last);
    let head = kv_head * params.group + row % params.group;
    return query_row(row / params.group, head, sequence, number <= last);
}

fn query_row(query: u32, head: u32, sequence: Sequence, live: bool) -> Row {
    let index = sequence.first_query + query;
    return Row(sequence.batch, head, query, index, i32(query) + sequence.offset, live);
}

fn row_start(view: View, row: Row) -> u32 {
    return view.offset + row.batch * view.batch + row.head * view.head + row.index * view.row;
}

fn head_start(view: View, sequence: Sequence, kv_head: u32) -> u32 {
    return view.offset + sequence.batch * view.batch + kv_head * view.head;
}
