//! One call from slices to vectors, the same for every operation: upload, run, read back.

use crate::buffer::{BufferRange, Mapped, download, output, read, upload};
use crate::context::Context;
use crate::error::Error;
use crate::plan::Program;
use crate::problem::{Data, Element};
use crate::tensor::Tensor;
use crate::verbs::Operator;

/// What a call wrote: for each of its outputs a buffer that the host can read, and its number of
/// elements.
pub(crate) struct Written(Vec<(Tensor, Mapped, usize)>);

impl Written {
    /// The elements of one of the outputs, if the call has it.
    pub(crate) fn read<T: bytemuck::Pod>(&self, tensor: Tensor) -> Result<Option<Vec<T>>, Error> {
        let found = self.0.iter().find(|(written, ..)| *written == tensor);
        found.map(|(_, mapped, len)| read(mapped, *len)).transpose()
    }

    /// The elements of an output that every call has.
    pub(crate) fn read_all<T: bytemuck::Pod>(&self, tensor: Tensor) -> Result<Vec<T>, Error> {
        Ok(self.read(tensor)?.unwrap_or_default())
    }
}

impl Context {
    /// Uploads what `data` has for the tensors of a program, runs it with what the operator holds,
    /// and reads back what it writes: in place where that is uploaded too.
    pub(crate) async fn run_once<'a, T: Element>(
        &self,
        label: &'static str,
        (operator, program): (&impl Operator, &Program),
        data: impl Fn(Tensor) -> Option<Data<'a, T>>,
    ) -> Result<Written, Error> {
        self.pipelines.prepare(&program.variants()).await?;
        let device = &self.device;
        let mut buffers = Vec::new();
        for given in &program.given {
            let tensor = given.tensor;
            let (buffer, len) = match (data(tensor), given.bytes()) {
                (Some(data), _) => (upload(device, given.name, &data.bytes())?, data.len()),
                (None, Some(bytes)) => (output(device, given.name, bytes)?, given.len()),
                (None, None) => continue,
            };
            buffers.push((tensor, buffer, len, given.is_output));
        }
        let find = |tensor| {
            let given = buffers.iter().find(|(given, ..)| *given == tensor);
            let given = given.map(|(_, buffer, ..)| buffer);
            given.or_else(|| operator.parameter(tensor)).map(BufferRange::from)
        };
        let mut encoder = device.create_command_encoder(&Default::default());
        self.bind(label, program, find)?.encode(&mut encoder);
        let written = || buffers.iter().filter(|(.., is_output)| *is_output);
        let sources: Vec<_> = written().map(|(_, buffer, ..)| buffer).collect();
        let mapped = download(device, &self.queue, encoder, &sources).await?;
        let read = written().zip(mapped).map(|((tensor, _, len, _), copy)| (*tensor, copy, *len));
        Ok(Written(read.collect()))
    }
}
