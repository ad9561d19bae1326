//! A processor bound to an input of a model, which converts images to tensors.

use half::f16;

use crate::tensor::{DataType, Dim, Element, InputSpec, Tensor};
use crate::vision::allocation::{byte_count, filled, reserved};
use crate::vision::header::Probe;
use crate::vision::keys::Layout;
use crate::vision::levels::Levels;
use crate::vision::plan::ImagePlan;
use crate::vision::read::read_part;
use crate::vision::resample::{Part, Pixels, resized_part, source_of};
use crate::vision::shape::Shape;
use crate::vision::size::{Size, Target};
use crate::vision::{ImageLimits, Picture, Placement, ProcessorError, VisionError};

/// The format of images that a model's input requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ModelInput {
    layout: Layout,
    channels: usize,
    /// Whether the number of channels is fixed.
    pub says_channels: bool,
    height: Option<u32>,
    width: Option<u32>,
    element: DataType,
}

impl ModelInput {
    /// Derives the format from an input's shape. `layout` is the order of axes in the file, if any.
    pub(super) fn new(input: &InputSpec, layout: Option<Layout>) -> Result<Self, ProcessorError> {
        let refuse = |problem: String| ProcessorError::Input {
            input: format!("{:?} {input}", input.name),
            problem,
        };
        if !matches!(input.data_type, DataType::F32 | DataType::F16 | DataType::U8) {
            let problem = "images need float32, float16 or uint8";
            return Err(refuse(problem.to_owned()));
        }
        let open = [const { Dim::Dynamic(None) }; 4];
        let dims: &[Dim; 4] = match input.dims.as_deref() {
            None => &open,
            Some(dims) => dims
                .try_into()
                .map_err(|_| refuse("images need four axes: batch, channels, height and width".to_owned()))?,
        };
        if let Dim::Fixed(batch @ (0 | 2..)) = dims[0] {
            return Err(refuse(format!(
                "it takes {batch} images at a time, expected 1 or any number"
            )));
        }
        let channels_at = |layout: Layout| match layout {
            Layout::Nchw => &dims[1],
            Layout::Nhwc => &dims[3],
        };
        let layout = layout
            .or_else(|| guessed(&channels_at))
            .ok_or_else(|| refuse("neither its second nor its last axis can be 1 or 3 channels".to_owned()))?;
        let (channels, says_channels) = match channels_at(layout) {
            Dim::Fixed(channels @ (1 | 3)) => (*channels, true),
            Dim::Dynamic(_) => (3, false),
            Dim::Fixed(channels) => {
                return Err(refuse(format!(
                    "as {layout} it has {channels} channels; expected 1 or 3"
                )));
            }
        };
        let edge = |dim: &Dim| match dim {
            Dim::Fixed(size) => u32::try_from(*size).ok().filter(|size| *size > 0).map(Some),
            Dim::Dynamic(_) => Some(None),
        };
        let (height, width) = match layout {
            Layout::Nchw => (&dims[2], &dims[3]),
            Layout::Nhwc => (&dims[1], &dims[2]),
        };
        let (Some(height), Some(width)) = (edge(height), edge(width)) else {
            return Err(refuse("its height or width is not a possible image size".to_owned()));
        };
        Ok(Self {
            layout,
            channels,
            says_channels,
            height,
            width,
            element: input.data_type,
        })
    }

    /// The size, if both edges are fixed.
    pub(super) fn size(&self) -> Option<Size> {
        let (height, width) = (self.height?, self.width?);
        Some(Size { height, width })
    }

    fn takes(&self, height: u32, width: u32) -> bool {
        self.height.is_none_or(|fixed| fixed == height) && self.width.is_none_or(|fixed| fixed == width)
    }

    /// Formats the size for a message: `224 x ?`.
    fn sizes(&self) -> String {
        let edge = |edge: Option<u32>| edge.map_or_else(|| "?".to_owned(), |edge| edge.to_string());
        format!("{} x {}", edge(self.height), edge(self.width))
    }
}

