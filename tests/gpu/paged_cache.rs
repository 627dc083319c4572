//! Attention over sequences that come, grow, share pages and leave is attention over each alone.

use crate::app::App;
use crate::cache::{app, read, round, upload};
use crate::case::check_tensor;
use crate::common::data::numbers;
use crate::device::{gpu, portable};
use half::{bf16, f16};
use std::panic::{AssertUnwindSafe, catch_unwind};
use wgpu_attention::cache::{
    CacheRotary, CacheTokens, PagedCacheShape, PagedKvCache, PagedSequence,
};
use wgpu_attention::check::Bounds;
use wgpu_attention::layers::{RotaryInputs, RotaryPairs, RotaryShape, RotaryTable, TableRows};
use wgpu_attention::{
    Align, Attention, AttentionOptions, AttentionShape, Capabilities, Element, Error, Gpu, Inputs,
    PresentKeys, cpu,
};

const OPTIONS: AttentionOptions = AttentionOptions {
    scale: None,
    softcap: None,
    causal: true,
    window_left: None,
    window_keeps: 0,
    window_right: None,
    align: Align::BottomRight,
};
const NUM_HEADS: usize = 4;
const KV_HEADS: usize = 2;

/// A sequence, and the seed of each token that it should hold.
struct Sequence {
    handle: PagedSequence,
    tokens: Vec<u64>,
}

/// A cache whose free pages hold NaN, and what should be in it.
struct World {
    gpu: Gpu,
    app: App,
    cache: PagedKvCache,
    shape: PagedCacheShape,
    rotates: bool,
    sequences: Vec<Sequence>,
    next: u64,
}

pub(crate) fn pool([num_kv_heads, page_len, pages, dim]: [usize; 4]) -> PagedCacheShape {
    let (head_dim, value_dim) = (dim, dim);
    let sizes = PagedCacheShape::default();
    PagedCacheShape { num_kv_heads, pages, page_len, head_dim, value_dim, ..sizes }
}

fn shape(page_len: usize, pages: usize) -> PagedCacheShape {
    pool([KV_HEADS, page_len, pages, 8])
}

fn longest(shape: &PagedCacheShape) -> usize {
    shape.longest.unwrap_or(shape.page_len * shape.pages)
}

impl World {
    fn new<T: Element>(gpu: &Gpu, shape: PagedCacheShape, rotates: bool) -> Self {
        let shape = PagedCacheShape { element: T::TYPE, ..shape };
        let RotaryTable { cos, sin } = Self::table(&shape);
        let (rotary_dim, pairs) = (4, RotaryPairs::Half);
        let rotary = CacheRotary { cos: &cos, sin: &sin, rotary_dim, pairs };
        let cache = gpu.paged_kv_cache(&shape, rotates.then_some(rotary)).unwrap();
        cache.prepare_blocking().unwrap();
        let (gpu, app) = (gpu.clone(), app(gpu));
        let mut world = Self { gpu, app, cache, shape, rotates, sequences: Vec::new(), next: 0 };
        // A page for each of as many sequences, all of which leave.
        let PagedCacheShape { page_len, pages, .. } = shape;
        let handles: Vec<_> = (0..pages).map(|_| world.cache.add()).collect();
        let of = |dim: usize| {
            upload(&world.app, &vec![T::from_f64(f64::NAN); pages * KV_HEADS * page_len * dim])
        };
        let (key, value) = (of(shape.head_dim), of(shape.value_dim));
        let mut encoder = world.app.encoder();
        let tokens = CacheTokens::new(&key, &value, page_len);
        world.cache.append(&mut encoder, &handles, &tokens).unwrap();
        world.app.submit(encoder);
        assert_eq!(world.cache.free_pages(), 0);
        handles.into_iter().for_each(|handle| world.cache.remove(handle).unwrap());
        assert_eq!(world.cache.free_pages(), shape.pages);
        world
    }

    fn table(shape: &PagedCacheShape) -> RotaryTable {
        RotaryTable::new(4, 100.0, 0..longest(shape) as u64).unwrap()
    }

