//! Question answering: the part of a text that answers a question.
//!
//! A long text has several overlapping rows of tokens. Each row has a probability for each token
//! to begin and to end the answer. The best pairs of all rows are the answers; pairs with the same
//! text are merged and their scores added, as in transformers.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::answer::{Body, Span};
use super::classify::most;
use super::context::{Characters, Question, Tokens};
use super::outputs::{Output, OutputInfo, Rows, Search, tensor};
use super::scores::{softmax, top};
use super::{Answer, AnswerSettings, Context, Task, TaskError};

const TASK: Task = Task::QuestionAnswering;
const EXPECTED: &str = "start_logits and end_logits of shape [records, tokens]";
/// The logit of a token that cannot be in an answer, as in transformers.
const NEVER: f32 = -10_000.0;
/// Maximum answers to one question. Each may be a long text.
const MOST: usize = 1024;

fn find(infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Result<(usize, usize), TaskError> {
    let search = |names| Search {
        task: TASK,
        settings,
        names,
        expected: EXPECTED,
    };
    let fits = |info: &OutputInfo<'_>| info.is_number() && info.may_have_rank(2);
    let named = |name: &str| {
        let position = infos.iter().position(|info| info.plain_name() == name && fits(info));
        position.ok_or_else(|| search(&[]).refusal(infos, format!("there is no {name}")))
    };
    let (start, end) = (named("startlogits"), named("endlogits"));
    let mut others = infos
        .iter()
        .enumerate()
        .filter(|(_, info)| fits(info))
        .map(|(at, _)| at);
    match (start, end) {
        (Ok(start), Ok(end)) => Ok((start, end)),
        // Without these names, the first two outputs are the logits.
        (start, _) => match (others.next(), others.next()) {
            (Some(first), Some(second)) => Ok((first, second)),
            _ => Err(start
                .err()
                .unwrap_or_else(|| search(&[]).refusal(infos, "there are fewer than two of them".to_owned()))),
        },
    }
}

pub(super) fn check(infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Result<(), TaskError> {
    find(infos, settings).map(drop)
}

pub(super) fn answer(outputs: &[Output<'_>], context: &Context<'_>) -> Result<Answer, TaskError> {
    let missing = |what| TaskError::Context { task: TASK, what };
    let (start, end) = find(&OutputInfo::given(outputs), context.settings)?;
    let settings = context.settings;
    let own: Vec<usize> = vec![1; context.records];
    let counts = match context.question {
        Question::Spans { rows } => rows,
        _ => own.as_slice(),
    };
    let all = counts.iter().sum();
    let mut starts = Rows::new(TASK, tensor(TASK, outputs, start)?, all, 1)?;
    let mut ends = Rows::new(TASK, tensor(TASK, outputs, end)?, all, 1)?;
    let length = starts.width();
    if ends.width() != length || context.tokens.len() != all {
        return Err(missing("a start and an end for each token"));
    }
    let wanted = most(settings, 1, usize::MAX);
    if wanted > MOST && wanted < usize::MAX {
        return Err(TaskError::Input(format!(
            "top_k: at most {MOST} answers to a question allowed"
        )));
    }
    let wanted = wanted.min(MOST);
    // Pairs within the same words become one answer, so more candidates are needed.
    let looked_at = match settings.align_to_words {
        Some(false) => wanted,
        None | Some(true) => 2 * wanted + 10,
    };
    let beginning = context.vocabulary.and_then(|vocabulary| vocabulary.beginning());
    let mut row = 0;
    let mut records = Vec::new();
    for &count in counts {
        let mut spans: Vec<Span> = Vec::new();
        let mut by_text = HashMap::new();
        let mut impossible = 1_000_000f32;
        for row in row..row + count {
            let tokens = &context.tokens[row];
            if tokens.ids.len() != length || tokens.offsets.len() != length || tokens.sequences.len() != length {
                return Err(missing("ids, offsets and sequences of all tokens"));
            }
            let allowed: Vec<bool> = (0..length).map(|at| is_allowed(tokens, at, beginning)).collect();
            let mut start = probabilities(starts.row(row)?, &allowed);
            let mut end = probabilities(ends.row(row)?, &allowed);
            if let (Some(start), Some(end)) = (start.first_mut(), end.first_mut()) {
                impossible = impossible.min(*start * *end);
                // The first token represents "no answer".
                (*start, *end) = (0.0, 0.0);
            }
            let longest = settings.max_answer_len.map_or(15, std::num::NonZeroUsize::get);
            let characters = Characters::new(tokens.text);
            for (first, last, score) in pairs(&start, &end, longest, looked_at) {
                if allowed[first] && allowed[last] {
                    add(
                        &mut spans,
                        &mut by_text,
                        span(tokens, &characters, first, last, score, settings),
                    );
                }
            }
        }
        row += count;
        if settings.handle_impossible_answer == Some(true) {
            spans.push(Span {
                score: impossible,
                start: 0,
                end: 0,
                answer: String::new(),
            });
        }
        spans.sort_by(|one, other| other.score.total_cmp(&one.score));
        spans.truncate(wanted);
        records.push(spans);
    }
    Ok(Answer::new(TASK, context.labels, Body::Spans(records)))
}

/// Whether a token may be in an answer: those of the second text, and the beginning token.
fn is_allowed(tokens: &Tokens<'_>, at: usize, beginning: Option<u32>) -> bool {
    let is_context = tokens.sequences[at] == Some(1);
    tokens.is_attended(at) && (is_context || (beginning.is_some() && beginning == Some(tokens.ids[at])))
}

fn probabilities(logits: &[f32], allowed: &[bool]) -> Vec<f32> {
    let masked = logits.iter().zip(allowed);
    let mut row: Vec<f32> = masked
        .map(|(&logit, &allowed)| if allowed { logit } else { NEVER })
        .collect();
    softmax(&mut row);
    row
}

/// The best pairs of a first and a last token, for spans of at most `longest` tokens.
fn pairs(start: &[f32], end: &[f32], longest: usize, wanted: usize) -> Vec<(usize, usize, f32)> {
    let longest = longest.min(end.len());
    let mut scores = Vec::new();
    let mut places = Vec::new();
    let mut best: Vec<(usize, usize, f32)> = Vec::new();
    // Only the best pairs of each start can be among the best of all, so a table of all pairs is
    // not needed.
    for (first, &begins) in start.iter().enumerate() {
        scores.clear();
        places.clear();
        for (last, &ends) in end.iter().enumerate().skip(first).take(longest) {
            scores.push(begins * ends);
            places.push(last);
        }
        best.extend(
            top(&scores, wanted)
                .into_iter()
                .map(|at| (first, places[at], scores[at])),
        );
        if best.len() > 2 * wanted.max(512) {
            keep_best(&mut best, wanted);
        }
    }
    keep_best(&mut best, wanted);
    best
}

fn keep_best(pairs: &mut Vec<(usize, usize, f32)>, wanted: usize) {
    pairs.sort_by(|one, other| other.2.total_cmp(&one.2));
    pairs.truncate(wanted);
}

fn span(
    tokens: &Tokens<'_>,
    characters: &Characters<'_>,
    first: usize,
    last: usize,
    score: f32,
    settings: &AnswerSettings,
) -> Span {
    let word = |at: usize| tokens.words.get(at).copied().flatten();
    let (start, end) = match (settings.align_to_words, word(first), word(last)) {
        // Extend the span to whole words.
        (None | Some(true), Some(first_word), Some(last_word)) => {
            let is_of = |at: &usize, wanted: u32| tokens.sequences[*at] == Some(1) && word(*at) == Some(wanted);
            let begin = (0..=first)
                .rev()
                .take_while(|at| is_of(at, first_word))
                .last()
                .unwrap_or(first);
            let finish = (last..tokens.ids.len())
                .take_while(|at| is_of(at, last_word))
                .last()
                .unwrap_or(last);
            (tokens.offsets[begin].0, tokens.offsets[finish].1)
        }
        _ => (tokens.offsets[first].0, tokens.offsets[last].1),
    };
    Span {
        score,
        start,
        end,
        answer: characters.slice(start, end).to_owned(),
    }
}

/// Adds a span. If there is one with the same text, adds to its score.
fn add(spans: &mut Vec<Span>, by_text: &mut HashMap<String, usize>, span: Span) {
    match by_text.entry(span.answer.to_lowercase()) {
        Entry::Occupied(place) => spans[*place.get()].score += span.score,
        Entry::Vacant(place) => {
            place.insert(spans.len());
            spans.push(span);
        }
    }
}
