//! Recognises the family of networks that wrote the boxes.

use super::{AnswerSettings, Context, Output, OutputInfo, Relative, Search, TASK, TaskError, detr, separate, yolo};
use super::{Candidate, tensor};
use crate::task::settings::{BoxFamily, BoxLayout, BoxUnit, Function};

/// Maximum boxes of a network after suppression. One that writes more has not suppressed any.
const MOST_SUPPRESSED: usize = 1000;

const EXPECTED: &str = "logits and pred_boxes; or one output of shape [records, boxes, 5 + classes], \
                        [records, 4 + classes, boxes] or [records, boxes, 6]; or boxes, scores and labels";

/// A family, with the positions of its outputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Family {
    Detr {
        logits: usize,
        boxes: usize,
        is_sigmoid: bool,
    },
    /// A row for each box. `classes` is the number of classes, if it is known.
    YoloV5 {
        output: usize,
        classes: Option<usize>,
        unit: BoxUnit,
    },
    YoloV8 {
        output: usize,
        classes: Option<usize>,
        unit: BoxUnit,
    },
    EndToEnd {
        output: usize,
        unit: BoxUnit,
    },
    Separate {
        boxes: usize,
        scores: usize,
        classes: Option<usize>,
        count: Option<usize>,
        layout: BoxLayout,
        unit: BoxUnit,
        /// Whether each box has a score for each class.
        is_by_class: bool,
    },
}

