//! Errors of images, which clients send, and of processors, which are part of artifacts.

use crate::vision::PictureFormat;

/// Errors of an image, by cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VisionError {
    #[error(
        "unknown image format; expected one of {}, but the bytes begin {head}",
        PictureFormat::names()
    )]
    NotAPicture { head: String },
    #[error("the image has {given} bytes, at most {limit} allowed")]
    TooManyBytes { given: u64, limit: u64 },
    #[error("the image has {width} x {height} = {} pixels, at most {limit} allowed", pixels(.width, .height))]
    TooManyPixels { width: u32, height: u32, limit: u64 },
    /// The file is truncated, contradicts itself, or is damaged.
    #[error("the {format} image cannot be read: {problem}")]
    Malformed { format: PictureFormat, problem: String },
    /// The file may be valid, but uses an unsupported feature.
    #[error("the {format} image uses {feature}, which is not supported")]
    Unsupported { format: PictureFormat, feature: String },
    /// The image is valid, but the processor cannot make a tensor of it.
    #[error("the image has {width} x {height} pixels: {problem}")]
    Shape { width: u32, height: u32, problem: String },
    /// Only this request fails.
    #[error("not enough memory for the image; try again later, or send a smaller one")]
    OutOfMemory,
}

impl VisionError {
    pub(super) fn malformed(format: PictureFormat, problem: impl Into<String>) -> Self {
        Self::Malformed {
            format,
            problem: bounded(problem.into()),
        }
    }

    pub(super) fn unsupported(format: PictureFormat, feature: impl Into<String>) -> Self {
        Self::Unsupported {
            format,
            feature: bounded(feature.into()),
        }
    }

    pub(super) fn truncated(format: PictureFormat) -> Self {
        Self::malformed(format, "the file is truncated")
    }
}

fn pixels(width: &u32, height: &u32) -> u64 {
    u64::from(*width) * u64::from(*height)
}

/// Maximum bytes of a problem, because decoders quote the file.
const PROBLEM_BYTES: usize = 240;

fn bounded(mut problem: String) -> String {
    if problem.len() > PROBLEM_BYTES {
        let end = (0..=PROBLEM_BYTES)
            .rev()
            .find(|&end| problem.is_char_boundary(end))
            .unwrap_or(0);
        problem.truncate(end);
        problem.push('…');
    }
    problem
}

/// Reasons why a preprocessor file cannot be used for an input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProcessorError {
    #[error("invalid JSON: {0}")]
    Json(String),
    #[error("expected a JSON object")]
    NotAnObject,
    /// An unknown key in the manifest. Files of other programs may have further keys.
    #[error("{key:?} is not a key of \"image\"{}", .nearest.as_ref().map(|known| format!("; did you mean {known:?}?")).unwrap_or_default())]
    UnknownKey { key: String, nearest: Option<String> },
    #[error("{key}: {problem}")]
    Value { key: String, problem: String },
    /// A processor of transformers has steps other than resize, crop, scale and pad.
    #[error("{name} needs {step}, which is not supported")]
    Unsupported { name: String, step: String },
    #[error("the model's input {input} cannot take images: {problem}")]
    Input { input: String, problem: String },
    #[error("the file makes images of {file}, but the model takes {model} (height x width)")]
    SizeMismatch { file: String, model: String },
    #[error("neither the file nor the model has an image size; set \"size\"")]
    OpenSize,
}

impl ProcessorError {
    pub(super) fn value(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Value {
            key: key.into(),
            problem: problem.into(),
        }
    }
}
