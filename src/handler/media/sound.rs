//! Converts sounds to the input of a model.

use super::body::Files;
use super::error::MediaError;
use super::{Reading, RequestFacts, is_asked_for};
use crate::audio::{self, AudioInput, AudioProcessor};
use crate::codec::DecodedRequest;
use crate::handler::HandlerError;
use crate::manifest::{Manifest, Step};
use crate::task::Form;
use crate::tensor::Signature;

/// The input that takes samples, and the steps from a file to it.
#[derive(Debug)]
pub(super) struct Sounds {
    input: String,
    mask: Option<String>,
    processor: AudioProcessor,
    bound: AudioInput,
}

impl Sounds {
    /// The sound input of a model; `None` if it has none, or if no file declares the steps to it.
    pub fn of(manifest: &Manifest, signature: &Signature) -> Result<Option<Self>, HandlerError> {
        let step = manifest.audio.as_ref();
        let processor = match Step::settings(step) {
            Some(settings) => {
                let read = AudioProcessor::from_manifest(&settings.clone().into());
                Some(read.map_err(|error| HandlerError::Audio(error.to_string()))?)
            }
            None => manifest.hints.audio.clone(),
        };
        let Some(processor) = processor.filter(|_| !Step::is_off(step)) else {
            return Ok(None);
        };
        let bound = signature.inputs.iter().map(|input| (input, processor.bind(input)));
        let mut refusal = None;
        for (input, bound) in bound {
            match bound {
                Ok(bound) => {
                    let mask = signature.all_inputs().find(|spec| spec.name == "attention_mask");
                    return Ok(Some(Self {
                        input: input.name.clone(),
                        mask: mask.map(|spec| spec.name.clone()),
                        processor,
                        bound,
                    }));
                }
                Err(error) => refusal = Some(error.to_string()),
            }
        }
        match refusal {
            Some(problem) if is_asked_for(step) => Err(HandlerError::Audio(problem)),
            _ => Ok(None),
        }
    }

    pub fn steps(&self) -> Vec<String> {
        self.processor.steps()
    }

    pub fn decode(&self, files: Files, reading: Reading<'_>) -> Result<(DecodedRequest, RequestFacts), MediaError> {
        let Reading {
            settings,
            limits,
            schema,
            budget,
        } = reading;
        let count = files.files.len();
        let failed = |index: usize| {
            move |source| MediaError::Sound {
                of: (count > 1).then_some(index + 1),
                source,
            }
        };
        let mut bytes = 0u64;
        for (index, file) in files.files.iter().enumerate() {
            let probe = audio::probe(file, &limits.audio).map_err(failed(index))?;
            // The samples as they are read, and their copy in the tensor.
            let memory = probe.memory(self.bound.rate(probe.rate));
            bytes = bytes.saturating_add(memory.saturating_mul(2));
        }
        let memory = budget.reserve(bytes)?;
        let sounds = files.files.iter().enumerate();
        let sounds = sounds.map(|(index, file)| audio::read(file, &limits.audio).map_err(failed(index)));
        let samples = self.bound.apply(sounds.collect::<Result<_, _>>()?, &limits.audio);
        let samples = samples.map_err(|source| MediaError::Sound { of: None, source })?;
        let rows = samples.rows.iter().sum();
        let mut given = vec![(self.input.as_str(), samples.tensor)];
        if let Some(mask) = &self.mask {
            given.push((mask, samples.mask));
        }
        let request = DecodedRequest::from_records(given, rows, schema)?;
        let facts = RequestFacts {
            form: if files.is_single && rows == 1 {
                Form::One
            } else {
                Form::List
            },
            frame: files.frame,
            records: rows,
            settings,
            placements: Vec::new(),
            texts: None,
            _memory: memory,
        };
        Ok((request, facts))
    }
}
