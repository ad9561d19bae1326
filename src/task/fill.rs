//! Fill-mask: the best tokens in place of a mask.
//!
//! A text with one mask gets a list of tokens. A text with several gets a list for each, in which
//! the sequences keep the other masks. A text without a mask is refused, as in transformers.

use super::answer::{Body, Fill};
use super::classify::most;
use super::context::{Tokens, Vocabulary};
use super::error::excerpt;
use super::outputs::{Output, OutputInfo, Rows, Search, tensor};
use super::scores::{softmax, top};
use super::{Answer, AnswerSettings, Context, Task, TaskError};

const TASK: Task = Task::FillMask;

/// Maximum tokens in the answer for one text. Each comes with the text around it, so a small
/// request could otherwise cause a large answer.
const MOST: usize = 4096;

fn find(infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Result<usize, TaskError> {
    let search = Search {
        task: TASK,
        settings,
        names: &["logits", "predictionscores", "output"],
        expected: "one output of numbers of shape [records, tokens, vocabulary]",
    };
    search.find(infos, |info| info.is_number() && info.may_have_rank(3))
}

pub(super) fn check(infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Result<(), TaskError> {
    find(infos, settings).map(drop)
}

pub(super) fn answer(outputs: &[Output<'_>], context: &Context<'_>) -> Result<Answer, TaskError> {
    let missing = |what| TaskError::Context { task: TASK, what };
    let at = find(&OutputInfo::given(outputs), context.settings)?;
    let tensor = tensor(TASK, outputs, at)?;
    let &[_, length, classes] = tensor.shape() else {
        return Err(missing("scores for each token"));
    };
    let vocabulary = context.vocabulary.ok_or_else(|| missing("a tokenizer"))?;
    let Some((mask, mask_token)) = vocabulary.mask() else {
        return Err(TaskError::Unsupported("the tokenizer has no mask token".to_owned()));
    };
    let targets = targets(context.settings, vocabulary)?;
    let choices = targets.as_ref().map_or(classes, Vec::len);
    let most = most(context.settings, 5, choices);
    let mut rows = Rows::new(TASK, tensor, context.records, 2)?;
    let mut records = Vec::new();
    for row in 0..context.records {
        let tokens = context.tokens.get(row).filter(|tokens| tokens.ids.len() == length);
        let tokens = tokens.ok_or_else(|| missing("the ids of all tokens"))?;
        let masks: Vec<usize> = (0..length)
            .filter(|&at| tokens.ids[at] == mask && tokens.is_attended(at))
            .collect();
        if masks.is_empty() {
            return Err(TaskError::Input(format!(
                "text {} has no mask; write {} in place of the word to guess",
                row + 1,
                excerpt(&mask_token)
            )));
        }
        if masks.len().saturating_mul(most) > MOST {
            return Err(TaskError::Input(format!(
                "top_k: {most} tokens for each of {} masks, at most {MOST} tokens allowed for one text",
                masks.len()
            )));
        }
        let mut fills = Vec::new();
        for &place in &masks {
            let start = (row * length + place) * classes;
            let mut scores = rows.part(start..start + classes)?.to_vec();
            softmax(&mut scores);
            fills.push(best(
                tokens,
                place,
                &scores,
                targets.as_deref(),
                most,
                masks.len() == 1,
                vocabulary,
            ));
        }
        records.push(fills);
    }
    Ok(Answer::new(TASK, context.labels, Body::Fills(records)))
}

/// The best tokens for one mask.
fn best(
    tokens: &Tokens<'_>,
    place: usize,
    scores: &[f32],
    targets: Option<&[u32]>,
    most: usize,
    is_single: bool,
    vocabulary: &dyn Vocabulary,
) -> Vec<Fill> {
    let chosen: Vec<(u32, f32)> = match targets {
        None => {
            let best = top(scores, most).into_iter();
            best.filter_map(|at| Some((u32::try_from(at).ok()?, scores[at])))
                .collect()
        }
        Some(targets) => {
            let of = |&id: &u32| scores.get(id as usize).copied().unwrap_or(f32::NAN);
            let own: Vec<f32> = targets.iter().map(of).collect();
            top(&own, most).into_iter().map(|at| (targets[at], own[at])).collect()
        }
    };
    let padding = vocabulary.padding();
    let mut ids: Vec<u32> = tokens.ids.to_vec();
    let fill = |(token, score)| {
        ids[place] = token;
        let kept = ids.iter().copied().filter(|&id| Some(id) != padding);
        let kept: Vec<u32> = kept.collect();
        Fill {
            score,
            token,
            token_text: vocabulary.decode(&[token], false),
            sequence: vocabulary.decode(&kept, is_single),
        }
    };
    chosen.into_iter().map(fill).collect()
}

/// The ids of the `targets` setting, without duplicates.
fn targets(settings: &AnswerSettings, vocabulary: &dyn Vocabulary) -> Result<Option<Vec<u32>>, TaskError> {
    let Some(targets) = &settings.targets else {
        return Ok(None);
    };
    let id = |target: &String| vocabulary.id(target).or_else(|| vocabulary.first_id(target));
    let mut ids: Vec<u32> = targets.iter().filter_map(id).collect();
    ids.sort_unstable();
    ids.dedup();
    match ids.is_empty() {
        true => Err(TaskError::Input("targets: none is a token of this model".to_owned())),
        false => Ok(Some(ids)),
    }
}
