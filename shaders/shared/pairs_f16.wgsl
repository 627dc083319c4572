// Two f16 in a word. Rounds to the nearest, ties to even, in integers: WGSL leaves the direction to
// the driver.

fn unpack_pair(word: u32) -> vec2<f32> {
    return vec2(widen_f16(word & 0xffffu), widen_f16(word >> 16u));
}

fn pack_pair(pair: vec2<f32>) -> u32 {
    return narrow_f16(pair.x) | (narrow_f16(pair.y) << 16u);
}

// The nearest numbers that an f16 holds.
fn round_four(x: vec4<f32>) -> vec4<f32> {
    return vec4(unpack_pair(pack_pair(x.xy)), unpack_pair(pack_pair(x.zw)));
}

fn widen_f16(bits: u32) -> f32 {
    let sign = (bits & 0x8000u) << 16u;
    let magnitude = bits & 0x7fffu;
    // Below 2^-14 the mantissa counts in steps of 2^-24.
    let small = bitcast<u32>(f32(magnitude) * 5.9604644775390625e-8);
    var wide = (magnitude << 13u) + 0x38000000u;
    if magnitude < 0x400u {
        wide = small;
    }
    if magnitude >= 0x7c00u {
        wide = 0x7f800000u | (magnitude << 13u);
    }
    return bitcast<f32>(sign | wide);
}

fn narrow_f16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return sign | 0x7e00u;
    }
    // The nearest of 65520 and above is infinity.
    if magnitude >= 0x477ff000u {
        return sign | 0x7c00u;
    }
    if magnitude < 0x38800000u {
        // Below 2^-14: adding 0.5 leaves the steps of 2^-24 in the lowest bits, rounded by the
        // addition.
        return sign | (bitcast<u32>(bitcast<f32>(magnitude) + 0.5) - 0x3f000000u);
    }
    let even = (magnitude >> 13u) & 1u;
    return sign | ((magnitude + 0xfffu + even - 0x38000000u) >> 13u);
}
