// How a workgroup's invocations share what they stage and skip. In lockstep_software.wgsl vectors of them differ.
// use row_block
// needs THREADS

// Which of the `count` slots of a tile an invocation stages: from `begin` up to `end`, SLOT_STEP apart.
const SLOT_STEP = THREADS;

struct Slots {
    begin: u32,
    end: u32,
}

fn slots_of(lane: u32, count: u32) -> Slots {
    return Slots(lane, count);
}

// Queries whose rows skip the tiles that none of them sees together: all of the workgroup's.
struct QuerySpan {
    first: u32,
    last: u32,
}

fn skipping_together(block: RowBlock, lane: u32) -> QuerySpan {
    return QuerySpan(block.first_query, block.last_query);
}
