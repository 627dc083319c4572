// Visibility of a tile's keys, one bit a key.

fn lowest_bits(count: u32) -> u32 {
    return select((1u << (count & 31u)) - 1u, 0xffffffffu, count >= 32u);
}

fn is_visible(bits: u32, j: u32) -> bool {
    return ((bits >> j) & 1u) != 0u;
}

// The four bits from `four * 4` on.
fn four_visible(bits: u32, four: u32) -> vec4<bool> {
    return (vec4(bits >> (four * 4u)) & vec4(1u, 2u, 4u, 8u)) != vec4(0u);
}

// One past the last key that is visible.
fn visible_end(bits: u32) -> u32 {
    return 32u - countLeadingZeros(bits);
}
