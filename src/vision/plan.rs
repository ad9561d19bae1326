//! From the keys of a file to what is done with every picture.

use crate::vision::ProcessorError;
use crate::vision::family::{DefaultSize, Family, Rule};
use crate::vision::keys::{ChannelOrder, Channels, CropMode, Keys, SizeKey};
use crate::vision::resample::{Filter, Resampling};
use crate::vision::size::{Size, Target};

/// The steps between a picture and a tensor, levels apart.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    /// A crop of the picture before it is resized: the edges of the crop as parts of the
    /// picture's shorter edge.
    pub first_crop: Option<(f64, f64)>,
    pub target: Target,
    pub resampling: Resampling,
    pub frame: Frame,
    pub pad: Option<Pad>,
}

/// The part of the resized picture that stays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Frame {
    Whole,
    /// The centre; where the picture is smaller, the fill is around it.
    Centre {
        size: Size,
        rounding: Rounding,
        fill: [u8; 3],
    },
    /// The whole picture in the middle of the fill.
    Letterbox {
        size: Size,
        fill: [u8; 3],
    },
}

/// The side to which the centre moves when it cannot be in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    /// As transformers: up and to the left.
    Down,
    /// As torchvision: to the even number.
    HalfEven,
}

/// Padding of the finished tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pad {
    /// Below and to the right of the picture, up to a size.
    To(Size),
    /// Up to a multiple.
    Multiple { multiple: u32, centred: bool },
}

/// What is done with the levels of the pixels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Levels {
    pub scale: Option<f64>,
    /// Whether 1 is subtracted after scaling.
    pub offset: bool,
    pub norm: Option<(Vec<f32>, Vec<f32>)>,
    /// Whether the levels are divided by the standard deviation once more.
    pub again: bool,
    /// Whether blue comes first, and whether mean and deviation are in that order, too.
    pub flips: bool,
    pub norm_is_flipped: bool,
}

/// Most pixels of an edge that a file may ask for.
const MAX_EDGE: u32 = 16_384;

/// A size as a file says it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Spec {
    Exact(Size),
    Shortest(u32),
    ShortestUpTo(u32, u32),
    Longest(u32),
    Within(Size),
}

impl Plan {
    /// Makes the plan. `model` is the size that the model takes, where it is fixed; it counts
    /// where the file says nothing.
    pub(super) fn new(family: &Family, keys: &Keys, model: Option<Size>) -> Result<Self, ProcessorError> {
        if keys.letterbox == Some(true) {
            return letterbox(keys, model);
        }
        if family.rule == Rule::Timm || (family.stem.is_empty() && keys.crop_pct.is_some()) {
            return timm(family, keys, model);
        }
        let resizes = keys.do_resize.unwrap_or(true);
        let crops = keys
            .do_center_crop
            .unwrap_or(family.crops || (family.stem.is_empty() && keys.crop_size.is_some()));
        let (spec, of_model) = match &keys.size {
            Some(size) => (Some(spec("size", size, family, keys)?), false),
            None if resizes && family.rule != Rule::Glpn => {
                let (spec, of_model) = default_spec(family, model).ok_or(ProcessorError::OpenSize)?;
                (Some(spec), of_model)
            }
            None => (None, false),
        };
        let crop = if crops {
            Some(crop_size(family, keys, spec, of_model, model)?)
        } else {
            None
        };
        let multiple = multiple(keys, family)?;
        let mut plan = Self {
            first_crop: None,
            target: Target::Keep,
            resampling: resampling(keys, family.filter, true)?,
            frame: crop.map_or(Frame::Whole, centre),
            pad: pad(family, keys)?,
        };
        if let (Rule::Perceiver, Some(crop), Some(Spec::Exact(size))) = (family.rule, crop, spec) {
            let part = |edge: u32, of: u32| f64::from(edge) / f64::from(of.max(1));
            plan.first_crop = Some((part(size.height, crop.height), part(size.width, crop.width)));
            plan.frame = Frame::Whole;
        }
        if resizes {
            plan.resize(family, keys, spec, multiple)?;
        }
        Ok(plan)
    }

