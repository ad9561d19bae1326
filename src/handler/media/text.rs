//! Converts sentences to the inputs of a model.

use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::body::ReplyFrame;
use super::error::MediaError;
use super::{Media, RequestFacts, SharedTokenizer, is_asked_for};
use crate::codec::{DecodedRequest, Schema};
use crate::engine::RequestBudget;
use crate::handler::HandlerError;
use crate::manifest::{Manifest, Step};
use crate::task::{AnswerSettings, Form, Parameters, Question, Task, Tokens, Vocabulary};
use crate::tensor::{Inputs, Signature};
use crate::text::request::{self, ReadOptions, TextForm, TextRequest};
use crate::text::{
    Encoded, Padding, Side, TextError, TextInput, TextInputs, TextLimit, TextLimits, TokenizeOptions, Tokenizer,
    Truncation,
};

/// The inputs that take tokens, and the tokenizer.
#[derive(Debug)]
pub(super) struct Texts {
    tokenizer: SharedTokenizer,
    inputs: TextInputs,
    options: TokenizeOptions,
    /// A prefix for each text, which some embedding networks expect.
    prompt: String,
}

/// The manifest's `text` object.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TextKeys {
    max_length: Option<usize>,
    padding: Option<Padding>,
    pad_to_multiple_of: Option<usize>,
    padding_side: Option<Side>,
    truncation: Option<Truncation>,
    truncation_side: Option<Side>,
    add_special_tokens: Option<bool>,
    prompt: String,
}

/// The texts of a request, kept for its answer.
#[derive(Debug)]
pub(super) struct RequestTexts {
    /// The texts as they were tokenized: a zero-shot classification has pairs.
    inputs: Vec<TextInput>,
    encoded: Encoded,
    question: OwnedQuestion,
    /// The texts of each run, if the request is divided into runs with similar lengths.
    groups: Vec<Vec<usize>>,
}

/// The owned form of [`Question`].
#[derive(Debug)]
enum OwnedQuestion {
    Records,
    Similarity,
    Ranking,
    ZeroShot(Vec<String>),
    Spans(Vec<usize>),
}

impl Texts {
    /// The text inputs of a model; `None` if it has none.
    pub fn of(
        manifest: &Manifest,
        signature: &Signature,
        tokenizer: Option<SharedTokenizer>,
    ) -> Result<Option<Self>, HandlerError> {
        let step = manifest.text.as_ref();
        if Step::is_off(step) {
            return Ok(None);
        }
        let Some(tokenizer) = tokenizer else {
            return match is_asked_for(step) {
                true => Err(HandlerError::Text(
                    "there is no tokenizer.json next to the model".to_owned(),
                )),
                false => Ok(None),
            };
        };
        let keys: TextKeys = match Step::settings(step) {
            None => TextKeys::default(),
            Some(settings) => serde_json::from_value(Json::Object(settings.clone()))
                .map_err(|error| HandlerError::Text(error.to_string()))?,
        };
        let inputs = match TextInputs::bind(signature) {
            Ok(Some(inputs)) => inputs,
            Ok(None) if is_asked_for(step) => {
                let problem = "the model has no input for tokens; expected one named input_ids of int64 or int32";
                return Err(HandlerError::Text(problem.to_owned()));
            }
            Err(error) if is_asked_for(step) => return Err(HandlerError::Text(error.to_string())),
            Ok(None) | Err(_) => return Ok(None),
        };
        let options = TokenizeOptions {
            add_special_tokens: keys.add_special_tokens.unwrap_or(true),
            padding: keys.padding.unwrap_or_default(),
            pad_to_multiple_of: keys.pad_to_multiple_of,
            padding_side: keys.padding_side,
            truncation: keys.truncation.unwrap_or_default(),
            truncation_side: keys.truncation_side,
            max_length: keys.max_length,
            fixed_length: inputs.fixed_length(),
            ..TokenizeOptions::default()
        };
        Ok(Some(Self {
            tokenizer,
            inputs,
            options,
            prompt: keys.prompt,
        }))
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        self.tokenizer.get()
    }

