//! Classification of images, texts and sounds: the best labels with their scores.
//!
//! | outputs | scores |
//! |---|---|
//! | named `probabilities`, `probs`, `scores`, `softmax..` | unchanged |
//! | of a regression | unchanged |
//! | one column, or a model of several labels for a record | the sigmoid of each |
//! | others | the softmax of the row |
//!
//! Only the name of the output decides whether its numbers are probabilities, because logits may
//! look like probabilities by chance. If the name is not clear, set `function_to_apply`. Sounds
//! use the softmax even if a record may have several labels, as in transformers.

use super::answer::Scored;
use super::outputs::{Output, OutputInfo, Rows, Search, tensor};
use super::scores::{sigmoid, softmax, top};
use super::settings::{Function, ProblemType, TopK};
use super::{Answer, AnswerSettings, Context, Task, TaskError, answer::Body};

const EXPECTED: &str = "one output of numbers of shape [records, classes]";

/// Finds the output to read.
fn find(task: Task, infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Result<usize, TaskError> {
    let search = Search {
        task,
        settings,
        names: &["logits", "probabilities", "probs", "scores", "output", "outputs"],
        expected: EXPECTED,
    };
    search.find(infos, |info| info.is_number() && is_row(info))
}

/// Whether a record has one axis, not counting axes of size 1 after it.
fn is_row(info: &OutputInfo<'_>) -> bool {
    let Some(dims) = &info.dims else { return true };
    let others = dims.iter().skip(2);
    !dims.is_empty() && others.into_iter().all(|dim| dim.is_none_or(|size| size == 1))
}

pub(super) fn check(task: Task, infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Result<(), TaskError> {
    find(task, infos, settings).map(drop)
}

pub(super) fn answer(task: Task, outputs: &[Output<'_>], context: &Context<'_>) -> Result<Answer, TaskError> {
    let infos = OutputInfo::given(outputs);
    let at = find(task, &infos, context.settings)?;
    let mut rows = Rows::new(task, tensor(task, outputs, at)?, context.records, 1)?;
    let function = function(task, &infos[at], rows.width(), context.settings);
    // The pipeline for texts returns one label for a record, without a list, unless `top_k` is
    // set.
    let is_flat = task == Task::TextClassification && context.settings.top_k.is_none();
    let most = match (context.settings.top_k, task) {
        (Some(top_k), _) => top_k.of(rows.width()),
        (None, Task::TextClassification) => 1.min(rows.width()),
        (None, _) => 5.min(rows.width()),
    };
    let mut records = Vec::new();
    let mut scores = Vec::new();
    for row in 0..rows.count() {
        scores.clear();
        scores.extend_from_slice(rows.row(row)?);
        apply(function, &mut scores);
        let best = top(&scores, most).into_iter();
        records.push(
            best.map(|class| Scored {
                class,
                score: scores[class],
            })
            .collect(),
        );
    }
    Ok(Answer::new(task, context.labels, Body::Labels { records, is_flat }))
}

pub(super) fn apply(function: Function, row: &mut [f32]) {
    match function {
        Function::Softmax => softmax(row),
        Function::Sigmoid => row.iter_mut().for_each(|number| *number = sigmoid(*number)),
        Function::None => {}
    }
}

fn function(task: Task, info: &OutputInfo<'_>, classes: usize, settings: &AnswerSettings) -> Function {
    let is_audio = task == Task::AudioClassification;
    match settings.function_to_apply {
        Some(function) => function,
        None if are_probabilities(info) => Function::None,
        None if settings.problem_type == Some(ProblemType::Regression) && !is_audio => Function::None,
        None if classes == 1 => Function::Sigmoid,
        None if settings.problem_type == Some(ProblemType::MultiLabel) && !is_audio => Function::Sigmoid,
        None => Function::Softmax,
    }
}

/// Whether the name of an output indicates probabilities.
pub(super) fn are_probabilities(info: &OutputInfo<'_>) -> bool {
    let name = info.plain_name();
    name.contains("prob") || name.contains("softmax") || name.contains("sigmoid") || name == "scores" || name == "score"
}

/// Maximum entries: `top_k`, or `usual` by default.
pub(super) fn most(settings: &AnswerSettings, usual: usize, count: usize) -> usize {
    match settings.top_k {
        Some(top_k) => TopK::of(top_k, count),
        None => usual.min(count),
    }
}
