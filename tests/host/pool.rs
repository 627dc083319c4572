//! Random joining, growing, forking, truncating, evicting and leaving, against sequences that share nothing.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use wgpu_attention::cache::{PagedCacheShape, PagedSequence};
use wgpu_attention::internal::{CopyRange, PagePool, SequenceRow};
use wgpu_attention::{Error, PresentKeys};

const PAGE_LEN: usize = 16;
const PAGES: usize = 12;

fn pool() -> PagePool {
    pool_of(100)
}

fn pool_of(longest: usize) -> PagePool {
    let shape = PagedCacheShape {
        num_kv_heads: 1,
        pages: PAGES,
        page_len: PAGE_LEN,
        longest: Some(longest),
        head_dim: 4,
        value_dim: 4,
        ..PagedCacheShape::default()
    };
    PagePool::new(&shape).unwrap()
}

/// Every page is free or held, by as many as its count says, and each sequence has what its tokens need.
fn check_counts(pool: &PagePool) {
    let mut holders = vec![0; PAGES];
    for held in pool.sequences.values() {
        assert_eq!(held.pages.len(), held.len.div_ceil(PAGE_LEN));
        held.pages.iter().flatten().for_each(|&page| holders[page as usize] += 1);
    }
    assert_eq!(pool.holders, holders);
    let mut free = pool.free.clone();
    free.sort_unstable();
    let unheld = (0..).zip(&holders).filter(|(_, count)| **count == 0).map(|(page, _)| page);
    assert_eq!(free, unheld.collect::<Vec<u32>>());
}

/// What a sequence should read of a token, unless it may have been evicted.
#[derive(Clone, Copy)]
struct Token {
    number: u32,
    may_be_gone: bool,
}