/// Reads the candidates of a record.
pub(super) enum Reader<'a> {
    Detr(detr::Detr<'a>),
    Yolo(yolo::Yolo<'a>),
    Separate(Box<separate::Separate<'a>>),
}

impl Reader<'_> {
    /// Returns the candidates of a record whose scores exceed `threshold`.
    pub fn read(&mut self, record: usize, threshold: f32) -> Result<Vec<Candidate>, TaskError> {
        match self {
            Self::Detr(detr) => detr.read(record, threshold),
            Self::Yolo(yolo) => yolo.read(record, threshold),
            Self::Separate(separate) => separate.read(record, threshold),
        }
    }

    pub fn relative(&self) -> Relative {
        match self {
            Self::Detr(_) => Relative::PartsOfOriginal,
            Self::Yolo(yolo) => yolo.relative,
            Self::Separate(separate) => separate.relative,
        }
    }
}

impl Family {
    /// Recognises the family of these outputs. `labels` is the number of classes with names, or 0.
    pub fn recognise(infos: &[OutputInfo<'_>], settings: &AnswerSettings, labels: usize) -> Result<Self, TaskError> {
        let search = Search {
            task: TASK,
            settings,
            names: &[],
            expected: EXPECTED,
        };
        match settings.boxes {
            Some(BoxFamily::Detr) => {
                let found = detr(infos, settings, labels);
                found.ok_or_else(|| search.refusal(infos, "there are no logits and pred_boxes".to_owned()))
            }
            Some(BoxFamily::Separate) => {
                let found = separated(infos, settings);
                found.ok_or_else(|| search.refusal(infos, "there are no boxes and scores".to_owned()))
            }
            Some(family) => one(infos, &search, settings, labels, Some(family)),
            None => match detr(infos, settings, labels).or_else(|| separated(infos, settings)) {
                Some(family) => Ok(family),
                None => one(infos, &search, settings, labels, None),
            },
        }
    }

    pub fn usual_threshold(&self) -> f64 {
        match self {
            Self::Detr { .. } | Self::Separate { .. } => 0.5,
            Self::YoloV5 { .. } | Self::YoloV8 { .. } | Self::EndToEnd { .. } => 0.25,
        }
    }

    /// The overlap above which the box with the lower score is dropped; `None` if the graph
    /// suppresses boxes.
    pub fn overlap(&self, settings: &AnswerSettings) -> Option<f64> {
        let usual = match self {
            Self::Detr { .. } | Self::EndToEnd { .. } => None,
            Self::YoloV8 { .. } => Some(0.7),
            Self::YoloV5 { .. } => Some(0.45),
            Self::Separate { is_by_class, .. } => is_by_class.then_some(0.45),
        };
        settings.iou_threshold.or(usual)
    }

    pub fn reader<'a>(self, outputs: &[Output<'a>], context: &Context<'_>) -> Result<Reader<'a>, TaskError> {
        let records = context.records;
        let of = |at| tensor(TASK, outputs, at);
        let relative = |unit| match unit {
            BoxUnit::Pixels => Relative::Input,
            BoxUnit::Parts => Relative::PartsOfInput,
        };
        Ok(match self {
            Self::Detr {
                logits,
                boxes,
                is_sigmoid,
            } => Reader::Detr(detr::Detr::new(of(logits)?, of(boxes)?, records, is_sigmoid)?),
            Self::YoloV5 { output, classes, unit } => {
                let form = yolo::Form::Rows { classes };
                Reader::Yolo(yolo::Yolo::new(of(output)?, records, form, relative(unit))?)
            }
            Self::YoloV8 { output, classes, unit } => {
                let form = yolo::Form::Columns { classes };
                Reader::Yolo(yolo::Yolo::new(of(output)?, records, form, relative(unit))?)
            }
            Self::EndToEnd { output, unit } => Reader::Yolo(yolo::Yolo::new(
                of(output)?,
                records,
                yolo::Form::Finished,
                relative(unit),
            )?),
            Self::Separate {
                boxes,
                scores,
                classes,
                count,
                layout,
                unit,
                is_by_class,
            } => {
                let parts = separate::Parts {
                    boxes: of(boxes)?,
                    scores: of(scores)?,
                    classes: classes.map(of).transpose()?,
                    count: count.map(of).transpose()?,
                };
                let separate = separate::Separate::new(parts, records, layout, relative(unit), is_by_class)?;
                Reader::Separate(Box::new(separate))
            }
        })
    }
}

fn position(infos: &[OutputInfo<'_>], names: &[&str]) -> Option<usize> {
    names
        .iter()
        .find_map(|name| infos.iter().position(|info| info.plain_name() == *name))
}

/// The first output with one of these names, if it matches.
fn named(infos: &[OutputInfo<'_>], names: &[&str], fits: impl Fn(&OutputInfo<'_>) -> bool) -> Option<usize> {
    position(infos, names).filter(|&at| fits(&infos[at]))
}

fn detr(infos: &[OutputInfo<'_>], settings: &AnswerSettings, labels: usize) -> Option<Family> {
    let is_number = |info: &OutputInfo<'_>| info.is_number() && info.may_have_rank(3);
    let boxes = named(infos, &["predboxes"], |info| is_number(info) && info.may_have_dim(2, 4))?;
    let logits = named(infos, &["logits", "predlogits", "scores"], is_number)?;
    // All other networks have a class for "none".
    let is_sigmoid = match settings.function_to_apply {
        Some(Function::Sigmoid) => true,
        Some(Function::Softmax | Function::None) => false,
        None => labels > 0 && infos[logits].last_dim() == Some(labels),
    };
    Some(Family::Detr {
        logits,
        boxes,
        is_sigmoid,
    })
}

fn separated(infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Option<Family> {
    let has_four = |info: &OutputInfo<'_>| {
        let rank = info.may_have_rank(3) || info.may_have_rank(2);
        info.is_number() && rank && info.last_dim().is_none_or(|size| size == 4)
    };
    let boxes = named(
        infos,
        &["boxes", "detectionboxes", "detboxes", "bboxes", "bbox", "predboxes"],
        has_four,
    )?;
    let scores = named(
        infos,
        &["scores", "detectionscores", "detscores", "score", "confidences"],
        |info| info.is_float(),
    )?;
    let classes = named(
        infos,
        &[
            "labels",
            "classes",
            "detectionclasses",
            "detclasses",
            "classids",
            "label",
        ],
        |info| info.is_number(),
    );
    let rank = |at: usize| infos[at].dims.as_ref().map(Vec::len);
    let is_by_class = rank(scores).is_some() && rank(scores) == rank(boxes);
    if classes.is_none() && !is_by_class {
        return None;
    }
    let count = named(infos, &["numdetections", "numdets", "numboxes"], |info| {
        info.is_number()
    });
    // TensorFlow's models have the vertical coordinate first, as fractions of the image.
    let is_tensorflow = infos[boxes].plain_name() == "detectionboxes";
    let usual = match is_tensorflow {
        true => (BoxLayout::CornersRowFirst, BoxUnit::Parts),
        false => (BoxLayout::Corners, BoxUnit::Pixels),
    };
    Some(Family::Separate {
        boxes,
        scores,
        classes,
        count,
        layout: settings.box_layout.unwrap_or(usual.0),
        unit: settings.box_unit.unwrap_or(usual.1),
        is_by_class,
    })
}

/// Recognises the family of a network with a single output.
fn one(
    infos: &[OutputInfo<'_>],
    search: &Search<'_>,
    settings: &AnswerSettings,
    labels: usize,
    family: Option<BoxFamily>,
) -> Result<Family, TaskError> {
    let output = search.find(infos, |info| info.is_float() && info.may_have_rank(3))?;
    let info = &infos[output];
    let unit = settings.box_unit.unwrap_or(BoxUnit::Pixels);
    let classes = (labels > 0).then_some(labels);
    let (rows, columns) = (info.dim(1), info.dim(2));
    let refuse = |problem: &str| Err(search.refusal(infos, format!("its shape does not match {problem}")));
    let is_less = |one: Option<usize>, other: Option<usize>| matches!((one, other), (Some(a), Some(b)) if a < b);
    let family = match family {
        Some(family) => family,
        None if columns == Some(6) => {
            // A row of six numbers is either corners, score and class, or centre, size,
            // objectness and one class.
            let is_one_class = labels <= 1 && rows.is_some_and(|rows| rows > MOST_SUPPRESSED);
            match is_one_class {
                true => BoxFamily::YoloV5,
                false => BoxFamily::EndToEnd,
            }
        }
        None if columns.is_some() && columns == classes.map(|count| count + 5) => BoxFamily::YoloV5,
        None if rows.is_some() && rows == classes.map(|count| count + 4) => BoxFamily::YoloV8,
        None if is_less(rows, columns) || (rows.is_some() && columns.is_none()) => BoxFamily::YoloV8,
        // All dimensions are dynamic: any row of numbers may belong to this family; the run
        // decides.
        None => BoxFamily::YoloV5,
    };
    match family {
        BoxFamily::EndToEnd if columns.is_some_and(|size| size < 6) => refuse("end-to-end"),
        BoxFamily::YoloV5 if columns.is_some_and(|size| size < 6) => refuse("yolov5"),
        BoxFamily::YoloV8 if rows.is_some_and(|size| size < 5) => refuse("yolov8"),
        BoxFamily::EndToEnd => Ok(Family::EndToEnd { output, unit }),
        BoxFamily::YoloV8 => Ok(Family::YoloV8 { output, classes, unit }),
        BoxFamily::YoloV5 | BoxFamily::Detr | BoxFamily::Separate => Ok(Family::YoloV5 { output, classes, unit }),
    }
}