    fn join(&mut self) {
        let handle = self.cache.add();
        self.sequences.push(Sequence { handle, tokens: Vec::new() });
    }

    fn leave(&mut self, at: usize) {
        self.cache.remove(self.sequences.swap_remove(at).handle).unwrap();
    }

    fn fork(&mut self, at: usize, len: usize) {
        let handle = self.cache.fork(self.sequences[at].handle, len).unwrap();
        let tokens = self.sequences[at].tokens[..len].to_vec();
        self.sequences.push(Sequence { handle, tokens });
    }

    fn truncate(&mut self, at: usize, len: usize) {
        self.cache.truncate(self.sequences[at].handle, len).unwrap();
        self.sequences[at].tokens.truncate(len);
    }

    /// Keys or values of a token: `[num_kv_heads, dim]`.
    fn token<T: Element>(seed: u64, which: u64, dim: usize) -> Vec<T> {
        let numbers = numbers(2 * seed + which, KV_HEADS * dim);
        numbers.into_iter().map(|x| T::from_f64(f64::from(x) * 2.0)).collect()
    }

    fn grow<T: Element>(&mut self, which: &[usize], counts: &[usize]) -> Result<(), Error> {
        let len = counts.iter().copied().max().unwrap();
        let dims = [self.shape.head_dim, self.shape.value_dim];
        let mut tensors =
            dims.map(|dim| vec![T::from_f64(f64::NAN); which.len() * KV_HEADS * len * dim]);
        let mut fresh = Vec::new();
        for (b, &count) in counts.iter().enumerate() {
            let seeds: Vec<u64> = (0..count as u64).map(|i| self.next + i).collect();
            self.next += count as u64;
            for (i, &seed) in seeds.iter().enumerate() {
                for (n, dim) in dims.into_iter().enumerate() {
                    let token = Self::token::<T>(seed, n as u64, dim);
                    for head in 0..KV_HEADS {
                        let to = ((b * KV_HEADS + head) * len + len - count + i) * dim;
                        tensors[n][to..][..dim].copy_from_slice(&token[head * dim..][..dim]);
                    }
                }
            }
            fresh.push(seeds);
        }
        let [key, value] = tensors.map(|tensor| upload(&self.app, &tensor));
        let handles: Vec<_> = which.iter().map(|&at| self.sequences[at].handle).collect();
        let tokens = CacheTokens { lens: Some(counts), ..CacheTokens::new(&key, &value, len) };
        let mut encoder = self.app.encoder();
        self.cache.append(&mut encoder, &handles, &tokens)?;
        self.app.submit(encoder);
        for (&at, seeds) in which.iter().zip(fresh) {
            self.sequences[at].tokens.extend(seeds);
        }
        Ok(())
    }

    /// Compares attention of `q_len` queries to each sequence with that to its tokens alone.
    fn check<T: Element>(&self, q_len: usize) {
        self.check_with::<T>(&OPTIONS, q_len);
    }

