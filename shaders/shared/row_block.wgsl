// The rows of a workgroup, and the keys that it goes through for them.
// use params, locate, sequence, rows, visibility
// needs ROWS

struct RowBlock {
    sequence: Sequence,
    kv_head: u32,
    // Which chunk of out's columns, and which of the workgroups that share the keys.
    chunk: u32,
    split: u32,
    first_row: u32,
    // Queries of the first and the last row.
    first_query: u32,
    last_query: u32,
}

// Workgroups take the last rows first: those see the most keys under causality, so that the
// shortest are left for the end.
fn locate_block(workgroup: vec3<u32>, chunks: u32) -> RowBlock {
    let sequence = locate_sequence(workgroup);
    let split = workgroup.y % params.splits;
    let chunk = workgroup.y / params.splits % chunks;
    let kv_head = workgroup.y / params.splits / chunks;
    let last_block = (sequence.q_len * params.group - 1u) / ROWS;
    let first_row = (last_block - (workgroup.x - sequence.first_tile)) * ROWS;
    let first_query = locate_row(first_row, sequence, kv_head).query;
    let last_query = locate_row(first_row + ROWS - 1u, sequence, kv_head).query;
    return RowBlock(sequence, kv_head, chunk, split, first_row, first_query, last_query);
}

fn block_row(block: RowBlock, number: u32) -> Row {
    return locate_row(block.first_row + number, block.sequence, block.kv_head);
}

// Whether the row of this number is one, not one that fills up the last block.
fn has_row(block: RowBlock, number: u32) -> bool {
    return block.first_row + number < block.sequence.q_len * params.group;
}

fn block_keys(block: RowBlock) -> KeyRange {
    return share_of(key_range(block.sequence, block.first_query, block.last_query), block.split);
}

fn block_sees_whole_tile(block: RowBlock, first_key: u32) -> bool {
    return sees_whole_tile(block.sequence, block.first_query, block.last_query, first_key);
}

fn block_sees_some(block: RowBlock, first_key: u32) -> bool {
    return sees_some(block.sequence, block.first_query, block.last_query, first_key);
}