    /// Sets the target, and the crop that some processors have within their resizing.
    fn resize(
        &mut self,
        family: &Family,
        keys: &Keys,
        spec: Option<Spec>,
        multiple: Option<u32>,
    ) -> Result<(), ProcessorError> {
        let pct = keys.crop_pct.map(|pct| pct.0).or(family.crop_pct);
        let pct = pct.filter(|pct| *pct > 0.0).unwrap_or(1.0);
        let by_pct = |edge: u32| (f64::from(edge) / pct) as u32;
        let shortest = |edge| Target::Shortest {
            edge,
            longest: None,
            multiple: 1,
        };
        let unusual = || ProcessorError::value("size", format!("{} does not take a size of this kind", family.stem));
        let target = match (family.rule, spec) {
            (Rule::Glpn, _) => Target::Multiple(multiple.unwrap_or(1)),
            (_, None) => Target::Keep,
            (Rule::ConvNext, Some(Spec::Shortest(edge) | Spec::ShortestUpTo(edge, _))) if edge < 384 => {
                self.frame = centre(Size::square(edge));
                shortest(by_pct(edge))
            }
            (Rule::ConvNext, Some(Spec::Shortest(edge) | Spec::ShortestUpTo(edge, _))) => {
                Target::Exact(Size::square(edge))
            }
            (Rule::Levit, Some(Spec::Shortest(edge))) => shortest((256.0 / 224.0 * f64::from(edge)) as u32),
            (Rule::PoolFormer, Some(Spec::Shortest(edge))) => shortest(by_pct(edge)),
            (Rule::PoolFormer, Some(Spec::Exact(size))) if size.height == size.width => shortest(by_pct(size.height)),
            (Rule::PoolFormer, Some(Spec::Exact(size))) => Target::Exact(Size {
                height: by_pct(size.height),
                width: by_pct(size.width),
            }),
            (Rule::Detr | Rule::Yolos, Some(Spec::Shortest(edge))) => detr(family, edge, None),
            (Rule::Detr | Rule::Yolos, Some(Spec::ShortestUpTo(edge, longest))) => detr(family, edge, Some(longest)),
            (Rule::UpToMultiple, Some(spec)) => up_to_multiple(spec, multiple.unwrap_or(1)).ok_or_else(unusual)?,
            (Rule::Vilt, Some(Spec::Shortest(shorter))) => Target::VilT {
                shorter,
                multiple: multiple.unwrap_or(1),
            },
            (Rule::Dpt, Some(Spec::Exact(size))) => Target::Dpt {
                size,
                keep_aspect_ratio: keys.keep_aspect_ratio.unwrap_or(false),
                multiple: keys.ensure_multiple_of.unwrap_or(1),
            },
            (Rule::Vilt | Rule::Dpt, Some(_)) => return Err(unusual()),
            (_, Some(Spec::Exact(size))) => Target::Exact(size),
            (_, Some(Spec::Within(size))) => Target::Within(size),
            (_, Some(Spec::Longest(edge))) => Target::Longest(edge),
            (_, Some(Spec::Shortest(edge))) => shortest(edge),
            (_, Some(Spec::ShortestUpTo(edge, longest))) => Target::Shortest {
                edge,
                longest: Some(longest),
                multiple: 1,
            },
        };
        self.target = target;
        Ok(())
    }

    /// The size of every tensor, where it does not depend on the picture.
    pub(super) fn output(&self) -> Option<Size> {
        let framed = match self.frame {
            Frame::Whole => self.target.fixed(),
            Frame::Centre { size, .. } | Frame::Letterbox { size, .. } => Some(size),
        };
        match self.pad {
            Some(Pad::To(size)) => Some(size),
            Some(Pad::Multiple { multiple, .. }) => framed.map(|size| Size {
                height: size.height.next_multiple_of(multiple),
                width: size.width.next_multiple_of(multiple),
            }),
            None => framed,
        }
    }
}

fn centre(size: Size) -> Frame {
    Frame::Centre {
        size,
        rounding: Rounding::Down,
        fill: [0; 3],
    }
}

fn detr(family: &Family, edge: u32, longest: Option<u32>) -> Target {
    Target::DetrShortest {
        edge,
        longest,
        multiple: if family.rule == Rule::Yolos { 16 } else { 1 },
    }
}

fn up_to_multiple(spec: Spec, multiple: u32) -> Option<Target> {
    let (edge, longest) = match spec {
        Spec::Shortest(edge) => (edge, None),
        Spec::ShortestUpTo(edge, longest) => (edge, Some(longest)),
        Spec::Exact(size) => {
            return Some(Target::Exact(Size {
                height: size.height.next_multiple_of(multiple),
                width: size.width.next_multiple_of(multiple),
            }));
        }
        Spec::Longest(_) | Spec::Within(_) => return None,
    };
    Some(Target::Shortest {
        edge,
        longest,
        multiple,
    })
}

