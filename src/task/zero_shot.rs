//! Zero-shot classification: the degree to which a text implies the sentence of each label.
//!
//! The network classifies whether the first text of a pair implies the second. There is a pair of
//! the text and each label. The scores are the softmax over the labels; if several labels may
//! apply, the softmax over "entailment" and "contradiction" for each label separately.

use super::answer::{Body, ZeroShot};
use super::context::Question;
use super::outputs::{Output, OutputInfo, Rows, Search, tensor};
use super::scores::{softmax, top};
use super::{Answer, AnswerSettings, Context, Task, TaskError};

const TASK: Task = Task::ZeroShotClassification;

fn find(infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Result<usize, TaskError> {
    let search = Search {
        task: TASK,
        settings,
        names: &["logits", "output"],
        expected: "one output of numbers of shape [pairs, 2 or more], with a label that begins with \"entail\"",
    };
    search.find(infos, |info| {
        info.is_number() && info.may_have_rank(2) && info.dim(1).is_none_or(|classes| classes > 1)
    })
}

pub(super) fn check(infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Result<(), TaskError> {
    find(infos, settings).map(drop)
}

pub(super) fn answer(outputs: &[Output<'_>], context: &Context<'_>) -> Result<Answer, TaskError> {
    let missing = |what| TaskError::Context { task: TASK, what };
    let at = find(&OutputInfo::given(outputs), context.settings)?;
    let candidates = context.settings.candidate_labels.as_deref().unwrap_or_default();
    if candidates.is_empty() {
        let problem = "candidate_labels: expected a list of labels in \"parameters\"";
        return Err(TaskError::Input(problem.to_owned()));
    }
    let Question::ZeroShot { sequences } = context.question else {
        return Err(missing("the texts that were paired with the labels"));
    };
    if sequences.len().checked_mul(candidates.len()) != Some(context.records) {
        return Err(missing("a pair for each text and label"));
    }
    let mut rows = Rows::new(TASK, tensor(TASK, outputs, at)?, context.records, 1)?;
    let classes = rows.width();
    // Without a named class, the last class is the entailment, as in transformers.
    let named = context
        .labels
        .position(|name| name.to_lowercase().starts_with("entail"));
    let entailment = named.filter(|&at| at < classes).unwrap_or(classes.saturating_sub(1));
    let contradiction = if entailment == 0 { classes.saturating_sub(1) } else { 0 };
    let is_each = context.settings.multi_label == Some(true) || candidates.len() == 1;
    let mut records = Vec::new();
    for (text, &sequence) in sequences.iter().enumerate() {
        let mut scores = Vec::with_capacity(candidates.len());
        for label in 0..candidates.len() {
            let row = rows.row(text * candidates.len() + label)?;
            let logit = |class: usize| row.get(class).copied().unwrap_or(f32::NAN);
            let mut pair = [logit(contradiction), logit(entailment)];
            if is_each {
                softmax(&mut pair);
            }
            scores.push(pair[1]);
        }
        if !is_each {
            softmax(&mut scores);
        }
        let best = top(&scores, scores.len());
        records.push(ZeroShot {
            sequence: sequence.to_owned(),
            labels: best.iter().map(|&at| candidates[at].clone()).collect(),
            scores: best.iter().map(|&at| scores[at]).collect(),
        });
    }
    Ok(Answer::new(TASK, context.labels, Body::ZeroShot(records)))
}
