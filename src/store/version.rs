//! Which state of an object was seen, so that one that was replaced under the same name is noticed.
//!
//! The entity tag where there is one, else when it was modified last together with its size. A server that tells neither
//! gives versions that equal nothing, themselves of another answer included: such an object is fetched anew each time.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

const TAG: &str = "etag ";
const MODIFIED: &str = "modified ";
const UNKNOWN: &str = "unknown ";
const FILES: &str = "files ";

/// The state of an object or a folder in a store; as text, to be kept beside what was fetched.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(Box<str>);

impl Version {
    /// Of an object with what its store tells; seconds since 1970.
    pub(super) fn of(tag: Option<&str>, modified: Option<i64>, bytes: u64) -> Self {
        static UNKNOWN_ONES: AtomicU64 = AtomicU64::new(0);
        let text = match (tag, modified) {
            (Some(tag), _) => format!("{TAG}{tag}"),
            (None, Some(seconds)) => format!("{MODIFIED}{seconds} {bytes}"),
            (None, None) => {
                let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let number = UNKNOWN_ONES.fetch_add(1, Ordering::Relaxed);
                format!("{UNKNOWN}{} {number}", started.as_nanos())
            }
        };
        Self(text.into())
    }

    /// Of a folder, by the names and versions of its files in order.
    pub(super) fn of_files<'a>(files: impl Iterator<Item = (&'a str, &'a Self, u64)>) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("longshore 2026 files of a folder in a store");
        for (name, version, bytes) in files {
            for text in [name, &*version.0] {
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
            hasher.update(&bytes.to_le_bytes());
        }
        Self(format!("{FILES}{}", hasher.finalize().to_hex()).into())
    }

    /// Whether the store told nothing by which the object could be recognized.
    pub(super) fn is_unknown(&self) -> bool {
        self.0.starts_with(UNKNOWN)
    }

    pub(super) fn tag(&self) -> Option<&str> {
        self.0.strip_prefix(TAG)
    }

    /// The tag, if it may be asked for with `If-Match`, which knows no weak ones (RFC 9110, 13.1.1).
    pub(super) fn strong_tag(&self) -> Option<&str> {
        self.tag().filter(|tag| !tag.starts_with("W/"))
    }

    pub(super) fn modified(&self) -> Option<SystemTime> {
        let (seconds, _) = self.0.strip_prefix(MODIFIED)?.split_once(' ')?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds.parse().ok()?))
    }

    /// Whether both may be of the same state of an object. Stores write the tag of one object with and without quotes, and
    /// in one kind of answer only; sizes are compared apart.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        match (self.tag(), other.tag()) {
            (Some(ours), Some(theirs)) => opaque(ours) == opaque(theirs),
            (None, None) => self.is_unknown() || other.is_unknown() || self == other,
            _ => true,
        }
    }
}

fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"')
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Version {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_counts_where_there_is_one() {
        let one = Version::of(Some("\"a\""), Some(1), 5);
        assert_eq!(one, Version::of(Some("\"a\""), Some(2), 6));
        assert_ne!(one, Version::of(Some("\"b\""), Some(1), 5));
        assert_eq!((one.tag(), one.modified()), (Some("\"a\""), None));
    }

    #[test]
    fn else_the_time_and_the_size_count() {
        let one = Version::of(None, Some(7), 5);
        assert_eq!(one, Version::of(None, Some(7), 5));
        assert_ne!(one, Version::of(None, Some(7), 6));
        assert_ne!(one, Version::of(None, Some(8), 5));
        assert_eq!(one.modified(), Some(UNIX_EPOCH + Duration::from_secs(7)));
    }

    #[test]
    fn what_tells_nothing_equals_nothing() {
        let (one, other) = (Version::of(None, None, 5), Version::of(None, None, 5));
        assert_ne!(one, other);
        assert!(one.is_unknown() && !Version::of(None, Some(0), 5).is_unknown());
    }

    #[test]
    fn weak_tags_are_not_asked_for() {
        let weak = Version::of(Some("W/\"a\""), None, 1);
        assert_eq!((weak.tag(), weak.strong_tag()), (Some("W/\"a\""), None));
        assert!(weak.agrees_with(&Version::of(Some("\"a\""), None, 1)));
        assert!(weak.agrees_with(&Version::of(Some("a"), None, 1)));
        assert!(!weak.agrees_with(&Version::of(Some("\"b\""), None, 1)));
    }

    #[test]
    fn a_folder_is_all_of_its_files() {
        let (a, b) = (Version::of(Some("a"), None, 1), Version::of(Some("b"), None, 1));
        let of = |files: &[(&str, &Version, u64)]| Version::of_files(files.iter().copied());
        let one = of(&[("x", &a, 1), ("y", &b, 1)]);
        assert_eq!(one, of(&[("x", &a, 1), ("y", &b, 1)]));
        for other in [
            of(&[("x", &a, 1)]),
            of(&[("x", &b, 1), ("y", &b, 1)]),
            of(&[("x", &a, 2), ("y", &b, 1)]),
            of(&[("z", &a, 1), ("y", &b, 1)]),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn a_version_survives_being_written_down() {
        for version in [Version::of(Some("\"a\\b\""), None, 1), Version::of(None, None, 1)] {
            let text = serde_json::to_string(&version).unwrap();
            assert_eq!(serde_json::from_str::<Version>(&text).unwrap(), version);
        }
    }
}