    pub fn steps(&self) -> Vec<String> {
        self.tokenizer().steps(&self.options)
    }

    /// Decodes a body of texts; `None` for a body of tensors.
    pub fn decode(
        &self,
        media: &Media,
        essence: &str,
        body: &Bytes,
        schema: &Schema,
        budget: &dyn RequestBudget,
    ) -> Result<Option<(DecodedRequest, RequestFacts)>, MediaError> {
        let task = media.answering.as_ref().map(|answering| answering.task());
        let options = ReadOptions {
            pairs: matches!(task, Some(Task::TextRanking | Task::TextClassification)),
            csv_header: None,
            limits: media.limits.text,
        };
        // A CSV header with the name of an input belongs to a body of tensors.
        if essence == "text/csv" && names_an_input(body, schema) {
            return Ok(None);
        }
        let Some(request) = request::read(essence, body, &options)? else {
            return Ok(None);
        };
        let TextRequest {
            inputs,
            form,
            mut parameters,
            rest,
        } = request;
        // Clients of text-embeddings-inference put parameters next to the texts.
        parameters.extend(rest.into_iter().filter(|(key, _)| key != "model"));
        let (settings, about_input) = match task {
            None => (AnswerSettings::default(), parameters),
            Some(task) => {
                let Parameters { settings, input } = Parameters::read(task, &parameters)?;
                (media.settings_over(settings), input)
            }
        };
        let mut options = self.options(&about_input)?;
        options.limits = TextLimits {
            deadline: budget.deadline(),
            ..media.limits.text
        };
        options.offsets = matches!(task, Some(Task::TokenClassification | Task::QuestionAnswering));
        if task == Some(Task::ZeroShotClassification) {
            check_pairs(&inputs, &settings, &options.limits)?;
        }
        let (mut inputs, question) = question(task, inputs, &form, &settings);
        if !self.prompt.is_empty() {
            inputs = inputs.into_iter().map(|input| prompted(&self.prompt, input)).collect();
        }
        if task == Some(Task::QuestionAnswering) && options.truncation == Truncation::LongestFirst {
            options.truncation = Truncation::OnlySecond;
        }
        let memory = budget.reserve(self.tokenizer().request_memory(&inputs, &options))?;
        let encoded = self.tokenizer().encode(&inputs, &options)?;
        if !self.inputs.has_mask() && encoded.rows.iter().any(|row| row.len() != encoded.rows[0].len()) {
            return Err(MediaError::Text(TextError::Options(
                "the model has no input attention_mask for padding, so it cannot answer texts of different lengths \
                 together; send one at a time"
                    .to_owned(),
            )));
        }
        let records = encoded.rows.len();
        let tensors: Inputs = self.inputs.tensors(&encoded)?;
        let facts = RequestFacts {
            form: match form {
                TextForm::One => Form::One,
                // One answer for the whole request: the similarities, or the ranking.
                TextForm::Similarity | TextForm::Ranking => Form::One,
                TextForm::List | TextForm::Instances | TextForm::Lines(_) => Form::List,
            },
            frame: match form {
                TextForm::Instances => ReplyFrame::Predictions,
                _ => ReplyFrame::Bare,
            },
            records,
            settings,
            placements: Vec::new(),
            texts: Some(RequestTexts {
                inputs,
                encoded,
                question,
                groups: Vec::new(),
            }),
            _memory: memory,
        };
        Ok(Some((DecodedRequest::from_inputs(tensors, records, schema), facts)))
    }

    /// Divides a request into runs of texts with similar lengths, so that little of a run is
    /// padding. Returns the inputs of each run; `None` if one run is as good, or if the answer
    /// needs all texts in one run.
    pub fn divide(&self, facts: &mut RequestTexts) -> Result<Option<Vec<Inputs>>, MediaError> {
        if matches!(facts.question, OwnedQuestion::ZeroShot(_) | OwnedQuestion::Spans(_)) {
            return Ok(None);
        }
        let groups = facts.encoded.groups();
        if groups.len() < 2 {
            return Ok(None);
        }
        let inputs = groups
            .iter()
            .map(|rows| self.inputs.tensors(&facts.encoded.select(rows)));
        let inputs = inputs.collect::<Result<_, _>>()?;
        facts.groups = groups;
        Ok(Some(inputs))
    }

