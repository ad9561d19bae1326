//! Object detection: boxes with labels, in pixels of the original image.
//!
//! | `boxes` | outputs | reference |
//! |---|---|---|
//! | `detr` | `logits` [N, queries, classes], `pred_boxes` | transformers |
//! | `yolov5` | [N, boxes, 5 + classes] | YOLOv5 |
//! | `yolov8` | [N, 4 + classes, boxes] | YOLOv8 |
//! | `end-to-end` | [N, boxes, 6]: corners, score, class | YOLOv10 |
//! | `separate` | boxes, scores and classes, found by name | torchvision, SSD |
//!
//! Scores of `detr` are a softmax whose last class is "none". With as many classes as labels
//! (RT-DETR, Deformable DETR) they are sigmoids, and the best pairs of a query and a class are
//! returned. Scores of `yolov5` are objectness times class. Other scores are unchanged. Boxes of
//! `yolov5` and `yolov8` are suppressed here, and so are those of `separate` with scores by class.
//! The other graphs suppress boxes themselves; setting `iou_threshold` suppresses them again.
//!
//! The family is recognised by names and shapes; if several match, by the number of labels.
//! `threshold` is 0.5 by default and 0.25 for the three YOLO forms, `iou_threshold` 0.7 for
//! `yolov8`, else 0.45. Boxes of `detr` may extend beyond the image, as in transformers; the
//! others are clipped to it. Coordinates are truncated to integers, as in transformers.

mod detr;
mod family;
mod separate;
mod suppress;
mod yolo;

use family::Family;

use super::answer::{Body, Detection};
use super::context::PlacedPicture;
use super::outputs::{Output, OutputInfo, Rows, Search, floats, tensor};
use super::scores::top;
use super::settings::TopK;
use super::{Answer, AnswerSettings, Context, Task, TaskError};

const TASK: Task = Task::ObjectDetection;

/// Maximum boxes that are compared with each other, the best ones, as in the reference.
const MOST_COMPARED: usize = 30_000;
/// Maximum boxes in an answer after suppression, unless `top_k` is set, as in the reference.
const MOST_KEPT: usize = 300;

/// A box that may be part of the answer.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    /// Left, top, right, bottom.
    corners: [f32; 4],
    score: f32,
    class: usize,
}

/// The unit of the numbers of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relative {
    /// Pixels of the model's input.
    Input,
    /// Fractions of the model's input.
    PartsOfInput,
    /// Fractions of the original.
    PartsOfOriginal,
}

pub(super) fn check(infos: &[OutputInfo<'_>], settings: &AnswerSettings, labels: usize) -> Result<(), TaskError> {
    Family::recognise(infos, settings, labels).map(drop)
}

pub(super) fn answer(outputs: &[Output<'_>], context: &Context<'_>) -> Result<Answer, TaskError> {
    let infos = OutputInfo::given(outputs);
    let settings = context.settings;
    let family = Family::recognise(&infos, settings, context.labels.count())?;
    if context.pictures.len() != context.records {
        return Err(missing("the size of each image"));
    }
    let mut reader = family.reader(outputs, context)?;
    let threshold = settings.threshold.unwrap_or(family.usual_threshold()) as f32;
    let mut records = Vec::new();
    for (record, picture) in context.pictures.iter().enumerate() {
        let mut found = reader.read(record, threshold)?;
        if let Some(most_overlap) = family.overlap(settings) {
            if found.len() > MOST_COMPARED {
                let scores: Vec<f32> = found.iter().map(|candidate| candidate.score).collect();
                found = top(&scores, MOST_COMPARED).into_iter().map(|at| found[at]).collect();
            }
            let kept = settings.top_k.map_or(MOST_KEPT, |top_k| top_k.of(usize::MAX));
            found = suppress::suppress(found, most_overlap as f32, kept);
        } else if let Some(TopK::Most(most)) = settings.top_k {
            found.truncate(most.get());
        }
        let placed = found
            .into_iter()
            .map(|candidate| place(candidate, reader.relative(), *picture));
        records.push(placed.collect());
    }
    Ok(Answer::new(TASK, context.labels, Body::Boxes(records)))
}

fn missing(what: &'static str) -> TaskError {
    TaskError::Context { task: TASK, what }
}

/// Converts a candidate to pixels of the original image.
fn place(candidate: Candidate, relative: Relative, picture: &dyn PlacedPicture) -> Detection {
    let Candidate { corners, score, class } = candidate;
    let (width, height) = picture.size();
    let (width, height) = (width as f32, height as f32);
    let [left, top, right, bottom] = corners;
    let cut = |(x, y): (f32, f32)| (x.clamp(0.0, width), y.clamp(0.0, height));
    let ((left, top), (right, bottom)) = match relative {
        Relative::PartsOfOriginal => ((left * width, top * height), (right * width, bottom * height)),
        Relative::Input => (cut(picture.map_back(left, top)), cut(picture.map_back(right, bottom))),
        Relative::PartsOfInput => {
            let (all_width, all_height) = picture.input_size();
            let (all_width, all_height) = (all_width as f32, all_height as f32);
            (
                cut(picture.map_back(left * all_width, top * all_height)),
                cut(picture.map_back(right * all_width, bottom * all_height)),
            )
        }
    };
    // `as` converts NaN to 0, and saturates numbers that are too large.
    Detection {
        class,
        score,
        corners: [left, top, right, bottom].map(|number| number as i64),
    }
}

/// Converts a box from centre and size to corners.
fn corners([x, y, width, height]: [f32; 4]) -> [f32; 4] {
    [x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height]
}

/// Converts a number to a class.
fn class(number: f32) -> Option<usize> {
    // No model has more classes than `f32` can represent exactly.
    (0.0..16_777_216.0).contains(&number).then_some(number as usize)
}

#[cfg(test)]
pub(super) mod testing {
    //! Suppression, for property tests.

    use super::{Candidate, suppress};

    /// Corners, score and class.
    pub type Box = ([f32; 4], f32, usize);

    /// Left and top, width and height, score and class.
    pub type Placed = ((f32, f32), (f32, f32), f32, usize);

    pub fn candidates(boxes: &[Placed]) -> Vec<Box> {
        let corners = |(x, y): (f32, f32), (width, height): (f32, f32)| [x, y, x + width, y + height];
        let all = boxes.iter();
        all.map(|&(at, size, score, class)| (corners(at, size), score, class))
            .collect()
    }

    pub fn suppress(boxes: &[Box], most_overlap: f32, most: usize) -> Vec<Box> {
        let candidates = boxes
            .iter()
            .map(|&(corners, score, class)| Candidate { corners, score, class });
        let kept = suppress::suppress(candidates.collect(), most_overlap, most).into_iter();
        kept.map(|candidate| (candidate.corners, candidate.score, candidate.class))
            .collect()
    }

    pub fn overlap(one: &Box, other: &Box) -> f32 {
        suppress::overlap(&one.0, &other.0)
    }
}