/// Guesses the layout from the axis that can be the channels.
fn guessed<'a>(channels_at: &dyn Fn(Layout) -> &'a Dim) -> Option<Layout> {
    const LAYOUTS: [Layout; 2] = [Layout::Nchw, Layout::Nhwc];
    let is_count = |dim: &Dim| matches!(dim, Dim::Fixed(1 | 3));
    let is_named = |dim: &Dim| matches!(dim, Dim::Dynamic(Some(name)) if name.to_ascii_lowercase().contains("channel"));
    let is_open = |dim: &Dim| matches!(dim, Dim::Dynamic(_));
    let tests: [&dyn Fn(&Dim) -> bool; 3] = [&is_count, &is_named, &is_open];
    tests
        .iter()
        .find_map(|test| LAYOUTS.into_iter().find(|&layout| test(channels_at(layout))))
}

/// A processor bound to its model's input.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    model: ModelInput,
    plan: ImagePlan,
    /// Whether the tensor's channels are blue, green, red.
    flips: bool,
    tables: Tables,
}

/// Lookup tables from level to element for each channel of the tensor, and the padding element.
#[derive(Debug, Clone, PartialEq)]
enum Tables {
    F32(Vec<[f32; 256]>, f32),
    F16(Vec<[f16; 256]>, f16),
    U8(Vec<[u8; 256]>, u8),
}

impl Bound {
    pub(super) fn new(
        input: &InputSpec,
        model: ModelInput,
        plan: ImagePlan,
        levels: &Levels,
        says_levels: bool,
        pad_value: Option<u8>,
    ) -> Result<Self, ProcessorError> {
        let mismatch = |file: String| ProcessorError::SizeMismatch {
            file,
            model: model.sizes(),
        };
        match plan.output() {
            Some(size) if !model.takes(size.height, size.width) => return Err(mismatch(size.to_string())),
            None if model.size().is_some() => {
                return Err(mismatch("a size that depends on the image".to_owned()));
            }
            Some(_) | None => {}
        }
        let each = levels.norm.as_ref().is_some_and(|(mean, std)| {
            let varies = |values: &[f32]| values.iter().any(|value| *value != values[0]);
            varies(mean) || varies(std)
        });
        if model.channels == 1 && each {
            let problem = "it has three numbers, but the model's input has one channel";
            return Err(ProcessorError::value("image_mean", problem));
        }
        let tables: Vec<[f32; 256]> = (0..model.channels)
            .map(|channel| {
                let from_picture = levels.flips != levels.norm_is_flipped && model.channels == 3;
                levels.table(if from_picture { 2 - channel } else { channel })
            })
            .collect();
        let pad = pad_value.map_or(0.0, |level| tables[0][usize::from(level)]);
        let tables = match model.element {
            DataType::F16 => Tables::F16(
                tables.iter().map(|table| table.map(f16::from_f32)).collect(),
                f16::from_f32(pad),
            ),
            DataType::U8 if !says_levels => {
                let same = std::array::from_fn(|level| level as u8);
                Tables::U8(vec![same; model.channels], pad_value.unwrap_or(0))
            }
            DataType::U8 => Tables::U8(
                tables
                    .iter()
                    .map(|table| whole(table, input))
                    .collect::<Result<_, _>>()?,
                pad_value.unwrap_or(0),
            ),
            _ => Tables::F32(tables, pad),
        };
        Ok(Self {
            model,
            plan,
            flips: levels.flips && model.channels == 3,
            tables,
        })
    }

    /// The size (height, width) of every tensor, if it does not depend on the image.
    pub fn output_size(&self) -> Option<(u32, u32)> {
        self.plan.output().map(|size| (size.height, size.width))
    }

