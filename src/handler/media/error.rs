//! Why a picture, a sentence or a sound became no inputs, and outputs became no answer.

use crate::audio::AudioError;
use crate::codec::DecodeError;
use crate::engine::NoRoom;
use crate::task::TaskError;
use crate::text::TextError;
use crate::text::request::RequestError;
use crate::vision::VisionError;

/// The reasons, by the step that has them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MediaError {
    #[error("the body holds no file that can be read: {0}")]
    Body(String),
    #[error("{0}")]
    Request(String),
    #[error("{}{source}{}", .of.map(|number| format!("picture {number}: ")).unwrap_or_default(), picture_knob(source))]
    Picture {
        /// Which one, where there are several.
        of: Option<usize>,
        source: VisionError,
    },
    #[error(
        "the pictures of one request become tensors of different shapes; send one at a time, or set \"size\" in the \
         manifest's \"image\""
    )]
    DifferentShapes,
    #[error("{_0}{}", request_knob(_0))]
    TextRequest(#[from] RequestError),
    #[error("{_0}{}", text_knob(_0))]
    Text(#[from] TextError),
    #[error("{}{source}{}", .of.map(|number| format!("sound {number}: ")).unwrap_or_default(), sound_knob(source))]
    Sound { of: Option<usize>, source: AudioError },
    #[error("the model takes no {kind}: {why}")]
    NotUnderstood { kind: &'static str, why: String },
    #[error(transparent)]
    Task(#[from] TaskError),
    #[error(transparent)]
    Inputs(#[from] DecodeError),
    #[error("there is no memory left for the request: {0}")]
    NoRoom(#[from] NoRoom),
}

/// The option of the server that sets the bound which a picture is over.
fn picture_knob(error: &VisionError) -> &'static str {
    match error {
        VisionError::TooManyPixels { .. } => " (--max-pixels)",
        _ => "",
    }
}

fn text_knob(error: &TextError) -> &'static str {
    match error {
        TextError::TooLarge { what, .. } if what.starts_with("tokens") => " (--max-tokens)",
        TextError::TooLarge { what, .. } if what.starts_with("bytes") => " (--max-text)",
        _ => "",
    }
}

fn sound_knob(error: &AudioError) -> &'static str {
    match error {
        AudioError::TooLarge { what, .. } if what.contains("samples") => " (--max-samples)",
        _ => "",
    }
}

fn request_knob(error: &RequestError) -> &'static str {
    match error {
        RequestError::TooLarge { what, .. } if what.starts_with("bytes") => " (--max-text)",
        _ => "",
    }
}
