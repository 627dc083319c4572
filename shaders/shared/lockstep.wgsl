// Work shared among invocations on a software adapter, which runs one vector of them after the
// other.
// use row_block
// needs ROWS_EACH, THREADS

// Invocations of a vector.
const LOCKSTEP = 8u;

// The slots of a tile that an invocation stages: from `begin` up to `end`, SLOT_STEP apart. Each
// vector stages a contiguous range, so that it reads memory in order.
const SLOT_STEP = LOCKSTEP;

struct Slots {
    begin: u32,
    end: u32,
}

fn slots_of(lane: u32, count: u32) -> Slots {
    let each = (count + THREADS - 1u) / THREADS;
    let first = lane / LOCKSTEP * LOCKSTEP * each;
    return Slots(first + lane % LOCKSTEP, min(first + LOCKSTEP * each, count));
}

// Queries whose rows skip a tile together if none of them sees it: those of a vector.
struct QuerySpan {
    first: u32,
    last: u32,
}

fn skipping_together(block: RowBlock, lane: u32) -> QuerySpan {
    let row = lane / LOCKSTEP * LOCKSTEP * ROWS_EACH;
    return QuerySpan(block_row(block, row).query, block_row(block, row + LOCKSTEP * ROWS_EACH - 1u).query);
}
