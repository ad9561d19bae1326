//! The patterns of SageMaker's API for its members, each with a function that checks it.
//!
//! A few simple expressions need no regular expression engine.

/// A pattern as error messages show it, and the function that checks it.
#[derive(Debug)]
pub(super) struct Pattern {
    pub text: &'static str,
    pub matches: fn(&str) -> bool,
}

/// Maximum characters of a name.
pub(super) const MAX_NAME: usize = 63;

pub(super) const MODEL_NAME: Pattern = Pattern {
    text: r"^[a-zA-Z0-9]([\-a-zA-Z0-9]*[a-zA-Z0-9])?",
    matches: is_name,
};

pub(super) const NAME: Pattern = Pattern {
    text: "^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}",
    matches: is_name,
};

pub(super) const NAME_CONTAINS: Pattern = Pattern {
    text: "[a-zA-Z0-9-]+",
    matches: |text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
};

pub(super) const ENVIRONMENT_KEY: Pattern = Pattern {
    text: "[a-zA-Z_][a-zA-Z0-9_]*",
    matches: |text| {
        !text.is_empty()
            && !text.as_bytes()[0].is_ascii_digit()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    },
};

/// Excludes a NUL, which ends a value in a process's environment.
pub(super) const ENVIRONMENT_VALUE: Pattern = Pattern {
    text: r"[\S\s]*",
    matches: |text| !text.contains('\0'),
};

pub(super) const NO_SPACES: Pattern = Pattern {
    text: r"[\S]+",
    matches: |text| !text.is_empty() && !text.contains(char::is_whitespace),
};

pub(super) const NOT_BLANK: Pattern = Pattern {
    text: r"(?!\s*$).+",
    matches: |text| !text.trim().is_empty() && (ONE_LINE.matches)(text),
};

pub(super) const VPC_ID: Pattern = Pattern {
    text: "[-0-9a-zA-Z]+",
    matches: NAME_CONTAINS.matches,
};

/// A key of KMS.
pub(super) const KEY: Pattern = Pattern {
    text: "[a-zA-Z0-9:/_-]*",
    matches: |text| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b":/_-".contains(&byte))
    },
};

pub(super) const TAG: Pattern = Pattern {
    text: r"^([\p{L}\p{Z}\p{N}_.:/=+\-@]*)$",
    matches: |text| {
        // Letters, numbers and separators. Tabs and line ends are white space, but not separators.
        let is_separator = |letter: char| letter.is_whitespace() && !letter.is_control();
        text.chars()
            .all(|letter| letter.is_alphanumeric() || is_separator(letter) || "_.:/=+-@".contains(letter))
    },
};

pub(super) const ROLE: Pattern = Pattern {
    text: r"^arn:aws[a-z\-]*:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+$",
    matches: is_role,
};

pub(super) const RESOURCE: Pattern = Pattern {
    text: "arn:aws[a-z-]*:sagemaker:[a-z0-9-]*:[0-9]{12}:.+",
    matches: |text| {
        let mut parts = text.splitn(6, ':');
        parts.next() == Some("arn")
            && parts.next().is_some_and(|partition| partition.starts_with("aws"))
            && parts.next() == Some("sagemaker")
            && parts.next().is_some()
            && parts.next().is_some_and(is_account)
            && parts.next().is_some_and(|resource| !resource.is_empty())
    },
};

/// SageMaker's `(https|s3)://([^/]+)/?(.*)`. Here models may also be in another cloud's bucket, or
/// on this machine.
pub(super) const MODEL_DATA: Pattern = Pattern {
    text: r"^(https?|s3|gs|az)://([^/]+)/?(.*)$|^(file://)?/.*$",
    matches: |text| is_bucket(text, &["https", "http", "s3", "gs", "az"]) || is_local(text),
};

/// SageMaker's `(https|s3)://([^/])/?(.*)`, but only for buckets. Here also a folder on this
/// machine.
pub(super) const OUTPUT: Pattern = Pattern {
    text: r"^s3://([^/]+)/?(.*)$|^(file://)?/.*$",
    matches: |text| is_bucket(text, &["s3"]) || is_local(text),
};

/// The destination of captured data and core dumps on SageMaker, which are not written here.
pub(super) const S3_URI: Pattern = Pattern {
    text: "(https|s3)://([^/])/?(.*)",
    matches: |text| is_bucket(text, &["https", "s3"]),
};

