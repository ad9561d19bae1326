//! Scales and normalizes pixel levels, with lookup tables.

use crate::vision::ProcessorError;
use crate::vision::family::Family;
use crate::vision::keys::{ChannelOrder, Channels, ImageKeys};

/// The scaling and normalization of pixel levels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Levels {
    pub scale: Option<f64>,
    /// Whether 1 is subtracted after scaling.
    pub offset: bool,
    pub norm: Option<(Vec<f32>, Vec<f32>)>,
    /// Whether the levels are divided by the standard deviation a second time.
    pub again: bool,
    /// Whether the channel order is blue, green, red, and whether mean and deviation have that
    /// order too.
    pub flips: bool,
    pub norm_is_flipped: bool,
}

/// Returns the mean and the standard deviation.
pub(super) fn norm_values(family: &Family, keys: &ImageKeys) -> (Vec<f32>, Vec<f32>) {
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
    pub(super) fn new(family: &Family, keys: &ImageKeys) -> Result<Self, ProcessorError> {
        let is_set = keys.image_mean.is_some() || keys.image_std.is_some();
        let normalizes = keys
            .do_normalize
            .unwrap_or(family.normalizes || (family.stem.is_empty() && is_set));
        let again = family.divides_again && keys.include_top.unwrap_or(true);
        let (mean, std) = norm_values(family, keys);
        for (key, values) in [("image_mean", &mean), ("image_std", &std)] {
            let problem = if !matches!(values.len(), 1 | 3) {
                Some(format!("it has {} numbers; expected 1 or 3", values.len()))
            } else if values
                .iter()
                .any(|value| !value.is_finite() || (key == "image_std" && *value == 0.0))
            {
                Some("expected finite numbers, and no 0 in \"image_std\"".to_owned())
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

    /// Makes the lookup table of a channel. As in transformers, scaling uses double precision and
    /// normalizing single precision.
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
