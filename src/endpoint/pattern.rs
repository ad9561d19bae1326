//! The patterns of SageMaker's two APIs for their members.
//!
//! SageMaker matches whole values. Some checks differ from the pattern that error messages show:
//! the regular expressions of `regex-lite` have no look-ahead and only ASCII classes, and a few
//! members take other values here.

use std::sync::LazyLock;

use regex_lite::Regex;

/// A pattern as error messages show it, and the function that checks it.
#[derive(Debug)]
pub struct Pattern {
    pub text: &'static str,
    pub matches: fn(&str) -> bool,
}

/// A pattern that is checked as a regular expression and, if given, by a function.
macro_rules! pattern {
    ($text:literal) => {
        pattern!($text, |_| true)
    };
    ($text:literal, $also:expr) => {
        Pattern {
            text: $text,
            matches: |text| {
                static REGEX: LazyLock<Regex> = LazyLock::new(|| whole($text));
                let also: fn(&str) -> bool = $also;
                REGEX.is_match(text) && also(text)
            },
        }
    };
}

fn whole(pattern: &str) -> Regex {
    // Cannot fail: a test uses each pattern.
    Regex::new(&format!(r"\A(?:{pattern})\z")).expect("the patterns are valid")
}

/// Maximum characters of a name.
pub const MAX_NAME: usize = 63;

/// The name of a resource, a variant or a container, whose length is checked separately.
pub const NAME: Pattern = pattern!("[a-zA-Z0-9](-*[a-zA-Z0-9])*");

/// [`NAME`] as the control plane shows it.
pub const RESOURCE_NAME: Pattern = Pattern {
    text: "^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}",
    ..NAME
};

pub const MODEL_NAME: Pattern = pattern!(r"^[a-zA-Z0-9]([\-a-zA-Z0-9]*[a-zA-Z0-9])?");

pub const NAME_CONTAINS: Pattern = pattern!("[a-zA-Z0-9-]+");

pub const ENVIRONMENT_KEY: Pattern = pattern!("[a-zA-Z_][a-zA-Z0-9_]*");

/// Excludes a NUL, which ends a value in a process's environment.
pub const ENVIRONMENT_VALUE: Pattern = Pattern {
    text: r"[\S\s]*",
    matches: |text| !text.contains('\0'),
};

pub const NO_SPACES: Pattern = Pattern {
    text: r"[\S]+",
    matches: |text| !text.is_empty() && !text.contains(char::is_whitespace),
};

pub const NOT_BLANK: Pattern = Pattern {
    text: r"(?!\s*$).+",
    matches: |text| !text.trim().is_empty() && is_one_line(text),
};

pub const VPC_ID: Pattern = pattern!("[-0-9a-zA-Z]+");

/// A key of KMS.
pub const KEY: Pattern = pattern!("[a-zA-Z0-9:/_-]*");

pub const TAG: Pattern = Pattern {
    text: r"^([\p{L}\p{Z}\p{N}_.:/=+\-@]*)$",
    matches: |text| {
        // Letters, numbers and separators. Tabs and line ends are white space, but not separators.
        let is_separator = |letter: char| letter.is_whitespace() && !letter.is_control();
        text.chars()
            .all(|letter| letter.is_alphanumeric() || is_separator(letter) || "_.:/=+-@".contains(letter))
    },
};

/// The path must not consist of slashes alone.
pub const ROLE: Pattern = Pattern {
    text: r"^arn:aws[a-z\-]*:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+$",
    ..pattern!(r"arn:aws[a-z-]*:iam::\d{12}:role/*[a-zA-Z0-9+=,.@_-][a-zA-Z0-9+=,.@_/-]*")
};

/// The region may be any text, because `--region` may be.
pub const RESOURCE: Pattern = Pattern {
    text: "arn:aws[a-z-]*:sagemaker:[a-z0-9-]*:[0-9]{12}:.+",
    ..pattern!("(?s)arn:aws[^:]*:sagemaker:[^:]*:[0-9]{12}:.+")
};