    fn check_with<T: Element>(&self, options: &AttentionOptions, q_len: usize) {
        let PagedCacheShape { head_dim, value_dim, .. } = self.shape;
        let batch = self.sequences.len();
        let rows = NUM_HEADS * q_len;
        let queries: Vec<T> = round(
            &numbers(7, batch * rows * head_dim)
                .iter()
                .map(|&x| f64::from(x) * 4.0)
                .collect::<Vec<_>>(),
        );
        let query = upload(&self.app, &queries);
        let out = upload(&self.app, &vec![T::from_f64(9.0); batch * rows * value_dim]);
        let handles: Vec<_> = self.sequences.iter().map(|sequence| sequence.handle).collect();
        let attention = self.gpu.attention_operator(options).unwrap();
        let mut encoder = self.app.encoder();
        let step = self.cache.batch(&mut encoder, &handles).unwrap();
        let plan = attention.plan(&step.shape(NUM_HEADS, q_len)).unwrap();
        attention.encode(&mut encoder, &plan, &step.buffers(&query, &out)).unwrap();
        self.app.submit(encoder);
        let found: Vec<T> = read(&self.app, &out);
        for (b, Sequence { handle, tokens }) in self.sequences.iter().enumerate() {
            let len = tokens.len();
            assert_eq!((self.cache.len(*handle).unwrap(), step.lens()[b]), (len, len));
            let tensor = |n: u64, dim: usize| {
                let tokens: Vec<Vec<T>> =
                    tokens.iter().map(|&seed| Self::token(seed, n, dim)).collect();
                let of = |head: usize| {
                    tokens.iter().flat_map(move |token| token[head * dim..][..dim].to_vec())
                };
                (0..KV_HEADS).flat_map(of).collect::<Vec<T>>()
            };
            let key = self.rotated(tensor(0, head_dim), len);
            let value = tensor(1, value_dim);
            let shape = AttentionShape {
                num_kv_heads: KV_HEADS,
                kv_len: len,
                value_dim,
                element: T::TYPE,
                ..AttentionShape::new(1, NUM_HEADS, q_len, head_dim)
            };
            let query = &queries[b * rows * head_dim..][..rows * head_dim];
            let inputs = Inputs { query, key: &key, value: &value, ..Inputs::default() };
            let expected = cpu::attention(&shape, options, &inputs).unwrap().out;
            let found = found[b * rows * value_dim..][..rows * value_dim].iter();
            let found: Vec<f32> = found.map(|x| x.to_f32()).collect();
            let what = format!("{}, sequence {b} of {len} tokens", T::TYPE);
            check_tensor(&what, &found, &expected, &Bounds::of(T::TYPE));
        }
    }

    fn rotated<T: Element>(&self, x: Vec<T>, len: usize) -> Vec<T> {
        if !self.rotates {
            return x;
        }
        let rows = TableRows::From { start: 0, rows: longest(&self.shape) };
        let shape = RotaryShape::new(1, KV_HEADS, len, self.shape.head_dim);
        let shape = RotaryShape { element: T::TYPE, rotary_dim: 4, rows, ..shape };
        let RotaryTable { cos, sin } = Self::table(&self.shape);
        let inputs = RotaryInputs { x: &x, cos: &cos, sin: &sin, positions: None };
        round(&cpu::rotary(&shape, &inputs).unwrap())
    }
}

/// Two that begin alike and go their own ways, at the borders of pages and beside them; others stand between.
fn diverge<T: Element>(gpu: &Gpu, shape: PagedCacheShape, rotates: bool) {
    let page_len = shape.page_len;
    for shared in [page_len - 1, page_len, page_len + 1] {
        let mut world = World::new::<T>(gpu, shape, rotates);
        world.join();
        world.join();
        world.grow::<T>(&[0, 1], &[shared, 3]).unwrap();
        world.fork(0, shared);
        world.fork(0, shared - 1);
        world.check::<T>(2);
        world.grow::<T>(&[2], &[1]).unwrap();
        world.check::<T>(1);
        world.grow::<T>(&[3, 1, 0], &[2, 0, 1]).unwrap();
        world.check::<T>(3);
    }
}

#[test]
fn sequences_that_share_a_prefix_go_their_own_ways() {
    diverge::<f32>(gpu(), shape(16, 9), false);
    diverge::<f32>(gpu(), shape(32, 9), true);
    diverge::<f32>(portable(), shape(256, 7), true);
    diverge::<f16>(gpu(), shape(16, 9), true);
    diverge::<f16>(portable(), shape(16, 9), false);
    diverge::<bf16>(gpu(), PagedCacheShape { head_dim: 7, value_dim: 5, ..shape(16, 9) }, true);
}

#[test]
fn a_pool_larger_than_a_binding_is_read_a_few_heads_at_a_time() {
    let half = Capabilities { binding_size: 9 * 16 * 8 * 4 + 256, ..*gpu().capabilities() };
    diverge::<f32>(&gpu().masked(&half), shape(16, 9), false);
}

