//! Converts images to the input of a model.

use super::body::Files;
use super::error::MediaError;
use super::{Reading, RequestFacts, is_asked_for};
use crate::codec::DecodedRequest;
use crate::handler::HandlerError;
use crate::manifest::{Manifest, Step};
use crate::task::{Form, PlacedPicture};
use crate::tensor::{DataType, Dim, InputSpec, Signature, Tensor};
use crate::vision::{self, Bound, Placement, Processor};

/// The input that takes images, and the steps from a file to it.
#[derive(Debug)]
pub(super) struct Pictures {
    input: String,
    steps: Vec<String>,
    bound: Bound,
    /// An input that marks the pixels that are padding, as in DETR.
    mask: Option<InputSpec>,
}

impl Pictures {
    /// The image input of a model; `None` if it has none, or if no file declares the steps to it.
    pub fn of(manifest: &Manifest, signature: &Signature) -> Result<Option<Self>, HandlerError> {
        let step = manifest.image.as_ref();
        if Step::is_off(step) {
            return Ok(None);
        }
        let hint = manifest.hints.image.as_ref();
        let refused = |source: vision::ProcessorError| HandlerError::Image(source.to_string());
        let processor = match Step::settings(step) {
            Some(settings) => Some(Processor::of_manifest(settings, hint).map_err(refused)?),
            None => hint.cloned(),
        };
        let is_picture = |spec: &&InputSpec| {
            let is_rank = spec.dims.as_ref().is_none_or(|dims| dims.len() == 4);
            is_rank && matches!(spec.data_type, DataType::F32 | DataType::F16 | DataType::U8)
        };
        let Some(input) = signature.inputs.iter().find(is_picture) else {
            if is_asked_for(step) {
                return Err(HandlerError::Image(
                    "the model has no input for images; expected float32, float16 or uint8 with four dimensions"
                        .to_owned(),
                ));
            }
            return Ok(None);
        };
        // A uint8 input takes pixels as they are. Only a file can declare the scale of floats.
        let processor = match processor {
            Some(processor) => processor,
            None if input.data_type == DataType::U8 || is_asked_for(step) => match Processor::for_input(input) {
                Some(processor) => processor,
                None => return Ok(None),
            },
            None => return Ok(None),
        };
        let bound = match processor.bind(input) {
            Ok(bound) => bound,
            Err(source) if is_asked_for(step) || hint.is_some() => return Err(refused(source)),
            Err(_) => return Ok(None),
        };
        let mask = signature.inputs.iter().find(|spec| spec.name == "pixel_mask");
        Ok(Some(Self {
            input: input.name.clone(),
            steps: processor.steps(),
            bound,
            mask: mask.cloned(),
        }))
    }

    pub fn steps(&self) -> Vec<String> {
        self.steps.clone()
    }

    pub fn decode(&self, files: Files, reading: Reading<'_>) -> Result<(DecodedRequest, RequestFacts), MediaError> {
        let Reading {
            settings,
            limits,
            schema,
            budget,
        } = reading;
        let count = files.files.len();
        let numbered = |index: usize| (count > 1).then_some(index + 1);
        let failed = |index: usize| {
            move |source| MediaError::Picture {
                of: numbered(index),
                source,
            }
        };
        // Read all headers first, so that an image over a limit is not decoded and memory is
        // reserved before it is used.
        let (mut largest, mut total) = (0, 0);
        for (index, file) in files.files.iter().enumerate() {
            let probe = vision::probe(file, &limits.vision()).map_err(failed(index))?;
            largest = largest.max(self.bound.memory(&probe));
            let (height, width) = self.bound.output_size().unwrap_or((probe.height, probe.width));
            total += u64::from(height) * u64::from(width) * 3 * 4;
        }
        // Several images are copied once more into one tensor.
        let parts = if count > 1 { total.saturating_mul(2) } else { total };
        let memory = budget.reserve(largest.saturating_add(parts))?;
        let mut tensors = Vec::with_capacity(count);
        let mut placements: Vec<Placement> = Vec::with_capacity(count);
        for (index, file) in files.files.iter().enumerate() {
            let (tensor, placement) = self.bound.read(file, &limits.vision()).map_err(failed(index))?;
            tensors.push(tensor);
            placements.push(placement);
        }
        if tensors.windows(2).any(|pair| pair[0].shape() != pair[1].shape()) {
            return Err(MediaError::DifferentShapes);
        }
        let pixels = match tensors.len() {
            1 => tensors.swap_remove(0),
            _ => Tensor::concatenate(&tensors.iter().collect::<Vec<_>>()).ok_or(no_memory())?,
        };
        let mut given = vec![(self.input.as_str(), pixels)];
        if let Some(mask) = &self.mask {
            given.push((&mask.name, self.mask_of(mask, &placements)?));
        }
        let request = DecodedRequest::from_records(given, count, schema)?;
        let facts = RequestFacts {
            form: if files.is_single { Form::One } else { Form::List },
            frame: files.frame,
            records: count,
            settings,
            placements,
            texts: None,
            _memory: memory,
        };
        Ok((request, facts))
    }