/// SageMaker's `(https|s3)://([^/]+)/?(.*)`. Here models may also be in another cloud's bucket, or
/// on this machine.
pub const MODEL_DATA: Pattern = pattern!(
    r"^(https?|s3|gs|az)://([^/]+)/?(.*)$|^(file://)?/.*$",
    has_no_control_character
);

/// SageMaker's `^(https|s3)://([^/]+)/?(.*)$` for the input of an asynchronous invocation. Here an
/// object may also be in another cloud's bucket, or a file.
pub const LOCATION: Pattern = pattern!(
    "^(https|s3|gs|az)://([^/]+)/?(.*)$|^(file://)?/.*$",
    has_no_control_character
);

/// SageMaker's `(https|s3)://([^/])/?(.*)`, but only for buckets. Here also a folder on this
/// machine.
pub const OUTPUT: Pattern = pattern!(r"^s3://([^/]+)/?(.*)$|^(file://)?/.*$", has_no_control_character);

/// The destination of captured data and core dumps on SageMaker, which are not written here.
pub const S3_URI: Pattern = pattern!("(https|s3)://([^/])/?(.*)", has_no_control_character);

/// SageMaker's `.*`.
pub const ONE_LINE: Pattern = Pattern {
    text: ".*",
    matches: is_one_line,
};

pub const MEDIA_TYPE: Pattern = pattern!(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*\/[a-zA-Z0-9](-*[a-zA-Z0-9.])*");

pub const TOPIC: Pattern = pattern!(r"arn:aws[a-z\-]*:sns:[a-z0-9\-]*:[0-9]{12}:[a-zA-Z0-9_.-]+");

pub const RESERVATION: Pattern = pattern!(
    r"arn:aws[a-z\-]*:sagemaker:[a-z0-9\-]*:[0-9]{12}:[a-z0-9\-]{1,14}/.*",
    is_one_line
);

pub const PARTITION: Pattern = pattern!(r"mig-[0-9]+g\.[0-9]+gb([+-][a-z0-9.]+)*");

pub const METRICS_PATH: Pattern = Pattern {
    text: r"/(?!.*\.\.)[a-zA-Z0-9/_.\-]+",
    ..pattern!("/[a-zA-Z0-9/_.-]+", |path| !path.contains(".."))
};

pub const ASCII: Pattern = Pattern {
    text: r"\p{ASCII}*",
    matches: str::is_ascii,
};

pub const PRINTABLE: Pattern = Pattern {
    text: r"\A\S[\p{Print}]*\z",
    matches: |text| {
        let mut letters = text.chars();
        letters
            .next()
            .is_some_and(|first| !first.is_whitespace() && !first.is_control())
            && letters.all(|letter| matches!(letter, ' '..='~'))
    },
};

/// The id of a session, or the text that opens a new one.
pub const SESSION: Pattern = pattern!("^(NEW_SESSION)$|^[a-zA-Z0-9](-*[a-zA-Z0-9])*$");

/// The id of an open session. A stream cannot open a new one.
pub const OPEN_SESSION: Pattern = pattern!("^[a-zA-Z0-9](-*[a-zA-Z0-9])*$");

/// Excludes both schemes, because a colon is not among the allowed characters.
pub const PATH_EXTENSION: Pattern = Pattern {
    text: "^(?!s3:|https:)[a-zA-Z0-9!_.*'()/-]+$",
    ..pattern!("[a-zA-Z0-9!_.*'()/-]+")
};

/// At most one dot.
pub const FILENAME: Pattern = Pattern {
    text: r"^(?!.*\..*\.)[a-zA-Z0-9][a-zA-Z0-9-_\.]*$",
    ..pattern!(r"[a-zA-Z0-9][a-zA-Z0-9_-]*(\.[a-zA-Z0-9_-]*)?")
};

/// Whether `text` is a valid name of a resource, a variant or a container.
pub fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME && (NAME.matches)(text)
}

