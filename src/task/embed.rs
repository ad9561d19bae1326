//! Makes sentence embeddings from token embeddings, as sentence-transformers does.
//!
//! The steps are pooling, truncation (`dimensions`, for networks whose first numbers represent the
//! whole), and normalizing, in this order, so that truncated embeddings have length 1 too. An
//! output that is pooled already is not pooled again. Folders of sentence-transformers list the
//! steps in `modules.json`; an unsupported step is refused by name.

mod modules;
mod pool;

pub use modules::SentenceModules;

use super::answer::{Body, Embeddings};
use super::outputs::{Output, OutputInfo, Rows, Search, tensor};
use super::settings::Pooling;
use super::{Answer, AnswerSettings, Context, Task, TaskError};

const TASK: Task = Task::SentenceSimilarity;
const EXPECTED: &str = "embeddings of shape [records, dimensions], or of tokens as [records, tokens, dimensions]";

/// Names of pooled outputs, in the form of [`OutputInfo::plain_name`].
const POOLED: [&str; 6] = [
    "sentenceembedding",
    "sentenceembeddings",
    "embeddings",
    "embedding",
    "textembeds",
    "imageembeds",
];
const TOKENS: [&str; 3] = ["tokenembeddings", "lasthiddenstate", "hiddenstates"];

/// An output, and whether it is pooled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Pooled(usize),
    Tokens(usize),
}

