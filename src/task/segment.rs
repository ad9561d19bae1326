//! Semantic segmentation: the class of each pixel of the original image.
//!
//! Logits are enlarged to the size of the original, then the best class of each pixel is taken, as
//! in transformers for SegFormer. A class map is enlarged by the nearest pixel. A single channel
//! is a yes or no for each pixel: class 1 if its sigmoid exceeds one half. If the model's input
//! had borders or was cropped, only the part that shows the original is enlarged.

mod enlarge;

use enlarge::Axis;

use super::answer::{Body, ClassMap};
use super::classify::are_probabilities;
use super::context::PlacedPicture;
use super::outputs::{Output, OutputInfo, Rows, Search, tensor};
use super::{Answer, AnswerSettings, Context, Task, TaskError};

const TASK: Task = Task::ImageSegmentation;

/// Maximum classes, because a map has 16 bits per pixel.
const MOST_CLASSES: usize = 1 << 16;

fn find(infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Result<usize, TaskError> {
    let search = Search {
        task: TASK,
        settings,
        names: &["logits", "output", "outputs", "out"],
        expected: "one output of floats of shape [records, classes, height, width], or of whole numbers of shape \
                   [records, height, width]; networks of masks and queries (MaskFormer, Mask2Former) are not supported",
    };
    if infos.iter().any(|info| info.plain_name() == "masksquerieslogits") {
        return Err(search.refusal(infos, "they are masks of queries".to_owned()));
    }
    search.find(infos, |info| {
        let is_map = info.is_integer() && (info.may_have_rank(3) || (info.may_have_rank(4) && info.may_have_dim(1, 1)));
        let is_logits = info.is_float() && info.may_have_rank(4);
        is_map || (is_logits && info.dim(1).is_none_or(|classes| (1..=MOST_CLASSES).contains(&classes)))
    })
}

pub(super) fn check(infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Result<(), TaskError> {
    find(infos, settings).map(drop)
}

pub(super) fn answer(outputs: &[Output<'_>], context: &Context<'_>) -> Result<Answer, TaskError> {
    let infos = OutputInfo::given(outputs);
    let at = find(&infos, context.settings)?;
    let tensor = tensor(TASK, outputs, at)?;
    let (classes, height, width) = match *tensor.shape() {
        [_, classes, height, width] if infos[at].is_float() => (Some(classes), height, width),
        [_, 1, height, width] | [_, height, width] => (None, height, width),
        _ => return Err(missing("a class or logits for each pixel")),
    };
    if context.pictures.len() != context.records {
        return Err(missing("the size of each image"));
    }
    let inner = tensor.shape().len() - 1;
    let mut rows = Rows::new(TASK, tensor, context.records, inner)?;
    let mut maps = Vec::new();
    for (record, picture) in context.pictures.iter().enumerate() {
        let (columns, lines) = axes(*picture, width, height)?;
        let numbers = rows.row(record)?;
        let map = match classes {
            Some(0) => return Err(missing("logits of one class or more")),
            Some(1) => {
                let bound = if are_probabilities(&infos[at]) { 0.5 } else { 0.0 };
                enlarge::exceeding(numbers, bound, &columns, &lines)?
            }
            Some(classes) => enlarge::best(numbers, classes, &columns, &lines)?,
            None => enlarge::nearest(numbers, &columns, &lines)?,
        };
        let (width, height) = picture.size();
        maps.push(ClassMap::new(width, height, map));
    }
    Ok(Answer::new(TASK, context.labels, Body::ClassMaps(maps)))
}

fn missing(what: &'static str) -> TaskError {
    TaskError::Context { task: TASK, what }
}

/// Maps the columns and rows of the original to the output.
fn axes(picture: &dyn PlacedPicture, width: usize, height: usize) -> Result<(Axis, Axis), TaskError> {
    let (all_width, all_height) = picture.size();
    let (input_width, input_height) = picture.input_size();
    let [left, top, right, bottom] = picture.content();
    let columns = Axis::new(all_width, width, (left, right), input_width)?;
    let lines = Axis::new(all_height, height, (top, bottom), input_height)?;
    Ok((columns, lines))
}
