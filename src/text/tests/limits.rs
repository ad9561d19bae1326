//! Requests over the limits are refused, and the errors name the limit.

use std::time::{Duration, Instant};

use super::*;

#[test]
fn rejects_requests_over_the_limits() {
    let tokenizer = tokenizer("bert_uncased");
    let limited = |limits: TextLimits| TokenizeOptions {
        limits,
        ..TokenizeOptions::default()
    };
    let options = limited(TextLimits {
        texts: 1,
        ..TextLimits::default()
    });
    let error = tokenizer
        .encode(&[one("a"), one("b")], &options)
        .unwrap_err()
        .to_string();
    assert!(error.contains("texts of a request: 2, at most 1 allowed"), "{error}");
    let error = tokenizer
        .encode(&[one(&"a".repeat(10 << 20))], &TokenizeOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("bytes of text 0: 10485760"), "{error}");
    let options = limited(TextLimits {
        tokens: 10,
        ..TextLimits::default()
    });
    let error = tokenizer
        .encode(&[one("a b c d e f"), one("a")], &options)
        .unwrap_err()
        .to_string();
    assert!(error.contains("tokens of a request: 16, at most 10 allowed"), "{error}");
    let options = limited(TextLimits {
        deadline: Some(Instant::now() - Duration::from_secs(1)),
        ..TextLimits::default()
    });
    assert_eq!(tokenizer.encode(&[one("a")], &options), Err(TextError::Deadline));
}

#[test]
fn rejects_lengths_that_contradict_each_other() {
    let tokenizer = tokenizer("bert_uncased");
    let encode = |options: &TokenizeOptions| tokenizer.encode(&[one("a b c"), one("a")], options);
    let short = TokenizeOptions {
        max_length: Some(1),
        ..TokenizeOptions::default()
    };
    let error = encode(&short).unwrap_err().to_string();
    assert!(error.contains("leaves no room for the 2 special tokens"), "{error}");
    let never = TokenizeOptions {
        max_length: Some(4),
        truncation: Truncation::Never,
        ..TokenizeOptions::default()
    };
    assert_eq!(
        encode(&never),
        Err(TextError::TooLong {
            index: 0,
            given: 5,
            limit: 4
        })
    );
    let unknown = TokenizeOptions {
        padding: Padding::MaxLength,
        ..TokenizeOptions::default()
    };
    assert!(
        encode(&unknown)
            .unwrap_err()
            .to_string()
            .contains("padding to max_length needs a maximum length")
    );
    assert_eq!(encode(&TokenizeOptions::default()), Err(TextError::NoPadToken));
    assert!(
        tokenizer
            .encode(&[one("a"), one("b")], &TokenizeOptions::default())
            .is_ok()
    );
}
