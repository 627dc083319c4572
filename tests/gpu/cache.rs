//! Attention over a cache that is filled in steps is causal attention over whole sequences.

use crate::app::App;
use crate::case::check_tensor;
use crate::common::data::numbers;
use crate::device::{gpu, portable};
use half::{bf16, f16};
use wgpu_attention::cache::{CacheRotary, CacheTokens, KvCache, KvCacheShape};
use wgpu_attention::check::Bounds;
use wgpu_attention::layers::{RotaryInputs, RotaryPairs, RotaryShape, RotaryTable, TableRows};
use wgpu_attention::{
    Align, Attention, AttentionOptions, AttentionShape, Capabilities, Element, Gpu, Inputs, Kernel,
    Layout, cpu, wgpu,
};

pub(crate) const OPTIONS: AttentionOptions = AttentionOptions {
    scale: None,
    softcap: None,
    causal: true,
    window_left: None,
    window_keeps: 0,
    window_right: None,
    align: Align::BottomRight,
};
const NUM_HEADS: usize = 4;

/// New tokens per sequence, and how many of them each takes.
type Steps<'a> = &'a [(usize, &'a [usize])];

const UNIFORM: Steps<'_> = &[(5, &[5, 5]), (1, &[1, 1]), (3, &[3, 3]), (1, &[1, 1])];
const RAGGED: Steps<'_> =
    &[(4, &[4, 2, 3]), (1, &[1, 1, 1]), (3, &[0, 3, 1]), (1, &[1, 0, 1]), (1, &[1, 1, 1])];

/// Query, key and value of one sequence from its first token on: `[heads, len, dim]`.
struct Sequence<T>([Vec<T>; 3]);

/// A cache's shape, how many columns of its keys are rotated, and in which steps it fills.
#[derive(Clone, Copy)]
struct Story<'a> {
    shape: KvCacheShape,
    rotary: Option<(usize, RotaryPairs)>,
    steps: Steps<'a>,
}

pub(crate) fn cache_shape([batch, num_kv_heads, capacity, dim]: [usize; 4]) -> KvCacheShape {
    let (head_dim, value_dim) = (dim, dim);
    KvCacheShape { batch, num_kv_heads, capacity, head_dim, value_dim, ..KvCacheShape::default() }
}

pub(crate) fn app(gpu: &Gpu) -> App {
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    let instance = wgpu::Instance::new(descriptor);
    App { instance, device: gpu.device().clone(), queue: gpu.queue().clone() }
}

pub(crate) fn upload<T: Element>(app: &App, numbers: &[T]) -> wgpu::Buffer {
    let mut bytes = bytemuck::cast_slice::<T, u8>(numbers).to_vec();
    bytes.resize(bytes.len().next_multiple_of(4).max(4), 0);
    app.buffer(&bytemuck::pod_collect_to_vec::<u8, f32>(&bytes))
}

pub(crate) fn read<T: Element>(app: &App, buffer: &wgpu::Buffer) -> Vec<T> {
    bytemuck::cast_slice::<f32, T>(&app.read(buffer)).to_vec()
}

pub(crate) fn round<T: Element>(numbers: &[f64]) -> Vec<T> {
    numbers.iter().map(|&x| T::from_f64(x)).collect()
}

/// The tokens `start..start + count` of a sequence at the end of `[heads, len, dim]`, behind padding that shows.
fn chunk<T: Element>(
    whole: &[T],
    [heads, total, dim]: [usize; 3],
    [start, count, len]: [usize; 3],
) -> Vec<T> {
    let mut chunk = vec![T::from_f64(f64::NAN); heads * len * dim];
    for head in 0..heads {
        let (from, to) = ((head * total + start) * dim, (head * len + len - count) * dim);
        chunk[to..][..count * dim].copy_from_slice(&whole[from..][..count * dim]);
    }
    chunk
}

impl Story<'_> {
    fn table(&self) -> RotaryTable {
        let width = self.rotary.map_or(2, |(rotary_dim, _)| rotary_dim);
        RotaryTable::new(width, 100.0, 0..self.shape.capacity as u64).unwrap()
    }

    fn totals(&self) -> Vec<usize> {
        let total = |b: usize| self.steps.iter().map(|(_, lens)| lens[b]).sum();
        (0..self.shape.batch).map(total).collect()
    }

    fn sequence<T: Element>(&self, number: usize, total: usize) -> Sequence<T> {
        let KvCacheShape { num_kv_heads, head_dim, value_dim, .. } = self.shape;
        let sizes = [NUM_HEADS * head_dim, num_kv_heads * head_dim, num_kv_heads * value_dim];
        let tensor = |n: usize| {
            let numbers = numbers((3 * number + n) as u64, sizes[n] * total);
            numbers.into_iter().map(|x| T::from_f64(f64::from(x) * 2.0)).collect()
        };
        Sequence([tensor(0), tensor(1), tensor(2)])
    }

    fn rotated<T: Element>(&self, x: &[T], heads: usize, total: usize) -> Vec<T> {
        let Some((rotary_dim, pairs)) = self.rotary else { return x.to_vec() };
        let rows = TableRows::From { start: 0, rows: self.shape.capacity };
        let shape = RotaryShape::new(1, heads, total, self.shape.head_dim);
        let shape = RotaryShape { element: T::TYPE, rotary_dim, pairs, rows, ..shape };
        let RotaryTable { cos, sin } = self.table();
        let inputs = RotaryInputs { x, cos: &cos, sin: &sin, positions: None };
        round(&cpu::rotary(&shape, &inputs).unwrap())
    }

    /// Fills a cache in steps, and compares every step's out with one attention over each whole sequence.
    fn check<T: Element>(&self, gpu: &Gpu) {
        let shape = KvCacheShape { element: T::TYPE, ..self.shape };
        let KvCacheShape { num_kv_heads, head_dim, value_dim, .. } = shape;
        let app = app(gpu);
        let RotaryTable { cos, sin } = self.table();
        let rotary = self.rotary.map(|(rotary_dim, pairs)| CacheRotary {
            cos: &cos,
            sin: &sin,
            rotary_dim,
            pairs,
        });
        let mut cache = gpu.kv_cache(&shape, rotary).unwrap();
        cache.prepare_blocking().unwrap();
        let attention = gpu.attention_operator(&OPTIONS).unwrap();
        let totals = self.totals();
        let mut sequences = Vec::new();
        let mut expected = Vec::new();
        for (number, &total) in totals.iter().enumerate() {
            let Sequence([query, key, value]) = self.sequence::<T>(number, total);
            let query = self.rotated(&query, NUM_HEADS, total);
            let whole = AttentionShape {
                num_kv_heads,
                value_dim,
                element: T::TYPE,
                ..AttentionShape::new(1, NUM_HEADS, total, head_dim)
            };
            let rotated = self.rotated(&key, num_kv_heads, total);
            let inputs =
                Inputs { query: &query, key: &rotated, value: &value, ..Inputs::default() };
            expected.push(cpu::attention(&whole, &OPTIONS, &inputs).unwrap().out);
            sequences.push(Sequence([query, key, value]));
        }
        for (at, &(len, lens)) in self.steps.iter().enumerate() {
            let held = cache.lens().to_vec();
            let heads =
                [(NUM_HEADS, head_dim), (num_kv_heads, head_dim), (num_kv_heads, value_dim)];
            let chunks = [0, 1, 2].map(|n| {
                let (heads, dim) = heads[n];
                let of = |b: usize| {
                    let sizes = [heads, totals[b], dim];
                    chunk(&sequences[b].0[n], sizes, [held[b], lens[b], len])
                };
                upload(&app, &(0..totals.len()).flat_map(of).collect::<Vec<T>>())
            });
            let [query, key, value] = &chunks;
            let rows = NUM_HEADS * len * value_dim;
            let out = upload(&app, &vec![T::from_f64(9.0); totals.len() * rows]);

            let mut encoder = app.encoder();
            let is_ragged = lens.iter().any(|&own| own != len);
            let lens_given = is_ragged.then_some(lens);
            let tokens = CacheTokens { lens: lens_given, ..CacheTokens::new(key, value, len) };
            cache.append(&mut encoder, &tokens).unwrap();
            let plan = attention.plan(&cache.shape(NUM_HEADS, len)).unwrap();
            attention.encode(&mut encoder, &plan, &cache.buffers(query, &out)).unwrap();
            app.submit(encoder);

            let found: Vec<T> = read(&app, &out);
            for (b, &count) in lens.iter().enumerate() {
                for head in 0..NUM_HEADS {
                    let from = b * rows + (head * len + len - count) * value_dim;
                    let to = (head * totals[b] + held[b]) * value_dim;
                    let found: Vec<f32> =
                        found[from..][..count * value_dim].iter().map(|x| x.to_f32()).collect();
                    let expected = &expected[b][to..][..count * value_dim];
                    let what = format!("{}, step {at}, sequence {b}, head {head}", T::TYPE);
                    check_tensor(&what, &found, expected, &Bounds::of(T::TYPE));
                }
            }
        }
        assert_eq!(cache.lens(), totals);
    }

    fn check_all(&self) {
        self.check::<f32>(gpu());
        self.check::<f16>(gpu());
        self.check::<f16>(portable());
        self.check::<bf16>(gpu());
    }
}