/// Whether `.*` matches `text` on SageMaker, where a dot matches no line end.
fn is_one_line(text: &str) -> bool {
    !text.contains(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'])
}

fn has_no_control_character(text: &str) -> bool {
    !text.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_function_checks_what_its_pattern_says() {
        let role = "arn:aws:iam::123456789012:role/service/Role+=,.@-_";
        let table: [(&Pattern, &[&str], &[&str]); 29] = [
            (
                &RESOURCE_NAME,
                &["a", "A-1", "a--b"],
                &["", "-a", "a-", "a_b", "a b", "ä"],
            ),
            (&MODEL_NAME, &["a", "A-1"], &["", "a-", "a.b"]),
            (&NAME_CONTAINS, &["-", "a-"], &["", "_"]),
            (&ENVIRONMENT_KEY, &["_", "A_1"], &["", "1A", "A-B", "Ä"]),
            (&ENVIRONMENT_VALUE, &["", "any\nthing ä"], &["\0"]),
            (&NOT_BLANK, &["an alarm", "a "], &["", " ", "a\n"]),
            (&VPC_ID, &["sg-0a", "-"], &["", "sg 1", "sg_1"]),
            (
                &KEY,
                &["", "arn:aws:kms:eu-central-1:000000000000:key/a_b"],
                &["a b", "a.b"],
            ),
            (&NO_SPACES, &["image:1@sha256:0"], &["", "a b"]),
            (
                &TAG,
                &["", "a b:ä/=+-@_.1", "a\u{a0}b\u{2028}c"],
                &["a*", "{", "a\n", "\t"],
            ),
            (
                &S3_URI,
                &["s3://b/k", "https://h/k"],
                &["", "a", "/a", "file:///a", "gs://b/k", "s3://", "s3://b/\n"],
            ),
            (&ONE_LINE, &["", "a b"], &["a\nb"]),
            (
                &MEDIA_TYPE,
                &["text/csv", "application/x-npy", "a/b.c"],
                &["", "text", "text/", "text/-a", "text/a-", "a b/c", "a/b/c"],
            ),
            (
                &TOPIC,
                &["arn:aws:sns:eu-central-1:000000000000:a_b.c"],
                &[
                    "",
                    "arn:aws:sqs:eu-central-1:000000000000:a",
                    "arn:aws:sns::1:a",
                    "arn:aws:sns::000000000000:a b",
                ],
            ),
            (
                &RESERVATION,
                &["arn:aws:sagemaker:eu-central-1:000000000000:training-plan/a"],
                &[
                    "",
                    "arn:aws:sagemaker:r:000000000000:training-plan",
                    "arn:aws:sagemaker:r:000000000000:A/b",
                ],
            ),
            (
                &PARTITION,
                &["mig-3g.40gb", "mig-1g.10gb+me", "mig-1g.5gb-me.all"],
                &["", "mig-3g", "mig-3g.40gb+", "mig-g.40gb", "mig-3g.40gbme"],
            ),
            (
                &METRICS_PATH,
                &["/metrics", "/a/b.c-d_e"],
                &["", "/", "metrics", "/a/../b", "/a b"],
            ),
            (
                &ROLE,
                &[role],
                &[
                    "",
                    "role",
                    "arn:aws:iam::1:role/a",
                    "arn:aws:iam::123456789012:role/",
                    "arn:aws:iam::123456789012:role/*",
                ],
            ),
            (
                &MODEL_DATA,
                &[
                    "s3://b",
                    "s3://b/k.tar.gz",
                    "https://h/k",
                    "/a b",
                    "file:///a",
                    "gs://b/k",
                ],
                &["", "models", "s3://", "s3:///k", "ftp://h/a", "file://h/a", "/a\n"],
            ),
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
            (
                &RESOURCE,
                &[
                    "arn:aws:sagemaker:us_1:000000000000:model/a",
                    "arn:aws-cn:sagemaker::000000000000:a",
                ],
                &[
                    "",
                    "arn:aws:sagemaker:us-east-1:0:model/a",
                    "arn:aws:sns:us-east-1:000000000000:a",
                    "arn:aws:sagemaker:us-east-1:000000000000:",
                ],
            ),
            (
                &OUTPUT,
                &["s3://b", "s3://b/k", "/a b", "file:///a"],
                &["", "https://h/k", "gs://b/k", "s3://", "/a\n", "/a\u{85}"],
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
