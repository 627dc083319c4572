//! What the processor itself can do: f32 multiply-adds on all its threads.

use super::rate::quickest;
use std::convert::Infallible;
use std::hint::black_box;
use std::time::Instant;

/// A rate, and how it was reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Processor {
    /// Multiplications and additions a second.
    pub(super) f32: f64,
    pub(super) threads: usize,
    /// The instructions used.
    pub(super) with: &'static str,
}

/// Independent vectors of sums: as many as hide the wait for one another, and as fit the registers.
const SUMS: usize = 12;
const LANES: usize = 8;

/// The best of a few runs on all threads.
pub(super) fn measure() -> Processor {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (with, work) = work();
    let Ok(rate) = quickest(|rounds| Ok::<_, Infallible>(run(threads, work, rounds)));
    Processor { f32: 2.0 * (SUMS * LANES * threads) as f64 * rate, threads, with }
}

type Work = fn(u32) -> f32;

/// Seconds of so many rounds on each thread.
fn run(threads: usize, work: Work, rounds: u32) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| black_box(work(black_box(rounds))));
        }
    });
    start.elapsed().as_secs_f64()
}

fn work() -> (&'static str, Work) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has both.
        return ("AVX2 and FMA", |rounds| unsafe { fused(rounds) });
    }
    ("portable code", portable)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fused(rounds: u32) -> f32 {
    use std::arch::x86_64::{_mm256_add_ps, _mm256_cvtss_f32, _mm256_fmadd_ps, _mm256_set1_ps};
    let factor = _mm256_set1_ps(black_box(0.999_999));
    let term = _mm256_set1_ps(black_box(1e-6));
    let mut sums = [_mm256_set1_ps(1.0); SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, factor, term);
        }
    }
    _mm256_cvtss_f32(sums.into_iter().fold(term, |total, sum| _mm256_add_ps(total, sum)))
}

/// Whatever the compiler makes of it.
fn portable(rounds: u32) -> f32 {
    let (factor, term) = (black_box(0.999_999), black_box(1e-6));
    let mut sums = [1.0_f32; SUMS * LANES];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = *sum * factor + term;
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn either_way_adds_up_to_what_it_should() {
        // A fixed point: 1 * 0.999999 + 0.000001 is 1 again.
        let portable = super::portable(3);
        assert!((portable - (super::SUMS * super::LANES) as f32).abs() < 1e-3, "{portable}");
        let (with, work) = super::work();
        let lanes = if with == "portable code" { super::LANES } else { 1 };
        assert!((work(3) - (super::SUMS * lanes) as f32).abs() < 1e-3, "{with}: {}", work(3));
    }
}
