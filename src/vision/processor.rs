//! Processors: the steps for images in a preprocessor file, a manifest or a model's input.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::tensor::InputSpec;
use crate::vision::bound::{Bound, ModelInput};
use crate::vision::family::{self, Family, TIMM, is_known};
use crate::vision::keys::{ImageKeys, Real, SizeKey};
use crate::vision::levels::Levels;
use crate::vision::plan::ImagePlan;
use crate::vision::size::Size;
use crate::vision::{ProcessorError, steps};

/// The steps for images, before they are bound to a model's input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Processor {
    /// The name of a processor of transformers, `timm`, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    keys: ImageKeys,
}

/// Keys that occur only in files about images.
const PICTURE_KEYS: [&str; 10] = [
    "size",
    "crop_size",
    "image_mean",
    "image_std",
    "do_resize",
    "do_rescale",
    "do_center_crop",
    "do_convert_rgb",
    "resample",
    "rescale_factor",
];

/// Steps of files that can be ignored: they change only labels, or need nothing unsupported.
const HARMLESS_STEPS: [&str; 4] = [
    "do_reduce_labels",
    "do_convert_annotations",
    "do_convert_rgb",
    "do_sample_frames",
];

/// Keys that reveal unsupported steps, in files of unknown processors.
const MISSING_STEPS: [&str; 14] = [
    "apply_ocr",
    "clusters",
    "image_grid_pinpoints",
    "max_image_size",
    "max_image_tiles",
    "max_num_patches",
    "max_patches",
    "max_pixels",
    "merge_size",
    "min_pixels",
    "num_frames",
    "patch_size",
    "split_resolutions",
    "temporal_patch_size",
];

impl Processor {
    /// Parses `preprocessor_config.json` or `processor_config.json` of transformers, or timm's
    /// `config.json`. Returns `None` for files that are not about images.
    pub fn parse(text: &str) -> Result<Option<Self>, ProcessorError> {
        let object = object(text)?;
        if let Some(Json::Object(inner)) = object.get("image_processor") {
            return Self::of_transformers(inner);
        }
        match object.get("pretrained_cfg") {
            Some(Json::Object(config)) => Self::of_timm(config).map(Some),
            // Older files have the keys at the top level.
            None if object.contains_key("input_size") && object.contains_key("interpolation") => {
                Self::of_timm(&object).map(Some)
            }
            _ => Self::of_transformers(&object),
        }
    }

    /// Parses a manifest's `image` object. Its keys override those of `base`.
    pub fn parse_manifest(text: &str, base: Option<&Self>) -> Result<Self, ProcessorError> {
        Self::of_manifest(&object(text)?, base)
    }

    /// Reads a manifest's `image` object, parsed from JSON.
    pub fn of_manifest(object: &Map<String, Json>, base: Option<&Self>) -> Result<Self, ProcessorError> {
        let keys = ImageKeys::of_manifest(object)?;
        let processor = match base {
            Some(base) => Self {
                name: base.name.clone(),
                keys: keys.over(&base.keys),
            },
            None => Self {
                name: String::new(),
                keys,
            },
        };
        processor.checked()
    }

    /// Guesses a processor from an input's shape: images of the input's size, scaled to 0..1 for
    /// floats. `None` if the shape does not look like an image.
    pub fn for_input(input: &InputSpec) -> Option<Self> {
        let model = ModelInput::new(input, None).ok()?;
        let keys = ImageKeys {
            do_resize: model.size().is_none().then_some(false),
            ..ImageKeys::default()
        };
        model.says_channels.then_some(Self {
            name: String::new(),
            keys,
        })
    }

    /// The name of the processor in its file; empty if there is none.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Binds the processor to an input of a model. Fails if they contradict each other.
    pub fn bind(&self, input: &InputSpec) -> Result<Bound, ProcessorError> {
        let model = ModelInput::new(input, self.keys.layout)?;
        let family = self.family();
        let plan = ImagePlan::new(&family, &self.keys, model.size())?;
        let levels = Levels::new(&family, &self.keys)?;
        let keys = &self.keys;
        let says_levels = keys.do_rescale == Some(true)
            || keys.do_normalize == Some(true)
            || keys.rescale_factor.is_some()
            || keys.image_mean.is_some()
            || keys.image_std.is_some();
        Bound::new(input, model, plan, &levels, says_levels, keys.pad_value)
    }

