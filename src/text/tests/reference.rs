//! Compares tokens with those of the reference libraries.

use serde_json::Value;

use super::*;
use crate::text::encoded::characters;

/// The 64-bit FNV-1a hash of numbers, as in the fixtures.
fn fnv(numbers: impl IntoIterator<Item = u32>) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in numbers.into_iter().flat_map(u32::to_le_bytes) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    format!("{hash:016x}")
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder().join(name)).unwrap()).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("{key}"))
}

/// The text of a fixture: a part and its number of repetitions.
fn text(value: &Value) -> String {
    let times = usize::try_from(value[1].as_u64().unwrap()).unwrap();
    value[0].as_str().unwrap().repeat(times)
}

fn number(number: usize) -> u32 {
    u32::try_from(number).unwrap()
}

#[track_caller]
fn check(name: &str, tokenizer: &Tokenizer, input: &TextInput, add_special_tokens: bool, expected: &Value) {
    let mut options = TokenizeOptions {
        add_special_tokens,
        truncation: Truncation::Never,
        max_length: Some(usize::MAX),
        offsets: true,
        ..TokenizeOptions::default()
    };
    let encoded = tokenizer.encode(std::slice::from_ref(input), &options).unwrap();
    let row = &encoded.rows[0];
    let texts: Vec<&str> = input.texts().collect();
    let what = || {
        let start: Vec<String> = texts.iter().map(|text| text.chars().take(40).collect()).collect();
        format!("{name}: {start:?}")
    };
    if let Some(ids) = expected[3].as_array() {
        let ids: Vec<u64> = ids.iter().filter_map(Value::as_u64).collect();
        assert_eq!(
            row.ids.iter().map(|&id| u64::from(id)).collect::<Vec<_>>(),
            ids,
            "{}",
            what()
        );
    }
    assert_eq!(row.ids.len() as u64, expected[0].as_u64().unwrap(), "{}", what());
    assert_eq!(
        fnv(row.ids.iter().copied()),
        expected[1].as_str().unwrap(),
        "{}",
        what()
    );
    // Python counts characters.
    let mut offsets = row.offsets.clone();
    for (sequence, text) in texts.iter().enumerate() {
        let of_text = |at: &usize| row.sequences[*at] == u8::try_from(sequence).ok();
        let places: Vec<usize> = (0..offsets.len()).filter(of_text).collect();
        let ranges: Vec<_> = places.iter().map(|&at| offsets[at].clone()).collect();
        for (at, range) in places.into_iter().zip(characters(text, &ranges)) {
            offsets[at] = range;
        }
    }
    let columns = (row.type_ids.iter().copied())
        .chain(row.special.iter().map(|&special| u32::from(special)))
        .chain(
            offsets
                .iter()
                .flat_map(|range| [number(range.start), number(range.end)]),
        )
        .chain(row.words.iter().map(|word| word.unwrap_or(u32::MAX)))
        .chain(
            row.sequences
                .iter()
                .map(|sequence| sequence.map_or(u32::MAX, u32::from)),
        );
    assert_eq!(fnv(columns), expected[2].as_str().unwrap(), "{}: {row:?}", what());
    // Encoding without offsets gives the same tokens.
    options.offsets = false;
    let short = tokenizer.encode(std::slice::from_ref(input), &options).unwrap();
    assert_eq!(
        (&short.rows[0].ids, &short.rows[0].type_ids),
        (&row.ids, &row.type_ids),
        "{}",
        what()
    );
}

#[test]
fn tokens_of_unusual_texts_match_the_library() {
    let expected = read("expected.json");
    let texts: Vec<String> = list(&expected, "texts").iter().map(text).collect();
    for name in NAMES {
        let tokenizer = tokenizer(name);
        let expected = &expected[name];
        for (text, expected) in texts.iter().zip(list(expected, "texts")) {
            check(name, &tokenizer, &one(text), true, expected);
        }
        for (text, expected) in texts.iter().zip(list(expected, "plain")) {
            check(name, &tokenizer, &one(text), false, expected);
        }
    }
}

