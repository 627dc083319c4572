// The mask of a row's keys, one bit a key: bit j of a word stands for key first_key + j.
// use params, rows
// needs mask

fn mask_bits(row: Row, first_key: u32) -> u32 {
    let bit = row_start(params.mask, row) + first_key * params.mask_column;
    let word = bit >> 5u;
    let shift = bit & 31u;
    let low = mask[word] >> shift;
    if params.mask_column == 0u {
        return select(0u, 0xffffffffu, (low & 1u) != 0u);
    }
    if shift == 0u {
        return low;
    }
    // This may read past the mask's end: those bits belong to keys past kv_len.
    return low | (mask[word + 1u] << (32u - shift));
}
