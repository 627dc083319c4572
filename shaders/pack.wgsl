// Packs outputs of 16 bits into words that rows share. An invocation owns a word, and keeps halves
// that no row wrote. It empties its input for the next call.

const THREADS = 64u;
alias Out = u32;

@group(0) @binding(4) var<storage, read_write> unpacked: array<u32>;
@group(0) @binding(10) var<storage, read_write> out: array<Out>;

// use params, pairs

@compute @workgroup_size(THREADS)
fn pack(@builtin(global_invocation_id) invocation: vec3<u32>) {
    let word = invocation.x;
    let turned = vec2(unpacked[word * 2u], unpacked[word * 2u + 1u]);
    if word >= params.words || all(turned == vec2(0u)) {
        return;
    }
    let packed = pack_pair(bitcast<vec2<f32>>(~turned));
    let written = select(vec2(0u), vec2(0xffffu, 0xffff0000u), turned != vec2(0u));
    let halves = written.x | written.y;
    out[word] = (out[word] & ~halves) | (packed & halves);
    unpacked[word * 2u] = 0u;
    unpacked[word * 2u + 1u] = 0u;
}
