// Which keys of a tile a row (one query of one head) sees. Bit j of a word is key first_key + j. A
// tile has KEYS keys, a word 32 of them at most. Shader compilers may assume that NaN and
// infinities do not exist, so only integers and bit patterns are compared.
//
// The band: a query sees the keys from query + band_lower to query + band_upper. The first
// params.kept keys of a sequence are kept: the lower end of the band does not hide them.
// use params, sequence, rows, key_bits, mask_bits
// needs HAS_BIAS, KEYS, WORD_KEYS, aux, bias

// The keys that a loop visits: the kept keys, then those of the band. Places number them without the
// gap between, from begin up to, not including, end. Below `gap`, place and key are equal. From
// `gap` on, the key is place + skipped.
struct KeyRange {
    begin: u32,
    end: u32,
    gap: u32,
    skipped: u32,
}

// The keys that these queries may see by band, kept keys and length, in whole tiles.
fn key_range(sequence: Sequence, first_query: u32, last_query: u32) -> KeyRange {
    let lower = u32(max(i32(first_query) + sequence.band_lower, 0)) / KEYS * KEYS;
    let upper = u32(max(min(i32(last_query) + sequence.band_upper + 1, i32(sequence.seen_len)), 0));
    let gap = min((params.kept + KEYS - 1u) / KEYS * KEYS, lower);
    return KeyRange(0u, min(gap, upper) + max(upper, lower) - lower, gap, lower - gap);
}

// The key at a place in a range.
fn key_at(range: KeyRange, place: u32) -> u32 {
    return place + select(range.skipped, 0u, place < range.gap);
}

// The places of workgroup `split` of params.splits (split-KV), in whole tiles.
fn share_of(range: KeyRange, split: u32) -> KeyRange {
    let tiles = (range.end + KEYS - 1u) / KEYS;
    let begin = tiles * split / params.splits * KEYS;
    let end = tiles * (split + 1u) / params.splits * KEYS;
    return KeyRange(begin, min(end, range.end), range.gap, range.skipped);
}

// True only if these queries see every key of the tile. It may miss such a tile.
fn sees_whole_tile(sequence: Sequence, first_query: u32, last_query: u32, first_key: u32) -> bool {
    let last_key = first_key + KEYS - 1u;
    return !is_set(HAS_MASK) && !HAS_BIAS && !is_set(HAS_SEGMENTS) && last_key < sequence.seen_len
        && (i32(first_key) - i32(last_query) >= sequence.band_lower || last_key < params.kept)
        && i32(last_key) - i32(first_query) <= sequence.band_upper;
}

// False only if band and kept keys hide the whole tile from these queries.
fn sees_some(sequence: Sequence, first_query: u32, last_query: u32, first_key: u32) -> bool {
    let last_key = first_key + KEYS - 1u;
    return (i32(last_key) - i32(first_query) >= sequence.band_lower || first_key < params.kept)
        && i32(first_key) - i32(last_query) <= sequence.band_upper;
}

// The keys of a word that a row sees, one bit a key.
fn visible_keys(sequence: Sequence, row: Row, first_key: u32) -> u32 {
    let diagonal = i32(row.query) - i32(first_key);
    let begin = clamp(diagonal + sequence.band_lower, 0, i32(WORD_KEYS));
    let left = i32(sequence.seen_len) - i32(first_key);
    let end = clamp(min(diagonal + sequence.band_upper + 1, left), 0, i32(WORD_KEYS));
    let kept_here = min(max(params.kept, first_key) - first_key, WORD_KEYS);
    var visible = lowest_bits(u32(end)) & (lowest_bits(kept_here) | ~lowest_bits(u32(begin)));
    if is_set(HAS_MASK) {
        visible &= mask_bits(row, first_key);
    }
    if HAS_BIAS {
        visible &= ~infinite_bias_bits(row, first_key);
    }
    if is_set(HAS_SEGMENTS) {
        visible &= segment_bits(row, first_key);
    }
    return visible;
}

fn infinite_bias_bits(row: Row, first_key: u32) -> u32 {
    let start = row_start(params.bias, row);
    let count = min(WORD_KEYS, params.kv_len - first_key);
    var hidden = 0u;
    for (var j = 0u; j < count; j++) {
        let value = bitcast<u32>(bias[start + (first_key + j) * params.bias_column]);
        hidden |= select(0u, 1u, value == MINUS_INFINITY_BITS) << j;
    }
    return hidden;
}

fn segment_bits(row: Row, first_key: u32) -> u32 {
    let own = aux[params.query_segment_offset + row.batch * params.query_segment_batch + row.index];
    let start = params.key_segment_offset + row.batch * params.key_segment_batch + first_key;
    let count = min(WORD_KEYS, params.kv_len - first_key);
    var same = 0u;
    for (var j = 0u; j < count; j++) {
        same |= select(0u, 1u, aux[start + j] == own) << j;
    }
    return same;
}
