//! The tensors of a check: seeded, and as nasty as the case asks for.

use crate::problem::{Element, Inputs, Pages, Problem, View};
use crate::tensor::Tensor;

/// What the numbers of a case are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// Between -1 and 1.
    Random,
    /// Small integers, so that scores up to 10,000 are exact in f32 and only the softmax is tried.
    Large,
    /// All weights but the first one nearly equal, and values around 1: sums that round each term
    /// alike show it.
    Even,
    /// As random, with NaN and infinities in some keys and values: rows that see them must show it,
    /// the others must not.
    Poisoned,
}

/// The tensors of one call.
pub(super) struct Tensors<T> {
    query: Vec<T>,
    key: Vec<T>,
    value: Vec<T>,
    mask: Option<Vec<bool>>,
    bias: Option<Vec<f32>>,
    alibi_slopes: Option<Vec<f32>>,
    segments: Option<Vec<u32>>,
    lens: Option<Vec<u32>>,
    pages: Option<Vec<u32>>,
    sinks: Option<Vec<f32>>,
}

impl<T: Element> Tensors<T> {
    pub(super) fn new(p: &Problem, data: Data, seed: u64) -> Self {
        let mut numbers = Numbers(seed);
        let mut tensor = |extent: u32| -> Vec<T> {
            (0..extent).map(|_| T::from_f64(number(&mut numbers, data).into())).collect()
        };
        let (query, key, value) =
            (tensor(p.query().extent), tensor(p.key().extent), tensor(p.value().extent));
        let len = |tensor| {
            let given = p.given().find(|given| given.tensor == tensor)?;
            given.view.map(|view| view.extent)
        };
        let mut tensors = Self {
            query,
            key,
            value,
            mask: len(Tensor::Mask).map(|len| mask(&mut numbers, len)),
            bias: len(Tensor::Bias).map(|len| bias(&mut numbers, len)),
            alibi_slopes: len(Tensor::AlibiSlopes)
                .map(|len| (0..len).map(|_| numbers.unit()).collect()),
            segments: len(Tensor::Segments).map(|len| segments(&mut numbers, len)),
            lens: len(Tensor::Lens).map(|len| lengths(&mut numbers, len, p.kv_len)),
            pages: p.pages.map(|pages| table(&mut numbers, p, pages)),
            sinks: len(Tensor::Sinks).map(|len| sinks(&mut numbers, data, len)),
        };
        match data {
            Data::Poisoned => tensors.poison(p),
            Data::Even => tensors.even(p),
            Data::Random | Data::Large => {}
        }
        tensors
    }

    pub(super) fn inputs(&self) -> Inputs<'_, T> {
        Inputs {
            query: &self.query,
            key: &self.key,
            value: &self.value,
            mask: self.mask.as_deref(),
            bias: self.bias.as_deref(),
            alibi_slopes: self.alibi_slopes.as_deref(),
            segments: self.segments.as_deref(),
            lens: self.lens.as_deref(),
            pages: self.pages.as_deref(),
            sinks: self.sinks.as_deref(),
        }
    }

    fn even(&mut self, p: &Problem) {
        self.query.fill(T::from_f64(1.0));
        self.key.fill(T::from_f64(0.0));
        self.key[..p.head_dim as usize].fill(T::from_f64(0.17));
        self.value.iter_mut().for_each(|x| *x = T::from_f64(1.0 + f64::from(x.to_f32()) / 2.0));
    }

    /// Late keys, so that causal rows before them stay clean. The last one is NaN: of a row whose
    /// only score is -inf, no lse is right.
    fn poison(&mut self, p: &Problem) {
        let last = p.kv_len as usize - 1;
        let table = self.pages.clone();
        let at = |view: View, j| {
            let [batch, row] = p.key_place(table.as_deref(), 0, j);
            view.index(batch, 0, row, 0)
        };
        for (j, poison) in [(last / 2, f64::INFINITY), (last, f64::NAN)] {
            self.key[at(p.key(), j)] = T::from_f64(poison);
            self.value[at(p.value(), j)] = T::from_f64(poison);
        }
        self.value[at(p.value(), last / 2 + 1)] = T::from_f64(f64::NAN);
    }
}