    /// Makes the mask: 1 for each pixel of an image, 0 for padding.
    fn mask_of(&self, spec: &InputSpec, placements: &[Placement]) -> Result<Tensor, MediaError> {
        // Some exports have a mask of a fixed size, which is all ones for a whole image.
        let fixed = match spec.dims.as_deref() {
            Some([_, Dim::Fixed(height), Dim::Fixed(width)]) => Some((*height, *width)),
            _ => None,
        };
        let mut ones: Vec<i64> = Vec::new();
        let mut shape = vec![placements.len(), 0, 0];
        for placement in placements {
            let (width, height) = (placement.input.0 as usize, placement.input.1 as usize);
            let (height, width) = fixed.unwrap_or((height, width));
            (shape[1], shape[2]) = (height, width);
            let (left, top, visible_width, visible_height) = placement.visible;
            for row in 0..height {
                for column in 0..width {
                    let is_picture = fixed.is_some()
                        || (left as usize..(left + visible_width) as usize).contains(&column)
                            && (top as usize..(top + visible_height) as usize).contains(&row);
                    ones.push(i64::from(is_picture));
                }
            }
        }
        let made = match spec.data_type {
            DataType::Bool => Tensor::from_bools(shape, ones.iter().map(|&one| u8::from(one != 0)).collect()),
            DataType::F32 => Tensor::from_vec(shape, ones.iter().map(|&one| f32::from(u8::from(one != 0))).collect()),
            DataType::I32 => Tensor::from_vec(shape, ones.iter().map(|&one| i32::from(one != 0)).collect()),
            _ => Tensor::from_vec(shape, ones),
        };
        made.map_err(|_| no_memory())
    }
}

fn no_memory() -> MediaError {
    MediaError::Picture {
        of: None,
        source: vision::VisionError::OutOfMemory,
    }
}

/// Maps points from the model's input image to the original, for tasks.
pub(super) struct Placed<'a>(pub &'a Placement);

impl PlacedPicture for Placed<'_> {
    fn size(&self) -> (u32, u32) {
        self.0.original
    }

    fn input_size(&self) -> (u32, u32) {
        self.0.input
    }

    fn content(&self) -> [f32; 4] {
        let (width, height) = self.0.original;
        // The inverse of `map_back`, which is a scale and a shift on each axis.
        let (x0, y0) = self.0.map_back(0.0, 0.0);
        let (x1, y1) = self.0.map_back(1.0, 1.0);
        let place = |at: f32, zero: f32, one: f32| (at - zero) / (one - zero);
        [
            place(0.0, x0, x1),
            place(0.0, y0, y1),
            place(width as f32, x0, x1),
            place(height as f32, y0, y1),
        ]
    }

    fn map_back(&self, x: f32, y: f32) -> (f32, f32) {
        self.0.map_back(x, y)
    }
}
