// Where a key of a workgroup's rows lies, or its value, wherever its page is.
// use params, view, rows, row_block, tile

// Keys past the last one repeat it: they are hidden.
fn key_start(block: RowBlock, view: View, number: u32) -> u32 {
    let sequence = block.sequence;
    let seen = min(number, sequence.seen_len - 1u);
    if is_set(HAS_PAGES) {
        return tile_start(view, locate_tile(sequence, seen), block.kv_head);
    }
    // All that does not depend on the key is the same in all invocations.
    return head_start(view, sequence, block.kv_head) + (sequence.first_key + seen) * view.row;
}
