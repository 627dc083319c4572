// use params

// Returns `count` in a form that a compiler cannot know, so that loops stay rolled.
fn rolled(count: u32) -> u32 {
    return select(0u, count, params.kv_len < 0xffffffffu);
}
