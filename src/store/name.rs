//! The name of a model in a store: a key below the store's prefix, and nothing else.
//!
//! Names are S3 keys as people use them: spaces, `+`, `%`, `=` and any letters stand for
//! themselves. Names are refused where a store, proxy or file system could read them as a way out
//! of the prefix (`..`, a leading `/`, a backslash, which Azure and Windows take for a slash) or as
//! another name (empty segments, control characters).

use std::fmt;
use std::str::FromStr;

/// The longest key of S3, Google Cloud Storage and Azure.
const MAX_BYTES: usize = 1024;

/// The relative name of an object, or of a folder of objects, such as `team/a.tar.gz`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the name of the model is empty")]
    Empty,
    #[error("the name of the model has {0} bytes; at most {MAX_BYTES} are allowed")]
    Long(usize),
    #[error("the name {0:?} begins with \"/\"; names are relative to the model store")]
    Absolute(Box<str>),
    #[error("the name {0:?} has an empty segment; end it without \"/\" and write one \"/\" between segments")]
    EmptySegment(Box<str>),
    #[error("the name {0:?} has the segment \"{1}\"; names cannot leave the model store")]
    Dots(Box<str>, &'static str),
    #[error("the name {0:?} has a backslash; separate segments by \"/\"")]
    Backslash(Box<str>),
    #[error("the name {0:?} has control characters")]
    Control(Box<str>),
}

impl Name {
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let own = || Box::from(text);
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_BYTES {
            return Err(NameError::Long(text.len()));
        }
        if text.starts_with('/') {
            return Err(NameError::Absolute(own()));
        }
        if text.contains('\\') {
            return Err(NameError::Backslash(own()));
        }
        if text.chars().any(char::is_control) {
            return Err(NameError::Control(own()));
        }
        for segment in text.split('/') {
            match segment {
                "" => return Err(NameError::EmptySegment(own())),
                "." => return Err(NameError::Dots(own(), ".")),
                ".." => return Err(NameError::Dots(own(), "..")),
                _ => {}
            }
        }
        Ok(Self(own()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn common_keys_are_names() {
        let longest = "a".repeat(1024);
        let table = [
            "a",
            "team/a.tar.gz",
            "a b+c&d.tar.gz",
            "country=de/day=2026-01-01/m.onnx",
            "100%/50%25.onnx",
            "mod\u{e8}les/\u{6a21}\u{578b}.onnx",
            "...",
            ".hidden/..a",
            "a?b#c:d~",
            longest.as_str(),
        ];
        for text in table {
            assert_eq!(Name::parse(text).map(|name| name.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn a_key_that_could_leave_the_prefix_is_not_a_name() {
        let table = [
            ("", "is empty"),
            ("/a", "begins with \"/\""),
            ("//a", "begins with \"/\""),
            ("a/", "empty segment"),
            ("a//b", "empty segment"),
            ("..", "the segment \"..\""),
            ("a/../b", "the segment \"..\""),
            ("./a", "the segment \".\""),
            ("a\\..\\b", "backslash"),
            ("a\0", "control"),
            ("a\nb", "control"),
            ("a\u{85}", "control"),
        ];
        for (text, expected) in table {
            let message = Name::parse(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{text:?}: {message}");
        }
        assert_eq!(Name::parse(&"a".repeat(1025)), Err(NameError::Long(1025)));
    }

    #[test]
    fn the_last_segment_is_the_file_name() {
        for (text, expected) in [("a", "a"), ("team/x/a.tar.gz", "a.tar.gz")] {
            assert_eq!(Name::parse(text).unwrap().file_name(), expected);
        }
    }

    proptest! {
        #[test]
        fn a_name_stays_below_any_folder(text in "[./a%\\\\ ]{0,12}") {
            if let Ok(name) = Name::parse(&text) {
                let path = std::path::Path::new("/store").join(name.as_str());
                let plain = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
                prop_assert!(path.starts_with("/store") && plain, "{}", path.display());
                prop_assert_eq!(path, std::path::PathBuf::from(format!("/store/{text}")));
            }
        }
    }
}
