//! Errors of the conversion from images, sentences and sound to inputs, and from outputs to
//! answers.

use crate::audio::AudioError;
use crate::codec::DecodeError;
use crate::engine::NoRoom;
use crate::task::TaskError;
use crate::text::request::RequestError;
use crate::text::{TextError, TextLimit};
use crate::vision::VisionError;

/// Errors of reading media and answering, by the step that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MediaError {
    #[error("the files in the body cannot be read: {0}")]
    Body(String),
    #[error("{0}")]
    Request(String),
    #[error("{}{source}{}", .of.map(|number| format!("image {number}: ")).unwrap_or_default(), image_option(source))]
    Picture {
        /// The number of the image, if there are several.
        of: Option<usize>,
        source: VisionError,
    },
    #[error(
        "the images of one request become tensors of different shapes; send one at a time, or set \"size\" in the \
         manifest's \"image\""
    )]
    DifferentShapes,
    #[error("{_0}{}", request_option(_0))]
    TextRequest(#[from] RequestError),
    #[error("{_0}{}", text_option(_0))]
    Text(#[from] TextError),
    #[error("{}{source}{}", .of.map(|number| format!("sound {number}: ")).unwrap_or_default(), sound_option(source))]
    Sound { of: Option<usize>, source: AudioError },
    #[error("the model does not accept {kind}: {why}")]
    NotUnderstood { kind: &'static str, why: String },
    #[error(transparent)]
    Task(#[from] TaskError),
    #[error(transparent)]
    Inputs(#[from] DecodeError),
    #[error("not enough memory for the request: {0}")]
    NoRoom(#[from] NoRoom),
}

/// The server option for the limit that an image exceeds.
fn image_option(error: &VisionError) -> &'static str {
    match error {
        VisionError::TooManyPixels { .. } => " (--max-pixels)",
        _ => "",
    }
}

fn text_option(error: &TextError) -> &'static str {
    match error {
        TextError::TooLarge { exceeded, .. } => option(*exceeded),
        _ => "",
    }
}

fn request_option(error: &RequestError) -> &'static str {
    match error {
        RequestError::TooLarge { exceeded, .. } => option(*exceeded),
        _ => "",
    }
}

const fn option(exceeded: TextLimit) -> &'static str {
    match exceeded {
        TextLimit::TextBytes => " (--max-text)",
        TextLimit::Tokens => " (--max-tokens)",
        TextLimit::Texts | TextLimit::Fixed => "",
    }
}

fn sound_option(error: &AudioError) -> &'static str {
    match error {
        AudioError::TooLarge { what, .. } if what.contains("samples") => " (--max-samples)",
        _ => "",
    }
}
