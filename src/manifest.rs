//! The manifest of an artifact: what a client may send to its model and what it gets back, as data.
//!
//! An artifact may carry [`FILE`]. Everything in it is optional; a model without one is served by
//! what its graph declares. This module is a leaf: it knows the file and neither ONNX Runtime nor
//! any request.
//!
//! - `parse`: from text to a [`Manifest`], and the JSON Schema of the file.
//! - `sidecars`: what exporters write beside a model, as far as it says the same things.
//!
//! What always holds: a key that is not known is an error that names the key and the nearest known
//! one, because a misspelt key that is ignored would change answers without a word.

mod parse;
mod sidecars;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::task::{self, SentenceModules, Task};
use crate::tensor::Signature;
use crate::{audio, text, vision};

pub use parse::{ManifestError, Overlay, schema};
pub use sidecars::{Sidecar, SidecarError};

/// The name of the file.
pub const FILE: &str = "longshore.json";

/// The name of the file with a tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";

/// The contents of [`FILE`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Manifest {
    /// Path of the model file, relative to the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The task that the model was made for, as Hugging Face names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The columns of a table, in the order of a CSV line. Where their names are those of inputs,
    /// each column is that input; else they are dealt to the inputs in the model's order, to each
    /// as many as one row of it has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<Column>,
    /// Aliases, defaults and constants of single inputs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    /// The treatment of columns and input names that the model does not have.
    #[serde(skip_serializing_if = "is_default")]
    pub unknown_inputs: UnknownInputs,
    /// Pictures in requests: the keys of Hugging Face's `preprocessor_config.json` and a few more
    /// (docs/media.md). They count more than that file; `false` makes the model one of tensors
    /// alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Step>,
    /// Sentences in requests: how the tokenizer beside the model is applied (docs/media.md). `false`
    /// makes the model one of tensors alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Step>,
    /// Sound in requests: sampling rate, element type, chunks (docs/media.md). `false` makes the
    /// model one of tensors alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<Step>,
    /// How outputs become the answer of the task: `top_k`, `threshold`, `pooling` and others
    /// (docs/media.md). `false` leaves it at the outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Step>,
    /// The outputs that go out, in this order; all of them in the model's order when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Output>,
    /// The name of each class, by its number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// How CSV bodies are written.
    #[serde(skip_serializing_if = "is_default")]
    pub csv: Csv,
    /// Whether waiting requests may run together: `false`, `true`, or `{"max_rows": 16}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batching: Option<Batching>,
    /// Requests that run when the model is loaded, before any other request does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warmup: Vec<Request>,
    /// Requests with their right answers. The load is refused when the model gives another answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub golden: Vec<Golden>,
    /// Hints from files of exporters beside the model; not a key of the file. They count where the
    /// file says nothing and where it fits the model.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(skip)]
    pub hints: Hints,
}

/// What exporters write beside a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hints {
    /// The files that were understood.
    pub files: Vec<String>,
    /// Columns of MLflow's signature.
    pub columns: Vec<Column>,
    /// The steps of `preprocessor_config.json`, or of timm's `config.json`.
    pub image: Option<vision::Processor>,
    /// `tokenizer.json`, and the files about it.
    pub tokenizer: Option<TokenizerFile>,
    pub text: text::TokenizerConfig,
    /// The steps of a `preprocessor_config.json` for sound.
    pub audio: Option<audio::AudioProcessor>,
    pub task: Option<Task>,
    /// What `config.json` says of the classes.
    pub answer: task::Settings,
    /// The steps of sentence-transformers after the network.
    pub modules: Option<SentenceModules>,
    /// The files that were not understood, and why.
    pub passed_over: Vec<PassedOver>,
}

impl Manifest {
    /// The manifest to be held by a model. Models whose manifests say nothing hold the same one: a
    /// manifest is large beside a small model.
    pub fn shared(self) -> Arc<Self> {
        static NOTHING: LazyLock<Arc<Manifest>> = LazyLock::new(Arc::default);
        if self == **NOTHING {
            Arc::clone(&NOTHING)
        } else {
            Arc::new(self)
        }
    }

    /// Whether a model of this signature is of no use without its tokenizer: the manifest asks for
    /// it, or there is no graph behind it.
    pub fn needs_tokenizer(&self, signature: &Signature) -> bool {
        let has_graph = !signature.outputs.iter().all(|output| {
            let mut inputs = signature.inputs.iter();
            inputs.any(|input| input.name == output.name)
        });
        matches!(self.text, Some(Step::Settings(_) | Step::Switch(true))) || !has_graph
    }

    /// The tokenizer beside the model, unless the manifest switches sentences off.
    pub fn wanted_tokenizer(&self) -> Option<&TokenizerFile> {
        self.hints
            .tokenizer
            .as_ref()
            .filter(|_| !Step::is_off(self.text.as_ref()))
    }
}

/// A file beside a model that was not understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    pub file: String,
    pub why: String,
}

/// A `tokenizer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerFile {
    /// BLAKE3 of its bytes, in hexadecimal digits.
    pub hash: String,
    /// The path relative to the artifact.
    pub path: String,
    /// The contents, until the tokenizer has been made.
    #[serde(skip)]
    pub bytes: Option<Bytes>,
}

/// A step before or after the model: its settings, or whether it takes place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected an object, or false")]
pub enum Step {
    Switch(bool),
    Settings(Map<String, Json>),
}