fn story(steps: Steps<'_>, head_dim: usize, value_dim: usize) -> Story<'_> {
    let batch = steps[0].1.len();
    let shape = KvCacheShape { value_dim, ..cache_shape([batch, 2, 11, head_dim]) };
    Story { shape, rotary: None, steps }
}

#[test]
fn attention_over_a_cache_is_attention_over_whole_sequences() {
    story(UNIFORM, 8, 8).check_all();
    story(RAGGED, 8, 8).check_all();
}

/// Rows of 16-bit elements begin in the middle of words, which they share with the tokens before.
#[test]
fn rows_of_odd_length_share_words() {
    story(UNIFORM, 5, 3).check_all();
    story(RAGGED, 6, 5).check_all();
}

#[test]
fn keys_are_rotated_by_their_place_in_their_own_sequence() {
    let half = Some((8, RotaryPairs::Half));
    Story { rotary: half, ..story(UNIFORM, 8, 8) }.check_all();
    Story { rotary: half, ..story(RAGGED, 8, 8) }.check_all();
    let neighbours = Some((4, RotaryPairs::Interleaved));
    Story { rotary: neighbours, ..story(RAGGED, 7, 6) }.check_all();
}

#[test]
fn a_cache_larger_than_a_binding_is_filled_in_parts() {
    let small = Capabilities { binding_size: 1 << 10, ..*gpu().capabilities() };
    let rotary = Some((6, RotaryPairs::Half));
    let story = Story { rotary, ..story(RAGGED, 6, 5) };
    story.check::<f32>(&gpu().masked(&small));
    story.check::<bf16>(&gpu().masked(&small));
}

#[test]
fn no_step_makes_a_buffer_or_a_pipeline() {
    let app = App::open();
    let shape = cache_shape([2, 2, 310, 8]);
    let mut cache = KvCache::new(&app.device, &app.queue, &shape, None).unwrap();
    let attention = Attention::new(&app.device, &app.queue, &OPTIONS).unwrap();
    let [query, key, value, out] = [4, 2, 2, 4].map(|heads| app.output(2 * heads * 8));
    let footprint = |cache: &KvCache| {
        let report = app.instance.generate_report().unwrap();
        (cache.footprint(), attention.footprint(), report.hub_report().buffers.num_allocated)
    };
    let mut before = None;
    for step in 0..303 {
        let mut encoder = app.encoder();
        // Of different lengths, each token goes its own way.
        let lens = [1, usize::from(step > 0)];
        let tokens = CacheTokens { lens: Some(&lens), ..CacheTokens::new(&key, &value, 1) };
        cache.append(&mut encoder, &tokens).unwrap();
        let plan = attention.plan_kernel(&cache.shape(4, 1), Some(Kernel::Forward)).unwrap();
        attention.encode(&mut encoder, &plan, &cache.buffers(&query, &out)).unwrap();
        app.submit(encoder);
        if step == 2 {
            before = Some(footprint(&cache));
        }
    }
    assert_eq!(cache.lens(), [303, 302]);
    assert_eq!(Some(footprint(&cache)), before);
}

/// Keys count up, values are their negatives, in a cache of two sequences of one head.
struct Filled {
    app: App,
    cache: KvCache,
    key: wgpu::Buffer,
    value: wgpu::Buffer,
}

fn filled<T: Element>(gpu: &Gpu, dim: usize) -> Filled {
    let app = app(gpu);
    let shape = KvCacheShape { element: T::TYPE, ..cache_shape([2, 1, 4, dim]) };
    let mut cache = gpu.kv_cache(&shape, None).unwrap();
    let numbers = |sign: f64| {
        let numbers: Vec<f64> = (1..=2 * 3 * dim).map(|n| sign * n as f64).collect();
        upload(&app, &round::<T>(&numbers))
    };
    let (key, value) = (numbers(1.0), numbers(-1.0));
    let mut encoder = app.encoder();
    cache.append(&mut encoder, &CacheTokens::new(&key, &value, 3)).unwrap();
    app.submit(encoder);
    Filled { app, cache, key, value }
}

#[test]
fn a_fork_copies_a_prefix_and_nothing_else() {
    fork::<f32>(gpu(), 4);
    fork::<f16>(portable(), 3);
    fork::<bf16>(gpu(), 3);
}

fn fork<T: Element>(gpu: &Gpu, dim: usize) {
    let Filled { app, mut cache, .. } = filled::<T>(gpu, dim);
    let [keys, values] = [cache.key(), cache.value()].map(|buffer| read::<T>(&app, buffer));
    let mut encoder = app.encoder();
    cache.fork(&mut encoder, 1, 0, 2).unwrap();
    cache.fork(&mut encoder, 1, 1, 1).unwrap();
    app.submit(encoder);
    assert_eq!(cache.lens(), [2, 1]);
    for (before, buffer) in [(keys, cache.key()), (values, cache.value())] {
        let mut expected: Vec<f32> = before.iter().map(|x| x.to_f32()).collect();
        expected.copy_within(4 * dim..6 * dim, 0);
        let found: Vec<f32> = read::<T>(&app, buffer).iter().map(|x| x.to_f32()).collect();
        assert_eq!(found, expected, "{}", T::TYPE);
    }
}

#[test]
fn what_is_truncated_is_written_over() {
    let Filled { app, mut cache, key, value } = filled::<f32>(gpu(), 2);
    let mut encoder = app.encoder();
    cache.truncate(&mut encoder, 0, 1).unwrap();
    assert_eq!((cache.lens(), cache.positions(2)), (&[1, 3][..], vec![0, 0, 1, 2]));
    let lens = [2, 0];
    let tokens = CacheTokens { lens: Some(&lens), ..CacheTokens::new(&key, &value, 3) };
    cache.append(&mut encoder, &tokens).unwrap();
    app.submit(encoder);
    let found: Vec<f32> = read(&app, cache.key());
    assert_eq!(found[..6], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(found[8..14], [7.0, 8.0, 9.0, 10.0, 11.0, 12.0]);
    cache.reset(&mut app.encoder()).unwrap();
    assert_eq!(cache.lens(), [0, 0]);
    assert_eq!(cache.shape(1, 1).kv_len, 0);
}

#[test]
fn tokens_may_lie_in_other_orders() {
    let app = App::open();
    let shape = cache_shape([1, 2, 4, 2]);
    let mut cache = KvCache::new(&app.device, &app.queue, &shape, None).unwrap();
    let [key, value] = [[1.0, 2.0, 5.0, 6.0, 3.0, 4.0, 7.0, 8.0]; 2].map(|x| app.buffer(&x));
    let tokens = CacheTokens { key_layout: Layout::Bshd, ..CacheTokens::new(&key, &value, 2) };
    let mut encoder = app.encoder();
    cache.append(&mut encoder, &tokens).unwrap();
    app.submit(encoder);
    let found = app.read(cache.key());
    assert_eq!([&found[..4], &found[8..12]], [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]);
    let found = app.read(cache.value());
    assert_eq!([&found[..4], &found[8..12]], [[1.0, 2.0, 5.0, 6.0], [3.0, 4.0, 7.0, 8.0]]);
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let Filled { app, mut cache, key, value } = filled::<f32>(gpu(), 2);
    let before: Vec<f32> = app.read(cache.key());
    let mut encoder = app.encoder();
    cache.truncate(&mut encoder, 0, 2).unwrap();
    let own = cache.key().clone();
    let good = CacheTokens::new(&key, &value, 1);
    let small = app.buffer(&[1.0]);
    let unfit = app.buffer_with(&[1.0; 12], wgpu::BufferUsages::COPY_DST);
    for (tokens, says) in [
        (
            CacheTokens { len: 2, ..good },
            "len: expected at most 1 new tokens, as sequence 1 holds 3 of 4, found 2",
        ),
        (
            CacheTokens { len: 3, lens: Some(&[3, 0]), ..good },
            "lens: expected at most 2 new tokens, as sequence 0 holds 2 of 4, found 3",
        ),
        (
            CacheTokens { lens: Some(&[2, 0]), ..good },
            "lens: expected at most len = 1 new tokens of sequence 0, found 2",
        ),
        (
            CacheTokens { lens: Some(&[1]), ..good },
            "lens: expected a number for each of 2 sequences, found 1 numbers",
        ),
        (
            CacheTokens { key: &small, ..good },
            "key: expected a buffer of at least 16 bytes for 4 elements of 32 bits, found 4 bytes",
        ),
        (
            CacheTokens { value: &own, ..good },
            "value: expected a buffer of its own, found that of the cache",
        ),
        (CacheTokens { value: &unfit, ..good }, "value: expected a buffer with usage STORAGE"),
    ] {
        let refused = cache.append(&mut encoder, &tokens).unwrap_err().to_string();
        assert!(refused.starts_with(says), "{refused}, not {says}");
    }
    for (refused, says) in [
        (cache.truncate(&mut encoder, 2, 0), "sequence: expected one of 2 sequences, found 2"),
        (
            cache.truncate(&mut encoder, 1, 4),
            "len: expected at most 3 tokens, as the sequence holds, found 4",
        ),
        (cache.fork(&mut encoder, 2, 0, 0), "from: expected one of 2 sequences, found 2"),
        (cache.fork(&mut encoder, 0, 5, 0), "to: expected one of 2 sequences, found 5"),
        (
            cache.fork(&mut encoder, 0, 1, 3),
            "len: expected at most 2 tokens, as the sequence holds, found 3",
        ),
    ] {
        assert_eq!(refused.unwrap_err().to_string(), says);
    }
    app.submit(encoder);
    assert_eq!(cache.lens(), [2, 3]);
    assert_eq!(app.read(cache.key()), before);
}

#[test]
fn a_cache_that_cannot_be_is_refused() {
    let shape = cache_shape([1, 1, 4, 4]);
    let rotary =
        CacheRotary { cos: &[0.0; 8], sin: &[0.0; 8], rotary_dim: 4, pairs: RotaryPairs::Half };
    gpu().kv_cache(&shape, Some(rotary)).unwrap();
    for (shape, rotary, says) in [
        (KvCacheShape { num_kv_heads: 0, ..shape }, None, "num_kv_heads: expected at least 1"),
        (KvCacheShape { value_dim: 0, ..shape }, None, "value_dim: expected at least 1"),
        (KvCacheShape { capacity: 1 << 40, ..shape }, None, "capacity: expected at most 2^30"),
        (KvCacheShape { capacity: 1 << 30, ..shape }, None, "key: expected fewer than 2^32"),
        (shape, Some(CacheRotary { rotary_dim: 3, ..rotary }), "rotary_dim: expected an even"),
        (shape, Some(CacheRotary { rotary_dim: 6, ..rotary }), "rotary_dim: expected an even"),
        (
            shape,
            Some(CacheRotary { cos: &[0.0; 6], ..rotary }),
            "cos: expected 4 rows of 2 or more",
        ),
        (KvCacheShape { capacity: 5, ..shape }, Some(rotary), "cos: expected 5 rows of 2 or more"),
    ] {
        let refused = gpu().kv_cache(&shape, rotary).unwrap_err().to_string();
        assert!(refused.starts_with(says), "{refused}, not {says}");
    }
    let nothing = gpu().kv_cache(&KvCacheShape { capacity: 0, batch: 0, ..shape }, None).unwrap();
    nothing.prepare_blocking().unwrap();
}
