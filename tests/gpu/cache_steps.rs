//! Decode steps that are bound once: each finds on the GPU how far its sequences have grown.

use crate::app::App;
use crate::cache::{OPTIONS, app, cache_shape, read, upload};
use crate::calls::created;
use crate::case::check_tensor;
use crate::common::data::numbers;
use crate::device::{gpu, portable};
use half::{bf16, f16};
use wgpu_attention::cache::{CacheRotary, CacheStep, CacheTokens, KvCache, KvCacheShape};
use wgpu_attention::check::Bounds;
use wgpu_attention::layers::{
    Rotary, RotaryBuffers, RotaryPairs, RotaryShape, RotaryTable, TableRows,
};
use wgpu_attention::{Attention, Call, Element, Gpu, Kernel, wgpu};

const NUM_HEADS: usize = 4;
const STEPS: usize = 120;
const SHAPE: KvCacheShape = KvCacheShape {
    batch: 3,
    num_kv_heads: 2,
    capacity: 140,
    head_dim: 8,
    value_dim: 8,
    element: wgpu_attention::ElementType::F32,
};

/// Numbers of one step's query, key or value.
const LEN: usize = SHAPE.batch * NUM_HEADS * SHAPE.head_dim;

/// Three sequences of 17, 2 and 9 tokens, of which keys are rotated.
fn begun<T: Element>(gpu: &Gpu, app: &App, table: &RotaryTable) -> KvCache {
    let RotaryTable { cos, sin } = table;
    let rotary = CacheRotary { cos, sin, rotary_dim: 8, pairs: RotaryPairs::Half };
    let shape = KvCacheShape { element: T::TYPE, ..SHAPE };
    let mut cache = gpu.kv_cache(&shape, Some(rotary)).unwrap();
    let [key, value] = [1, 2].map(|seed| {
        let all = numbers(seed, SHAPE.batch * SHAPE.num_kv_heads * 17 * SHAPE.head_dim);
        upload(app, &all.iter().map(|&x| T::from_f64(x.into())).collect::<Vec<T>>())
    });
    let mut encoder = app.encoder();
    let tokens = CacheTokens { lens: Some(&[17, 2, 9]), ..CacheTokens::new(&key, &value, 17) };
    cache.append(&mut encoder, &tokens).unwrap();
    app.submit(encoder);
    cache
}

/// Buffers that a step reads, and the numbers of all steps that are copied there one after the other.
struct Feed {
    all: [wgpu::Buffer; 3],
    now: [wgpu::Buffer; 3],
}

impl Feed {
    fn new<T: Element>(app: &App) -> Self {
        let words = size_of::<T>() * LEN / 4;
        let all = [3, 4, 5].map(|seed| {
            let all = numbers(seed, STEPS * LEN);
            upload(app, &all.iter().map(|&x| T::from_f64((2.0 * x).into())).collect::<Vec<T>>())
        });
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        Self { all, now: [0; 3].map(|_| app.buffer_with(&vec![0.0; words], usage)) }
    }

    fn step(&self, encoder: &mut wgpu::CommandEncoder, at: usize) {
        for (all, now) in self.all.iter().zip(&self.now) {
            encoder.copy_buffer_to_buffer(all, at as u64 * now.size(), now, 0, now.size());
        }
    }
}

/// Lengths on the GPU.
fn lens(app: &App, cache: &KvCache) -> Vec<usize> {
    app.read(cache.lens_buffer()).iter().map(|len| len.to_bits() as usize).collect()
}

/// With rotated queries, several steps to an encoder.
#[test]
fn a_replayed_step_is_the_planned_one() {
    replay::<f32>(gpu());
    replay::<f16>(gpu());
    replay::<f16>(portable());
    replay::<bf16>(gpu());
}

