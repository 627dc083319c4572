//! Cases shared out among devices of one adapter.
//!
//! Drivers compile for seconds what then runs for milliseconds, and a software adapter compiles on
//! one thread per device.

use super::report::{CheckOptions, Row};
use super::trial::{Task, Trial};
use crate::error::Error;
use crate::host::Gpu;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

/// More devices than this of one adapter would cost more than they save.
const MOST: usize = 8;

/// The tasks that nobody has started.
struct Queue<'t> {
    tasks: &'t [&'t Task],
    next: AtomicUsize,
    /// When no more are started.
    end: Option<Instant>,
}

/// A task's place, and once it is done what came of it.
type Event = (usize, Option<Result<Vec<Row>, Error>>);

impl Queue<'_> {
    fn work(&self, gpu: &Gpu, kernels: &[&str], tell: &mut dyn FnMut(Event) -> bool) {
        let mut trial = Trial::new(gpu, kernels);
        while self.end.is_none_or(|end| Instant::now() < end) {
            let at = self.next.fetch_add(1, Relaxed);
            let Some(task) = self.tasks.get(at) else { return };
            let goes_on = tell((at, None)) && {
                let done = (task.run)(&mut trial);
                tell((at, Some(done.map(|()| std::mem::take(&mut trial.rows)))))
            };
            if !goes_on {
                return;
            }
        }
    }
}

/// Runs the tasks, on one device for each core where a CPU plays the GPU. `tell` hears of each when
/// it is started, and again with its rows.
pub(super) fn run(
    gpu: &Gpu,
    tasks: &[&Task],
    options: &CheckOptions<'_>,
    tell: &mut dyn FnMut(usize, Option<Vec<Row>>),
) -> Result<(), Error> {
    let siblings = siblings(gpu, tasks.len());
    let end = options.limit.and_then(|limit| Instant::now().checked_add(limit));
    let queue = Queue { tasks, next: AtomicUsize::new(0), end };
    let mut failure = None;
    let mut hear = |(at, event): Event| {
        match event.transpose() {
            Ok(rows) => tell(at, rows),
            Err(error) => failure = failure.take().or(Some(error)),
        }
        failure.is_none()
    };
    if siblings.is_empty() {
        queue.work(gpu, options.kernels, &mut hear);
        return failure.map_or(Ok(()), Err);
    }
    // A browser's device stays in its thread, and is no software adapter.
    #[cfg(not(target_arch = "wasm32"))]
    thread::scope(|scope| {
        let (sender, events) = std::sync::mpsc::channel();
        for gpu in std::iter::once(gpu).chain(&siblings) {
            let (queue, sender) = (&queue, sender.clone());
            // Once nobody listens there is no more to do.
            scope.spawn(move || {
                queue.work(gpu, options.kernels, &mut |event| sender.send(event).is_ok());
            });
        }
        drop(sender);
        // A failure ends the loop, and with it the listening.
        for event in events {
            if !hear(event) {
                break;
            }
        }
    });
    failure.map_or(Ok(()), Err)
}

/// Further devices of a software adapter, one for each core that has none yet. On a GPU long calls
/// side by side might not fit its memory.
fn siblings(gpu: &Gpu, tasks: usize) -> Vec<Gpu> {
    let info = gpu.adapter_info();
    // OpenGL has one context, and wgpu panics where a thread waits too long for it.
    if info.device_type != wgpu::DeviceType::Cpu || info.backend == wgpu::Backend::Gl {
        return Vec::new();
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    (1..cores.min(MOST).min(tasks)).map_while(|_| gpu.sibling()).collect()
}
