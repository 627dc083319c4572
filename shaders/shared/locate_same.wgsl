// All sequences are alike.
fn locate_sequence(workgroup: vec3<u32>) -> Sequence {
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
