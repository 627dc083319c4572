//! One line of what was done, for those who watch.

use crate::adapter::Machine;
use crate::stderr;
use std::fmt::Write as _;
use std::time::Instant;
use wgpu_attention::Gpu;

/// Sizes of a tensor by its name.
pub(crate) type Sizes<'a> = (&'a str, &'a [usize]);

/// A call under the clock, from reading its input on.
#[derive(Debug)]
pub(crate) struct Summary {
    start: Instant,
    command: &'static str,
}

impl Summary {
    pub(crate) fn start(command: &'static str) -> Self {
        Self { start: Instant::now(), command }
    }

    /// Says on a terminal what was computed from what, on which adapter, by which kernel and how long it took; elsewhere nothing.
    /// `kernel` names what a GPU runs.
    pub(crate) fn say(
        self,
        machine: &Machine,
        tensors: &[Sizes<'_>],
        kernel: impl FnOnce(&Gpu) -> Option<&'static str>,
    ) {
        if stderr::is_terminal() {
            let seconds = self.start.elapsed().as_secs_f64();
            let kernel = machine.used_gpu().and_then(kernel);
            stderr::say(&line(self.command, tensors, kernel, &machine.describe(), seconds));
        }
    }
}

fn line(
    command: &str,
    tensors: &[Sizes<'_>],
    kernel: Option<&str>,
    adapter: &str,
    seconds: f64,
) -> String {
    let mut text = format!("{command}:");
    for (at, (name, sizes)) in tensors.iter().enumerate() {
        let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
        let comma = if at == 0 { "" } else { "," };
        let _ = write!(text, "{comma} {name} [{}]", sizes.join(","));
    }
    let kernel = kernel.map_or(String::new(), |kernel| format!("kernel {kernel}, "));
    let _ = write!(text, "; {kernel}{adapter}; {}", duration(seconds));
    text
}

fn duration(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", 1e3 * seconds) } else { format!("{seconds:.1} s") }
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn a_line_has_sizes_kernel_adapter_and_time() {
        let tensors = [("q", &[2, 3][..]), ("out", &[2, 5])];
        let found = line("run", &tensors, Some("forward"), "some GPU (vulkan)", 0.0123);
        assert_eq!(found, "run: q [2,3], out [2,5]; kernel forward, some GPU (vulkan); 12 ms");
        let found = line("posenc", &[("out", &[])], None, "CPU reference", 61.26);
        assert_eq!(found, "posenc: out []; CPU reference; 61.3 s");
    }
}
