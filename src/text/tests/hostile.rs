//! Hostile files and texts are refused, in bounded time and memory.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn problem(json: &Value) -> String {
    match parse(json.to_string().as_bytes()) {
        Ok(_) => panic!("{json}"),
        Err(error) => error.to_string(),
    }
}

fn model() -> Value {
    json!({"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"})
}

/// A tokenizer file with one part replaced.
fn with(key: &str, part: Value) -> Value {
    let mut file = json!({"version": "1.0", "model": model()});
    file[key] = part;
    file
}

fn added(content: &str) -> Value {
    json!({"id": 9, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": false, "special": true})
}

#[test]
fn errors_name_the_part_of_the_file() {
    let model = |change: Value| {
        let mut model = model();
        for (key, value) in change.as_object().unwrap() {
            model[key] = value.clone();
        }
        with("model", model)
    };
    let bpe = |vocab: Value, merges: Value, prefix: Value| {
        let bpe = json!({"type": "BPE", "vocab": vocab, "merges": merges, "continuing_subword_prefix": prefix});
        with("model", bpe)
    };
    let replace = |pattern: &str, content: &str| {
        with(
            "normalizer",
            json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content}),
        )
    };
    let table = [
        (json!([]), "a tokenizer"),
        (json!({"version": "1.0"}), "it has no \"model\""),
        (with("version", json!("2.0")), "expected \"version\" 1.0"),
        (model(json!({"type": "Magic"})), "must be BPE, WordPiece"),
        (model(json!({"type": "Unigram"})), "does not have the form of a"),
        (model(json!({"vocab": {"a": 4_294_967_296u64}})), "4294967296"),
        (
            model(json!({"vocab": {"a": 2_147_483_648u64}})),
            "too large for an int32",
        ),
        (model(json!({"vocab": {"a": -1}})), "-1"),
        (model(json!({"vocab": {"a".repeat(4096): 1}})), "longer than 2048 bytes"),
        (
            model(
                json!({"type": "WordPiece", "continuing_subword_prefix": "##", "max_input_chars_per_word": 1_000_000}),
            ),
            "max_input_chars_per_word",
        ),
        (
            model(json!({"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 5})),
            "unk_id",
        ),
        (
            bpe(json!({"a": 0, "b": 1}), json!(["a b"]), Value::Null),
            "merge 0 makes a token",
        ),
        (
            bpe(json!({"a": 0, "#": 1}), json!([["a", "#"]]), json!("##")),
            "merge 0 makes a token",
        ),
        (
            bpe(json!({"a": 0}), json!(["a b c"]), Value::Null),
            "must be two tokens",
        ),
        (
            bpe(json!({"a": 0}), json!([["a", "b", "c"]]), Value::Null),
            "must be two tokens",
        ),
        (replace("(a+)+$", ""), "$ means the end of a line"),
        (replace("(", ""), "a group is not closed"),
        (
            replace("a", &"b".repeat(2000)),
            "bytes of the text that a normalizer inserts",
        ),
        (
            with("normalizer", json!({"type": "Prepend", "prepend": "b".repeat(2000)})),
            "inserts",
        ),
        (
            with(
                "normalizer",
                json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            ),
            "precompiled_charsmap",
        ),
        (with("normalizer", json!({"type": "Magic"})), "normalizer Magic"),
        (
            with("normalizer", json!({"pattern": {"Regex": "a"}, "content": ""})),
            "has no \"type\"",
        ),
        (
            with(
                "normalizer",
                json!({"type": "Sequence", "normalizers": vec![json!({"type": "NFC"}); 100]}),
            ),
            "steps of the normalizer",
        ),
        (
            with(
                "pre_tokenizer",
                json!({"type": "Sequence", "pretokenizers": vec![json!({"type": "Whitespace"}); 100]}),
            ),
            "steps of the pre-tokenizer",
        ),
        (
            with("pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
            "the length 0",
        ),
        (
            with(
                "pre_tokenizer",
                json!({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Isolated"}),
            ),
            "invert",
        ),
        (
            with(
                "post_processor",
                json!({"type": "Sequence", "processors": vec![json!({"type": "ByteLevel"}); 100]}),
            ),
            "steps of the post-processor",
        ),
        (with("post_processor", json!(vec![0; 30_000])), "more than 20000 values"),
        (
            with("added_tokens", json!([added(&"a".repeat(4096))])),
            "longer than 2048 bytes",
        ),
        (
            with("added_tokens", json!([added("a"), {"id": 5_000_000_000u64}])),
            "5000000000",
        ),
    ];
    for (json, expected) in table {
        let given = problem(&json);
        assert!(given.contains(expected), "{expected}: {given}");
        assert!(given.len() < 1024, "{given}");
    }
    for text in [
        "",
        "{",
        "\u{feff}",
        "null",
        "{\"model\": {\"vocab\": {\"\\ud800\": 1}}}",
    ] {
        assert!(matches!(parse(text.as_bytes()), Err(TextError::File { .. })), "{text}");
    }
    assert!(parse(b"{\"version\": \"\xff\"}").is_err());
}

#[test]
fn rejects_files_over_the_limits() {
    let limits = FileLimits {
        bytes: 2000,
        tokens: 3,
        merges: 2,
        added_tokens: 2,
    };
    let vocab = json!({"a": 0, "b": 1, "ab": 2});
    let table = [
        (with("decoder", json!("x".repeat(3000))), "bytes: "),
        (
            with(
                "model",
                json!({"vocab": {"a": 0, "b": 1, "c": 2, "d": 3}, "unk_token": "a"}),
            ),
            "more than 3 tokens",
        ),
        (
            with("model", json!({"vocab": [["a", 0], ["b", 0], ["c", 0], ["d", 0]]})),
            "more than 3 tokens",
        ),
        (
            with("model", json!({"vocab": vocab, "merges": ["a b", "a b", "a b"]})),
            "more than 2 merges",
        ),
        (
            with("added_tokens", json!([added("x"), added("y"), added("z")])),
            "more than 2 added tokens",
        ),
    ];
    for (json, expected) in table {
        let error = Tokenizer::parse(json.to_string().as_bytes(), &TokenizerConfig::default(), &limits);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn rejects_deeply_nested_files_without_a_stack_overflow() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}0{}", open.repeat(100_000), close.repeat(100_000));
        for key in ["normalizer", "model", "decoder", "added_tokens"] {
            let file = format!("{{\"version\": \"1.0\", \"{key}\": {deep}}}");
            assert!(parse(file.as_bytes()).is_err());
        }
    }
    let nested = format!(
        "{}{}{}",
        "{\"type\":\"Sequence\",\"normalizers\":[".repeat(60),
        "{\"type\":\"NFC\"}",
        "]}".repeat(60)
    );
    let file = format!(
        "{{\"version\": \"1.0\", \"normalizer\": {nested}, \"model\": {}}}",
        model()
    );
    parse(file.as_bytes()).unwrap();
}

#[test]
fn many_added_tokens_are_read() {
    let tokens: Vec<Value> = (0..50_000).map(|number| added(&format!("<{number}>"))).collect();
    let tokenizer = parse(with("added_tokens", json!(tokens)).to_string().as_bytes()).unwrap();
    let encoded = tokenizer
        .encode(&[one("<49999>")], &TokenizeOptions::default())
        .unwrap();
    assert_eq!(encoded.rows[0].ids, [50_001]);
    assert_eq!(tokenizer.vocabulary(), 50_002);
}

#[test]
fn stops_normalizers_that_make_texts_too_long() {
    let step = json!({"type": "Replace", "pattern": {"Regex": "a"}, "content": "a".repeat(1000)});
    let steps = json!({"type": "Sequence", "normalizers": vec![step; 10]});
    let tokenizer = parse(with("normalizer", steps).to_string().as_bytes()).unwrap();
    let error = tokenizer
        .encode(&[one("aaaa")], &TokenizeOptions::default())
        .unwrap_err();
    assert!(
        error.to_string().contains("bytes of a text after its normalization"),
        "{error}"
    );
    // This text is inserted before each part between added tokens.
    let mut file = with("normalizer", json!({"type": "Prepend", "prepend": "b".repeat(1000)}));
    file["added_tokens"] = json!([added("x")]);
    let tokenizer = parse(file.to_string().as_bytes()).unwrap();
    let error = tokenizer
        .encode(&[one(&"ax".repeat(1000))], &TokenizeOptions::default())
        .unwrap_err();
    assert!(
        error.to_string().contains("bytes of a text after its normalization"),
        "{error}"
    );
}

#[test]
fn a_pattern_that_gives_up_causes_an_error_for_the_text() {
    for key in ["normalizer", "pre_tokenizer"] {
        let part = json!({"type": if key == "normalizer" { "Replace" } else { "Split" },
            "pattern": {"Regex": "(?:a|b|ab)*(?=c)"}, "content": "", "behavior": "Isolated", "invert": false});
        let tokenizer = parse(with(key, part).to_string().as_bytes()).unwrap();
        tokenizer.encode(&[one("abc")], &TokenizeOptions::default()).unwrap();
        let error = tokenizer
            .encode(&[one(&"ab".repeat(500))], &TokenizeOptions::default())
            .unwrap_err();
        assert!(matches!(error, TextError::PatternBound { .. }), "{key}: {error}");
    }
}

#[test]
fn a_million_characters_and_their_added_tokens_are_tokenized() {
    for (name, part) in [
        ("roberta", "<mask>"),
        ("bert_uncased", "\u{fdfa}"),
        ("xlm_roberta", "①½ﷺ "),
        ("llama", "敏捷"),
    ] {
        let text = part.repeat((1 << 20) / part.len());
        let options = TokenizeOptions {
            max_length: Some(512),
            ..TokenizeOptions::default()
        };
        let encoded = tokenizer(name).encode(&[one(&text)], &options).unwrap();
        assert!(encoded.rows[0].len() <= 512, "{name}");
    }
}

/// A text of any characters, with many unusual ones.
fn any_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "\\PC{0,6}",
        any::<char>().prop_map(String::from),
        prop::sample::select(vec![
            " ",
            "  ",
            "\n",
            "\u{200d}",
            "\u{301}",
            "<mask>",
            "[SEP]",
            "'s",
            "é",
            "敏",
            "👩‍👩‍👧",
            "\u{fdfa}",
            "\0"
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn every_text_is_tokenized_or_causes_an_error(texts in prop::collection::vec(any_text(), 1..4), which in 0..NAMES.len(), most in 0usize..12) {
        let tokenizer = tokenizer(NAMES[which]);
        let inputs: Vec<TextInput> = texts.iter().map(|text| one(text)).collect();
        let options = TokenizeOptions { max_length: Some(most), offsets: true, ..TokenizeOptions::default() };
        if let Ok(encoded) = tokenizer.encode(&inputs, &options) {
            for (row, text) in encoded.rows.iter().zip(&texts) {
                prop_assert!(row.len() <= most);
                for range in &row.offsets {
                    prop_assert!(text.get(range.clone()).is_some(), "{:?} of {:?}", range, text);
                }
            }
        }
    }

    #[test]
    fn changed_files_are_read_or_cause_an_error(
        which in 0..NAMES.len(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()
    ) {
        let mut json = file(NAMES[which]);
        // Most of a file is vocabulary; the structure is at its beginning and end.
        let length = json.len();
        for (at, byte) in changes {
            let at = at.index(length.min(6000));
            json[if at < 3000 { at } else { length - 1 - (at - 3000) }] = byte;
        }
        if cut.index(8) == 0 {
            json.truncate(cut.index(length));
        }
        if let Ok(tokenizer) = parse(&json) {
            let texts = ["It's a fine day <mask> 敏捷 👩‍👩‍👧", "", "ﷺ e\u{301} ①½"].map(one);
            let _ = tokenizer.encode(&texts, &TokenizeOptions::default());
        }
    }
}
