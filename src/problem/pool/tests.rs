//! Random joining, growing, forking, truncating and leaving, against sequences that share nothing.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::cast_possible_truncation, reason = "numbers below a million")]

use super::*;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const PAGE_LEN: usize = 16;
const PAGES: usize = 12;

fn pool() -> PagePool {
    let shape = PagedCacheShape { longest: 100, ..PagedCacheShape::new(1, PAGE_LEN, PAGES, 4) };
    PagePool::new(&shape).unwrap()
}

/// Every page is free or held, by as many as its count says, and each sequence has what its tokens need.
fn check_counts(pool: &PagePool) {
    let mut holders = vec![0; PAGES];
    for held in pool.sequences.values() {
        assert_eq!(held.pages.len(), held.len.div_ceil(PAGE_LEN));
        held.pages.iter().for_each(|&page| holders[page as usize] += 1);
    }
    assert_eq!(pool.holders, holders);
    let mut free = pool.free.clone();
    free.sort_unstable();
    let unheld = (0..).zip(&holders).filter(|(_, count)| **count == 0).map(|(page, _)| page);
    assert_eq!(free, unheld.collect::<Vec<u32>>());
}

/// A pool, what stands in each of its rows, and what each sequence should read.
struct Model {
    pool: PagePool,
    rows: Vec<u32>,
    expected: Vec<(PagedSequence, Vec<u32>)>,
    written: u32,
}

impl Model {
    fn grow(&mut self, sequences: &[usize], len: usize, lens: &[usize]) {
        let handles: Vec<_> = sequences.iter().map(|&at| self.expected[at].0).collect();
        let before = self.pool.clone();
        let growth = match self.pool.grow(&handles, len, Some(lens)) {
            Ok(growth) => growth,
            Err(Error::Full { needed, free }) => {
                assert!(needed > free && free == before.free.len());
                return;
            }
            Err(error) => {
                assert!(error.to_string().starts_with("lens: expected at most"), "{error}");
                return;
            }
        };
        for &[from, to, count] in &growth.copies {
            let (from, to) = (from as usize, to as usize);
            self.rows.copy_within(from..from + count as usize, to);
        }
        let held_by_others = |page: usize| {
            let others = before.sequences.iter().filter(|(held, _)| !handles.contains(held));
            others.into_iter().any(|(_, held)| held.pages.contains(&(page as u32)))
        };
        let mut written = vec![false; self.rows.len()];
        for run in &growth.runs {
            assert_eq!(run.batches.len(), 1);
            let own = run.batches.start as usize;
            assert_eq!(
                run.first_token as usize + lens[own],
                len + run.position as usize - self.expected[sequences[own]].1.len()
            );
            for i in 0..run.count {
                let row = (run.to[1] + i) as usize;
                assert!(!held_by_others(row / PAGE_LEN), "a page that others hold is written");
                assert!(!std::mem::replace(&mut written[row], true), "a row is written twice");
                self.rows[row] = self.written + 1000 * own as u32 + run.position + i;
            }
        }
        for (own, (&at, &count)) in sequences.iter().zip(lens).enumerate() {
            let expected = &mut self.expected[at].1;
            let first = expected.len() as u32;
            expected.extend(
                (first..first + count as u32).map(|i| self.written + 1000 * own as u32 + i),
            );
        }
        self.written += 10_000;
        self.pool.commit(growth);
    }

    fn check(&self) {
        check_counts(&self.pool);
        let handles: Vec<_> = self.expected.iter().map(|(handle, _)| *handle).collect();
        let (lens, table, width) = self.pool.table(&handles).unwrap();
        for (at, (_, expected)) in self.expected.iter().enumerate() {
            assert_eq!(lens[at], expected.len());
            let row =
                |j: usize| table[at * width + j / PAGE_LEN] as usize * PAGE_LEN + j % PAGE_LEN;
            let found: Vec<u32> = (0..lens[at]).map(|j| self.rows[row(j)]).collect();
            assert_eq!(found, *expected);
        }
    }
}

