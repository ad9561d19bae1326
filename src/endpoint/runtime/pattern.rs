//! The patterns of SageMaker's runtime API for its members, each with a function that checks it.

/// A pattern as error messages show it, and the function that checks it.
#[derive(Debug)]
pub(super) struct Pattern {
    pub text: &'static str,
    pub matches: fn(&str) -> bool,
}

/// Names of endpoints, variants and containers.
pub(super) const NAME: Pattern = Pattern {
    text: "[a-zA-Z0-9](-*[a-zA-Z0-9])*",
    matches: is_name,
};

pub(super) const ASCII: Pattern = Pattern {
    text: r"\p{ASCII}*",
    matches: str::is_ascii,
};

pub(super) const PRINTABLE: Pattern = Pattern {
    text: r"\A\S[\p{Print}]*\z",
    matches: |text| {
        let mut letters = text.chars();
        letters
            .next()
            .is_some_and(|first| !first.is_whitespace() && !first.is_control())
            && letters.all(|letter| matches!(letter, ' '..='~'))
    },
};

pub(super) const SESSION: Pattern = Pattern {
    text: "^(NEW_SESSION)$|^[a-zA-Z0-9](-*[a-zA-Z0-9])*$",
    matches: |text| text == NEW_SESSION || is_name(text),
};

/// The id of an open session. A stream cannot open a new one.
pub(super) const OPEN_SESSION: Pattern = Pattern {
    text: "^[a-zA-Z0-9](-*[a-zA-Z0-9])*$",
    matches: is_name,
};

/// The session id that opens a new session.
const NEW_SESSION: &str = "NEW_SESSION";

/// SageMaker's `^(https|s3)://([^/]+)/?(.*)$`. Here an object may also be in another cloud's
/// bucket, or a file.
pub(super) const LOCATION: Pattern = Pattern {
    text: "^(https|s3|gs|az)://([^/]+)/?(.*)$|^(file://)?/.*$",
    matches: |text| {
        let is_local = text.strip_prefix("file://").unwrap_or(text).starts_with('/');
        let is_bucket = text.split_once("://").is_some_and(|(scheme, rest)| {
            ["https", "s3", "gs", "az"].contains(&scheme) && !rest.is_empty() && !rest.starts_with('/')
        });
        (is_local || is_bucket) && !text.contains(char::is_control)
    },
};

pub(super) const PATH_EXTENSION: Pattern = Pattern {
    text: "^(?!s3:|https:)[a-zA-Z0-9!_.*'()/-]+$",
    matches: |text| {
        // Excludes both schemes, because a colon is not among the allowed characters.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!_.*'()/-".contains(&byte);
        !text.is_empty() && text.bytes().all(is_plain)
    },
};

pub(super) const FILENAME: Pattern = Pattern {
    text: r"^(?!.*\..*\.)[a-zA-Z0-9][a-zA-Z0-9-_\.]*$",
    matches: |text| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
            && text.bytes().all(is_plain)
            && text.matches('.').count() < 2
    },
};

fn is_name(text: &str) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    plain && !text.is_empty() && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_function_checks_what_its_pattern_says() {
        let table: [(&Pattern, &[&str], &[&str]); 8] = [
            (&NAME, &["a", "A-1", "a--b"], &["", "-a", "a-", "a_b", "a\n"]),
            (&ASCII, &["", "a b"], &["\u{e4}"]),
            (
                &PRINTABLE,
                &["a", "\u{e4}b", "a b~"],
                &["", " a", "a\tb", "ab\u{e4}", "\u{7}"],
            ),
            (&SESSION, &["NEW_SESSION", "s-1"], &["", "OLD_SESSION", "a_b"]),
            (&OPEN_SESSION, &["s-1"], &["NEW_SESSION", ""]),
            (
                &LOCATION,
                &["s3://b/k", "https://h/k", "/a/b", "file:///a"],
                &["", "a", "ftp://h/k", "s3://", "s3:///k", "/a\n"],
            ),
            (
                &PATH_EXTENSION,
                &["a/b.(1)", "!"],
                &["", "s3://b", "https:", "a b", "\u{e4}"],
            ),
            (
                &FILENAME,
                &["a", "a-b_c.out"],
                &["", "..", ".a", "a.b.c", "a/b", "-a", "a b"],
            ),
        ];
        for (pattern, good, bad) in table {
            for text in good {
                assert!((pattern.matches)(text), "{} {text:?}", pattern.text);
            }
            for text in bad {
                assert!(!(pattern.matches)(text), "{} {text:?}", pattern.text);
            }
        }
    }
}
