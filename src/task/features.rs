//! Feature extraction: the first output of a network, as nested arrays.
//!
//! The rows of padding are removed, so that the answer to a text does not depend on the other
//! texts of the request. As in transformers, the answer to each record has an axis of size 1
//! around it.

use super::answer::{Body, Features};
use super::outputs::{Output, OutputInfo, Search, tensor};
use super::{Answer, AnswerSettings, Context, Task, TaskError};

const TASK: Task = Task::FeatureExtraction;

fn find(infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Result<usize, TaskError> {
    let search = Search {
        task: TASK,
        settings,
        names: &[
            "lasthiddenstate",
            "tokenembeddings",
            "sentenceembedding",
            "embeddings",
            "imageembeds",
            "textembeds",
        ],
        expected: "one output of numbers with a row for each record",
    };
    search.find(infos, |info| {
        info.is_number() && info.dims.as_ref().is_none_or(|dims| dims.len() > 1)
    })
}

pub(super) fn check(infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Result<(), TaskError> {
    find(infos, settings).map(drop)
}

pub(super) fn answer(outputs: &[Output<'_>], context: &Context<'_>) -> Result<Answer, TaskError> {
    let at = find(&OutputInfo::given(outputs), context.settings)?;
    let tensor = tensor(TASK, outputs, at)?;
    let shape = tensor.shape();
    if shape.first() != Some(&context.records) {
        return Err(TaskError::Context {
            task: TASK,
            what: "outputs with a row for each record",
        });
    }
    // If the lengths differ from those of the tokens, the rows are not token embeddings.
    let is_by_token = shape.len() == 3
        && context.tokens.len() == context.records
        && context.tokens.iter().all(|row| row.attention.len() == shape[1]);
    let kept = match is_by_token {
        false => None,
        true => {
            let attended = |row: &super::Tokens<'_>| (0..shape[1]).filter(|&at| row.is_attended(at)).collect();
            Some(context.tokens.iter().map(attended).collect())
        }
    };
    let features = Features {
        tensor: tensor.clone(),
        kept,
    };
    Ok(Answer::new(TASK, context.labels, Body::Features(features)))
}