impl Step {
    /// Whether the manifest switches the step off.
    pub fn is_off(step: Option<&Self>) -> bool {
        matches!(step, Some(Self::Switch(false)))
    }

    /// The settings that the manifest has for the step.
    pub fn settings(step: Option<&Self>) -> Option<&Map<String, Json>> {
        match step {
            Some(Self::Settings(settings)) => Some(settings),
            Some(Self::Switch(_)) | None => None,
        }
    }
}

/// An input of the model as clients see it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The name in the graph.
    pub name: String,
    /// Further names that requests may use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The value for one record, for requests that leave the input out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Json>,
    /// The value for every request. No request may set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constant: Option<Json>,
}

/// A column of a table: its name, or an object where there is more to say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "ColumnForm", into = "ColumnForm")]
pub struct Column {
    pub name: String,
    /// Further names that requests may use.
    pub aliases: Vec<String>,
    /// The value for rows that leave the column out.
    pub default: Option<Json>,
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a name, or an object with \"name\" and perhaps \"aliases\" and \"default\""
)]
enum ColumnForm {
    Name(String),
    Object(ColumnObject),
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ColumnObject {
    name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default: Option<Json>,
}

/// The treatment of names in a request that the model does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownInputs {
    /// The request is refused.
    #[default]
    Refuse,
    /// They are left out.
    Ignore,
}

/// An output: its name in the graph, or an object where there is more to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "OutputForm", into = "OutputForm")]
pub struct Output {
    pub name: String,
    /// The name in replies.
    pub rename: Option<String>,
    /// Whether its classes go out under the names of the manifest's `labels`.
    pub labels: bool,
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a name, or an object with \"name\" and perhaps \"as\" and \"labels\""
)]
enum OutputForm {
    Name(String),
    Object(OutputObject),
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OutputObject {
    name: String,
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    rename: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    labels: bool,
}

/// How CSV bodies are written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Csv {
    /// Whether the first line is a header; decided by the names in it when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    /// One of `,`, `;`, a tab and `|`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// Cells that stand for a missing value, beside empty ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// Whether and how waiting requests may run together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "BatchingForm", into = "BatchingForm")]
pub enum Batching {
    Never,
    /// The rows are independent, and batches may have this many if it is said, else as many as
    /// those of any model.
    Allowed(Option<NonZeroUsize>),
}

#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected true, false or {\"max_rows\": N} with an N of 1 or more"
)]
enum BatchingForm {
    Switch(bool),
    Limits(BatchingLimits),
}

#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BatchingLimits {
    max_rows: NonZeroUsize,
}

/// A request that the artifact carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// `application/json` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<String>,
    /// The body: a string as it is, anything else as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Json>,
    /// A file with the body, relative to the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The contents of `file`, once it has been read.
    #[serde(skip)]
    pub bytes: Option<Bytes>,
}

/// A request and its right answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    pub request: Request,
    /// The answer: a string as it is, anything else as JSON.
    pub response: Json,
    /// The relative difference that numbers may have.
    #[serde(default = "default_rtol")]
    pub rtol: f64,
    /// The absolute difference that numbers may have.
    #[serde(default = "default_atol")]
    pub atol: f64,
}

const fn default_rtol() -> f64 {
    1e-4
}

const fn default_atol() -> f64 {
    1e-6
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl From<ColumnForm> for Column {
    fn from(form: ColumnForm) -> Self {
        match form {
            ColumnForm::Name(name) => Self::from(name.as_str()),
            ColumnForm::Object(ColumnObject { name, aliases, default }) => Self { name, aliases, default },
        }
    }
}

impl From<Column> for ColumnForm {
    fn from(column: Column) -> Self {
        let Column { name, aliases, default } = column;
        if aliases.is_empty() && default.is_none() {
            Self::Name(name)
        } else {
            Self::Object(ColumnObject { name, aliases, default })
        }
    }
}

/// A column of this name.
impl From<&str> for Column {
    fn from(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            aliases: Vec::new(),
            default: None,
        }
    }
}

impl From<OutputForm> for Output {
    fn from(form: OutputForm) -> Self {
        match form {
            OutputForm::Name(name) => Self {
                name,
                rename: None,
                labels: false,
            },
            OutputForm::Object(OutputObject { name, rename, labels }) => Self { name, rename, labels },
        }
    }
}

impl From<Output> for OutputForm {
    fn from(Output { name, rename, labels }: Output) -> Self {
        match (rename, labels) {
            (None, false) => Self::Name(name),
            (rename, labels) => Self::Object(OutputObject { name, rename, labels }),
        }
    }
}

impl From<BatchingForm> for Batching {
    fn from(form: BatchingForm) -> Self {
        match form {
            BatchingForm::Switch(false) => Self::Never,
            BatchingForm::Switch(true) => Self::Allowed(None),
            BatchingForm::Limits(BatchingLimits { max_rows }) => Self::Allowed(Some(max_rows)),
        }
    }
}

impl From<Batching> for BatchingForm {
    fn from(batching: Batching) -> Self {
        match batching {
            Batching::Never => Self::Switch(false),
            Batching::Allowed(None) => Self::Switch(true),
            Batching::Allowed(Some(max_rows)) => Self::Limits(BatchingLimits { max_rows }),
        }
    }
}
