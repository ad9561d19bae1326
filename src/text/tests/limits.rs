//! Requests over the limits are refused, and the errors name the limit.

use std::time::{Duration, Instant};

use super::*;

#[test]
fn rejects_requests_over_the_limits() {
    let tokenizer = tokenizer("bert_uncased");
    let limited = |limits: Limits| Options {
        limits,
        ..Options::default()
    };
    let options = limited(Limits {
        texts: 1,
        ..Limits::default()
    });
    let error = tokenizer
        .encode(&[one("a"), one("b")], &options)
        .unwrap_err()
        .to_string();
    assert!(error.contains("texts of a request: 2, at most 1 allowed"), "{error}");
    let error = tokenizer
        .encode(&[one(&"a".repeat(10 << 20))], &Options::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("bytes of text 0: 10485760"), "{error}");
    let options = limited(Limits {
        tokens: 10,
        ..Limits::default()
    });
    let error = tokenizer
        .encode(&[one("a b c d e f"), one("a")], &options)
        .unwrap_err()
        .to_string();
    assert!(error.contains("tokens of a request: 16, at most 10 allowed"), "{error}");
    let options = limited(Limits {
        deadline: Some(Instant::now() - Duration::from_secs(1)),
        ..Limits::default()
    });
    assert_eq!(tokenizer.encode(&[one("a")], &options), Err(TextError::Deadline));
}

#[test]
fn rejects_lengths_that_contradict_each_other() {
    let tokenizer = tokenizer("bert_uncased");
    let encode = |options: &Options| tokenizer.encode(&[one("a b c"), one("a")], options);
    let short = Options {
        max_length: Some(1),
        ..Options::default()
    };
    let error = encode(&short).unwrap_err().to_string();
    assert!(error.contains("leaves no room for the 2 special tokens"), "{error}");
    let never = Options {
        max_length: Some(4),
        truncation: Truncation::Never,
        ..Options::default()
    };
    assert_eq!(
        encode(&never),
        Err(TextError::TooLong {
            index: 0,
            given: 5,
            limit: 4
        })
    );
    let unknown = Options {
        padding: Padding::MaxLength,
        ..Options::default()
    };
    assert!(
        encode(&unknown)
            .unwrap_err()
            .to_string()
            .contains("padding to max_length needs a maximum length")
    );
    assert_eq!(encode(&Options::default()), Err(TextError::NoPadToken));
    assert!(tokenizer.encode(&[one("a"), one("b")], &Options::default()).is_ok());
}