/// Ultralytics' letterbox, which resizes as OpenCV does.
fn letterbox(keys: &Keys, model: Option<Size>) -> Result<Plan, ProcessorError> {
    let size = match &keys.size {
        Some(size) => exact("size", size)?,
        None => model.ok_or(ProcessorError::OpenSize)?,
    };
    Ok(Plan {
        first_crop: None,
        target: Target::Letterbox(size),
        resampling: resampling(keys, Filter::Bilinear, false)?,
        frame: Frame::Letterbox {
            size,
            fill: [keys.pad_value.unwrap_or(114); 3],
        },
        pad: None,
    })
}

/// timm's `transforms_imagenet_eval`.
fn timm(family: &Family, keys: &Keys, model: Option<Size>) -> Result<Plan, ProcessorError> {
    let mut size = match &keys.size {
        Some(size) => exact("size", size)?,
        None => model
            .or((family.rule == Rule::Timm).then_some(Size::square(224)))
            .ok_or(ProcessorError::OpenSize)?,
    };
    let mut pct = keys.crop_pct;
    if let (Some(test), Some(model)) = (keys.test_size, model)
        && size != model
        && test == model
    {
        size = test;
        pct = keys.test_crop_pct.or(pct);
    }
    let pct = pct
        .map(|pct| pct.0)
        .or(family.crop_pct)
        .filter(|pct| *pct > 0.0)
        .unwrap_or(1.0);
    let scaled = |edge: u32| (f64::from(edge) / pct).floor() as u32;
    let scaled = Size {
        height: scaled(size.height),
        width: scaled(size.width),
    };
    let mut fill = [0; 3];
    let target = match keys.crop_mode.unwrap_or(CropMode::Center) {
        CropMode::Squash => Target::Exact(scaled),
        CropMode::Border => {
            let (mean, _) = norm_values(family, keys);
            let level = |mean: f32| (255.0 * f64::from(mean)).round_ties_even() as u8;
            fill = [0, 1, 2].map(|channel| level(*mean.get(channel).unwrap_or(&mean[0])));
            Target::Contain(scaled)
        }
        CropMode::Center if scaled.height == scaled.width => Target::Shortest {
            edge: scaled.height,
            longest: None,
            multiple: 1,
        },
        CropMode::Center => Target::Cover(scaled),
    };
    Ok(Plan {
        first_crop: None,
        target,
        resampling: resampling(keys, family.filter, true)?,
        frame: Frame::Centre {
            size,
            rounding: Rounding::HalfEven,
            fill,
        },
        pad: pad(family, keys)?,
    })
}

/// The size where the file says none, and whether it is the model's.
fn default_spec(family: &Family, model: Option<Size>) -> Option<(Spec, bool)> {
    let own = match family.size {
        DefaultSize::Open => None,
        DefaultSize::Square(edge) => Some(Spec::Exact(Size::square(edge))),
        DefaultSize::Shortest(edge) => Some(Spec::Shortest(edge)),
        DefaultSize::ShortestUpTo(edge, longest) => Some(Spec::ShortestUpTo(edge, longest)),
        DefaultSize::Longest(edge) => Some(Spec::Longest(edge)),
    };
    let Some(model) = model else {
        return own.map(|spec| (spec, false));
    };
    let output = match (family.crops, family.crop, family.pads, family.size) {
        (true, Some(edge), _, _) | (false, _, Some(edge), _) | (false, _, None, DefaultSize::Square(edge)) => {
            Some(Size::square(edge))
        }
        _ => None,
    };
    match own {
        Some(own) if output == Some(model) => Some((own, false)),
        Some(Spec::Shortest(_)) if model.height == model.width => Some((Spec::Shortest(model.height), true)),
        _ => Some((Spec::Exact(model), true)),
    }
}

fn crop_size(
    family: &Family,
    keys: &Keys,
    spec: Option<Spec>,
    of_model: bool,
    model: Option<Size>,
) -> Result<Size, ProcessorError> {
    if let Some(size) = &keys.crop_size {
        return exact("crop_size", size);
    }
    match (family.crop, spec) {
        (_, Some(Spec::Exact(size))) if of_model && family.rule != Rule::Perceiver => Ok(size),
        (_, Some(Spec::Shortest(edge))) if of_model => Ok(Size::square(edge)),
        (Some(edge), _) => Ok(Size::square(edge)),
        // BridgeTower.
        (None, Some(Spec::Shortest(edge))) if family.crops => Ok(Size::square(edge)),
        (None, _) => model.ok_or(ProcessorError::OpenSize),
    }
}