    /// The tokenizer options for a request with these parameters.
    fn options(&self, parameters: &Map<String, Json>) -> Result<TokenizeOptions, MediaError> {
        let mut options = self.options.clone();
        let wrong = |key: &str, allowed: &str| {
            MediaError::Text(TextError::Options(format!("parameter \"{key}\": expected {allowed}")))
        };
        for (key, value) in parameters {
            match (key.as_str(), value) {
                (_, Json::Null) => {}
                ("truncation" | "truncate", Json::Bool(true)) => options.truncation = self.options.truncation,
                ("truncation" | "truncate", Json::Bool(false)) => options.truncation = Truncation::Never,
                ("truncation", Json::String(_)) => {
                    let allowed = "true, false, \"longest_first\", \"only_first\" or \"only_second\"";
                    options.truncation = serde_json::from_value(value.clone()).map_err(|_| wrong(key, allowed))?;
                }
                ("padding", Json::String(_)) => {
                    let allowed = "true, \"longest\" or \"max_length\"";
                    options.padding = serde_json::from_value(value.clone()).map_err(|_| wrong(key, allowed))?;
                }
                ("padding", Json::Bool(_)) => {}
                ("truncation_direction", Json::String(side)) => {
                    options.truncation_side = match side.to_ascii_lowercase().as_str() {
                        "left" => Some(Side::Left),
                        "right" => Some(Side::Right),
                        _ => return Err(wrong(key, "\"left\" or \"right\"")),
                    };
                }
                ("max_length" | "max_seq_len", Json::Number(number)) => {
                    let length = number.as_u64().filter(|&length| length > 0);
                    let length = length.and_then(|length| usize::try_from(length).ok());
                    options.max_length = Some(length.ok_or_else(|| wrong(key, "a number of 1 or more"))?);
                }
                ("add_special_tokens", Json::Bool(is_on)) => options.add_special_tokens = *is_on,
                _ => {
                    return Err(MediaError::Text(TextError::Options(format!(
                        "parameter \"{key}\" is not known for this model; expected one of truncation, truncate, \
                         truncation_direction, padding, max_length, max_seq_len, add_special_tokens"
                    ))));
                }
            }
        }
        Ok(options)
    }
}

/// Refuses texts and labels whose pairs are too many, before the pairs copy the texts.
fn check_pairs(inputs: &[TextInput], settings: &AnswerSettings, limits: &TextLimits) -> Result<(), TextError> {
    let labels = settings.candidate_labels.as_deref().unwrap_or_default().len();
    let bytes: usize = inputs.iter().flat_map(TextInput::texts).map(str::len).sum();
    let too_large = |exceeded: TextLimit, what: &str, given: usize, limit: usize| TextError::TooLarge {
        exceeded,
        what: what.to_owned(),
        given: given as u64,
        limit: limit as u64,
        advice: "send fewer texts or labels at a time",
    };
    let (pairs, copied) = (inputs.len().saturating_mul(labels), bytes.saturating_mul(labels));
    if pairs > limits.texts {
        return Err(too_large(
            TextLimit::Texts,
            "pairs of a text and a label",
            pairs,
            limits.texts,
        ));
    }
    if copied > limits.tokens {
        return Err(too_large(
            TextLimit::Tokens,
            "bytes of the texts, once for each label",
            copied,
            limits.tokens,
        ));
    }
    Ok(())
}

