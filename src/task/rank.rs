//! Ranking by cross-encoders: a score for each pair of a query and a text.
//!
//! The score is the sigmoid of the single logit, or the logit itself with `raw_scores`. The texts
//! of a query are sorted by score, each with its position in the request, as in
//! text-embeddings-inference. Scores of separate pairs are in the order of the request.

use super::answer::{Body, Ranked};
use super::classify::{apply, are_probabilities, most};
use super::outputs::{Output, OutputInfo, Rows, Search, tensor};
use super::scores::top;
use super::settings::Function;
use super::{Answer, AnswerSettings, Context, Task, TaskError};

const TASK: Task = Task::TextRanking;

fn find(infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Result<usize, TaskError> {
    let search = Search {
        task: TASK,
        settings,
        names: &["logits", "scores", "score"],
        expected: "one output of numbers of shape [pairs, 1]",
    };
    search.find(infos, |info| {
        let others = |dims: &Vec<Option<usize>>| dims.iter().skip(1).all(|dim| dim.is_none_or(|size| size == 1));
        info.is_number() && info.dims.as_ref().is_none_or(|dims| !dims.is_empty() && others(dims))
    })
}

pub(super) fn check(infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Result<(), TaskError> {
    find(infos, settings).map(drop)
}

pub(super) fn answer(outputs: &[Output<'_>], context: &Context<'_>) -> Result<Answer, TaskError> {
    let infos = OutputInfo::given(outputs);
    let at = find(&infos, context.settings)?;
    let mut rows = Rows::new(TASK, tensor(TASK, outputs, at)?, context.records, 1)?;
    let function = match (context.settings.raw_scores, context.settings.function_to_apply) {
        (Some(true), _) => Function::None,
        (_, Some(Function::None)) => Function::None,
        (None | Some(false), None) if are_probabilities(&infos[at]) => Function::None,
        // A softmax of a single number would always be 1.
        _ => Function::Sigmoid,
    };
    let count = rows.count() * rows.width();
    let mut scores = rows.part(0..count)?.to_vec();
    apply(function, &mut scores);
    Ok(Answer::new(TASK, context.labels, Body::Scores(scores)).conclude(context))
}

/// The texts of a query, sorted by score, best first.
pub(super) fn ranking(scores: &[f32], texts: &[&str], settings: &AnswerSettings) -> Vec<Ranked> {
    let has_texts = settings.return_text == Some(true);
    let best = top(scores, most(settings, scores.len(), scores.len()));
    let ranked = best.into_iter().map(|index| Ranked {
        index,
        score: scores[index],
        text: texts.get(index).filter(|_| has_texts).map(|&text| text.to_owned()),
    });
    ranked.collect()
}