    /// Peak memory of reading an image and making its tensor in bytes, without the file.
    pub fn memory(&self, probe: &Probe) -> u64 {
        let Ok(shape) = Shape::new(&self.plan, (probe.width, probe.height)) else {
            return probe.memory();
        };
        let channels = self.model.channels as u64;
        let pixels = |width: u32, height: u32| u64::from(width) * u64::from(height);
        let cut = shape
            .source
            .map_or(0, |part| pixels(part.width, part.height) * channels);
        let narrow = pixels(shape.visible.width, probe.height) * channels;
        let visible = pixels(shape.visible.width, shape.visible.height) * channels;
        let frame = if shape.is_filled() {
            0
        } else {
            pixels(shape.frame.0, shape.frame.1) * channels
        };
        let element = self.model.element.size().unwrap_or(4) as u64;
        let tensor = pixels(shape.output.0, shape.output.1) * channels * element;
        let resizing = probe.picture_bytes() + cut + narrow + visible;
        let writing = visible + frame + tensor;
        probe.memory().max(resizing).max(writing)
    }

    /// Reads an image and makes its tensor, and returns the placement of the image in it.
    pub fn read(&self, bytes: &[u8], limits: &ImageLimits) -> Result<(Tensor, Placement), VisionError> {
        self.apply(read_part(bytes, limits, &|size| self.needed(size))?)
    }

    /// The part of an upright image of this size (width, height) that decides the tensor.
    fn needed(&self, size: (u32, u32)) -> Part {
        let whole = Part::whole(size);
        let Ok(shape) = Shape::new(&self.plan, size) else {
            return whole;
        };
        let used = shape.source.unwrap_or(whole);
        let used_size = (used.width, used.height);
        let part = source_of(used_size, shape.resized, shape.visible, self.plan.resampling);
        Part {
            left: used.left + part.left,
            top: used.top + part.top,
            ..part
        }
    }

    /// Makes the tensor of an image, and returns the placement of the image in it.
    pub fn apply(&self, picture: Picture) -> Result<(Tensor, Placement), VisionError> {
        let original = (picture.width, picture.height);
        let shape = Shape::new(&self.plan, original)?;
        if !self.model.takes(shape.output.1, shape.output.0) {
            return Err(VisionError::Shape {
                width: picture.width,
                height: picture.height,
                problem: format!(
                    "it becomes {} x {} (height x width), but the model takes {}",
                    shape.output.1,
                    shape.output.0,
                    self.model.sizes()
                ),
            });
        }
        let framed = self.framed(picture, &shape)?;
        let tensor = match &self.tables {
            Tables::F32(tables, pad) => self.tensor(&framed, tables, *pad, &shape),
            Tables::F16(tables, pad) => self.tensor(&framed, tables, *pad, &shape),
            Tables::U8(tables, pad) => self.tensor(&framed, tables, *pad, &shape),
        }?;
        Ok((tensor, Placement::new(&shape, original)))
    }

    /// Makes the pixels of the frame, with the channels of the model.
    fn framed(&self, picture: Picture, shape: &Shape) -> Result<Vec<u8>, VisionError> {
        let channels = self.model.channels;
        let (mut width, mut height) = (picture.width, picture.height);
        let mut bytes = if channels == 1 { grey(picture.rgb) } else { picture.rgb };
        if let Some(part) = shape.source {
            let source = Pixels {
                width,
                height,
                channels,
                bytes: &bytes,
            };
            bytes = resized_part(source, (width, height), part, self.plan.resampling)?;
            (width, height) = (part.width, part.height);
        }
        let source = Pixels {
            width,
            height,
            channels,
            bytes: &bytes,
        };
        let visible = if self.plan.target == Target::Keep && shape.is_filled() && shape.frame == (width, height) {
            bytes
        } else {
            resized_part(source, shape.resized, shape.visible, self.plan.resampling)?
        };
        if shape.is_filled() {
            return Ok(visible);
        }
        let fill = &shape.fill[..channels];
        let frame_bytes = byte_count(shape.frame.0, shape.frame.1, channels)?;
        let mut frame: Vec<u8> = reserved(frame_bytes)?;
        frame.extend(fill.iter().copied().cycle().take(frame_bytes));
        let row_bytes = shape.frame.0 as usize * channels;
        let rows = frame.chunks_exact_mut(row_bytes).skip(shape.at.1 as usize);
        let visible_bytes = shape.visible.width as usize * channels;
        for (row, from) in rows.zip(visible.chunks_exact(visible_bytes)) {
            row[shape.at.0 as usize * channels..][..visible_bytes].copy_from_slice(from);
        }
        Ok(frame)
    }

