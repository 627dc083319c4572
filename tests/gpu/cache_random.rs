//! Sequences that join, grow, fork and leave at random, and attention over them that was bound once: what the GPU
//! believes of lengths is what the host does.

use crate::app::App;
use crate::cache::{OPTIONS, app, cache_shape, upload};
use crate::case::check_tensor;
use crate::common::data::numbers;
use crate::device::gpu;
use std::panic::{AssertUnwindSafe, catch_unwind};
use wgpu_attention::cache::{CacheStep, CacheTokens, KvCache};
use wgpu_attention::check::Bounds;
use wgpu_attention::{AttentionShape, Call, Gpu, Inputs, cpu, wgpu};

const BATCH: usize = 4;
const CAPACITY: usize = 20;
const NUM_HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 8;

struct World {
    app: App,
    cache: KvCache,
    /// Keys and values of a step of one token.
    now: [wgpu::Buffer; 2],
    step: CacheStep,
    queries: Vec<f32>,
    out: wgpu::Buffer,
    attend: Call,
    /// The seed of each token that a sequence should hold.
    sequences: [Vec<u64>; BATCH],
    next: u64,
}

/// Keys or values of a token: `[num_kv_heads, dim]`.
fn token(seed: u64, which: u64) -> Vec<f32> {
    numbers(2 * seed + which, KV_HEADS * DIM).into_iter().map(|x| x * 2.0).collect()
}

/// `[batch, num_kv_heads, len, dim]` of tokens at the end, behind padding that shows.
fn chunk(seeds: &[Vec<u64>; BATCH], len: usize, which: u64) -> Vec<f32> {
    let mut chunk = vec![f32::NAN; BATCH * KV_HEADS * len * DIM];
    for (b, seeds) in seeds.iter().enumerate() {
        for (i, &seed) in seeds.iter().enumerate() {
            let token = token(seed, which);
            for head in 0..KV_HEADS {
                let to = ((b * KV_HEADS + head) * len + len - seeds.len() + i) * DIM;
                chunk[to..][..DIM].copy_from_slice(&token[head * DIM..][..DIM]);
            }
        }
    }
    chunk
}

impl World {
    fn new(gpu: &Gpu) -> Self {
        let app = app(gpu);
        let shape = cache_shape([BATCH, KV_HEADS, CAPACITY, DIM]);
        let cache = gpu.kv_cache(&shape, None).unwrap();
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let now = [(); 2].map(|()| app.buffer_with(&[0.0; BATCH * KV_HEADS * DIM], usage));
        let step = cache.bind_append(&CacheTokens::new(&now[0], &now[1], 1)).unwrap();
        let queries = numbers(7, BATCH * NUM_HEADS * DIM);
        let (query, out) = (upload(&app, &queries), app.output(queries.len()));
        let attention = gpu.attention_operator(&OPTIONS).unwrap();
        let plan = attention.plan(&cache.step_shape(NUM_HEADS, 1)).unwrap();
        let attend = attention.bind(&plan, &cache.step_buffers(&query, &out)).unwrap();
        let sequences = Default::default();
        Self { app, cache, now, step, queries, out, attend, sequences, next: 100 }
    }

    /// Whether there was room.
    fn grow(&mut self, counts: [usize; BATCH]) -> bool {
        let seeds = counts.map(|count| {
            self.next += count as u64;
            (self.next - count as u64..self.next).collect::<Vec<u64>>()
        });
        let len = counts.into_iter().max().unwrap_or_default();
        let mut encoder = self.app.encoder();
        let chunks = [0, 1].map(|which| chunk(&seeds, len, which));
        let done = if counts == [1; BATCH] {
            for (buffer, chunk) in self.now.iter().zip(&chunks) {
                self.app.queue.write_buffer(buffer, 0, bytemuck::cast_slice(chunk));
            }
            self.cache.append_step(&mut encoder, &self.step)
        } else {
            let [key, value] = chunks.map(|chunk| upload(&self.app, &chunk));
            let tokens = CacheTokens { lens: Some(&counts), ..CacheTokens::new(&key, &value, len) };
            self.cache.append(&mut encoder, &tokens)
        };
        self.app.submit(encoder);
        match done {
            Ok(()) => {
                self.sequences.iter_mut().zip(seeds).for_each(|(held, new)| held.extend(new));
                true
            }
            Err(error) => {
                assert!(error.to_string().contains("new tokens, as sequence"), "{error}");
                false
            }
        }
    }