/// A pool, what stands in each of its rows, and what each sequence should read.
struct Model {
    pool: PagePool,
    rows: Vec<u32>,
    expected: Vec<(PagedSequence, Vec<Token>)>,
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
        for &CopyRange { from, to, count } in &growth.copies {
            let (from, to) = (from.row as usize, to.row as usize);
            self.rows.copy_within(from..from + count as usize, to);
        }
        let held_by_others = |page: usize| {
            let others = before.sequences.iter().filter(|(held, _)| !handles.contains(held));
            others.into_iter().any(|(_, held)| held.pages.contains(&Some(page as u32)))
        };
        let mut written = vec![false; self.rows.len()];
        for range in &growth.appends {
            assert_eq!(range.sequences.len(), 1);
            let own = range.sequences.start as usize;
            assert_eq!(
                range.first_token as usize + lens[own],
                len + range.position as usize - self.expected[sequences[own]].1.len()
            );
            for i in 0..range.count {
                let row = (range.to.row + i) as usize;
                assert!(!held_by_others(row / PAGE_LEN), "a page that others hold is written");
                assert!(!std::mem::replace(&mut written[row], true), "a row is written twice");
                self.rows[row] = self.written + 1000 * own as u32 + range.position + i;
            }
        }
        for (own, (&at, &count)) in sequences.iter().zip(lens).enumerate() {
            let expected = &mut self.expected[at].1;
            let first = expected.len() as u32;
            expected.extend((first..first + count as u32).map(|i| Token {
                number: self.written + 1000 * own as u32 + i,
                may_be_gone: false,
            }));
        }
        self.written += 10_000;
        self.pool.commit(growth);
    }

    fn check(&self) {
        check_counts(&self.pool);
        let handles: Vec<_> = self.expected.iter().map(|(handle, _)| *handle).collect();
        let (pages, present) = self.pool.table(&handles).unwrap();
        let pages_per_sequence = pages.len() / handles.len().max(1);
        for (at, (handle, expected)) in self.expected.iter().enumerate() {
            let len = self.pool.len(*handle).unwrap();
            assert_eq!(len, expected.len());
            let own = self.pool.table(&[*handle]).unwrap().1;
            for (j, token) in expected.iter().enumerate() {
                let is_there = |present: Option<PresentKeys>| {
                    present.is_none_or(|PresentKeys { first, last }| j < first || j + last >= len)
                };
                assert!(token.may_be_gone || is_there(own));
                assert!(is_there(own) || !is_there(present));
                if is_there(own) {
                    let page = pages[at * pages_per_sequence + j / PAGE_LEN] as usize;
                    assert_eq!(self.rows[page * PAGE_LEN + j % PAGE_LEN], token.number);
                }
            }
        }
    }

    /// Whether a prefix may be refused: its last token may have gone, and the one behind it.
    fn may_end_at(&self, at: usize, len: usize) -> bool {
        let tokens = &self.expected[at].1;
        !(tokens[..len].last().is_some_and(|token| token.may_be_gone)
            && tokens[len..].first().is_some_and(|token| token.may_be_gone))
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
            match model.pool.fork(model.expected[one].0, len) {
                Ok(handle) => {
                    let prefix = model.expected[one].1[..len].to_vec();
                    model.expected.push((handle, prefix));
                }
                Err(error) => assert!(!model.may_end_at(one, len), "{error}"),
            }
        }
        6 => {
            let len = len.saturating_sub(amount);
            match model.pool.truncate(model.expected[one].0, len) {
                Ok(()) => model.expected[one].1.truncate(len),
                Err(error) => assert!(!model.may_end_at(one, len), "{error}"),
            }
        }
        7 => {
            let (first, last) = (other * 5, amount);
            model.pool.evict(model.expected[one].0, PresentKeys { first, last }).unwrap();
            for token in model.expected[one].1.iter_mut().rev().skip(last).rev().skip(first) {
                token.may_be_gone = true;
            }
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
        acts in prop::collection::vec((0..9_usize, 0..8_usize, 0..8_usize, 0..40_usize), 1..60),
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
fn a_prompt_in_a_fresh_pool_is_one_range() {
    let mut pool = pool();
    let sequence = pool.add();
    let growth = pool.grow(&[sequence], 50, None).unwrap();
    assert_eq!((growth.appends.len(), growth.copies.len(), growth.taken), (1, 0, 4));
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
    let [from, to] = [16, 32].map(|row| SequenceRow { sequence: 0, row });
    let copy = CopyRange { from, to, count: 4 };
    assert_eq!((growth.copies.as_slice(), growth.taken), (&[copy][..], 1));
    pool.commit(growth);
    assert_eq!(pool.grow(&[first, second], 1, None).unwrap().copies, []);
    // At the border of a page there is nothing to copy.
    let third = pool.fork(first, 16).unwrap();
    assert_eq!(pool.grow(&[third], 1, None).unwrap().copies, []);
    assert!(pool.grow(&[first, first], 1, None).is_err());
}

#[test]
fn a_full_pool_says_what_it_lacks_and_stays_as_it_was() {
    let mut pool = pool();
    let sequences = [pool.add(), pool.add()];
    let growth = pool.grow(&sequences, 90, None).unwrap();
    pool.commit(growth);
    assert_eq!(pool.free.len(), 0);
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

/// Whatever is asked for, nothing is made of pages that are not there.
#[test]
fn a_pool_refuses_a_billion_tokens_at_once() {
    let mut pool = pool_of(1 << 30);
    let sequence = pool.add();
    let before = std::time::Instant::now();
    let refused = pool.grow(&[sequence], 1 << 30, None).unwrap_err();
    assert_eq!(refused, Error::Full { needed: (1 << 30) / PAGE_LEN, free: PAGES });
    assert!(before.elapsed().as_millis() < 500);
}

#[test]
fn pages_between_the_first_tokens_and_the_last_are_free_once_evicted() {
    let mut pool = pool();
    let sequence = pool.add();
    let growth = pool.grow(&[sequence], 90, None).unwrap();
    pool.commit(growth);
    let shared = pool.fork(sequence, 40).unwrap();
    // Pages 1 to 3 hold tokens 16 to 63 alone; two of them are another's too.
    pool.evict(sequence, PresentKeys { first: 4, last: 20 }).unwrap();
    assert_eq!(pool.free.len(), PAGES - 6 + 1);
    let present = pool.table(&[sequence]).unwrap().1;
    assert_eq!(present, Some(PresentKeys { first: 16, last: 26 }));
    assert_eq!(pool.table(&[shared]).unwrap().1, None);
    pool.remove(shared).unwrap();
    assert_eq!(pool.free.len(), PAGES - 3);
    let refused = pool.truncate(sequence, 30).unwrap_err().to_string();
    let says =
        "len: expected at most 16 tokens or at least 64, as those between were evicted, found 30";
    assert_eq!(refused, says);
    pool.truncate(sequence, 64).unwrap();
    pool.truncate(sequence, 16).unwrap();
    assert_eq!(pool.table(&[sequence]).unwrap().1, None);
    assert_eq!(pool.free.len(), PAGES - 1);
    check_counts(&pool);
}
