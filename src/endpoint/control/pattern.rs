//! The patterns that SageMaker's API states for its members, each with the function that decides what it says: a few
//! simple expressions do not need an engine for all of them.

/// A pattern as messages show it, and what it means.
#[derive(Debug)]
pub(super) struct Pattern {
    pub text: &'static str,
    pub matches: fn(&str) -> bool,
}

/// Characters of a name.
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

/// Also what no process can be started with: environments end at a NUL.
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
    matches: |text| !text.trim().is_empty(),
};

pub(super) const VPC_ID: Pattern = Pattern {
    text: "[-0-9a-zA-Z]+",
    matches: NAME_CONTAINS.matches,
};

/// Of KMS.
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
        text.chars()
            .all(|letter| letter.is_alphanumeric() || letter.is_whitespace() || "_.:/=+-@".contains(letter))
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

/// SageMaker's `(https|s3)://([^/]+)/?(.*)`, and what else a model store may be: another cloud's bucket, or a place on
/// this machine.
pub(super) const MODEL_DATA: Pattern = Pattern {
    text: r"^(https?|s3|gs|az)://([^/]+)/?(.*)$|^(file://)?/.*$",
    matches: |text| is_bucket(text, &["https", "http", "s3", "gs", "az"]) || is_local(text),
};

/// SageMaker's `(https|s3)://([^/])/?(.*)`, as far as it means a bucket, or a folder of this machine.
pub(super) const OUTPUT: Pattern = Pattern {
    text: r"^s3://([^/]+)/?(.*)$|^(file://)?/.*$",
    matches: |text| is_bucket(text, &["s3"]) || is_local(text),
};

/// Whether `text` may name a resource, a variant or a container.
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
    fn patterns_decide_what_they_say() {
        let role = "arn:aws:iam::123456789012:role/service/Role+=,.@-_";
        let table: [(&Pattern, &[&str], &[&str]); 12] = [
            (&NAME, &["a", "A-1", "a--b"], &["", "-a", "a-", "a_b", "a b", "ä"]),
            (&MODEL_NAME, &["a", "A-1"], &["", "a-", "a.b"]),
            (&NAME_CONTAINS, &["-", "a-"], &["", "_"]),
            (&ENVIRONMENT_KEY, &["_", "A_1"], &["", "1A", "A-B", "Ä"]),
            (&ENVIRONMENT_VALUE, &["", "any\nthing ä"], &["\0"]),
            (&NOT_BLANK, &["an alarm", "a "], &["", " "]),
            (&VPC_ID, &["sg-0a", "-"], &["", "sg 1", "sg_1"]),
            (
                &KEY,
                &["", "arn:aws:kms:eu-central-1:000000000000:key/a_b"],
                &["a b", "a.b"],
            ),
            (&NO_SPACES, &["image:1@sha256:0"], &["", "a b"]),
            (&TAG, &["", "a b:ä/=+-@_.1"], &["a*", "{"]),
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