    fn truncate(&mut self, at: usize, len: usize) {
        let mut encoder = self.app.encoder();
        self.cache.truncate(&mut encoder, at, len).unwrap();
        self.app.submit(encoder);
        self.sequences[at].truncate(len);
    }

    fn fork(&mut self, from: usize, to: usize, len: usize) {
        let mut encoder = self.app.encoder();
        self.cache.fork(&mut encoder, from, to, len).unwrap();
        self.app.submit(encoder);
        self.sequences[to] = self.sequences[from][..len].to_vec();
    }

    /// Compares attention of a query to each sequence with that to its tokens alone.
    fn check(&self, when: usize) {
        let lens = self.sequences.each_ref().map(Vec::len);
        let held = self.app.read(self.cache.lens_buffer());
        let held: Vec<usize> = held.iter().map(|len| len.to_bits() as usize).collect();
        assert_eq!((&held[..], self.cache.lens()), (&lens[..], &lens[..]), "step {when}");
        let mut encoder = self.app.encoder();
        self.attend.encode(&mut encoder);
        self.app.submit(encoder);
        let found = self.app.read(&self.out);
        let rows = NUM_HEADS * DIM;
        for (b, seeds) in self.sequences.iter().enumerate() {
            let tensor = |which: u64| {
                let tokens: Vec<_> = seeds.iter().map(|&seed| token(seed, which)).collect();
                let of =
                    |head: usize| tokens.iter().flat_map(move |t| t[head * DIM..][..DIM].to_vec());
                (0..KV_HEADS).flat_map(of).collect::<Vec<f32>>()
            };
            let [key, value] = [0, 1].map(tensor);
            let shape = AttentionShape {
                num_kv_heads: KV_HEADS,
                kv_len: seeds.len(),
                ..AttentionShape::new(1, NUM_HEADS, 1, DIM)
            };
            let query = &self.queries[b * rows..][..rows];
            let inputs = Inputs { query, key: &key, value: &value, ..Inputs::default() };
            let expected = cpu::attention(&shape, &OPTIONS, &inputs).unwrap().out;
            let what = format!("step {when}, sequence {b} of {} tokens", seeds.len());
            check_tensor(&what, &found[b * rows..][..rows], &expected, &Bounds::F32);
        }
    }
}

fn live(gpu: &Gpu) {
    let mut world = World::new(gpu);
    let mut seed = 1;
    let mut random = |below: usize| {
        seed += 1;
        numbers(seed, 1)[0].to_bits() as usize / 64 % below
    };
    let mut refused = 0;
    for step in 0..150 {
        let [at, to] = [random(BATCH), random(BATCH)];
        let len = random(world.sequences[at].len() + 1);
        match random(8) {
            0 => world.truncate(at, len),
            // One leaves, and its place is free for another.
            1 => world.truncate(at, 0),
            2 => world.fork(at, to, len),
            3 | 4 => refused += usize::from(!world.grow([0; BATCH].map(|_| random(6)))),
            _ => refused += usize::from(!world.grow([1; BATCH])),
        }
        if step % 3 == 0 {
            world.check(step);
        }
    }
    assert!(refused > 0, "no sequence was ever full");
}

#[test]
fn sequences_come_and_go_at_random() {
    live(gpu());
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn faults_in_lengths_are_found() {
    for (find, replacement) in [
        ("min(aux[params.lens.offset + workgroup.z], params.lens.most)", "params.lens.most"),
        ("params.lens.offset + workgroup.z", "params.lens.offset"),
        ("i32(len * params.lens.moves)", "0"),
    ] {
        let broken = gpu().broken(find, replacement);
        assert!(catch_unwind(AssertUnwindSafe(|| live(&broken))).is_err(), "not found: {find}");
    }
}
