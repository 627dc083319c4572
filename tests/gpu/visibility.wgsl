// Runs the parts of the shaders that decide which keys a row sees, alone. Each workgroup goes through
// the tiles of a few queries as the kernels do. It writes which keys of a tile each query sees, and how
// often the tile came.
// The host appends params, view, sequence, locate_ragged, rows, key_bits, mask_bits and visibility.

const KEYS = 32u;
const WORD_KEYS = KEYS;
// Queries of a workgroup, and tiles of a query in `found`.
const QUERIES = 8u;
const TILES = 8u;
const HAS_BIAS = false;

struct SeenTile {
    bits: atomic<u32>,
    times: atomic<u32>,
}

@group(0) @binding(1) var<storage, read_write> found: array<SeenTile>;
@group(0) @binding(6) var<storage, read> mask: array<u32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
@group(0) @binding(8) var<storage, read> aux: array<u32>;

@compute @workgroup_size(1)
fn look(@builtin(workgroup_id) workgroup: vec3<u32>) {
    let sequence = locate_sequence(workgroup);
    let first = (workgroup.x - sequence.first_tile) * QUERIES;
    let last = min(first + QUERIES, sequence.q_len) - 1u;
    let range = share_of(key_range(sequence, first, last), workgroup.y);
    for (var at = range.begin; at < range.end; at += KEYS) {
        let first_key = key_at(range, at);
        let whole = sees_whole_tile(sequence, first, last, first_key);
        let some = sees_some(sequence, first, last, first_key);
        for (var query = first; query <= last; query++) {
            let bits = visible_keys(sequence, query_row(query, 0u, sequence, true), first_key);
            let place = (sequence.first_query + query) * TILES + first_key / KEYS;
            atomicOr(&found[place].bits, select(select(0u, bits, some), 0xffffffffu, whole));
            atomicAdd(&found[place].times, 1u);
        }
    }
}
