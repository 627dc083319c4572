// Multiply-adds in registers: nothing is read, and nothing written unless a sum is what the host
// knows it never is.

alias Number = f32;
/// Vectors of sums that do not wait for each other: 2, 4 or 8.
const SUMS = 4u;
/// Whether as one function or as two operators, which some drivers fuse and some do not.
const FUSED = true;
const THREADS = 64u;

struct Params {
    factor: f32,
    term: f32,
    never: f32,
    rounds: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

/// Four multiply-adds of each of the vector's sums.
fn turns(start: vec4<Number>, factor: vec4<Number>, term: vec4<Number>) -> vec4<Number> {
    var sum = start;
    if FUSED {
        sum = fma(sum, factor, term);
        sum = fma(sum, factor, term);
        sum = fma(sum, factor, term);
        return fma(sum, factor, term);
    }
    sum = sum * factor + term;
    sum = sum * factor + term;
    sum = sum * factor + term;
    return sum * factor + term;
}

@compute @workgroup_size(THREADS)
fn multiply_add(@builtin(global_invocation_id) id: vec3<u32>) {
    let factor = vec4(Number(params.factor));
    let term = vec4(Number(params.term));
    // Different in each, or a compiler may compute one for all.
    let start = vec4<Number>(0.0, 0.25, 0.5, 0.75) + Number(id.x % THREADS);
    var a = start;
    var b = start + 1.0;
    var c = start + 2.0;
    var d = start + 3.0;
    var e = start + 4.0;
    var f = start + 5.0;
    var g = start + 6.0;
    var h = start + 7.0;
    for (var round = 0u; round < params.rounds; round += 1u) {
        a = turns(a, factor, term);
        b = turns(b, factor, term);
        if SUMS > 2u {
            c = turns(c, factor, term);
            d = turns(d, factor, term);
        }
        if SUMS > 4u {
            e = turns(e, factor, term);
            f = turns(f, factor, term);
            g = turns(g, factor, term);
            h = turns(h, factor, term);
        }
    }
    let total = vec4<f32>(a + b + c + d + e + f + g + h);
    if total.x + total.y + total.z + total.w == params.never {
        out[0] = params.never;
    }
}
