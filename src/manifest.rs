//! The manifest of an artifact: a declaration of what clients send to its model and get back.
//!
//! An artifact may carry [`FILE`]. Every key in it is optional; a model without a manifest is
//! served by the signature of its graph. This module is a leaf: it reads the file and depends on
//! neither ONNX Runtime nor requests.
//!
//! - `parse`: text to [`Manifest`], and the JSON Schema of the file.
//! - `sidecars`: files that exporters write next to a model, where they declare the same things.
//!
//! Invariant: an unknown key is an error that names the key and the nearest known one. Ignoring a
//! misspelt key would change answers silently.

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

/// The file name of the manifest.
pub const FILE: &str = "longshore.json";

/// The file name of the tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";

/// The contents of [`FILE`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Manifest {
    /// Path of the model file, relative to the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The task of the model, by its name at Hugging Face.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The columns of a table, in the order of a CSV line. If their names are those of inputs,
    /// each column belongs to that input. Otherwise they are assigned to the inputs in the model's
    /// order; each input takes as many columns as one of its rows has values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<Column>,
    /// Aliases, defaults and constants of single inputs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    /// The treatment of columns and input names that the model does not have.
    #[serde(skip_serializing_if = "is_default")]
    pub unknown_inputs: UnknownInputs,
    /// Images in requests: the keys of Hugging Face's `preprocessor_config.json` and a few more
    /// (docs/media.md). They override that file; `false` makes the model accept only tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Step>,
    /// Sentences in requests: the options of the tokenizer next to the model (docs/media.md).
    /// `false` makes the model accept only tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Step>,
    /// Sound in requests: sampling rate, element type, chunks (docs/media.md). `false` makes the
    /// model accept only tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<Step>,
    /// The conversion of outputs to the answer of the task: `top_k`, `threshold`, `pooling` and
    /// others (docs/media.md). `false` returns the outputs as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Step>,
    /// The outputs in responses, in this order; all of them in the model's order when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Output>,
    /// The name of each class, by its number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// The format of CSV bodies.
    #[serde(skip_serializing_if = "is_default")]
    pub csv: Csv,
    /// Whether waiting requests may be batched: `false`, `true`, or `{"max_rows": 16}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batching: Option<Batching>,
    /// Requests that run when the model is loaded, before client requests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warmup: Vec<Request>,
    /// Requests with their expected answers. Loading fails if the model gives a different answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub golden: Vec<Golden>,
    /// Hints from the files of exporters next to the model; not a key of the file. They apply
    /// where the file has no value and where they fit the model.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(skip)]
    pub hints: Hints,
}

/// The contents of the files that exporters write next to a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hints {
    /// The files that were read.
    pub files: Vec<String>,
    /// Columns of MLflow's signature.
    pub columns: Vec<Column>,
    /// The steps of `preprocessor_config.json`, or of timm's `config.json`.
    pub image: Option<vision::Processor>,
    /// `tokenizer.json`.
    pub tokenizer: Option<TokenizerFile>,
    /// The LoRA adapter of the model; known once it is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterFile>,
    pub text: text::TokenizerConfig,
    /// The steps of a `preprocessor_config.json` for sound.
    pub audio: Option<audio::AudioProcessor>,
    pub task: Option<Task>,
    /// The settings for answers in `config.json`.
    pub answer: task::AnswerSettings,
    /// The steps of sentence-transformers after the network.
    pub modules: Option<SentenceModules>,
    /// The files that could not be interpreted, with the reasons.
    pub passed_over: Vec<PassedOver>,
}

impl Manifest {
    /// The manifest as a model holds it. Models with an empty manifest share one, because a
    /// manifest is large compared with a small model.
    pub fn shared(self) -> Arc<Self> {
        static EMPTY: LazyLock<Arc<Manifest>> = LazyLock::new(Arc::default);
        if self == **EMPTY {
            Arc::clone(&EMPTY)
        } else {
            Arc::new(self)
        }
    }

    /// Whether a model with this signature is useless without its tokenizer: the manifest
    /// requires it, or the model has no graph that could run.
    pub fn needs_tokenizer(&self, signature: &Signature) -> bool {
        let has_graph = !signature.outputs.iter().all(|output| {
            let mut inputs = signature.inputs.iter();
            inputs.any(|input| input.name == output.name)
        });
        matches!(self.text, Some(Step::Settings(_) | Step::Switch(true))) || !has_graph
    }

    /// The tokenizer next to the model, unless the manifest switches sentences off.
    pub fn wanted_tokenizer(&self) -> Option<&TokenizerFile> {
        self.hints
            .tokenizer
            .as_ref()
            .filter(|_| !Step::is_off(self.text.as_ref()))
    }
}

/// A file next to a model that could not be interpreted.
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

/// The file of a LoRA adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterFile {
    /// BLAKE3 of its bytes, in hexadecimal digits.
    pub hash: String,
    /// The path relative to the artifact.
    pub path: String,
    /// The number of its bytes.
    pub size: u64,
    /// The hash of the base model's content.
    pub base: String,
}

/// A step before or after the model: its settings, or whether it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected an object, or false")]
pub enum Step {
    Switch(bool),
    Settings(Map<String, Json>),
}

impl Step {
    /// Whether the manifest switches a step off.
    pub fn is_off(step: Option<&Self>) -> bool {
        matches!(step, Some(Self::Switch(false)))
    }

    /// The settings of a step in the manifest.
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
    /// The value for one record, for requests that omit the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Json>,
    /// The value for every request. A request that sets the input is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constant: Option<Json>,
}

/// A column of a table: its name, or an object with further keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "ColumnForm", into = "ColumnForm")]
pub struct Column {
    pub name: String,
    /// Further names that requests may use.
    pub aliases: Vec<String>,
    /// The value for rows that omit the column.
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
    /// The unknown names are ignored.
    Ignore,
}

/// An output: its name in the graph, or an object with further keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "OutputForm", into = "OutputForm")]
pub struct Output {
    pub name: String,
    /// The name in responses.
    pub rename: Option<String>,
    /// Whether its class numbers are replaced by the manifest's `labels`.
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

/// The format of CSV bodies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Csv {
    /// Whether the first line is a header. If absent, the names in the first line decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    /// One of `,`, `;`, a tab and `|`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// Cells that stand for a missing value, in addition to empty ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// Whether waiting requests may be batched, and with how many rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "BatchingForm", into = "BatchingForm")]
pub enum Batching {
    Never,
    /// The rows are independent. A batch has at most this many rows; without a number, the
    /// general limit applies.
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

/// A request in the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// `application/json` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<String>,
    /// The body: a string is sent as it is, anything else as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Json>,
    /// A file with the body, relative to the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The contents of `file`, once it has been read.
    #[serde(skip)]
    pub bytes: Option<Bytes>,
}

/// A request and its expected answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    pub request: Request,
    /// The expected answer: a string is the text of the body, anything else is JSON.
    pub response: Json,
    /// The relative tolerance for numbers.
    #[serde(default = "default_rtol")]
    pub rtol: f64,
    /// The absolute tolerance for numbers.
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

/// A column with this name, without aliases or a default.
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
