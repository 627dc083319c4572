// Two bf16, the upper halves of f32, in a word. Rounds to the nearest, ties to even.

fn unpack_pair(word: u32) -> vec2<f32> {
    return bitcast<vec2<f32>>(vec2(word << 16u, word & 0xffff0000u));
}

fn pack_pair(pair: vec2<f32>) -> u32 {
    return narrow_bf16(pair.x) | (narrow_bf16(pair.y) << 16u);
}

fn narrow_bf16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if (bits & 0x7fffffffu) > 0x7f800000u {
        return (bits >> 16u) | 0x40u;
    }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}
