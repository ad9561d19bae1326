//! The version of an object, which reveals a replacement under the same name.
//!
//! The version is the entity tag where there is one, otherwise the modification time and the size.
//! A server that reports neither gives versions that equal no other, not even one of the same
//! object. Such an object is fetched again each time.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

const TAG: &str = "etag ";
const MODIFIED: &str = "modified ";
const UNKNOWN: &str = "unknown ";
const FILES: &str = "files ";

/// The version of an object or a folder in a store, as text that can be stored with the fetched
/// files.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(Box<str>);

impl Version {
    /// The version of an object from its store's headers; `modified` in seconds since 1970.
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

    /// The version of a folder, from the names and versions of its files in order.
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

    /// Whether the store reported nothing that identifies the object's version.
    pub(super) fn is_unknown(&self) -> bool {
        self.0.starts_with(UNKNOWN)
    }

    pub(super) fn tag(&self) -> Option<&str> {
        self.0.strip_prefix(TAG)
    }

    /// The tag, if `If-Match` accepts it, which excludes weak ones (RFC 9110, 13.1.1).
    pub(super) fn strong_tag(&self) -> Option<&str> {
        self.tag().filter(|tag| !tag.starts_with("W/"))
    }

    pub(super) fn modified(&self) -> Option<SystemTime> {
        let (seconds, _) = self.0.strip_prefix(MODIFIED)?.split_once(' ')?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds.parse().ok()?))
    }

    /// Whether both may describe the same version of an object. Stores write the tag of an object
    /// with or without quotes, and in some responses only. Sizes are compared elsewhere.
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
    fn the_tag_decides_where_there_is_one() {
        let one = Version::of(Some("\"a\""), Some(1), 5);
        assert_eq!(one, Version::of(Some("\"a\""), Some(2), 6));
        assert_ne!(one, Version::of(Some("\"b\""), Some(1), 5));
        assert_eq!((one.tag(), one.modified()), (Some("\"a\""), None));
    }

    #[test]
    fn the_time_and_size_decide_without_a_tag() {
        let one = Version::of(None, Some(7), 5);
        assert_eq!(one, Version::of(None, Some(7), 5));
        assert_ne!(one, Version::of(None, Some(7), 6));
        assert_ne!(one, Version::of(None, Some(8), 5));
        assert_eq!(one.modified(), Some(UNIX_EPOCH + Duration::from_secs(7)));
    }

    #[test]
    fn a_version_without_tag_and_time_equals_no_other() {
        let (one, other) = (Version::of(None, None, 5), Version::of(None, None, 5));
        assert_ne!(one, other);
        assert!(one.is_unknown() && !Version::of(None, Some(0), 5).is_unknown());
    }

    #[test]
    fn weak_tags_are_not_used_in_if_match() {
        let weak = Version::of(Some("W/\"a\""), None, 1);
        assert_eq!((weak.tag(), weak.strong_tag()), (Some("W/\"a\""), None));
        assert!(weak.agrees_with(&Version::of(Some("\"a\""), None, 1)));
        assert!(weak.agrees_with(&Version::of(Some("a"), None, 1)));
        assert!(!weak.agrees_with(&Version::of(Some("\"b\""), None, 1)));
    }

    #[test]
    fn a_folder_version_covers_all_files() {
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
    fn a_version_survives_serialization() {
        for version in [Version::of(Some("\"a\\b\""), None, 1), Version::of(None, None, 1)] {
            let text = serde_json::to_string(&version).unwrap();
            assert_eq!(serde_json::from_str::<Version>(&text).unwrap(), version);
        }
    }
}
