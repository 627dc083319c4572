//! Compiling on several threads.

use super::Pipelines;
use crate::plan::Variant;

impl Pipelines {
    /// Compiles the new ones among `variants`, if there are several. A variant that does not
    /// compile is left out: the caller that asks for it gets the error.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn compile_in_parallel<'a>(&self, variants: impl Iterator<Item = &'a Variant>) {
        use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
        use std::thread;

        let mut new: Vec<&Variant> = Vec::new();
        for variant in variants.filter(|variant| self.is_new(variant)) {
            if !new.contains(&variant) {
                new.push(variant);
            }
        }
        // OpenGL has one context, and wgpu panics where a thread waits too long for it.
        if new.len() < 2 || self.device.adapter_info().backend == wgpu::Backend::Gl {
            return;
        }
        let next = AtomicUsize::new(0);
        let compile = || {
            while let Some(variant) = new.get(next.fetch_add(1, Relaxed)) {
                // wgpu keeps error scopes by thread: this one's do not mix with another's.
                let _: Result<_, _> = self.get_one(variant);
            }
        };
        let threads = thread::available_parallelism().map_or(1, usize::from).min(new.len());
        thread::scope(|scope| {
            for _ in 1..threads {
                // If there are no more threads to be had, those there are do the work.
                let _: Result<_, _> = thread::Builder::new().spawn_scoped(scope, compile);
            }
            compile();
        });
    }

    /// A browser compiles in processes of its own.
    #[cfg(target_arch = "wasm32")]
    pub(super) fn compile_in_parallel<'a>(&self, _variants: impl Iterator<Item = &'a Variant>) {}
}