/// SageMaker's `.*`.
pub(super) const ONE_LINE: Pattern = Pattern {
    text: ".*",
    matches: |text| !text.contains(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']),
};

pub(super) const MEDIA_TYPE: Pattern = Pattern {
    text: r"[a-zA-Z0-9](-*[a-zA-Z0-9])*\/[a-zA-Z0-9](-*[a-zA-Z0-9.])*",
    matches: |text| {
        let is_subtype = |text: &str| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
            text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
                && text.bytes().all(is_plain)
                && !text.ends_with('-')
        };
        text.split_once('/')
            .is_some_and(|(kind, subtype)| is_name(kind) && is_subtype(subtype))
    },
};

pub(super) const TOPIC: Pattern = Pattern {
    text: r"arn:aws[a-z\-]*:sns:[a-z0-9\-]*:[0-9]{12}:[a-zA-Z0-9_.-]+",
    matches: |text| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        is_arn(text, "sns", |topic| !topic.is_empty() && topic.bytes().all(is_plain))
    },
};

pub(super) const RESERVATION: Pattern = Pattern {
    text: r"arn:aws[a-z\-]*:sagemaker:[a-z0-9\-]*:[0-9]{12}:[a-z0-9\-]{1,14}/.*",
    matches: |text| {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        is_arn(text, "sagemaker", |resource| {
            resource.split_once('/').is_some_and(|(kind, name)| {
                (1..=14).contains(&kind.len()) && kind.bytes().all(is_plain) && (ONE_LINE.matches)(name)
            })
        })
    },
};

pub(super) const PARTITION: Pattern = Pattern {
    text: r"mig-[0-9]+g\.[0-9]+gb([+-][a-z0-9.]+)*",
    matches: is_partition,
};

pub(super) const METRICS_PATH: Pattern = Pattern {
    text: r"/(?!.*\.\.)[a-zA-Z0-9/_.\-]+",
    matches: |text| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/_.-".contains(&byte);
        text.len() > 1 && text.starts_with('/') && text.bytes().all(is_plain) && !text.contains("..")
    },
};

/// Whether `text` is a valid name of a resource, a variant or a container.
pub fn is_valid_name(text: &str) -> bool {
    text.len() <= MAX_NAME && is_name(text)
}

fn is_name(text: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether `text` is an ARN of `service` whose resource passes `matches`.
fn is_arn(text: &str, service: &str, matches: impl Fn(&str) -> bool) -> bool {
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
    let mut parts = text.splitn(6, ':');
    parts.next() == Some("arn")
        && parts
            .next()
            .and_then(|partition| partition.strip_prefix("aws"))
            .is_some_and(|rest| rest.bytes().all(lower))
        && parts.next() == Some(service)
        && parts
            .next()
            .is_some_and(|region| region.bytes().all(|byte| lower(byte) || byte.is_ascii_digit()))
        && parts.next().is_some_and(is_account)
        && parts.next().is_some_and(matches)
}

fn is_partition(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((compute, memory)) = text.strip_prefix("mig-").and_then(|rest| rest.split_once("g.")) else {
        return false;
    };
    let Some((memory, attributes)) = memory.split_once("gb") else {
        return false;
    };
    let is_attribute = |attribute: &str| {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.';
        !attribute.is_empty() && attribute.bytes().all(is_plain)
    };
    let attributes_fit = attributes.is_empty()
        || attributes.starts_with(['+', '-']) && attributes[1..].split(['+', '-']).all(is_attribute);
    digits(compute) && digits(memory) && attributes_fit
}

fn is_role(text: &str) -> bool {
    let Some(("arn", rest)) = text.split_once(':') else {
        return false;
    };
    let Some((partition, rest)) = rest.split_once(":iam::") else {
        return false;
    };
    let Some((account, role)) = rest.split_once(":role") else {
        return false;
    };
    partition.starts_with("aws")
        && is_account(account)
        && !role.trim_start_matches('/').is_empty()
        && role
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_+=,.@-/".contains(&byte))
}

fn is_bucket(text: &str, schemes: &[&str]) -> bool {
    text.split_once("://").is_some_and(|(scheme, rest)| {
        schemes.contains(&scheme) && !rest.is_empty() && !rest.starts_with('/') && !rest.contains(char::is_control)
    })
}

fn is_local(text: &str) -> bool {
    text.strip_prefix("file://").unwrap_or(text).starts_with('/') && !text.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_function_checks_what_its_pattern_says() {
        let role = "arn:aws:iam::123456789012:role/service/Role+=,.@-_";
        let table: [(&Pattern, &[&str], &[&str]); 19] = [
            (&NAME, &["a", "A-1", "a--b"], &["", "-a", "a-", "a_b", "a b", "ä"]),
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
