// A sequence of the batch. Queries and keys are counted from its own first ones.
// use params

struct Sequence {
    // Its index in the batch.
    batch: u32,
    // The first of its workgroups along x.
    first_tile: u32,
    // The rows where its queries and keys begin in a packed batch.
    first_query: u32,
    first_key: u32,
    q_len: u32,
    // Keys from here on are hidden.
    seen_len: u32,
    // Query i sees key j if i + lower <= j <= i + upper, and stands at key i + offset.
    band_lower: i32,
    band_upper: i32,
    offset: i32,
}

// The sequence of a workgroup, where all are alike.
fn planned_sequence(workgroup: vec3<u32>) -> Sequence {
    return Sequence(
        workgroup.z,
        0u,
        0u,
        0u,
        params.q_len,
        params.seen_len,
        params.band_lower,
        params.band_upper,
        params.offset,
    );
}
