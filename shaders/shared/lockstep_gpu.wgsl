// Work shared among a workgroup's invocations.
// use row_block
// needs THREADS

// The slots of a tile that an invocation stages: from `begin` up to `end`, SLOT_STEP apart.
const SLOT_STEP = THREADS;

struct Slots {
    begin: u32,
    end: u32,
}

fn slots_of(lane: u32, count: u32) -> Slots {
    return Slots(lane, count);
}

// Queries whose rows skip a tile together if none of them sees it: all of the workgroup's.
struct QuerySpan {
    first: u32,
    last: u32,
}

fn skipping_together(block: RowBlock, lane: u32) -> QuerySpan {
    return QuerySpan(block.first_query, block.last_query);
}
