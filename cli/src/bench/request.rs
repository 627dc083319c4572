//! What is asked for, checked before a device is opened.

use super::args::{BenchArgs, CausalChoice, Sizes};
use super::case::{Case, Extra};
use super::chart::Format;
use super::defaults;
use super::report::Form;
use super::subject::Subject;
use super::trial::Effort;
use crate::adapter::DeviceChoice;
use crate::failure::Failure;
use crate::output::OutputFile;
use wgpu_attention::{Capabilities, ElementType, Kernel};

/// What one case may hold in memory, here and on the device.
const MOST_BYTES: u128 = 4 << 30;

#[derive(Debug)]
pub(super) struct Request {
    shapes: Option<Vec<Sizes>>,
    elements: Vec<ElementType>,
    causal: CausalChoice,
    kernel: Option<Kernel>,
    pub(super) effort: Effort,
    pub(super) form: Form,
    pub(super) plot: Option<(Format, OutputFile)>,
}

impl Request {
    pub(super) fn new(args: &BenchArgs) -> Result<Self, Failure> {
        if args.device.device == DeviceChoice::Cpu {
            let expected = "auto or gpu: bench times kernels";
            return Err(Failure::input("--device", expected, "cpu"));
        }
        let mut elements: Vec<ElementType> =
            args.dtypes.iter().map(|dtype| dtype.element()).collect();
        elements.dedup();
        let mut request = Self {
            shapes: args.shapes.as_ref().map(|shapes| shapes.0.clone()),
            elements,
            causal: args.causal,
            kernel: args.kernel.0,
            effort: Effort { seconds: args.seconds, tunes: args.tune },
            form: match (args.json, args.markdown, args.csv) {
                (true, ..) => Form::Json,
                (_, true, _) => Form::Markdown,
                (.., true) => Form::Csv,
                _ => Form::Table,
            },
            plot: None,
        };
        request.validate(args.plot.is_some())?;
        if let Some(path) = &args.plot {
            request.plot = Some((Format::of(path)?, OutputFile::create_for("--plot", path)?));
        }
        Ok(request)
    }

    fn validate(&self, plots: bool) -> Result<(), Failure> {
        let Some(shapes) = &self.shapes else { return Ok(()) };
        for sizes in shapes {
            let words = sizes.map(|size| size.to_string()).join(",");
            let what = format!("--shapes {words}");
            let [batch, heads, kv_heads, q_len, kv_len, head_dim] = sizes.map(|size| size as u128);
            let rows =
                (heads.saturating_mul(q_len)).saturating_add(kv_heads.saturating_mul(kv_len));
            let bytes = [batch, head_dim, 8].into_iter().fold(rows, u128::saturating_mul);
            if bytes > MOST_BYTES {
                let found = format_args!("{bytes} in f32");
                return Err(Failure::input(what, "at most 4 GiB of q, k, v and out", found));
            }
            let elements = [&self.elements[..], &[ElementType::F32]].concat();
            for case in self.cases_of(*sizes, &elements) {
                case.validate().map_err(|error| Failure::Input(format!("{what}: {error}")))?;
            }
        }
        if plots
            && shapes.iter().all(|&sizes| self.case(sizes, ElementType::F32, false).is_decode())
        {
            return Err(Failure::input("--plot", "a shape of 16 queries or more", "none"));
        }
        Ok(())
    }

    /// What is timed on an adapter: where nobody says what, the layers too.
    pub(super) fn subjects(&self, capabilities: &Capabilities) -> Vec<Subject> {
        let cases = self.cases(capabilities).into_iter().map(Subject::Attention);
        let is_default = self.shapes.is_none() && self.kernel.is_none();
        let takes_f32 = self.elements.is_empty() || self.elements.contains(&ElementType::F32);
        let layers = match is_default && takes_f32 && self.causal != CausalChoice::Yes {
            true => defaults::layers(capabilities),
            false => Vec::new(),
        };
        cases.chain(layers.into_iter().map(Subject::Layer)).collect()
    }

    fn cases(&self, capabilities: &Capabilities) -> Vec<Case> {
        let elements = match &self.elements[..] {
            [] => defaults::elements(capabilities),
            elements => elements.to_vec(),
        };
        if let Some(shapes) = &self.shapes {
            return shapes.iter().flat_map(|&sizes| self.cases_of(sizes, &elements)).collect();
        }
        let shapes = defaults::shapes(capabilities).into_iter();
        let mut cases: Vec<Case> =
            shapes.flat_map(|sizes| self.cases_of(sizes, &elements)).collect();
        let extras = defaults::extras(capabilities, self.kernel);
        cases.extend(extras.into_iter().filter(|case| {
            elements.contains(&case.element) && self.causal_of(&case.sizes).contains(&case.causal)
        }));
        // Nobody asked a kernel for these dims.
        cases.retain(|case| case.validate().is_ok());
        cases
    }

    fn cases_of(&self, sizes: Sizes, elements: &[ElementType]) -> Vec<Case> {
        let all = elements.iter().flat_map(|&element| {
            let causal = self.causal_of(&sizes).iter();
            causal.map(move |&causal| self.case(sizes, element, causal))
        });
        all.collect()
    }

    fn case(&self, sizes: Sizes, element: ElementType, causal: bool) -> Case {
        Case { sizes, element, causal, extra: Extra::Nothing, kernel: self.kernel }
    }

    fn causal_of(&self, sizes: &Sizes) -> &'static [bool] {
        match (self.causal, sizes[3]) {
            (CausalChoice::No, _) => &[false],
            (CausalChoice::Yes, _) => &[true],
            // The only query stands beside the last key and sees all: one case, not two.
            (CausalChoice::Both, 1) => &[false],
            (CausalChoice::Both, _) => &[false, true],
        }
    }
}