#[test]
fn tokens_of_pairs_match_the_library() {
    let expected = read("expected.json");
    for name in NAMES {
        let tokenizer = tokenizer(name);
        for (pair, expected) in list(&expected, "pairs").iter().zip(list(&expected[name], "pairs")) {
            let half = |at: usize| pair[at].as_str().unwrap().to_owned();
            check(name, &tokenizer, &TextInput::Pair(half(0), half(1)), true, expected);
        }
    }
}

/// The options of a call to transformers.
fn options(case: &Value) -> TokenizeOptions {
    let given = &case["options"];
    let length = |value: &Value| value.as_u64().map(|length| usize::try_from(length).unwrap());
    TokenizeOptions {
        add_special_tokens: given["add_special_tokens"].as_bool().unwrap_or(true),
        padding: match &given["padding"] {
            Value::Bool(true) => Padding::Longest,
            other => serde_json::from_value(other.clone()).unwrap(),
        },
        pad_to_multiple_of: length(&given["pad_to_multiple_of"]),
        truncation: match &given["truncation"] {
            Value::Bool(true) => Truncation::LongestFirst,
            Value::Bool(false) => Truncation::Never,
            other => serde_json::from_value(other.clone()).unwrap(),
        },
        max_length: length(&given["max_length"]),
        ..TokenizeOptions::default()
    }
}

#[test]
fn batches_are_truncated_and_padded_as_in_transformers() {
    let file_of_cases = read("batches.json");
    let (texts, cases) = file_of_cases.as_array().unwrap().split_first().unwrap();
    let mut compared = 0;
    for case in cases {
        let name = case["tokenizer"].as_str().unwrap();
        let mut config = TokenizerConfig::default();
        config
            .read("tokenizer_config.json", &case["config"].to_string())
            .unwrap();
        let tokenizer = Tokenizer::parse(&file(name), &config, &FileLimits::default()).unwrap();
        let kind = if case["pairs"] == true { "pairs" } else { "texts" };
        let text = |text: &Value| match text.as_str() {
            Some(text) => one(text),
            None => TextInput::Pair(
                text[0].as_str().unwrap().to_owned(),
                text[1].as_str().unwrap().to_owned(),
            ),
        };
        let texts: Vec<TextInput> = list(texts, kind).iter().map(text).collect();
        let what = format!("{name} {} {kind}", case["options"]);
        let encoded = match tokenizer.encode(&texts, &options(case)) {
            Ok(encoded) => encoded,
            // transformers continues with texts that the model does not accept, or panics.
            Err(TextError::TooLong { .. }) if case["options"]["truncation"] == false => continue,
            Err(TextError::Refused { .. }) if case["error"].is_string() => continue,
            Err(error) => panic!("{what}: {error}"),
        };
        assert!(case["error"].is_null(), "{what}: {}", case["error"]);
        compared += 1;
        let rows = |role| {
            let tensor = encoded.tensor(role, crate::tensor::DataType::I64).unwrap();
            assert_eq!(tensor.shape(), [texts.len(), encoded.length()]);
            let values = tensor.as_slice::<i64>().unwrap();
            values.chunks(encoded.length()).map(<[i64]>::to_vec).collect::<Vec<_>>()
        };
        let ids: Vec<Vec<i64>> = serde_json::from_value(case["input_ids"].clone()).unwrap();
        assert_eq!(rows(TextRole::Ids), ids, "{what}");
        for (role, key) in [(TextRole::Mask, "attention_mask"), (TextRole::Types, "token_type_ids")] {
            let runs: Vec<Vec<(i64, usize)>> = serde_json::from_value(case[key].clone()).unwrap();
            let row = |runs: &Vec<(i64, usize)>| runs.iter().flat_map(|&(value, count)| vec![value; count]).collect();
            assert_eq!(
                rows(role),
                runs.iter().map(row).collect::<Vec<Vec<i64>>>(),
                "{what} {key}"
            );
        }
    }
    assert!(compared > cases.len() / 2, "{compared} of {}", cases.len());
}