/// The texts to tokenize, and the relation between their answers.
fn question(
    task: Option<Task>,
    inputs: Vec<TextInput>,
    form: &TextForm,
    settings: &AnswerSettings,
) -> (Vec<TextInput>, OwnedQuestion) {
    match (task, form) {
        (Some(Task::ZeroShotClassification), _) => {
            let labels = settings.candidate_labels.as_deref().unwrap_or_default();
            let sequences: Vec<String> = inputs
                .into_iter()
                .map(|input| match input {
                    TextInput::One(text) | TextInput::Pair(text, _) => text,
                })
                .collect();
            let pairs = sequences.iter().flat_map(|sequence| {
                let pair = |label: &String| TextInput::Pair(sequence.clone(), settings.hypothesis(label));
                labels.iter().map(pair)
            });
            (pairs.collect(), OwnedQuestion::ZeroShot(sequences))
        }
        (Some(Task::SentenceSimilarity), TextForm::Similarity) => (inputs, OwnedQuestion::Similarity),
        (Some(Task::TextRanking), TextForm::Ranking) => (inputs, OwnedQuestion::Ranking),
        (Some(Task::QuestionAnswering), _) => {
            let rows = vec![1; inputs.len()];
            (inputs, OwnedQuestion::Spans(rows))
        }
        _ => (inputs, OwnedQuestion::Records),
    }
}

/// Whether a cell of the first line is the name of an input.
fn names_an_input(csv: &[u8], schema: &Schema) -> bool {
    let line = csv.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let mut cells = line.split(|byte| matches!(byte, b',' | b';' | b'\t' | b'|'));
    let mut names = schema.signature().inputs.iter().map(|spec| spec.name.as_bytes());
    cells.any(|cell| names.any(|name| cell.trim_ascii() == name))
}

fn prompted(prompt: &str, input: TextInput) -> TextInput {
    match input {
        TextInput::One(text) => TextInput::One(format!("{prompt}{text}")),
        TextInput::Pair(first, second) => TextInput::Pair(format!("{prompt}{first}"), second),
    }
}

/// The tokens of a row in the form that tasks read, with padding.
struct Row {
    ids: Vec<u32>,
    attention: Vec<u32>,
    special: Vec<u32>,
    offsets: Vec<(usize, usize)>,
    words: Vec<Option<u32>>,
    sequences: Vec<Option<usize>>,
}

impl RequestTexts {
    /// The number of tokens in the request, without padding.
    pub fn tokens(&self) -> usize {
        self.encoded.rows.iter().map(|row| row.len()).sum()
    }

    /// The texts of each run; empty if the request is not divided.
    pub fn groups(&self) -> &[Vec<usize>] {
        &self.groups
    }

    /// Selects some of the texts as a separate request, each with its own answer.
    pub fn group(&self, rows: &[usize]) -> Self {
        Self {
            inputs: rows.iter().filter_map(|&row| self.inputs.get(row).cloned()).collect(),
            encoded: self.encoded.select(rows),
            question: OwnedQuestion::Records,
            groups: Vec::new(),
        }
    }

    /// Calls `answer` with the question about all texts.
    pub fn with_question<T>(&self, answer: impl FnOnce(Question<'_>) -> T) -> T {
        match &self.question {
            OwnedQuestion::Records => answer(Question::Records),
            OwnedQuestion::Similarity => answer(Question::Similarity),
            OwnedQuestion::Ranking => answer(Question::Ranking {
                texts: &self.texts(0..self.inputs.len()),
            }),
            OwnedQuestion::ZeroShot(sequences) => {
                let sequences: Vec<&str> = sequences.iter().map(String::as_str).collect();
                answer(Question::ZeroShot { sequences: &sequences })
            }
            OwnedQuestion::Spans(rows) => answer(Question::Spans { rows }),
        }
    }

    /// Calls `answer` with the question and the tokens of the rows in `part`.
    pub fn with_context<T>(&self, part: Range<usize>, answer: impl FnOnce(Question<'_>, &[Tokens<'_>]) -> T) -> T {
        let rows: Vec<Row> = part.clone().map(|row| self.row(row)).collect();
        let texts = self.texts(part);
        let tokens: Vec<Tokens<'_>> = rows
            .iter()
            .zip(&texts)
            .map(|(row, text)| Tokens {
                text,
                ids: &row.ids,
                attention: &row.attention,
                special: &row.special,
                offsets: &row.offsets,
                words: &row.words,
                sequences: &row.sequences,
            })
            .collect();
        self.with_question(|question| answer(question, &tokens))
    }