fn number(numbers: &mut Numbers, data: Data) -> f32 {
    match data {
        Data::Large => (numbers.unit() * 50.0).round(),
        Data::Random | Data::Poisoned | Data::Even => numbers.unit(),
    }
}

/// A quarter hidden, and now and then a run that hides whole tiles.
pub(super) fn mask(numbers: &mut Numbers, extent: u32) -> Vec<bool> {
    let mut hidden_run = 0;
    let visible = |_| {
        if hidden_run == 0 && numbers.unit() > 0.98 {
            hidden_run = 100;
        }
        hidden_run = i32::max(hidden_run - 1, 0);
        hidden_run == 0 && numbers.unit() > -0.5
    };
    (0..extent).map(visible).collect()
}

/// Runs of a few documents, which may come back.
fn segments(numbers: &mut Numbers, extent: u32) -> Vec<u32> {
    let mut id = 0;
    let next = |_| {
        if numbers.unit() > 0.8 {
            id = numbers.unit().to_bits() % 3;
        }
        id
    };
    (0..extent).map(next).collect()
}

/// All keys, none, and some.
fn lengths(numbers: &mut Numbers, batch: u32, kv_len: u32) -> Vec<u32> {
    let some = |numbers: &mut Numbers| numbers.unit().to_bits() % (kv_len + 1);
    (0..batch)
        .map(|b| [kv_len, 0].get(b as usize).copied().unwrap_or_else(|| some(numbers)))
        .collect()
}

/// Pages in no order; sequences share their first. Entries that a sequence does not reach name
/// none.
fn table(numbers: &mut Numbers, p: &Problem, pages: Pages) -> Vec<u32> {
    let mut free: Vec<u32> = (0..pages.count).collect();
    free.sort_by_cached_key(|_| numbers.unit().to_bits());
    let place = p.view(Tensor::Pages).unwrap_or_default();
    let mut table = vec![u32::MAX; place.extent as usize];
    for batch in 0..p.batch as usize {
        let reached = p.sequence(batch).seen_len.div_ceil(pages.page_len) as usize;
        for at in 0..reached {
            let entry = place.index(batch, 0, at, 0);
            table[entry] = if at == 0 { free[0] } else { free[entry % free.len()] };
        }
    }
    table
}

/// About as large as the scores; the second is none, and the last of poisoned ones shows.
fn sinks(numbers: &mut Numbers, data: Data, extent: u32) -> Vec<f32> {
    let size = if data == Data::Large { 1e4 } else { 3.0 };
    let mut sinks: Vec<f32> = (0..extent).map(|_| numbers.unit() * size).collect();
    sinks.iter_mut().skip(1).take(1).for_each(|sink| *sink = f32::NEG_INFINITY);
    if let (Data::Poisoned, [_, .., last]) = (data, &mut sinks[..]) {
        *last = f32::NAN;
    }
    sinks
}

/// Some `-inf`, some low but finite.
fn bias(numbers: &mut Numbers, extent: u32) -> Vec<f32> {
    let term = |_| match numbers.unit() {
        x if x < -0.8 => f32::NEG_INFINITY,
        x if x > 0.97 => f32::MIN,
        x => x * 3.0,
    };
    (0..extent).map(term).collect()
}

/// Numbers between -1 and 1 that look random and are the same everywhere: for calls that only need
/// some data.
#[must_use]
pub fn uniform(seed: u64, count: usize) -> Vec<f32> {
    Numbers(seed).tensor(count as u64)
}

/// SplitMix64 (Steele, Lea and Flood 2014).
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    /// Between -1 and 1.
    pub(super) fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    }

    /// So many between -1 and 1, as stored.
    pub(super) fn tensor<T: Element>(&mut self, len: impl Into<u64>) -> Vec<T> {
        (0..len.into()).map(|_| T::from_f64(self.unit().into())).collect()
    }
}