fn find(infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Result<Source, TaskError> {
    let search = |names| Search {
        task: TASK,
        settings,
        names,
        expected: EXPECTED,
    };
    let is_pooled = |info: &OutputInfo<'_>| info.is_number() && info.dims.as_ref().is_some_and(|dims| dims.len() == 2);
    let is_tokens = |info: &OutputInfo<'_>| info.is_number() && info.dims.as_ref().is_none_or(|dims| dims.len() == 3);
    if settings.output.is_some() {
        let at = search(&[]).find(infos, |info| is_pooled(info) || is_tokens(info))?;
        return Ok(if is_pooled(&infos[at]) {
            Source::Pooled(at)
        } else {
            Source::Tokens(at)
        });
    }
    let named = |names: &[&str], fits: &dyn Fn(&OutputInfo<'_>) -> bool| {
        names.iter().find_map(|name| {
            let mut infos = infos.iter();
            infos.position(|info| info.plain_name() == *name && fits(info))
        })
    };
    if let Some(at) = named(&POOLED, &is_pooled) {
        return Ok(Source::Pooled(at));
    }
    // Prefer tokens to BERT's `pooler_output`, which sentence-transformers does not use.
    if let Some(at) = named(&TOKENS, &is_tokens) {
        return Ok(Source::Tokens(at));
    }
    if let Some(at) = infos.iter().position(is_tokens) {
        return Ok(Source::Tokens(at));
    }
    search(&[]).find(infos, is_pooled).map(Source::Pooled)
}

pub(super) fn check(infos: &[OutputInfo<'_>], settings: &AnswerSettings) -> Result<(), TaskError> {
    let source = find(infos, settings)?;
    let (Source::Pooled(at) | Source::Tokens(at)) = source;
    let Some(width) = infos[at].last_dim() else {
        return Ok(());
    };
    let parts = match source {
        Source::Pooled(_) => 1,
        Source::Tokens(_) => settings.pooling.as_ref().map_or(1, Vec::len),
    };
    let all = width.saturating_mul(parts);
    match settings.dimensions {
        Some(kept) if kept.get() > all => Err(too_many(kept.get(), all)),
        _ => Ok(()),
    }
}

fn too_many(asked: usize, given: usize) -> TaskError {
    TaskError::Input(format!(
        "dimensions: {asked} is more than the {given} numbers in the embeddings of this model"
    ))
}

pub(super) fn answer(outputs: &[Output<'_>], context: &Context<'_>) -> Result<Answer, TaskError> {
    let source = find(&OutputInfo::given(outputs), context.settings)?;
    let settings = context.settings;
    let mut embeddings = match source {
        Source::Pooled(at) => {
            let mut rows = Rows::new(TASK, tensor(TASK, outputs, at)?, context.records, 1)?;
            let width = rows.width();
            let mut all = allocate(rows.count(), width)?;
            for row in 0..rows.count() {
                all.extend_from_slice(rows.row(row)?);
            }
            Flat { all, width }
        }
        Source::Tokens(at) => {
            let tensor = tensor(TASK, outputs, at)?;
            let &[records, length, width] = tensor.shape() else {
                return Err(TaskError::Context {
                    task: TASK,
                    what: "embeddings of tokens",
                });
            };
            let mut rows = Rows::new(TASK, tensor, context.records, 2)?;
            let usual = [Pooling::Mean];
            let poolings = pool::ordered(settings.pooling.as_deref().unwrap_or(&usual));
            let mut all = allocate(records, width.saturating_mul(poolings.len()))?;
            let all_attended = vec![1; length];
            for row in 0..rows.count() {
                let given = context.tokens.get(row).map(|tokens| tokens.attention);
                let attention = given.filter(|mask| mask.len() == length).unwrap_or(&all_attended);
                for &pooling in &poolings {
                    pool::pool(pooling, rows.row(row)?, width, attention, &mut all);
                }
            }
            Flat {
                all,
                width: width.saturating_mul(poolings.len()),
            }
        }
    };
    if let Some(kept) = settings.dimensions {
        embeddings.cut(kept.get())?;
    }
    if settings.normalize == Some(true) {
        embeddings.normalize();
    }
    let body = Body::Embeddings(Embeddings::new(embeddings.all, context.records, embeddings.width)?);
    Ok(Answer::new(TASK, context.labels, body).conclude(context))
}

fn allocate(records: usize, width: usize) -> Result<Vec<f32>, TaskError> {
    let mut all = Vec::new();
    let count = records.checked_mul(width).ok_or(TaskError::OutOfMemory)?;
    all.try_reserve_exact(count).map_err(|_| TaskError::OutOfMemory)?;
    Ok(all)
}

/// Concatenated embeddings.
struct Flat {
    all: Vec<f32>,
    width: usize,
}

impl Flat {
    /// Keeps the first numbers of each embedding.
    fn cut(&mut self, kept: usize) -> Result<(), TaskError> {
        if kept > self.width {
            return Err(too_many(kept, self.width));
        }
        if kept < self.width {
            let records = self.all.len() / self.width;
            for record in 0..records {
                let start = record * self.width;
                self.all.copy_within(start..start + kept, record * kept);
            }
            self.all.truncate(records * kept);
            self.width = kept;
        }
        Ok(())
    }

    fn normalize(&mut self) {
        for embedding in self.all.chunks_exact_mut(self.width.max(1)) {
            let length = length(embedding);
            embedding.iter_mut().for_each(|number| *number /= length);
        }
    }
}

/// The cosine similarities of the first embedding with the others.
pub(super) fn similarities(embeddings: &Embeddings) -> Vec<f32> {
    let mut rows = embeddings.rows();
    let Some(source) = rows.next() else {
        return Vec::new();
    };
    let own = f64::from(length(source));
    let cosine = |other: &[f32]| {
        let products = source.iter().zip(other).map(|(&a, &b)| f64::from(a) * f64::from(b));
        (products.sum::<f64>() / own / f64::from(length(other))) as f32
    };
    rows.map(cosine).collect()
}

/// The length of a vector, at least 1e-12.
fn length(vector: &[f32]) -> f32 {
    let squares: f64 = vector.iter().map(|&number| f64::from(number) * f64::from(number)).sum();
    let length = squares.sqrt() as f32;
    // `f32::max` ignores NaN.
    if length.is_nan() { length } else { length.max(1e-12) }
}
