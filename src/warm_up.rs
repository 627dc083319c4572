//! Pipelines run once before they are needed: some drivers compile no earlier.

use crate::call::Call;
use crate::context::{Context, Step};
use crate::error::Error;
use crate::plan::{Access, Dispatch, SequenceParams, Variant, Window};
use crate::shader::bindings;
use crate::uniforms::MOST_PARAMS;
use crate::{buffer, lost};
use futures_intrusive::channel::shared::oneshot_channel;

/// Bytes of each buffer made for what a shader stores here.
const BYTES: u64 = 256;

impl Context {
    /// Runs these shaders with parameters that are all 0: there are no keys to loop over. What a
    /// shader stores all the same stays within buffers made here, as its indices are checked.
    pub(crate) async fn warm_up(&self, variants: &[Variant]) -> Result<(), Error> {
        self.pipelines.prepare(variants).await?;
        let dispatch = |variant: &Variant| Dispatch {
            variant: variant.clone(),
            params: vec![0; MOST_PARAMS as usize],
            bound: Vec::new(),
            table: vec![SequenceParams::default(); usize::from(variant.is_ragged())],
            grid: [1; 3],
        };
        let dispatches: Vec<Dispatch> = variants.iter().map(dispatch).collect();
        let whole = Window { start: 0, size: BYTES, first_element: 0 };
        let mut steps = Vec::new();
        for dispatch in &dispatches {
            let mut buffers = Vec::new();
            // One buffer may be read through any number of bindings, and written through one.
            for binding in bindings(dispatch.variant.entry) {
                if binding.access == Access::ReadWrite {
                    let written = buffer::output(&self.device, "warm-up", BYTES)?;
                    buffers.push((binding.name, written, whole));
                }
            }
            steps.push(Step { dispatch, buffers });
        }
        let call = self.call("warm-up", &steps)?;
        self.run("warming up", &call).await
    }

    /// Submits a call and waits until the device is done with it. On native the wait blocks, as
    /// nothing else would poll the device.
    pub(crate) async fn run(&self, action: &'static str, call: &Call) -> Result<(), Error> {
        let (device, queue) = (&self.device, &self.queue);
        let failed = |message: String| lost::failed(device, action, message);
        lost::attempt(device, action, || {
            let mut encoder = device.create_command_encoder(&Default::default());
            call.encode(&mut encoder);
            queue.submit([encoder.finish()]);
        })?;
        let (sender, receiver) = oneshot_channel();
        queue.on_submitted_work_done(move || {
            // The receiver is gone only if the caller dropped the future.
            let _ = sender.send(());
        });
        let waited = device.poll(wgpu::PollType::wait_indefinitely());
        waited.map_err(|error| failed(error.to_string()))?;
        if receiver.receive().await.is_none() {
            return Err(failed("wgpu dropped the callback".to_owned()));
        }
        // Of a device that is lost all work counts as done.
        lost::check(device, action)
    }
}
