//! Caches: attention over tokens that came in a chunk and one by one, rotated on their way, is
//! attention over all of them.

use super::data::Numbers;
use super::trial::{Call, HALVES, Route, Task, Trial, wide, with_element};
use crate::attention::AttentionBuffers;
use crate::buffer::{download, output, read, upload};
use crate::cache::{CacheRotary, CacheTokens, KvCacheShape, PagedCacheShape};
use crate::cpu;
use crate::error::Error;
use crate::host::Gpu;
use crate::layers::{RotaryInputs, RotaryPairs, RotaryShape, TableRows};
use crate::problem::{Align, AttentionOptions, AttentionShape, Element, ElementType, Inputs};
use crate::tables::RotaryTable;

/// Tokens of each sequence in the chunk, of which padding makes one length; then so many one by
/// one.
const CHUNK: [usize; 3] = [40, 0, 17];
const ALONE: usize = 3;
/// Places of a table, and of a cache.
const LONGEST: usize = 64;
const NUM_HEADS: usize = 4;
const KV_HEADS: usize = 2;
const ROTARY_DIM: usize = 4;
const Q_LEN: usize = 2;

/// As a decoder's.
fn options() -> AttentionOptions {
    AttentionOptions { causal: true, align: Align::BottomRight, ..AttentionOptions::default() }
}

pub(super) fn tasks() -> Vec<Task> {
    let mut tasks = Vec::new();
    let mut add = |name, element, dims| {
        let run = move |trial: &mut Trial<'_>| with_element!(element, run(trial, name, dims));
        tasks.push(Task::new(name, run));
    };
    add("appended tokens", ElementType::F32, [16, 16]);
    add("appended tokens", ElementType::F32, [7, 5]);
    for &(name, element) in HALVES {
        add(name, element, [16, 16]);
    }
    tasks
}

/// Keys, values and queries, and the tables that keys are rotated by.
struct Story<T> {
    dims: [usize; 2],
    /// `[batch, num_kv_heads, longest, dim]`, those of a sequence at its end.
    tokens: [Vec<T>; 2],
    queries: Vec<T>,
    table: RotaryTable,
}

fn run<T: Element>(
    trial: &mut Trial<'_>,
    name: &'static str,
    dims: [usize; 2],
) -> Result<(), Error> {
    let mut numbers = Numbers(5);
    let longest = (CHUNK[0] + ALONE) as u64;
    let batch = CHUNK.len();
    let rows = (batch * KV_HEADS) as u64 * longest;
    let story = Story::<T> {
        dims,
        tokens: dims.map(|dim| numbers.tensor(rows * dim as u64)),
        queries: numbers.tensor((batch * NUM_HEADS * Q_LEN * dims[0]) as u64),
        table: RotaryTable::new(ROTARY_DIM, 100.0, 0..LONGEST as u64)?,
    };
    let expected = story.expected()?;
    let call = |kernel: &str| Call {
        name,
        what: format!("{kernel} of {}, KvCacheShape {{ dims: {dims:?} }}", T::TYPE),
        stored: T::TYPE,
        expected: vec![("out", &expected)],
    };
    let route = |kernel| {
        move |gpu: &Gpu| {
            let lens: Vec<usize> = CHUNK.iter().map(|len| len + ALONE).collect();
            let shape = AttentionShape {
                num_kv_heads: KV_HEADS,
                kv_len: LONGEST,
                kv_lens: Some(lens),
                value_dim: dims[1],
                element: T::TYPE,
                ..AttentionShape::new(batch, NUM_HEADS, Q_LEN, dims[0])
            };
            let plan = gpu.attention_operator(&options())?.plan(&shape)?;
            Ok(Route { kernel, steps: plan.variants(), dispatches: plan.dispatches().len() })
        }
    };
    trial.compare(&call("kv-cache"), route("kv-cache"), |gpu| story.cached(gpu))?;
    trial.compare(&call("paged-kv-cache"), route("paged-kv-cache"), |gpu| story.paged(gpu))
}