    /// Converts the frame to elements with the lookup tables, in one pass.
    fn tensor<T: Element>(
        &self,
        framed: &[u8],
        tables: &[[T; 256]],
        pad: T,
        shape: &Shape,
    ) -> Result<Tensor, VisionError> {
        let channels = self.model.channels;
        let (width, height) = (shape.output.0 as usize, shape.output.1 as usize);
        let mut elements = filled(
            pad,
            byte_count(shape.output.0, shape.output.1, channels * size_of::<T>())? / size_of::<T>(),
        )?;
        let (left, top) = (shape.frame_at.0 as usize, shape.frame_at.1 as usize);
        let frame_width = shape.frame.0 as usize;
        let rows = framed.chunks_exact(frame_width * channels);
        match (self.model.layout, tables) {
            (_, [grey]) => {
                let to = elements.chunks_exact_mut(width).skip(top);
                for (row, from) in to.zip(rows) {
                    for (element, &level) in row[left..left + frame_width].iter_mut().zip(from) {
                        *element = grey[usize::from(level)];
                    }
                }
            }
            (Layout::Nhwc, _) => {
                let to = elements.chunks_exact_mut(width * channels).skip(top);
                for (row, from) in to.zip(rows) {
                    let to = row[left * channels..][..frame_width * channels].as_chunks_mut::<3>().0;
                    for (elements, levels) in to.iter_mut().zip(from.as_chunks::<3>().0) {
                        for (channel, element) in elements.iter_mut().enumerate() {
                            *element = tables[channel][usize::from(levels[self.source(channel)])];
                        }
                    }
                }
            }
            (Layout::Nchw, [first, second, third]) => {
                let (one, rest) = elements.split_at_mut(width * height);
                let (two, three) = rest.split_at_mut(width * height);
                let [a, b, c] = [0, 1, 2].map(|channel| self.source(channel));
                for (y, from) in rows.enumerate() {
                    let at = (top + y) * width + left;
                    let planes = one[at..at + frame_width]
                        .iter_mut()
                        .zip(&mut two[at..at + frame_width])
                        .zip(&mut three[at..at + frame_width]);
                    for (((one, two), three), levels) in planes.zip(from.as_chunks::<3>().0) {
                        *one = first[usize::from(levels[a])];
                        *two = second[usize::from(levels[b])];
                        *three = third[usize::from(levels[c])];
                    }
                }
            }
            (Layout::Nchw, _) => unreachable!("inputs have one or three channels"),
        }
        let shape = match self.model.layout {
            Layout::Nchw => vec![1, channels, height, width],
            Layout::Nhwc => vec![1, height, width, channels],
        };
        Tensor::from_vec(shape, elements).map_err(|_| VisionError::OutOfMemory)
    }

    /// The channel of the image for a channel of the tensor.
    fn source(&self, channel: usize) -> usize {
        if self.flips { 2 - channel } else { channel }
    }
}

/// Converts to grey in place, with the weights of Pillow's `convert("L")`.
fn grey(mut rgb: Vec<u8>) -> Vec<u8> {
    let pixels = rgb.len() / 3;
    for pixel in 0..pixels {
        let [red, green, blue] = [0, 1, 2].map(|channel| u32::from(rgb[pixel * 3 + channel]));
        rgb[pixel] = ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16) as u8;
    }
    rgb.truncate(pixels);
    rgb
}

/// Converts a table for a model with a uint8 input; the scaled levels must be bytes too.
fn whole(table: &[f32; 256], input: &InputSpec) -> Result<[u8; 256], ProcessorError> {
    let is_byte = |level: &f32| (0.0..=255.0).contains(level) && level.fract() == 0.0;
    if table.iter().all(is_byte) {
        return Ok(table.map(|level| level as u8));
    }
    Err(ProcessorError::Input {
        input: format!("{:?} {input}", input.name),
        problem: "the file scales levels to fractions, but the model takes bytes; set \"do_rescale\" and \
                  \"do_normalize\" to false in the manifest's \"image\""
            .to_owned(),
    })
}