fn resampling(keys: &Keys, filter: Filter, antialias: bool) -> Result<Resampling, ProcessorError> {
    let filter = keys.resample.unwrap_or(filter);
    let antialias = keys.antialias.unwrap_or(antialias);
    if !antialias && !matches!(filter, Filter::Bilinear | Filter::Nearest) {
        // Libraries disagree about the others.
        let problem = format!(
            "false is for \"resample\": \"bilinear\" alone, not for {:?}",
            filter.name()
        );
        return Err(ProcessorError::value("antialias", problem));
    }
    Ok(Resampling { filter, antialias })
}

fn multiple(keys: &Keys, family: &Family) -> Result<Option<u32>, ProcessorError> {
    let multiple = keys.size_divisor.or(family.multiple);
    match multiple {
        Some(0) | Some(MAX_EDGE..) => Err(ProcessorError::value(
            "size_divisor",
            format!("expected a number from 1 to {}", MAX_EDGE - 1),
        )),
        multiple => Ok(multiple),
    }
}

fn pad(family: &Family, keys: &Keys) -> Result<Option<Pad>, ProcessorError> {
    if !keys.do_pad.unwrap_or(family.pads.is_some() || keys.pad_size.is_some()) {
        return Ok(None);
    }
    if let Some(size) = &keys.pad_size {
        return exact("pad_size", size).map(|size| Some(Pad::To(size)));
    }
    if let Some(edge) = family.pads {
        return Ok(Some(Pad::To(Size::square(edge))));
    }
    match (family.rule, multiple(keys, family)?) {
        (Rule::Dpt | Rule::Plain, Some(multiple)) => Ok(Some(Pad::Multiple {
            multiple,
            centred: family.rule == Rule::Dpt,
        })),
        (Rule::Plain, None) if family.stem.is_empty() => Err(ProcessorError::value(
            "do_pad",
            "true needs \"pad_size\" or \"size_divisor\"",
        )),
        // A batch of one picture is as large as the picture.
        _ => Ok(None),
    }
}

/// The size that a key says for both edges.
fn exact(key: &str, size: &SizeKey) -> Result<Size, ProcessorError> {
    let size = match size {
        SizeKey::Edge(edge) => Size::square(*edge),
        SizeKey::HeightWidth([height, width]) => Size {
            height: *height,
            width: *width,
        },
        SizeKey::Edges(edges) => match (edges.height, edges.width, edges.shortest_edge) {
            (Some(height), Some(width), _) => Size { height, width },
            (None, None, Some(edge)) => Size::square(edge),
            _ => return Err(ProcessorError::value(key, "expected \"height\" and \"width\"")),
        },
    };
    check_edges(key, &[size.height, size.width])?;
    Ok(size)
}

fn spec(key: &str, size: &SizeKey, family: &Family, keys: &Keys) -> Result<Spec, ProcessorError> {
    let square = keys.default_to_square.unwrap_or(family.square);
    let spec = match size {
        SizeKey::Edge(edge) if square => Spec::Exact(Size::square(*edge)),
        SizeKey::Edge(edge) => {
            let longest = match family.size {
                DefaultSize::ShortestUpTo(_, longest) => Some(longest),
                _ => None,
            };
            match keys.max_size.or(longest) {
                Some(longest) => Spec::ShortestUpTo(*edge, longest),
                None if matches!(family.rule, Rule::Sam) => Spec::Longest(*edge),
                None => Spec::Shortest(*edge),
            }
        }
        SizeKey::HeightWidth(_) => Spec::Exact(exact(key, size)?),
        SizeKey::Edges(edges) => match (
            (edges.height, edges.width),
            (edges.shortest_edge, edges.longest_edge),
            (edges.max_height, edges.max_width),
        ) {
            ((Some(height), Some(width)), _, _) => Spec::Exact(Size { height, width }),
            (_, (Some(shortest), Some(longest)), _) => Spec::ShortestUpTo(shortest, longest),
            (_, (Some(shortest), None), _) => Spec::Shortest(shortest),
            (_, (None, Some(longest)), _) => Spec::Longest(longest),
            (_, _, (Some(height), Some(width))) => Spec::Within(Size { height, width }),
            _ => {
                let problem = "expected \"height\" and \"width\", \"shortest_edge\", \"longest_edge\", or \
                               \"max_height\" and \"max_width\"";
                return Err(ProcessorError::value(key, problem));
            }
        },
    };
    match spec {
        Spec::Exact(size) | Spec::Within(size) => check_edges(key, &[size.height, size.width])?,
        Spec::Shortest(edge) | Spec::Longest(edge) => check_edges(key, &[edge])?,
        Spec::ShortestUpTo(shortest, longest) => check_edges(key, &[shortest, longest])?,
    }
    Ok(spec)
}

