//! `longshore.json`, by which whoever packs an artifact says what the defaults do not.
//!
//! A word in it that is not known is an error: a misspelt one would be ignored without anybody noticing.

use std::fmt;
use std::io::Read;
use std::num::NonZeroUsize;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::beneath::Folder;
use super::error::{ArtifactError, io_error};
use super::inside::{inside, open_file};
use crate::engine::batch::Override;

/// Says what the defaults do not: which file is the model, whether requests may run in batches.
pub const MANIFEST: &str = "longshore.json";

/// A manifest is a few lines; more is a mistake.
const MAX_MANIFEST_BYTES: u64 = 64 << 10;

/// `longshore.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// Path of the model file, relative to the manifest.
    pub(super) model: Option<String>,
    /// Whether waiting requests may run together: `false`, `true`, or `{"max_rows": 16}`.
    #[serde(default, deserialize_with = "batching")]
    pub(super) batching: Option<Override>,
}

fn batching<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Override>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Limits {
        #[serde(deserialize_with = "rows")]
        max_rows: NonZeroUsize,
    }
    struct Batching;
    impl<'de> Visitor<'de> for Batching {
        type Value = Option<Override>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true, false or {\"max_rows\": N} for batching")
        }

        fn visit_bool<E: de::Error>(self, allowed: bool) -> Result<Self::Value, E> {
            Ok(Some(match allowed {
                true => Override::Allowed(None),
                false => Override::Never,
            }))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            let limits = Limits::deserialize(MapAccessDeserializer::new(map))?;
            Ok(Some(Override::Allowed(Some(limits.max_rows))))
        }

        /// As if it were not there.
        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }
    deserializer.deserialize_any(Batching)
}

fn rows<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NonZeroUsize, D::Error> {
    let rows = usize::deserialize(deserializer)?;
    NonZeroUsize::new(rows).ok_or_else(|| de::Error::custom("max_rows is 1 at least"))
}

pub(super) fn read(folder: &Folder) -> Result<Manifest, ArtifactError> {
    let path = inside(folder.path(), &folder.path().join(MANIFEST))?;
    let (file, _) = open_file(folder, &path)?;
    let mut text = String::new();
    file.take(MAX_MANIFEST_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|source| io_error(&path, source))?;
    if text.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(ArtifactError::Manifest {
            detail: format!("longer than {MAX_MANIFEST_BYTES} bytes"),
        });
    }
    parse(&text)
}

fn parse(text: &str) -> Result<Manifest, ArtifactError> {
    // Windows editors write a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // A struct is read from an array, too.
    if text.trim_start().starts_with('[') {
        return Err(ArtifactError::Manifest {
            detail: "it must be an object, as {\"model\": \"...\"}".to_owned(),
        });
    }
    serde_json::from_str(text).map_err(|error| ArtifactError::Manifest {
        detail: error.to_string(),
    })
}
