//! Sentences to token ids, as the model's tokenizer file describes.
//!
//! `tokenizer.json` is read by the library that writes it, the `tokenizers` crate, so that the ids
//! are those that the model was trained with. This module owns the parts around it: which file is
//! accepted, the order of the steps, padding, truncation, and the tensors of the model's inputs.
//!
//! The steps run here one by one, and not through the library's own `Tokenizer`, for four reasons:
//! - The library's regular expressions stop without an error where their engine gives up, and the
//!   rest of the text then becomes other tokens. `pattern` runs them and reports the error.
//! - The library keeps the tokens behind a cut as further encodings, and joins those of pairs with
//!   each other. Two long texts would take gigabytes.
//! - Its BPE model keeps a cache in each thread, which outlives the model.
//! - Padding and truncation depend on the request, and the library keeps them in the tokenizer.
//!
//! ```text
//! request   body to texts, whatever the model is
//! Pool      equal tokenizer files are one tokenizer in memory
//! Tokenizer texts to Encoded, by Options
//! Encoded   padded rows to the named tensors of a signature (TextInputs)
//! ```
//!
//! What always holds:
//! - Everything here is a pure function of its arguments: no I/O, no HTTP, no ONNX Runtime.
//! - No file and no text panics, recurses deeper than a constant, or takes time or memory beyond
//!   the [`Limits`]; an error names the limit.

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
pub use limits::{FileLimits, Limits};
pub use options::{Options, Padding, Side, Truncation};
pub use pool::Pool;
pub use request::TextInput;
pub use tensors::{TextInputs, TextRole};
pub use tokenizer::Tokenizer;