fn check_edges(key: &str, edges: &[u32]) -> Result<(), ProcessorError> {
    match edges.iter().find(|edge| !(1..=MAX_EDGE).contains(edge)) {
        None => Ok(()),
        Some(edge) => Err(ProcessorError::value(
            key,
            format!("{edge} is no edge of a picture; expected 1 to {MAX_EDGE} pixels"),
        )),
    }
}

/// Mean and standard deviation.
fn norm_values(family: &Family, keys: &Keys) -> (Vec<f32>, Vec<f32>) {
    let listed = |channels: &Option<Channels>, default: Option<[f32; 3]>, neutral: f32| match channels {
        Some(Channels::One(value)) => vec![*value],
        Some(Channels::Each(values)) => values.clone(),
        None => default.map_or_else(|| vec![neutral], |values| values.to_vec()),
    };
    (
        listed(&keys.image_mean, family.norm.map(|norm| norm.mean), 0.0),
        listed(&keys.image_std, family.norm.map(|norm| norm.std), 1.0),
    )
}

impl Levels {
    pub(super) fn new(family: &Family, keys: &Keys) -> Result<Self, ProcessorError> {
        let said = keys.image_mean.is_some() || keys.image_std.is_some();
        let normalizes = keys
            .do_normalize
            .unwrap_or(family.normalizes || (family.stem.is_empty() && said));
        let again = family.divides_again && keys.include_top.unwrap_or(true);
        let (mean, std) = norm_values(family, keys);
        for (key, values) in [("image_mean", &mean), ("image_std", &std)] {
            let problem = if !matches!(values.len(), 1 | 3) {
                Some(format!("it has {} numbers; expected 1 or 3", values.len()))
            } else if values
                .iter()
                .any(|value| !value.is_finite() || (key == "image_std" && *value == 0.0))
            {
                Some("expected numbers to subtract and to divide by".to_owned())
            } else {
                None
            };
            if let Some(problem) = problem {
                return Err(ProcessorError::value(key, problem));
            }
        }
        let factor = keys.rescale_factor.map_or(1.0 / 255.0, |factor| factor.0);
        if !factor.is_finite() {
            return Err(ProcessorError::value("rescale_factor", "expected a finite number"));
        }
        let blue_first = keys.channel_order == Some(ChannelOrder::Bgr);
        let flips = keys.do_flip_channel_order.unwrap_or(family.flips);
        if keys.channel_order.is_some() && keys.do_flip_channel_order == Some(!blue_first) {
            let problem = "it contradicts \"do_flip_channel_order\"";
            return Err(ProcessorError::value("channel_order", problem));
        }
        Ok(Self {
            scale: keys.do_rescale.unwrap_or(family.rescales).then_some(factor),
            offset: keys.rescale_offset.unwrap_or(false),
            norm: normalizes.then(|| (mean.clone(), std.clone())),
            again,
            flips: if keys.channel_order.is_some() {
                blue_first
            } else {
                flips
            },
            norm_is_flipped: keys.channel_order.is_some() && blue_first && !flips,
        })
    }

    /// The numbers that each level of a channel becomes, as transformers computes them: scaled in
    /// double precision, then normalised in single precision.
    pub(super) fn table(&self, channel: usize) -> [f32; 256] {
        let pick = |values: &[f32]| values.get(channel).copied().unwrap_or(values[0]);
        std::array::from_fn(|level| {
            let mut value = match self.scale {
                Some(scale) => (level as f64 * scale) as f32,
                None => level as f32,
            };
            if self.offset && self.scale.is_some() {
                value -= 1.0;
            }
            if let Some((mean, std)) = &self.norm {
                value = (value - pick(mean)) / pick(std);
                if self.again {
                    value /= pick(std);
                }
            }
            value
        })
    }
}