fn replay<T: Element>(gpu: &Gpu) {
    let app = app(gpu);
    let table = RotaryTable::new(8, 100.0, 0..SHAPE.capacity as u64).unwrap();
    let [mut planned, mut replayed] = [(); 2].map(|()| begun::<T>(gpu, &app, &table));
    let feed = Feed::new::<T>(&app);
    let [query, key, value] = &feed.now;
    let [turned, out, planned_out] = [(); 3].map(|()| app.output(LEN));
    let tokens = CacheTokens::new(key, value, 1);

    let attention = gpu.attention_operator(&OPTIONS).unwrap();
    let rotary = Rotary::new(&app.device, &app.queue);
    let rows = TableRows::Last { rows: SHAPE.capacity };
    let shape = RotaryShape::new(SHAPE.batch, NUM_HEADS, 1, SHAPE.head_dim);
    let shape = RotaryShape { element: T::TYPE, rows, ..shape };
    let [cos, sin, lens_buffer] = {
        let [cos, sin] = replayed.tables().unwrap();
        [cos, sin, replayed.lens_buffer()].map(wgpu::Buffer::clone)
    };
    let buffers = RotaryBuffers {
        x: query.into(),
        cos: (&cos).into(),
        sin: (&sin).into(),
        positions: Some((&lens_buffer).into()),
        out: Some((&turned).into()),
    };
    let turn = rotary.bind(&rotary.plan(&shape).unwrap(), &buffers).unwrap();
    let append = replayed.bind_append(&tokens).unwrap();
    let plan = attention.plan(&replayed.step_shape(NUM_HEADS, 1)).unwrap();
    let attend = attention.bind(&plan, &replayed.step_buffers(&turned, &out)).unwrap();

    let named = RotaryShape { rows: TableRows::Named { rows: SHAPE.capacity }, ..shape };
    let named = rotary.plan(&named).unwrap();
    let mut encoder = app.encoder();
    for step in 0..STEPS {
        feed.step(&mut encoder, step);
        replayed.append_step(&mut encoder, &append).unwrap();
        turn.encode(&mut encoder);
        attend.encode(&mut encoder);
        planned.append(&mut encoder, &tokens).unwrap();
        if step % 7 > 0 && step + 1 < STEPS {
            continue;
        }
        let places: Vec<f32> = planned.positions(1).iter().map(|&at| f32::from_bits(at)).collect();
        let places = app.buffer(&places);
        let buffers = RotaryBuffers { positions: Some((&places).into()), ..buffers };
        rotary.encode(&mut encoder, &named, &buffers).unwrap();
        let plan = attention.plan(&planned.shape(NUM_HEADS, 1)).unwrap();
        let buffers = planned.buffers(&turned, &planned_out);
        attention.encode(&mut encoder, &plan, &buffers).unwrap();
        app.submit(std::mem::replace(&mut encoder, app.encoder()));
        let [found, expected] = [&out, &planned_out].map(|buffer| {
            read::<T>(&app, buffer)[..LEN].iter().map(|x| x.to_f32()).collect::<Vec<_>>()
        });
        let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
        let what = format!("{}, step {step}", T::TYPE);
        check_tensor(&what, &found, &expected, &Bounds::of(T::TYPE));
    }
    assert_eq!(replayed.lens(), [17 + STEPS, 2 + STEPS, 9 + STEPS]);
    assert_eq!(lens(&app, &replayed), replayed.lens());
    assert_eq!(lens(&app, &planned), planned.lens());
    let bits = |buffer| -> Vec<u32> { app.read(buffer).iter().map(|x| x.to_bits()).collect() };
    assert!(bits(replayed.key()) == bits(planned.key()), "keys, {}", T::TYPE);
    assert!(bits(replayed.value()) == bits(planned.value()), "values, {}", T::TYPE);
}

/// One head of two columns: what is asked is where tokens go.
struct Small {
    app: App,
    cache: KvCache,
    key: wgpu::Buffer,
    value: wgpu::Buffer,
}

fn small(batch: usize, capacity: usize) -> Small {
    let app = App::open();
    let shape = cache_shape([batch, 1, capacity, 2]);
    let cache = KvCache::new(&app.device, &app.queue, &shape, None).unwrap();
    let [key, value] = [1.0, 2.0].map(|x| app.buffer(&vec![x; 4 * batch]));
    Small { app, cache, key, value }
}

#[test]
fn a_full_cache_refuses_a_step_and_stays_as_it_is() {
    let Small { app, mut cache, key, value } = small(2, 3);
    let step = cache.bind_append(&CacheTokens::new(&key, &value, 2)).unwrap();
    let mut encoder = app.encoder();
    cache.append_step(&mut encoder, &step).unwrap();
    cache.truncate(&mut encoder, 0, 1).unwrap();
    let refused = cache.append_step(&mut encoder, &step).unwrap_err().to_string();
    assert_eq!(refused, "step: expected at most 1 new tokens, as sequence 1 holds 2 of 3, found 2");
    app.submit(encoder);
    assert_eq!((cache.lens(), lens(&app, &cache)), (&[1, 2][..], vec![1, 2]));
}

/// Whoever drops an encoder with a truncation leaves the GPU with more than the host knows of.
#[test]
fn nothing_is_written_past_the_capacity_whatever_the_host_believes() {
    let Small { app, mut cache, key, value } = small(2, 3);
    let [full, step] = [3, 2].map(|len| cache.bind_append(&CacheTokens::new(&key, &value, len)));
    // Three tokens of two sequences are more than the buffers hold.
    full.unwrap_err();
    let step = step.unwrap();
    let mut encoder = app.encoder();
    cache.append_step(&mut encoder, &step).unwrap();
    app.submit(encoder);
    cache.truncate(&mut app.encoder(), 0, 0).unwrap();
    cache.truncate(&mut app.encoder(), 1, 0).unwrap();
    let mut encoder = app.encoder();
    cache.append_step(&mut encoder, &step).unwrap();
    app.submit(encoder);
    assert_eq!(lens(&app, &cache), [3, 3]);
    assert_eq!(app.read(cache.key()), [1.0; 12]);
    let mut encoder = app.encoder();
    cache.reset(&mut encoder).unwrap();
    app.submit(encoder);
    assert_eq!((cache.lens(), lens(&app, &cache)), (&[0, 0][..], vec![0, 0]));
}

