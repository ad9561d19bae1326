//! The keys of a preprocessor file.
//!
//! The keys are stored, and not the steps that follow from them. So a manifest can replace single
//! keys of a file, and the journal stores exactly what the artifact contains.

use std::fmt;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value as Json};

use crate::vision::ProcessorError;
use crate::vision::resample::Filter;
use crate::vision::size::Size;

/// The keys of `preprocessor_config.json`, of timm's `pretrained_cfg` (renamed), and of the
/// manifest's `image` object. An absent key is the same as null.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ImageKeys {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_resize: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<SizeKey>,
    /// The longest edge, in old files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_to_square: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resample: Option<Filter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub antialias: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub letterbox: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_value: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_aspect_ratio: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ensure_multiple_of: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_divisor: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_pct: Option<Real>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_mode: Option<CropMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_center_crop: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_size: Option<SizeKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_rescale: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescale_factor: Option<Real>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescale_offset: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_normalize: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_mean: Option<Channels>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_std: Option<Channels>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_top: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_pad: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_size: Option<SizeKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_flip_channel_order: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_order: Option<ChannelOrder>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_convert_rgb: Option<bool>,
    /// timm's sizes for testing, which apply if they match the model's input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_size: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_crop_pct: Option<Real>,
}

/// The keys that are allowed in a manifest; the others occur only in files of other programs.
const MANIFEST: [&str; 25] = [
    "do_resize",
    "size",
    "resample",
    "antialias",
    "letterbox",
    "pad_value",
    "keep_aspect_ratio",
    "ensure_multiple_of",
    "size_divisor",
    "crop_pct",
    "crop_mode",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "rescale_offset",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_pad",
    "pad_size",
    "do_flip_channel_order",
    "channel_order",
    "layout",
    "do_convert_rgb",
];

/// Further keys of files.
const FILES: [&str; 3] = ["max_size", "default_to_square", "include_top"];

/// Older names of keys in files.
const OLD_NAMES: [(&str, &str); 3] = [
    ("rescale_value", "rescale_factor"),
    ("size_divisibility", "size_divisor"),
    ("rescale", "do_rescale"),
];

/// The keys of size objects.
const EDGES: [&str; 6] = [
    "shortest_edge",
    "longest_edge",
    "height",
    "width",
    "max_height",
    "max_width",
];

impl ImageKeys {
    /// Reads the known keys of a file; the others are for other programs.
    pub(super) fn of_file(object: &Map<String, Json>) -> Result<Self, ProcessorError> {
        let mut known = Map::new();
        for (old, new) in OLD_NAMES {
            if let Some(value) = object.get(old) {
                known.insert(new.to_owned(), value.clone());
            }
        }
        for key in MANIFEST.iter().chain(&FILES) {
            if let Some(value) = object.get(*key).filter(|value| !value.is_null()) {
                known.insert((*key).to_owned(), value.clone());
            }
        }
        Self::read(known)
    }

    /// Reads the keys of a manifest; an unknown key is an error.
    pub(super) fn of_manifest(object: &Map<String, Json>) -> Result<Self, ProcessorError> {
        for (key, value) in object {
            check_key(key, key, &MANIFEST)?;
            if let (true, Some(members)) = (key.ends_with("size"), value.as_object()) {
                members
                    .keys()
                    .try_for_each(|member| check_key(member, &format!("{key}.{member}"), &EDGES))?;
            }
        }
        Self::read(object.clone())
    }

    fn read(object: Map<String, Json>) -> Result<Self, ProcessorError> {
        serde_path_to_error::deserialize(Json::Object(object)).map_err(|error| {
            let path = error.path().to_string();
            ProcessorError::value(path, error.into_inner().to_string())
        })
    }

    /// Adds the keys of `base` that are not set.
    pub(super) fn over(self, base: &Self) -> Self {
        macro_rules! either {
            ($($key:ident),+ $(,)?) => {
                Self { $($key: self.$key.or_else(|| base.$key.clone())),+ }
            };
        }
        either!(
            do_resize,
            size,
            max_size,
            default_to_square,
            resample,
            antialias,
            letterbox,
            pad_value,
            keep_aspect_ratio,
            ensure_multiple_of,
            size_divisor,
            crop_pct,
            crop_mode,
            do_center_crop,
            crop_size,
            do_rescale,
            rescale_factor,
            rescale_offset,
            do_normalize,
            image_mean,
            image_std,
            include_top,
            do_pad,
            pad_size,
            do_flip_channel_order,
            channel_order,
            layout,
            do_convert_rgb,
            test_size,
            test_crop_pct,
        )
    }
}

fn check_key(key: &str, path: &str, known: &[&str]) -> Result<(), ProcessorError> {
    if known.contains(&key) {
        return Ok(());
    }
    let likeness = |known: &str| strsim::jaro_winkler(known, key);
    let nearest = known
        .iter()
        .map(|known| (likeness(known), *known))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|one, other| one.0.total_cmp(&other.0));
    Err(ProcessorError::UnknownKey {
        key: path.to_owned(),
        nearest: nearest.map(|(_, known)| known.to_owned()),
    })
}

/// A size: one edge, a list of height and width, or named edges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number of pixels, [height, width] or an object such as {\"height\": 224, \"width\": 224}"
)]
pub(super) enum SizeKey {
    Edge(u32),
    HeightWidth([u32; 2]),
    Edges(Edges),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Edges {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shortest_edge: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest_edge: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_width: Option<u32>,
}

impl From<Size> for SizeKey {
    fn from(size: Size) -> Self {
        Self::HeightWidth([size.height, size.width])
    }
}

/// The channel order of a model's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChannelOrder {
    #[serde(rename = "RGB", alias = "rgb")]
    Rgb,
    #[serde(rename = "BGR", alias = "bgr")]
    Bgr,
}

/// The axis order of a model's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    #[serde(rename = "NCHW", alias = "nchw")]
    Nchw,
    #[serde(rename = "NHWC", alias = "nhwc")]
    Nhwc,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nchw => "NCHW",
            Self::Nhwc => "NHWC",
        })
    }
}

/// timm's crop modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum CropMode {
    Center,
    Squash,
    Border,
}

/// A number for each channel, or one for all channels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number, or a list of numbers, one for each channel"
)]
pub(super) enum Channels {
    One(f32),
    Each(Vec<f32>),
}

/// A number that is serialized exactly, as text, because the JSON parser does not always round to
/// the nearest float.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Real(pub f64);

impl Serialize for Real {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Real {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Real;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Real, E> {
                Ok(Real(number))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Real, E> {
                Ok(Real(number as f64))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Real, E> {
                Ok(Real(number as f64))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Real, E> {
                let number = text.parse();
                number
                    .map(Real)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Number)
    }
}
