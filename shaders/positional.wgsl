// Adds a row of a table to each token, or writes it: sinusoidal and learned positional encodings.
// Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.5.

const HAS_X = true;
const IN_PLACE = false;
const HAS_POSITIONS = false;
// Whether positions are lengths of sequences, from which tokens count.
const FROM_LENS = false;
// Whether a token goes to a row of out: the one that stands beside its position, or, where
// positions are lengths, the one that it counts to.
const TO_PLACE = false;
const THREADS = 64u;
alias X = f32;
alias Out = f32;

@group(0) @binding(1) var<storage, read> x: array<X>;
@group(0) @binding(4) var<storage, read_write> out: array<Out>;
@group(0) @binding(6) var<storage, read> table: array<f32>;
@group(0) @binding(8) var<storage, read> positions: array<u32>;

// use tokens, store(out)

@compute @workgroup_size(THREADS)
fn positional(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = invocation.y * grid.x * THREADS + invocation.x;
    if index >= params.count {
        return;
    }
    let token = locate_token(index / params.per_row);
    let column = index % params.per_row * 4u;
    let left = params.dim - column;
    let at = token.table + column;
    var four = vec4(table[at], table[at + 1u], table[at + 2u], table[at + 3u]);
    if HAS_X {
        four += load_token(token, column, left);
    }
    store_out(token.out + column, left, four);
}
