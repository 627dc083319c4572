// All sequences are alike.
// use sequence
fn locate_sequence(workgroup: vec3<u32>) -> Sequence {
    return planned_sequence(workgroup);
}
