//! What is asked for, checked before a device is opened.

use super::args::{BenchArgs, Sizes};
use super::case::{Case, Extra};
use super::defaults;
use super::report::Form;
use super::subject::Subject;
use crate::adapter;
use crate::failure::Failure;
use crate::output::OutputFile;
use crate::picture::Format;
use wgpu_attention::{Capabilities, ElementType};

/// What one case may hold in memory, here and on the device.
const MOST_BYTES: u128 = 4 << 30;

impl BenchArgs {
    /// Refuses what cannot be timed anywhere; opens the file for the picture, if one is asked for.
    pub(super) fn check(&self) -> Result<Option<(Format, OutputFile)>, Failure> {
        adapter::require_gpu(&self.device, "bench times kernels")?;
        self.check_shapes()?;
        let Some(path) = &self.plot else { return Ok(None) };
        Ok(Some((Format::of("--plot", path)?, OutputFile::create("--plot", path)?)))
    }

    pub(super) fn form(&self) -> Form {
        match (self.json, self.markdown, self.csv) {
            (true, ..) => Form::Json,
            (_, true, _) => Form::Markdown,
            (.., true) => Form::Csv,
            _ => Form::Table,
        }
    }

    fn check_shapes(&self) -> Result<(), Failure> {
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
            for case in self.cases_of(*sizes, &[&self.dtypes[..], &[ElementType::F32]].concat()) {
                case.validate().map_err(|error| Failure::Input(format!("{what}: {error}")))?;
            }
        }
        let is_decode = |&sizes| self.case(sizes, ElementType::F32, false).is_decode();
        if self.plot.is_some() && shapes.iter().all(is_decode) {
            return Err(Failure::input("--plot", "a shape of 16 queries or more", "none"));
        }
        Ok(())
    }

    /// What is timed on an adapter: where nobody says what, the layers too.
    pub(super) fn subjects(&self, capabilities: &Capabilities) -> Vec<Subject> {
        let cases = self.cases(capabilities).into_iter().map(Subject::Attention);
        let is_default = self.shapes.is_none() && self.kernel.is_none();
        let takes_f32 = self.dtypes.is_empty() || self.dtypes.contains(&ElementType::F32);
        let layers = match is_default && takes_f32 && self.causal.contains(&false) {
            true => defaults::layers(capabilities),
            false => Vec::new(),
        };
        cases.chain(layers.into_iter().map(Subject::Layer)).collect()
    }

    fn cases(&self, capabilities: &Capabilities) -> Vec<Case> {
        let mut elements = self.dtypes.clone();
        elements.dedup();
        if elements.is_empty() {
            elements = defaults::elements(capabilities);
        }
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
            // The only query stands beside the last key and sees all: one case, not two.
            ([false, true], 1) => &[false],
            (causal, _) => causal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BenchArgs, Subject};
    use clap::{Args as _, Command, FromArgMatches as _};
    use wgpu_attention::Capabilities;

    #[test]
    fn layers_are_timed_where_nobody_says_what() {
        for (flag, expected) in [
            ("--dtypes=f16,f32", 6),
            ("--causal=no", 6),
            ("--shapes=1,2,1,16,40,8", 0),
            ("--kernel=forward", 0),
            ("--dtypes=f16", 0),
            ("--causal=yes", 0),
        ] {
            let command = BenchArgs::augment_args(Command::new("bench"));
            let args = BenchArgs::from_arg_matches(&command.get_matches_from(["bench", flag]));
            let subjects = args.expect("flags").subjects(&Capabilities::PORTABLE);
            let layers = subjects.iter().filter(|subject| matches!(subject, Subject::Layer(_)));
            assert_eq!(layers.count(), expected, "{flag}");
        }
    }
}
