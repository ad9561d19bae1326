//! Tokenizes sentences with the model's tokenizer file.
//!
//! The `tokenizers` crate reads `tokenizer.json`, because the same library writes it: the ids are
//! those that the model was trained with. This module does the rest: it decides which files are
//! accepted, runs the steps, pads and truncates, and fills the tensors of the model's inputs.
//!
//! The steps run here one by one, and not through the library's own `Tokenizer`, for four reasons:
//! - The library's regular expressions stop without an error when their engine gives up, and the
//!   rest of the text gets wrong tokens. `pattern` runs them and reports the error.
//! - The library keeps truncated tokens as further encodings, and combines those of pairs with each
//!   other. Two long texts would take gigabytes.
//! - Its BPE model keeps a cache in each thread, which outlives the model.
//! - Padding and truncation depend on the request, but the library stores them in the tokenizer.
//!
//! ```text
//! request   body to texts, independent of the model
//! Pool      shares one tokenizer in memory between equal files
//! Tokenizer texts to Encoded, by TokenizeOptions
//! Encoded   padded rows to the named tensors of a signature (TextInputs)
//! ```
//!
//! Invariants:
//! - Every function here is pure: no I/O, no HTTP, no ONNX Runtime.
//! - No file and no text causes a panic, recursion deeper than a constant, or time or memory beyond
//!   the [`TextLimits`]; an error names the limit.

mod config;
mod encoded;
mod error;
mod file;
mod limits;
mod model;
mod normalize;
mod options;
mod pattern;
mod pool;
mod post_process;
mod pre_tokenize;
pub mod request;
mod tensors;
#[cfg(test)]
mod tests;
mod tokenizer;

pub use config::{ConfigError, TokenizerConfig};
pub use encoded::{Encoded, TokenRow, characters};
pub use error::TextError;
pub use limits::{FileLimits, TextLimit, TextLimits};
pub use options::{Padding, Side, TokenizeOptions, Truncation};
pub use pool::Pool;
pub use request::TextInput;
pub use tensors::{TextInputs, TextRole};
pub use tokenizer::Tokenizer;
