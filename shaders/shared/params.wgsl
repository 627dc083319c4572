// Parameters of a call. Mirrored by `Params` in src/plan/params.rs.
// use view

// Lengths of sequences, in a buffer.
struct Lens {
    // Where the first one is.
    offset: u32,
    // The largest that counts; larger ones are taken for it.
    most: u32,
    // Keys that lie before the first of this dispatch.
    before: u32,
    // Keys by which offset and band move for each key of the length: 0 or 1.
    moves: u32,
}

struct Params {
    query: View,
    key: View,
    value: View,
    out: View,
    lse: View,
    scores: View,
    // Results over the first range of keys (split-KV).
    partial_out: View,
    partial_lse: View,
    mask: View,
    bias: View,
    lens: Lens,
    mask_column: u32,
    bias_column: u32,
    // Ranges of keys, and the distance from one to the next in their results.
    splits: u32,
    out_split: u32,
    lse_split: u32,
    // Rows of the table, where sequences differ.
    sequences: u32,
    alibi_offset: u32,
    alibi_batch: u32,
    query_segment_offset: u32,
    query_segment_batch: u32,
    key_segment_offset: u32,
    key_segment_batch: u32,
    // The page table; keys of a page, and the last page of the pool.
    pages_offset: u32,
    pages_batch: u32,
    page_len: u32,
    last_page: u32,
    sinks_offset: u32,
    q_len: u32,
    kv_len: u32,
    // Keys from here on are hidden.
    seen_len: u32,
    group: u32,
    band_lower: i32,
    band_upper: i32,
    // Keys of each sequence before this one are visible even below the band (a sliding window keeps
    // them).
    kept: u32,
    offset: i32,
    // 2^63 times as large where HAS_TINY_SCALE is on.
    scale: f32,
    softcap: f32,
    // Words of the output, where it is packed.
    words: u32,
    // The bits below.
    flags: u32,
    // Columns of keys (hidden columns in additive attention) and of values, for kernels that keep
    // no column in a register.
    head_dim: u32,
    value_dim: u32,
    // The mark that stands in place of a hidden score.
    hidden_bits: u32,
}

// Bits of `flags`, the same as in src/plan/params.rs. Options that the inner loop does not depend
// on are bits here, not variants of the shader.
const HAS_LSE = 1u;
// Whether a row's maximum and sum stand in place of its lse, for attention_combine.wgsl or
// attention_weights.wgsl.
const STORES_SUMS = 2u;
const HAS_SINKS = 4u;
// Whether lengths come from a buffer.
const HAS_LENS = 8u;
const HAS_MASK = 16u;
const HAS_SEGMENTS = 32u;
// Whether keys and values lie in pages.
const HAS_PAGES = 64u;
// Whether the maximum and sum of a range come in place of its lse: with scores like -1e9 the lse
// has no digit left for the sum.
const READS_SUMS = 128u;
// Whether scores are stored, for the softmax that turns them into weights.
const STORES_SCORES = 256u;
const MARKS_HIDDEN = 512u;
const HAS_WEIGHTS = 1024u;
// Whether sums of long rows are settled in out, which has room for f32.
const SETTLES = 2048u;

// Whether any of these bits is set.
fn is_set(bits: u32) -> bool {
    return (params.flags & bits) != 0u;
}

@group(0) @binding(0) var<uniform> params: Params;

const MINUS_INFINITY_BITS = 0xff800000u;
const INFINITY_BITS = 0x7f800000u;
const NAN_BITS = 0x7fc00000u;
// The lowest f32. A running maximum starts here, below which only -inf lies.
const LOWEST = -3.4028234e38;
const LOG2_E = 1.4426950408889634;