    /// The texts of some rows; for a pair, the second text.
    fn texts(&self, part: Range<usize>) -> Vec<&str> {
        let inputs = part.filter_map(|row| self.inputs.get(row));
        inputs
            .map(|input| match input {
                TextInput::One(text) | TextInput::Pair(_, text) => text.as_str(),
            })
            .collect()
    }

    fn row(&self, number: usize) -> Row {
        let columns = self.encoded.columns(number);
        let length = self.encoded.length();
        let Some(row) = self.encoded.rows.get(number) else {
            return Row {
                ids: Vec::new(),
                attention: Vec::new(),
                special: Vec::new(),
                offsets: Vec::new(),
                words: Vec::new(),
                sequences: Vec::new(),
            };
        };
        let at = |column: usize| columns.contains(&column).then(|| column - columns.start);
        let padded = |value: &dyn Fn(usize) -> u32, pad: u32| -> Vec<u32> {
            (0..length).map(|column| at(column).map_or(pad, value)).collect()
        };
        let offsets = match self.inputs.get(number) {
            Some(input) if !row.offsets.is_empty() => {
                // The offsets of a pair count in the text that the token belongs to; answers are
                // about the second text.
                let text = input.texts().last().unwrap_or_default();
                let first = input.texts().next().unwrap_or_default();
                let own = |token: usize| row.sequences.get(token).copied().flatten();
                let in_second = crate::text::characters(text, &row.offsets);
                let in_first = crate::text::characters(first, &row.offsets);
                let place = |column: usize| {
                    at(column).map_or((0, 0), |token| {
                        let is_first = matches!(input, TextInput::Pair(..)) && own(token) == Some(0);
                        let range = if is_first { &in_first[token] } else { &in_second[token] };
                        (range.start, range.end)
                    })
                };
                (0..length).map(place).collect()
            }
            _ => Vec::new(),
        };
        let optional = |is_known: bool| if is_known { length } else { 0 };
        Row {
            ids: padded(&|token| row.ids[token], self.encoded.pad_id),
            attention: padded(&|_| 1, 0),
            special: padded(&|token| u32::from(row.special.get(token).copied().unwrap_or(false)), 1),
            offsets,
            words: (0..optional(!row.words.is_empty()))
                .map(|column| at(column).and_then(|token| row.words.get(token).copied().flatten()))
                .collect(),
            sequences: (0..optional(!row.sequences.is_empty()))
                .map(|column| at(column).and_then(|token| row.sequences.get(token).copied().flatten()))
                .map(|sequence| sequence.map(usize::from))
                .collect(),
        }
    }
}

/// Implements the vocabulary that tasks use with a tokenizer.
pub(super) struct Words<'a>(pub &'a Tokenizer);

impl Words<'_> {
    fn named(&self, names: &[&str]) -> Option<u32> {
        names.iter().find_map(|name| self.0.token_to_id(name))
    }
}

impl Vocabulary for Words<'_> {
    fn token(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }

    fn id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }

    fn first_id(&self, text: &str) -> Option<u32> {
        let options = TokenizeOptions {
            add_special_tokens: false,
            ..TokenizeOptions::default()
        };
        let encoded = self.0.encode(&[TextInput::One(text.to_owned())], &options).ok()?;
        encoded.rows.first()?.ids.first().copied()
    }

    fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        self.0.decode(ids, skip_special)
    }

    fn join(&self, tokens: &[&str]) -> String {
        self.0.join(tokens)
    }

    fn unknown(&self) -> Option<u32> {
        self.named(&["[UNK]", "<unk>"])
    }

    fn mask(&self) -> Option<(u32, String)> {
        let configured = self.0.config().mask_token.as_deref();
        let names = configured.into_iter().chain(["[MASK]", "<mask>"]);
        names
            .into_iter()
            .find_map(|name| Some((self.0.token_to_id(name)?, name.to_owned())))
    }

    fn padding(&self) -> Option<u32> {
        self.0.pad_id()
    }

    fn beginning(&self) -> Option<u32> {
        self.named(&["[CLS]", "<s>"])
    }

    fn marks_continuation(&self) -> bool {
        self.0.marks_continuation()
    }
}