#[test]
fn sequences_come_and_go_at_random() {
    let mut world = World::new::<f32>(gpu(), shape(16, 12), true);
    let (mut full, mut seed) = (0, 1);
    let mut random = |below: usize| {
        seed += 1;
        numbers(seed, 1)[0].to_bits() as usize / 64 % below.max(1)
    };
    for step in 0..60 {
        let count = world.sequences.len();
        let at = random(count);
        match random(8) {
            _ if count == 0 => world.join(),
            0 if count < 6 => world.join(),
            1 if count < 6 => {
                let len = random(world.sequences[at].tokens.len() + 1);
                world.fork(at, len);
            }
            2 => {
                let len = random(world.sequences[at].tokens.len() + 1);
                world.truncate(at, len);
            }
            3 => world.leave(at),
            _ => {
                let counts: Vec<usize> = (0..count).map(|_| random(24)).collect();
                let all: Vec<usize> = (0..count).collect();
                match world.grow::<f32>(&all, &counts) {
                    Ok(()) => {}
                    Err(Error::Full { .. }) => full += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        if step % 3 == 0 && !world.sequences.is_empty() {
            world.check::<f32>(1 + step % 2);
        }
    }
    assert!(full > 0, "the pool was never full");
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let mut world =
        World::new::<f32>(gpu(), PagedCacheShape { longest: Some(40), ..shape(16, 4) }, false);
    world.join();
    world.join();
    world.grow::<f32>(&[0, 1], &[33, 2]).unwrap();
    assert_eq!(world.cache.free_pages(), 0);
    let full = world.grow::<f32>(&[0, 1], &[1, 15]).unwrap_err();
    assert_eq!(full, Error::Full { needed: 1, free: 0 });
    assert_eq!(full.to_string(), "pages: expected 1 free pages, found 0");
    let long = world.grow::<f32>(&[0], &[8]).unwrap_err().to_string();
    assert!(
        long.starts_with("lens: expected at most 7 new tokens, as sequence 0 holds 33 of 40"),
        "{long}"
    );
    let twice = world.grow::<f32>(&[0, 0], &[1, 1]).unwrap_err().to_string();
    assert_eq!(twice, "sequences: expected each sequence once, found one twice");
    let gone = world.cache.fork(world.sequences[1].handle, 1).unwrap();
    world.cache.remove(gone).unwrap();
    let mut encoder = world.app.encoder();
    let small = world.app.buffer(&[1.0]);
    let tokens = CacheTokens::new(&small, &small, 1);
    let says = "expected a sequence of this cache, found one that it does not hold";
    for refused in [
        world.cache.append(&mut encoder, &[gone], &tokens),
        world.cache.batch(&mut encoder, &[gone]).map(|_| ()),
        world.cache.truncate(gone, 0),
        world.cache.remove(gone),
        world.cache.fork(gone, 0).map(|_| ()),
        world.cache.len(gone).map(|_| ()),
    ] {
        assert!(refused.unwrap_err().to_string().ends_with(says));
    }
    let handle = world.sequences[0].handle;
    let refused = world.cache.append(&mut encoder, &[handle], &tokens).unwrap_err().to_string();
    assert_eq!(
        refused,
        "key: expected a buffer of at least 64 bytes for 16 elements of 32 bits, found 4 bytes"
    );
    for (shape, says) in [
        (shape(24, 4), "page_len: expected a power of two from 16 to 256, found 24"),
        (shape(8, 4), "page_len: expected a power of two from 16 to 256, found 8"),
        (shape(512, 4), "page_len: expected a power of two from 16 to 256, found 512"),
        (shape(256, 1 << 40), "pages: expected at most 2^30 tokens in all"),
        (PagedCacheShape { num_kv_heads: 0, ..shape(16, 4) }, "num_kv_heads: expected at least 1"),
    ] {
        let refused = gpu().paged_kv_cache(&shape, None).unwrap_err().to_string();
        assert!(refused.starts_with(says), "{refused}, not {says}");
    }
    world.check::<f32>(1);
    world.grow::<f32>(&[1], &[14]).unwrap();
    world.check::<f32>(1);
}

/// A pool of one page is read in steps of one encoder: each sees the table of its own time.
#[test]
fn batches_of_one_encoder_keep_their_own_tables() {
    let world = &mut World::new::<f32>(gpu(), shape(16, 6), false);
    world.join();
    world.grow::<f32>(&[0], &[20]).unwrap();
    world.join();
    world.grow::<f32>(&[1], &[20]).unwrap();
    let [first, second] = [0, 1].map(|at| world.sequences[at].handle);
    let attention = world.gpu.attention_operator(&OPTIONS).unwrap();
    let query = world.app.buffer(&numbers(3, NUM_HEADS * 8));
    let run = |together: bool| {
        let outs = [(); 2].map(|()| world.app.output(NUM_HEADS * 8));
        let mut encoder = world.app.encoder();
        for (sequence, out) in [first, second].into_iter().zip(&outs) {
            let step = world.cache.batch(&mut encoder, &[sequence]).unwrap();
            let plan = attention.plan(&step.shape(NUM_HEADS, 1)).unwrap();
            attention.encode(&mut encoder, &plan, &step.buffers(&query, out)).unwrap();
            if !together {
                world.app.submit(std::mem::replace(&mut encoder, world.app.encoder()));
            }
        }
        world.app.submit(encoder);
        outs.map(|out| world.app.read(&out))
    };
    let apart = run(false);
    assert_ne!(apart[0], apart[1]);
    assert_eq!(run(true), apart);
}

#[test]
fn a_sequence_goes_on_in_few_pages_where_attention_has_a_window() {
    let options = AttentionOptions { window_left: Some(30), window_keeps: 3, ..OPTIONS };
    let few = PagedCacheShape { longest: Some(400), ..shape(16, 9) };
    let mut world = World::new::<f32>(gpu(), few, true);
    world.join();
    world.join();
    let present = PresentKeys { first: 3, last: 32 };
    for step in 0..40 {
        for at in [0, 1] {
            world.cache.evict(world.sequences[at].handle, present).unwrap();
        }
        world.grow::<f32>(&[0, 1], &[7, step % 3]).unwrap();
        if step % 4 == 3 {
            world.check_with::<f32>(&options, 1 + step / 4 % 2);
        }
    }
    assert_eq!(world.cache.len(world.sequences[0].handle).unwrap(), 280);
    // One page of the first tokens, and three of the window.
    assert!(world.cache.free_pages() >= 2, "{}", world.cache.free_pages());
    let handle = world.sequences[0].handle;
    let batch = world.cache.batch(&mut world.app.encoder(), &[handle]).unwrap();
    let kept = batch.shape(NUM_HEADS, 1).pages.unwrap().present.unwrap();
    assert!(kept.first == 16 && (32..48).contains(&kept.last), "{kept:?}");
    let most = kept.last - 1;
    let left = |left| AttentionOptions { window_left: left, ..options };
    for (options, says) in [
        (left(Some(most)), None),
        (left(Some(most + 1)), Some(format!("window_left: expected at most {most}, as all but"))),
        (left(None), Some(format!("window_left: expected at most {most}, as all but"))),
        (
            AttentionOptions { window_keeps: 17, ..options },
            Some("window_keeps: expected at most 16, as keys behind".to_owned()),
        ),
        (
            AttentionOptions { align: Align::Offset(279), ..options },
            Some("align: expected BottomRight, as keys were evicted, found Offset(279)".to_owned()),
        ),
    ] {
        let planned =
            world.gpu.attention_operator(&options).unwrap().plan(&batch.shape(NUM_HEADS, 1));
        match (planned, says) {
            (Ok(_), None) => {}
            (Err(error), Some(says)) => assert!(error.to_string().starts_with(&says), "{error}"),
            (planned, says) => panic!("{:?}, not {says:?}", planned.map(|_| ())),
        }
    }
    let more = world
        .gpu
        .attention_operator(&options)
        .unwrap()
        .plan(&batch.shape(NUM_HEADS, kept.last + 1));
    let more = more.unwrap_err().to_string();
    assert!(more.starts_with("window_left: expected at most none, of fewer queries"), "{more}");
}

#[test]
fn ten_thousand_tokens_in_pages_hold_no_more_of_the_device() {
    let app = App::open();
    let shape = PagedCacheShape { longest: Some(10_000), ..shape(16, 12) };
    let mut cache = PagedKvCache::new(&app.device, &app.queue, &shape, None).unwrap();
    let options = AttentionOptions { window_left: Some(40), ..OPTIONS };
    let attention = Attention::new(&app.device, &app.queue, &options).unwrap();
    let sequences = [cache.add(), cache.add()];
    let [query, key, value, out] =
        [NUM_HEADS, KV_HEADS, KV_HEADS, NUM_HEADS].map(|n| app.output(2 * n * 8));
    let held = |cache: &PagedKvCache| {
        let report = app.instance.generate_report().unwrap();
        let hub = report.hub_report();
        let counts = [hub.buffers.num_allocated, hub.bind_groups.num_allocated];
        (counts, cache.footprint(), attention.footprint(), cache.free_pages())
    };
    let mut before = None;
    for step in 0..10_000 {
        let mut encoder = app.encoder();
        let tokens = CacheTokens::new(&key, &value, 1);
        cache.append(&mut encoder, &sequences, &tokens).unwrap();
        for sequence in sequences {
            cache.evict(sequence, PresentKeys { first: 0, last: 41 }).unwrap();
        }
        // Steps of a length that the pages repeat.
        if step % 1000 == 999 {
            let batch = cache.batch(&mut encoder, &sequences).unwrap();
            let plan = attention.plan(&batch.shape(NUM_HEADS, 1)).unwrap();
            attention.encode(&mut encoder, &plan, &batch.buffers(&query, &out)).unwrap();
        }
        app.submit(encoder);
        if step == 1_999 {
            before = Some(held(&cache));
        }
    }
    assert_eq!(cache.len(sequences[0]).unwrap(), 10_000);
    assert_eq!(Some(held(&cache)), before);
    let full = cache.append(&mut app.encoder(), &sequences, &CacheTokens::new(&key, &value, 1));
    let full = full.unwrap_err().to_string();
    assert!(
        full.starts_with("len: expected at most 0 new tokens, as sequence 0 holds 10000"),
        "{full}"
    );
}

#[test]
fn pages_on_a_lost_device_give_errors_and_no_panic() {
    let app = App::open();
    let mut cache = PagedKvCache::new(&app.device, &app.queue, &shape(16, 8), None).unwrap();
    let sequence = cache.add();
    let [key, value] = [(); 2].map(|()| app.output(2 * KV_HEADS * 17 * 8));
    let tokens = CacheTokens::new(&key, &value, 17);
    let mut encoder = app.encoder();
    cache.append(&mut encoder, &[sequence], &tokens).unwrap();
    app.submit(encoder);
    let other = cache.fork(sequence, 17).unwrap();
    app.device.destroy();
    let mut encoder = app.encoder();
    let found = [
        cache.append(&mut encoder, &[sequence, other], &tokens),
        cache.batch(&mut encoder, &[sequence]).map(drop),
    ];
    // A loss that has not shown yet is no error; all else is one of the machine.
    for error in found.into_iter().filter_map(Result::err) {
        assert!(!error.is_invalid(), "{error}");
    }
    // Pages are the host's to give back.
    cache.remove(sequence).unwrap();
    cache.remove(other).unwrap();
    assert_eq!(cache.free_pages(), 8);
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn faults_in_pages_are_found() {
    for (find, replacement) in [
        ("min(aux[entry], params.last_page)", "0u"),
        ("first_key / params.page_len", "0u"),
        ("let position = positions[at];", "let position = i;"),
        ("place = positions[at + 1u];", "place = positions[at];"),
    ] {
        let broken = gpu().broken(find, replacement);
        let found = catch_unwind(AssertUnwindSafe(|| diverge::<f32>(&broken, shape(16, 9), true)));
        assert!(found.is_err(), "not found out: `{find}` as `{replacement}`");
    }
}
