//! Token classification: a label for each token, or entities of several tokens.
//!
//! The steps are those of transformers' pipeline. Depending on the strategy, tokens are first
//! joined to words. Adjacent words or tokens with the same tag become one entity; a tag that
//! begins with `B-` starts a new one. Ignored labels are removed at the end.

use super::answer::{Body, Entity};
use super::context::{Characters, Tokens, Vocabulary};
use super::outputs::{Output, OutputInfo, Rows, Search, tensor};
use super::scores::{greatest, softmax};
use super::settings::Aggregation;
use super::{Answer, AnswerSettings, Context, Labels, Task, TaskError};

const TASK: Task = Task::TokenClassification;

fn find(infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Result<usize, TaskError> {
    let search = Search {
        task: TASK,
        settings,
        names: &["logits", "output", "outputs"],
        expected: "one output of numbers of shape [records, tokens, labels]",
    };
    search.find(infos, |info| info.is_number() && info.may_have_rank(3))
}

pub(super) fn check(infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Result<(), TaskError> {
    find(infos, settings).map(drop)
}

pub(super) fn answer(outputs: &[Output<'_>], context: &Context<'_>) -> Result<Answer, TaskError> {
    let at = find(&OutputInfo::given(outputs), context.settings)?;
    let tensor = tensor(TASK, outputs, at)?;
    let &[_, length, classes] = tensor.shape() else {
        return Err(missing("a label for each token"));
    };
    let vocabulary = context.vocabulary.ok_or_else(|| missing("a tokenizer"))?;
    let mut rows = Rows::new(TASK, tensor, context.records, 2)?;
    let mut records = Vec::new();
    for row in 0..rows.count() {
        let tokens = context
            .tokens
            .get(row)
            .ok_or_else(|| missing("the tokens of each text"))?;
        if tokens.ids.len() != length || tokens.offsets.len() != length {
            return Err(missing("the ids and the offsets of all tokens"));
        }
        let mut scores = rows.row(row)?.to_vec();
        scores.chunks_exact_mut(classes.max(1)).for_each(softmax);
        let pipeline = Pipeline {
            labels: context.labels,
            vocabulary,
            strategy: context.settings.aggregation_strategy.unwrap_or(Aggregation::None),
        };
        let pieces = pipeline.pieces(tokens, &scores, classes);
        let mut entities = pipeline.entities(pieces);
        match &context.settings.ignore_labels {
            Some(ignored) => entities.retain(|entity| !ignored.contains(&entity.label)),
            None => entities.retain(|entity| entity.label != "O"),
        }
        records.push(entities);
    }
    Ok(Answer::new(TASK, context.labels, Body::Entities(records)))
}

fn missing(what: &'static str) -> TaskError {
    TaskError::Context { task: TASK, what }
}

/// A token of the text, with its scores for all labels.
struct Piece<'a> {
    word: String,
    scores: &'a [f32],
    start: usize,
    end: usize,
    index: usize,
    /// Whether it continues the word of the previous token.
    is_inside: bool,
}

struct Pipeline<'a> {
    labels: &'a Labels,
    vocabulary: &'a dyn Vocabulary,
    strategy: Aggregation,
}

impl Pipeline<'_> {
    fn pieces<'s>(&self, tokens: &Tokens<'_>, scores: &'s [f32], classes: usize) -> Vec<Piece<'s>> {
        let characters = Characters::new(tokens.text);
        let marks = self.vocabulary.marks_continuation();
        let mut pieces = Vec::new();
        // The index of a token does not count padding before it.
        let attended = (0..tokens.ids.len()).filter(|&at| tokens.is_attended(at));
        for (index, at) in attended.enumerate() {
            if !tokens.is_text(at) {
                continue;
            }
            let (id, (start, end)) = (tokens.ids[at], tokens.offsets[at]);
            let mut word = self.vocabulary.token(id).unwrap_or_default();
            let mut is_inside = match marks {
                // The marker makes a token longer than its text.
                true => word.chars().count() != characters.slice(start, end).chars().count(),
                false => start > 0 && !characters.slice(start - 1, start + 1).contains(' '),
            };
            if self.vocabulary.unknown() == Some(id) {
                word = characters.slice(start, end).to_owned();
                is_inside = false;
            }
            pieces.push(Piece {
                word,
                scores: scores.get(at * classes..(at + 1) * classes).unwrap_or_default(),
                start,
                end,
                index,
                is_inside,
            });
        }
        pieces
    }

    fn entities(&self, pieces: Vec<Piece<'_>>) -> Vec<Entity> {
        let tagged: Vec<Entity> = match self.strategy {
            Aggregation::None | Aggregation::Simple => pieces.into_iter().map(|piece| self.token(piece)).collect(),
            Aggregation::First | Aggregation::Average | Aggregation::Max => {
                let words = pieces.chunk_by(|_, next| next.is_inside);
                words.map(|word| self.word(word)).collect()
            }
        };
        if self.strategy == Aggregation::None {
            return tagged;
        }
        let groups = tagged.chunk_by(|last, next| {
            let (is_begin, tag) = tag(&next.label);
            let (_, last_tag) = self::tag(&last.label);
            tag == last_tag && !is_begin
        });
        groups.map(|group| self.group(group)).collect()
    }

    fn token(&self, piece: Piece<'_>) -> Entity {
        let class = greatest(piece.scores).unwrap_or(0);
        Entity {
            label: self.labels.name(class).into_owned(),
            is_group: false,
            score: piece.scores.get(class).copied().unwrap_or(f32::NAN),
            index: Some(piece.index),
            word: piece.word,
            start: piece.start,
            end: piece.end,
        }
    }

    /// Joins pieces to a word. There is at least one piece.
    fn word(&self, pieces: &[Piece<'_>]) -> Entity {
        let (first, last) = (&pieces[0], &pieces[pieces.len() - 1]);
        let (class, score) = match self.strategy {
            Aggregation::Average => {
                let mean = mean(pieces);
                let class = greatest(&mean).unwrap_or(0);
                (class, mean.get(class).copied())
            }
            Aggregation::Max => {
                let surest: Vec<f32> = pieces
                    .iter()
                    .map(|piece| greatest(piece.scores).map_or(f32::NAN, |class| piece.scores[class]))
                    .collect();
                best(&pieces[greatest(&surest).unwrap_or(0)])
            }
            Aggregation::None | Aggregation::Simple | Aggregation::First => best(first),
        };
        let words: Vec<&str> = pieces.iter().map(|piece| piece.word.as_str()).collect();
        Entity {
            label: self.labels.name(class).into_owned(),
            is_group: false,
            score: score.unwrap_or(f32::NAN),
            index: None,
            word: self.vocabulary.join(&words),
            start: first.start,
            end: last.end,
        }
    }

    /// Joins tokens or words to an entity. There is at least one.
    fn group(&self, parts: &[Entity]) -> Entity {
        let (first, last) = (&parts[0], &parts[parts.len() - 1]);
        let words: Vec<&str> = parts.iter().map(|part| part.word.as_str()).collect();
        let sum: f64 = parts.iter().map(|part| f64::from(part.score)).sum();
        Entity {
            label: first.label.rsplit('-').next().unwrap_or_default().to_owned(),
            is_group: true,
            score: (sum / parts.len() as f64) as f32,
            index: None,
            word: self.vocabulary.join(&words),
            start: first.start,
            end: last.end,
        }
    }
}

fn best(piece: &Piece<'_>) -> (usize, Option<f32>) {
    let class = greatest(piece.scores).unwrap_or(0);
    (class, piece.scores.get(class).copied())
}

/// The mean score of the pieces for each label.
fn mean(pieces: &[Piece<'_>]) -> Vec<f32> {
    let classes = pieces.first().map_or(0, |piece| piece.scores.len());
    let mut sums = vec![0f32; classes];
    for piece in pieces {
        for (sum, score) in sums.iter_mut().zip(piece.scores) {
            *sum += score;
        }
    }
    let count = pieces.len() as f32;
    sums.iter_mut().for_each(|sum| *sum /= count);
    sums
}

/// Whether a label begins an entity, and its tag. A label without a prefix continues an entity.
fn tag(label: &str) -> (bool, &str) {
    match (label.strip_prefix("B-"), label.strip_prefix("I-")) {
        (Some(tag), _) => (true, tag),
        (None, Some(tag)) => (false, tag),
        (None, None) => (false, label),
    }
}
