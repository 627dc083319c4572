// Which of the `count` slots of a tile an invocation stages: from `begin` up to `end`, LOCKSTEP apart.
//
// Invocations that run in lockstep take neighbours, and after those the slots that follow. A CPU that plays the GPU
// runs one such group after the other: each then reads its part of memory in order.

struct Slots {
    begin: u32,
    end: u32,
}

fn slots_of(lane: u32, count: u32) -> Slots {
    let each = (count + THREADS - 1u) / THREADS;
    let first = lane / LOCKSTEP * LOCKSTEP * each;
    return Slots(first + lane % LOCKSTEP, min(first + LOCKSTEP * each, count));
}