#[test]
fn steps_that_cannot_be_are_refused() {
    let Small { app, cache, key, value } = small(1, 3);
    let tokens = CacheTokens::new(&key, &value, 1);
    let refused = |cache: &KvCache, tokens| cache.bind_append(&tokens).unwrap_err().to_string();
    let some = CacheTokens { lens: Some(&[1]), ..tokens };
    let says = "lens: expected none, as all sequences take as many, found some";
    assert_eq!(refused(&cache, some), says);
    let own = CacheTokens { key: cache.lens_buffer(), ..tokens };
    assert!(refused(&cache, own).starts_with("key: expected a buffer of"));
    let shape = KvCacheShape { element: bf16::TYPE, ..cache_shape([1, 1, 3, 3]) };
    let odd = KvCache::new(&app.device, &app.queue, &shape, None).unwrap();
    let says = "key: expected even lengths of rows, and of halves of a rotation, in 16 bits";
    assert!(refused(&odd, tokens).starts_with(says));
    let step = cache.bind_append(&tokens).unwrap();
    let shape = cache_shape([1, 1, 3, 2]);
    let mut other = KvCache::new(&app.device, &app.queue, &shape, None).unwrap();
    let refused = other.append_step(&mut app.encoder(), &step).unwrap_err().to_string();
    assert_eq!(refused, "step: expected one of this cache, found that of another");
}

/// A step of one token and attention over it.
fn bound(small: &Small, query: &wgpu::Buffer, out: &wgpu::Buffer) -> (CacheStep, Call) {
    let Small { app, cache, key, value } = small;
    let attention = Attention::new(&app.device, &app.queue, &OPTIONS).unwrap();
    let plan = attention.plan_kernel(&cache.step_shape(1, 1), Some(Kernel::Forward)).unwrap();
    let attend = attention.bind(&plan, &cache.step_buffers(query, out)).unwrap();
    (cache.bind_append(&CacheTokens::new(key, value, 1)).unwrap(), attend)
}

#[test]
fn ten_thousand_steps_make_nothing_on_the_device() {
    let mut small = small(1, 10_000);
    let [query, out] = [(); 2].map(|()| small.app.output(2));
    let (step, attend) = bound(&small, &query, &out);
    let Small { app, cache, .. } = &mut small;
    let held = |cache: &KvCache| {
        let report = app.instance.generate_report().unwrap();
        let hub = report.hub_report();
        let counts = [hub.buffers.num_allocated, hub.bind_groups.num_allocated];
        (counts, cache.footprint())
    };
    let before = held(cache);
    for part in 0..100 {
        let mut encoder = app.encoder();
        let made = created(|| {
            for _ in 0..100 {
                cache.append_step(&mut encoder, &step).unwrap();
                // Attention over all of them each time is not what is asked here.
                if part < 2 {
                    attend.encode(&mut encoder);
                }
            }
        });
        assert_eq!(made, 0);
        app.submit(encoder);
    }
    assert_eq!(held(cache), before);
    assert_eq!((cache.lens(), lens(app, cache)), (&[10_000][..], vec![10_000]));
    assert_eq!(app.read(cache.value())[19_990..], [2.0; 10]);
    assert!(cache.append_step(&mut app.encoder(), &step).is_err());
}

#[test]
fn a_cache_on_a_lost_device_gives_errors_and_no_panic() {
    let mut small = small(2, 8);
    let [query, out] = [(); 2].map(|()| small.app.output(4));
    let (step, attend) = bound(&small, &query, &out);
    let Small { app, cache, key, value } = &mut small;
    let mut encoder = app.encoder();
    cache.append_step(&mut encoder, &step).unwrap();
    app.submit(encoder);
    app.device.destroy();
    let mut encoder = app.encoder();
    let tokens = CacheTokens::new(key, value, 1);
    let found = [
        cache.append_step(&mut encoder, &step),
        cache.append(&mut encoder, &tokens),
        cache.truncate(&mut encoder, 0, 0),
        cache.fork(&mut encoder, 1, 0, 1),
        cache.bind_append(&tokens).map(drop),
        cache.reset(&mut encoder),
    ];
    // A loss that has not shown yet is no error; all else is one of the machine.
    for error in found.into_iter().filter_map(Result::err) {
        assert!(!error.is_invalid(), "{error}");
    }
    attend.encode(&mut encoder);
    app.queue.submit([encoder.finish()]);
}