    /// Describes the steps in their order, for people.
    pub fn steps(&self) -> Vec<String> {
        let family = self.family();
        let plan = ImagePlan::new(&family, &self.keys, None)
            .or_else(|_| ImagePlan::new(&family, &self.keys, Some(Size::OF_MODEL)));
        match (plan, Levels::new(&family, &self.keys)) {
            (Ok(plan), Ok(levels)) => steps::describe(&plan, &levels, self.keys.layout),
            // Not expected, because processors are checked when they are parsed.
            (Err(error), _) | (_, Err(error)) => vec![error.to_string()],
        }
    }

    fn family(&self) -> Family {
        Family::of(&self.name)
    }

    fn checked(self) -> Result<Self, ProcessorError> {
        let family = self.family();
        match ImagePlan::new(&family, &self.keys, None) {
            // The model may have the size; check the other keys anyway.
            Err(ProcessorError::OpenSize) => ImagePlan::new(&family, &self.keys, Some(Size::OF_MODEL)),
            plan => plan,
        }?;
        Levels::new(&family, &self.keys)?;
        Ok(self)
    }

    fn of_transformers(object: &Map<String, Json>) -> Result<Option<Self>, ProcessorError> {
        let text = |key: &str| object.get(key).and_then(Json::as_str);
        let own_name = text("image_processor_type");
        let name = own_name.or_else(|| text("feature_extractor_type")).unwrap_or_default();
        let has_picture_keys = PICTURE_KEYS.iter().any(|key| object.contains_key(*key));
        let missing = family::missing_step(name);
        if own_name.is_none() && !is_known(name) && missing.is_none() {
            // Extractors of sound have some of these keys too.
            if !has_picture_keys || object.contains_key("sampling_rate") {
                return Ok(None);
            }
        }
        let unsupported = |step: &str| ProcessorError::Unsupported {
            name: if name.is_empty() {
                "the file".to_owned()
            } else {
                name.to_owned()
            },
            step: step.to_owned(),
        };
        if let Some(step) = missing {
            return Err(unsupported(step));
        }
        let keys = ImageKeys::of_file(object)?;
        let is_step = |key: &str| key.starts_with("do_") && !HARMLESS_STEPS.contains(&key) && !is_known_key(key);
        let is_set = |value: &Json| !matches!(value, Json::Null | Json::Bool(false));
        if let Some((key, _)) = object.iter().find(|(key, value)| is_step(key) && is_set(value)) {
            return Err(unsupported(&format!("the step {key:?}")));
        }
        if !is_known(name) {
            let key = MISSING_STEPS.iter().find(|key| object.get(**key).is_some_and(is_set));
            if let Some(key) = key {
                return Err(unsupported(&format!("the step of the key {key:?}")));
            }
            if !has_picture_keys {
                return Err(unsupported("settings that are not in its file"));
            }
        }
        let name = name.to_owned();
        Self { name, keys }.checked().map(Some)
    }

    fn of_timm(config: &Map<String, Json>) -> Result<Self, ProcessorError> {
        let mut known = Map::new();
        let names = [
            ("interpolation", "resample"),
            ("crop_pct", "crop_pct"),
            ("crop_mode", "crop_mode"),
            ("mean", "image_mean"),
            ("std", "image_std"),
        ];
        for (theirs, ours) in names {
            if let Some(value) = config.get(theirs).filter(|value| !value.is_null()) {
                known.insert(ours.to_owned(), value.clone());
            }
        }
        let mut keys = ImageKeys::of_file(&known)?;
        keys.size = sizes(config, "input_size")?.map(SizeKey::from);
        keys.test_size = sizes(config, "test_input_size")?;
        keys.test_crop_pct = config.get("test_crop_pct").and_then(Json::as_f64).map(Real);
        let name = TIMM.to_owned();
        Self { name, keys }.checked()
    }
}

/// Whether [`ImageKeys`] has the step of this key.
fn is_known_key(key: &str) -> bool {
    matches!(
        key,
        "do_resize" | "do_center_crop" | "do_rescale" | "do_normalize" | "do_pad" | "do_flip_channel_order"
    )
}

/// Reads height and width of timm's `[channels, height, width]`.
fn sizes(config: &Map<String, Json>, key: &str) -> Result<Option<Size>, ProcessorError> {
    let Some(value) = config.get(key).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    match serde_json::from_value::<[u32; 3]>(value.clone()) {
        Ok([_, height, width]) => Ok(Some(Size { height, width })),
        Err(_) => Err(ProcessorError::value(key, "expected [channels, height, width]")),
    }
}

fn object(text: &str) -> Result<Map<String, Json>, ProcessorError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match serde_json::from_str(text) {
        Ok(Json::Object(object)) => Ok(object),
        Ok(_) => Err(ProcessorError::NotAnObject),
        Err(error) => Err(ProcessorError::Json(error.to_string())),
    }
}
