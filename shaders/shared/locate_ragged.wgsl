// Each sequence has a row of a table, and as many workgroups along x as its rows fill.
// use params, sequence

// Two vectors a sequence: first tile, first query, first key, q_len; then seen_len, band, offset.
@group(0) @binding(11) var<uniform> table: array<vec4<u32>, 1024>;

// The last sequence that begins at this workgroup or before. Sequences without queries begin where
// the next one does.
fn locate_sequence(workgroup: vec3<u32>) -> Sequence {
    var low = 0u;
    var high = params.sequences;
    while high - low > 1u {
        let middle = (low + high) / 2u;
        if table[middle * 2u].x <= workgroup.x {
            low = middle;
        } else {
            high = middle;
        }
    }
    let place = table[low * 2u];
    let sees = table[low * 2u + 1u];
    return Sequence(
        low,
        place.x,
        place.y,
        place.z,
        place.w,
        sees.x,
        bitcast<i32>(sees.y),
        bitcast<i32>(sees.z),
        bitcast<i32>(sees.w),
    );
}