#[test]
fn truncation_does_not_depend_on_the_length_of_the_text() {
    // Tokens after the limit are not created.
    for name in NAMES {
        let tokenizer = tokenizer(name);
        let text = "The quick brown fox jumps over the lazy dog. ".repeat(50);
        for side in [Side::Left, Side::Right] {
            let mut options = TokenizeOptions {
                max_length: Some(16),
                truncation_side: Some(side),
                add_special_tokens: false,
                ..TokenizeOptions::default()
            };
            let cut = tokenizer.encode(&[one(&text)], &options).unwrap();
            options.max_length = Some(100_000);
            let whole = tokenizer.encode(&[one(&text)], &options).unwrap();
            let ids = &whole.rows[0].ids;
            let expected = match side {
                Side::Left => &ids[ids.len() - 16..],
                Side::Right => &ids[..16],
            };
            assert_eq!(cut.rows[0].ids, expected, "{name}");
            assert!(cut.rows[0].is_cut && !whole.rows[0].is_cut, "{name}");
        }
    }
}

#[test]
fn the_configuration_of_bert_overrides_its_tokenizer_file() {
    let mut config = TokenizerConfig::default();
    let text = r#"{"tokenizer_class": "BertTokenizer", "do_lower_case": false}"#;
    config.read("tokenizer_config.json", text).unwrap();
    let cased = Tokenizer::parse(&file("bert_uncased"), &config, &FileLimits::default()).unwrap();
    let ids = |tokenizer: &Tokenizer, text: &str| {
        let encoded = tokenizer.encode(&[one(text)], &TokenizeOptions::default()).unwrap();
        encoded.rows[0].ids.clone()
    };
    let uncased = tokenizer("bert_uncased");
    assert_eq!(ids(&uncased, "THE fox"), ids(&uncased, "the fox"));
    assert_ne!(ids(&cased, "THE fox"), ids(&cased, "the fox"));
    assert!(!cased.is_shared_with(&uncased));

    // sentence-transformers prepares the texts itself.
    let mut lowered = TokenizerConfig::default();
    lowered
        .read("sentence_bert_config.json", r#"{"do_lower_case": true}"#)
        .unwrap();
    let lowered = Tokenizer::parse(&file("bert_cased"), &lowered, &FileLimits::default()).unwrap();
    assert_eq!(ids(&lowered, "THE Fox"), ids(&lowered, "the fox"));
    let mut stripped = TokenizerConfig::default();
    stripped.read("sentence_bert_config.json", "{}").unwrap();
    let stripped = Tokenizer::parse(&file("gpt2"), &stripped, &FileLimits::default()).unwrap();
    assert_eq!(ids(&stripped, " \u{1c}\nfox\u{3000}"), ids(&stripped, "fox"));
    let options = TokenizeOptions {
        offsets: true,
        ..TokenizeOptions::default()
    };
    let encoded = stripped.encode(&[one("  a b ")], &options).unwrap();
    assert_eq!(encoded.rows[0].offsets, [2..3, 3..5]);
}

#[test]
fn the_maximum_length_comes_from_the_most_specific_file() {
    let length = |files: &[(&str, &str)], options: &TokenizeOptions| {
        let mut config = TokenizerConfig::default();
        for (file, text) in files {
            config.read(file, text).unwrap();
        }
        let tokenizer = Tokenizer::parse(&file("word_level"), &config, &FileLimits::default()).unwrap();
        tokenizer.max_length(options)
    };
    let own = ("tokenizer_config.json", r#"{"model_max_length": 512}"#);
    let sentence = ("sentence_bert_config.json", r#"{"max_seq_length": 256}"#);
    let positions = ("config.json", r#"{"max_position_embeddings": 128}"#);
    let plain = TokenizeOptions::default();
    assert_eq!(length(&[], &plain), Some(16));
    assert_eq!(length(&[own], &plain), Some(512));
    assert_eq!(length(&[own, sentence], &plain), Some(256));
    assert_eq!(length(&[own, sentence, positions], &plain), Some(128));
    let asked = TokenizeOptions {
        max_length: Some(1000),
        ..TokenizeOptions::default()
    };
    assert_eq!(length(&[own], &asked), Some(1000));
    assert_eq!(length(&[own, positions], &asked), Some(128));
    let fixed = TokenizeOptions {
        fixed_length: Some(64),
        ..TokenizeOptions::default()
    };
    assert_eq!(length(&[own], &fixed), Some(64));
}
