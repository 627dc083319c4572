// Returns `count` in a form that lavapipe cannot constant-fold. That keeps a loop rolled.
// use params

fn rolled(count: u32) -> u32 {
    return select(0u, count, params.kv_len < 0xffffffffu);
}