impl<T: Element> Story<T> {
    fn rotary(&self) -> CacheRotary<'_> {
        let RotaryTable { cos, sin } = &self.table;
        CacheRotary { cos, sin, rotary_dim: ROTARY_DIM, pairs: RotaryPairs::Half }
    }

    /// Keys or values of each sequence's tokens from one place before its end to another: `[batch,
    /// num_kv_heads, len, dim]`.
    fn last(&self, which: usize, from: usize, to: usize) -> Vec<T> {
        let (dim, longest) = (self.dims[which], CHUNK[0] + ALONE);
        let rows = self.tokens[which].chunks(longest * dim);
        rows.flat_map(|rows| rows[(longest - from) * dim..(longest - to) * dim].to_vec()).collect()
    }

    fn upload(&self, gpu: &Gpu, from: usize, to: usize) -> Result<[wgpu::Buffer; 2], Error> {
        let of = |which| {
            upload(gpu.device(), "tokens", bytemuck::cast_slice(&self.last(which, from, to)))
        };
        Ok([of(0)?, of(1)?])
    }

    /// Each sequence alone.
    fn expected(&self) -> Result<Vec<f64>, Error> {
        let mut all = Vec::new();
        for (sequence, chunk) in CHUNK.into_iter().enumerate() {
            let kv_len = chunk + ALONE;
            let tensor = |which: usize| {
                let rows = KV_HEADS * kv_len * self.dims[which];
                self.last(which, kv_len, 0)[sequence * rows..][..rows].to_vec()
            };
            let rows = TableRows::From { start: 0, rows: LONGEST };
            let turn = RotaryShape::new(1, KV_HEADS, kv_len, self.dims[0]);
            let turn = RotaryShape { element: T::TYPE, rotary_dim: ROTARY_DIM, rows, ..turn };
            let RotaryTable { cos, sin } = &self.table;
            let key = RotaryInputs { x: &tensor(0), cos, sin, positions: None };
            let key: Vec<T> = cpu::rotary(&turn, &key)?.into_iter().map(T::from_f64).collect();
            let shape = AttentionShape {
                num_kv_heads: KV_HEADS,
                kv_len,
                value_dim: self.dims[1],
                element: T::TYPE,
                ..AttentionShape::new(1, NUM_HEADS, Q_LEN, self.dims[0])
            };
            let queries = NUM_HEADS * Q_LEN * self.dims[0];
            let query = &self.queries[sequence * queries..][..queries];
            let inputs = Inputs { query, key: &key, value: &tensor(1), ..Inputs::default() };
            all.extend(cpu::attention(&shape, &options(), &inputs)?.out);
        }
        Ok(all)
    }

    /// A chunk, then tokens one by one, the last as a step that is bound.
    fn cached(&self, gpu: &Gpu) -> Result<Vec<Vec<f32>>, Error> {
        let [head_dim, value_dim] = self.dims;
        let shape = KvCacheShape {
            batch: CHUNK.len(),
            num_kv_heads: KV_HEADS,
            capacity: LONGEST,
            head_dim,
            value_dim,
            element: T::TYPE,
        };
        let mut cache = gpu.kv_cache(&shape, Some(self.rotary()))?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let [key, value] = self.upload(gpu, CHUNK[0] + ALONE, ALONE)?;
        let tokens = CacheTokens::new(&key, &value, CHUNK[0]);
        cache.append(&mut encoder, &CacheTokens { lens: Some(&CHUNK), ..tokens })?;
        for back in (0..ALONE).rev() {
            let [key, value] = self.upload(gpu, back + 1, back)?;
            let tokens = CacheTokens::new(&key, &value, 1);
            if back == 0 {
                let step = cache.bind_append(&tokens)?;
                cache.append_step(&mut encoder, &step)?;
            } else {
                cache.append(&mut encoder, &tokens)?;
            }
        }
        let [query, out] = self.ends(gpu)?;
        let buffers = cache.step_buffers(&query, &out);
        Self::attend(gpu, encoder, &cache.step_shape(NUM_HEADS, Q_LEN), &buffers)
    }

    /// The same in pages, which another sequence shares until it goes its own way.
    fn paged(&self, gpu: &Gpu) -> Result<Vec<Vec<f32>>, Error> {
        let [head_dim, value_dim] = self.dims;
        let shape = PagedCacheShape {
            num_kv_heads: KV_HEADS,
            pages: 12,
            page_len: 16,
            longest: Some(LONGEST),
            head_dim,
            value_dim,
            element: T::TYPE,
        };
        let mut cache = gpu.paged_kv_cache(&shape, Some(self.rotary()))?;
        let sequences = CHUNK.map(|_| cache.add());
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let [key, value] = self.upload(gpu, CHUNK[0] + ALONE, ALONE)?;
        let tokens = CacheTokens::new(&key, &value, CHUNK[0]);
        cache.append(&mut encoder, &sequences, &CacheTokens { lens: Some(&CHUNK), ..tokens })?;
        let other = cache.fork(sequences[0], CHUNK[0])?;
        cache.append(&mut encoder, &[other], &CacheTokens::new(&key, &value, 2))?;
        for back in (0..ALONE).rev() {
            let [key, value] = self.upload(gpu, back + 1, back)?;
            cache.append(&mut encoder, &sequences, &CacheTokens::new(&key, &value, 1))?;
        }
        let batch = cache.batch(&mut encoder, &sequences)?;
        let [query, out] = self.ends(gpu)?;
        let buffers = batch.buffers(&query, &out);
        Self::attend(gpu, encoder, &batch.shape(NUM_HEADS, Q_LEN), &buffers)
    }

    fn rows() -> usize {
        CHUNK.len() * NUM_HEADS * Q_LEN
    }

    /// Query and out.
    fn ends(&self, gpu: &Gpu) -> Result<[wgpu::Buffer; 2], Error> {
        let query = upload(gpu.device(), "query", bytemuck::cast_slice(&self.queries))?;
        let bytes = Self::rows() * self.dims[1] * size_of::<T>();
        Ok([query, output(gpu.device(), "out", bytes as u64)?])
    }

    fn attend(
        gpu: &Gpu,
        mut encoder: wgpu::CommandEncoder,
        shape: &AttentionShape,
        buffers: &AttentionBuffers<'_>,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let attention = gpu.attention_operator(&options())?;
        attention.encode(&mut encoder, &attention.plan(shape)?, buffers)?;
        let buffers = [buffers.out.buffer];
        let found = download(gpu.device(), gpu.queue(), encoder, &buffers);
        let mapped = pollster::block_on(found)?;
        Ok(vec![wide(&read::<T>(&mapped[0], Self::rows() * shape.value_dim)?)])
    }
}
