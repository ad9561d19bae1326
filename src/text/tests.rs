mod hostile;
mod limits;
mod memory;
mod reference;
mod shared;
mod signature;

use std::path::PathBuf;

use super::*;

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "text"].iter().collect()
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(folder().join("tokenizers").join(name).with_extension("json")).unwrap()
}

fn tokenizer(name: &str) -> Tokenizer {
    parse(&file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn parse(json: &[u8]) -> Result<Tokenizer, TextError> {
    Tokenizer::parse(json, &TokenizerConfig::default(), &FileLimits::default())
}

fn one(text: &str) -> TextInput {
    TextInput::One(text.to_owned())
}

const NAMES: [&str; 10] = [
    "albert",
    "bert_cased",
    "bert_uncased",
    "gpt2",
    "llama",
    "llama3",
    "roberta",
    "t5",
    "word_level",
    "xlm_roberta",
];
