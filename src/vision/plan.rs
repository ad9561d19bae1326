//! Derives the steps for every image from the keys of a file.

use crate::vision::ProcessorError;
use crate::vision::family::{Family, Rule};
use crate::vision::keys::{CropMode, ImageKeys};
use crate::vision::levels::norm_values;
use crate::vision::resample::{Filter, Resampling};
use crate::vision::size::{Size, Target};
use crate::vision::spec::{MAX_EDGE, Spec, exact};

/// The steps from an image to a tensor, without the scaling of levels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ImagePlan {
    /// A crop before resizing: the edges of the crop as fractions of the image's shorter edge.
    pub first_crop: Option<(f64, f64)>,
    pub target: Target,
    pub resampling: Resampling,
    pub frame: Frame,
    pub pad: Option<Pad>,
}

/// The part of the resized image that is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Frame {
    Whole,
    /// The centre. A smaller image is surrounded by the fill.
    Centre {
        size: Size,
        rounding: Rounding,
        fill: [u8; 3],
    },
    /// The whole image, centred on the fill.
    Letterbox {
        size: Size,
        fill: [u8; 3],
    },
}

/// The rounding of the crop's position if it cannot be exactly centred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    /// Up and to the left, as in transformers.
    Down,
    /// To the even number, as in torchvision.
    HalfEven,
}

/// Padding of the finished tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pad {
    /// Below and to the right of the image, up to a size.
    To(Size),
    /// Up to a multiple.
    Multiple { multiple: u32, centred: bool },
}

impl ImagePlan {
    /// Makes the plan. `model` is the fixed size of the model's input, if any; it applies if the
    /// file has no size.
    pub(super) fn new(family: &Family, keys: &ImageKeys, model: Option<Size>) -> Result<Self, ProcessorError> {
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
            Some(size) => (Some(Spec::of_key(size, family, keys)?), false),
            None if resizes && family.rule != Rule::Glpn => {
                let (spec, of_model) = Spec::by_default(family, model).ok_or(ProcessorError::OpenSize)?;
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

    /// Sets the target, and the crop that is part of resizing in some processors.
    fn resize(
        &mut self,
        family: &Family,
        keys: &ImageKeys,
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
        let unusual = || ProcessorError::value("size", format!("{} does not support a size of this kind", family.stem));
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

    /// The size of every tensor, if it does not depend on the image.
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

/// Ultralytics' letterbox, which resizes in the same way as OpenCV.
fn letterbox(keys: &ImageKeys, model: Option<Size>) -> Result<ImagePlan, ProcessorError> {
    let size = match &keys.size {
        Some(size) => exact("size", size)?,
        None => model.ok_or(ProcessorError::OpenSize)?,
    };
    Ok(ImagePlan {
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
fn timm(family: &Family, keys: &ImageKeys, model: Option<Size>) -> Result<ImagePlan, ProcessorError> {
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
    Ok(ImagePlan {
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

fn crop_size(
    family: &Family,
    keys: &ImageKeys,
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

fn resampling(keys: &ImageKeys, filter: Filter, antialias: bool) -> Result<Resampling, ProcessorError> {
    let filter = keys.resample.unwrap_or(filter);
    let antialias = keys.antialias.unwrap_or(antialias);
    if !antialias && !matches!(filter, Filter::Bilinear | Filter::Nearest) {
        // Libraries disagree about the other filters.
        let problem = format!(
            "false is only allowed with \"resample\": \"bilinear\" or \"nearest\", not with {:?}",
            filter.name()
        );
        return Err(ProcessorError::value("antialias", problem));
    }
    Ok(Resampling { filter, antialias })
}

fn multiple(keys: &ImageKeys, family: &Family) -> Result<Option<u32>, ProcessorError> {
    let multiple = keys.size_divisor.or(family.multiple);
    match multiple {
        Some(0) | Some(MAX_EDGE..) => Err(ProcessorError::value(
            "size_divisor",
            format!("expected a number from 1 to {}", MAX_EDGE - 1),
        )),
        multiple => Ok(multiple),
    }
}

fn pad(family: &Family, keys: &ImageKeys) -> Result<Option<Pad>, ProcessorError> {
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
            "true requires \"pad_size\" or \"size_divisor\"",
        )),
        // A batch of one image needs no padding.
        _ => Ok(None),
    }
}