fn act(model: &mut Model, (kind, one, other, amount): (usize, usize, usize, usize)) {
    let count = model.expected.len();
    if kind == 0 || count == 0 {
        let handle = model.pool.add();
        model.expected.push((handle, Vec::new()));
        return;
    }
    let (one, other) = (one % count, other % count);
    let len = model.expected[one].1.len();
    match kind {
        1 | 2 => model.grow(&[one], amount, &[amount]),
        3 | 4 if one != other => model.grow(&[one, other], amount, &[amount / 2, amount]),
        5 => {
            let len = amount.min(len);
            let handle = model.pool.fork(model.expected[one].0, len).unwrap();
            let prefix = model.expected[one].1[..len].to_vec();
            model.expected.push((handle, prefix));
        }
        6 => {
            let len = len.saturating_sub(amount);
            model.pool.truncate(model.expected[one].0, len).unwrap();
            model.expected[one].1.truncate(len);
        }
        _ => {
            let (handle, _) = model.expected.swap_remove(one);
            model.pool.remove(handle).unwrap();
            assert!(model.pool.len(handle).is_err() && model.pool.fork(handle, 0).is_err());
            assert!(
                model.pool.remove(handle).is_err() && model.pool.grow(&[handle], 1, None).is_err()
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::with_cases(500) })]

    #[test]
    fn sequences_that_share_pages_read_as_if_they_shared_none(
        acts in prop::collection::vec((0..8_usize, 0..8_usize, 0..8_usize, 0..40_usize), 1..60),
    ) {
        let rows = vec![u32::MAX; PAGES * PAGE_LEN];
        let mut model = Model { pool: pool(), rows, expected: Vec::new(), written: 0 };
        for act_now in acts {
            act(&mut model, act_now);
            model.check();
        }
    }
}

#[test]
fn a_prompt_in_a_fresh_pool_is_one_run() {
    let mut pool = pool();
    let sequence = pool.add();
    let growth = pool.grow(&[sequence], 50, None).unwrap();
    assert_eq!((growth.runs.len(), growth.copies.len(), growth.taken), (1, 0, 4));
}

#[test]
fn only_a_page_that_another_still_reads_is_copied() {
    let mut pool = pool();
    let first = pool.add();
    let growth = pool.grow(&[first], 20, None).unwrap();
    pool.commit(growth);
    let second = pool.fork(first, 20).unwrap();
    // The first to grow gets a page of its own; the other then has the old one to itself.
    let growth = pool.grow(&[first, second], 1, None).unwrap();
    assert_eq!((growth.copies.as_slice(), growth.taken), (&[[16, 32, 4]][..], 1));
    pool.commit(growth);
    assert_eq!(pool.grow(&[first, second], 1, None).unwrap().copies, [[0; 3]; 0]);
    // At the border of a page there is nothing to copy.
    let third = pool.fork(first, 16).unwrap();
    assert_eq!(pool.grow(&[third], 1, None).unwrap().copies, [[0; 3]; 0]);
    assert!(pool.grow(&[first, first], 1, None).is_err());
}

#[test]
fn a_full_pool_says_what_it_lacks_and_stays_as_it_was() {
    let mut pool = pool();
    let sequences = [pool.add(), pool.add()];
    let growth = pool.grow(&sequences, 90, None).unwrap();
    pool.commit(growth);
    assert_eq!(pool.free_pages(), 0);
    let held = pool.sequences.clone();
    // Of the last pages six rows are left in each.
    assert!(pool.grow(&sequences, 6, None).is_ok());
    let third = pool.fork(sequences[0], 90).unwrap();
    let refused = pool.grow(&[third], 1, None).unwrap_err();
    assert_eq!(refused, Error::Full { needed: 1, free: 0 });
    pool.remove(third).unwrap();
    assert_eq!(pool.sequences, held);
    check_counts(&pool);
}
