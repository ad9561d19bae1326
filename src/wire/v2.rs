//! The Open Inference Protocol, version 2, over HTTP: paths and JSON bodies, but for those of inference, which are
//! `codec`'s.
//!
//! As KServe specifies it, with Triton's extensions for binary tensors and for the model repository.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bounded_json;

/// The only version that a model has here: what its artifact holds.
pub const VERSION: &str = "1";

/// The platform of every model, as the specification names it.
pub const PLATFORM: &str = "onnx_onnxv1";

/// The extensions that are served, as Triton names them.
pub const EXTENSIONS: [&str; 2] = ["binary_tensor_data", "model_repository"];

/// The size of a dimension that may have any.
pub const ANY_SIZE: i64 = -1;

/// What a path below `/v2` names.
#[derive(Debug, PartialEq, Eq)]
pub enum Path {
    Server,
    Live,
    Ready,
    Model(ModelPath),
    Index,
    Load(String),
    Unload(String),
}

/// What a path names that is about one model.
#[derive(Debug, PartialEq, Eq)]
pub struct ModelPath {
    pub name: String,
    pub version: Option<String>,
    pub part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Metadata,
    Ready,
    Infer,
}

impl Path {
    /// Whether a raw path is the protocol's.
    pub fn is_below(path: &str) -> bool {
        path.strip_prefix("/v2")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Reads a raw (still percent-encoded) path. A name may have slashes, encoded or not, since clients do not encode
    /// them: what stands before it and behind it says where it ends. A name that ends like something behind a name must
    /// encode that slash. `None` for what is nothing here, or is not UTF-8 once decoded.
    pub fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("/v2")?;
        match rest {
            "" | "/" => return Some(Self::Server),
            "/health/live" => return Some(Self::Live),
            "/health/ready" => return Some(Self::Ready),
            "/repository/index" => return Some(Self::Index),
            _ => {}
        }
        if let Some(rest) = rest.strip_prefix("/repository/models/") {
            return match rest.rsplit_once('/')? {
                (name, "load") => Some(Self::Load(decoded(name)?)),
                (name, "unload") => Some(Self::Unload(decoded(name)?)),
                _ => None,
            };
        }
        let rest = rest.strip_prefix("/models/")?;
        let (rest, part) = match rest.rsplit_once('/') {
            Some((rest, "infer")) => (rest, Part::Infer),
            Some((rest, "ready")) => (rest, Part::Ready),
            // Of extensions that are not served: no end of a name.
            Some((_, "config" | "stats" | "generate" | "generate_stream")) => return None,
            _ => (rest, Part::Metadata),
        };
        let (name, version) = match rest.rsplit_once("/versions/") {
            Some((name, version)) if !version.contains('/') => (name, Some(decoded(version)?)),
            _ => (rest, None),
        };
        let name = decoded(name)?;
        Some(Self::Model(ModelPath { name, version, part }))
    }
}

/// A part of a path, which there must be.
fn decoded(part: &str) -> Option<String> {
    let part = percent_decode_str(part).decode_utf8().ok()?;
    (!part.is_empty()).then(|| part.into_owned())
}

/// Reply to `GET /v2`.
#[derive(Debug, Serialize)]
pub struct ServerMetadata {
    pub name: &'static str,
    pub version: &'static str,
    pub extensions: &'static [&'static str],
}

/// Reply to `GET /v2/health/live`.
#[derive(Debug, Serialize)]
pub struct Live {
    pub live: bool,
}

/// Reply to `GET /v2/health/ready`.
#[derive(Debug, Serialize)]
pub struct Ready {
    pub ready: bool,
}

/// Reply to `GET /v2/models/{name}/ready`.
#[derive(Debug, Serialize)]
pub struct ModelReady<'a> {
    pub name: &'a str,
    pub ready: bool,
}

/// Reply to `GET /v2/models/{name}`.
#[derive(Debug, Serialize)]
pub struct ModelMetadata<'a> {
    pub name: &'a str,
    pub versions: [&'static str; 1],
    pub platform: &'static str,
    pub inputs: Vec<TensorMetadata<'a>>,
    pub outputs: Vec<TensorMetadata<'a>>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct TensorMetadata<'a> {
    pub name: &'a str,
    pub datatype: &'static str,
    /// [`ANY_SIZE`] for a dimension that is not fixed.
    pub shape: Vec<i64>,
}

/// Body of `POST /v2/repository/index`.
#[derive(Debug, Default, Deserialize)]
pub struct IndexRequest {
    /// Only models that can answer. Null is as absent, here and below.
    pub ready: Option<bool>,
}

/// One element of the reply to it.
#[derive(Debug, Serialize)]
pub struct IndexEntry {
    pub name: String,
    pub version: &'static str,
    pub state: &'static str,
    pub reason: String,
}

/// Body of a load or an unload.
#[derive(Debug, Default, Deserialize)]
pub struct RepositoryRequest {
    pub parameters: Option<BTreeMap<String, Value>>,
}

/// Every error's body.
#[derive(Debug, Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
}

/// An error's body, as short as all others are.
pub fn error_json(message: &str) -> String {
    bounded_json(message, |error| ErrorBody { error })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::MAX_ERROR_BYTES;

    fn model(name: &str, version: Option<&str>, part: Part) -> Option<Path> {
        Some(Path::Model(ModelPath {
            name: name.to_owned(),
            version: version.map(ToOwned::to_owned),
            part,
        }))
    }

    #[test]
    fn a_path_is_read_from_both_ends_with_the_name_in_between() {
        let table = [
            ("/v2", Some(Path::Server)),
            ("/v2/", Some(Path::Server)),
            ("/v2/health/live", Some(Path::Live)),
            ("/v2/health/ready", Some(Path::Ready)),
            ("/v2/models/m", model("m", None, Part::Metadata)),
            ("/v2/models/m/ready", model("m", None, Part::Ready)),
            ("/v2/models/m/infer", model("m", None, Part::Infer)),
            ("/v2/models/m/versions/1", model("m", Some("1"), Part::Metadata)),
            ("/v2/models/m/versions/1/ready", model("m", Some("1"), Part::Ready)),
            (
                "/v2/models/m/versions/x%2Fy/infer",
                model("m", Some("x/y"), Part::Infer),
            ),
            (
                "/v2/models/team/a.tar.gz/infer",
                model("team/a.tar.gz", None, Part::Infer),
            ),
            (
                "/v2/models/team%2Fa.tar.gz/infer",
                model("team/a.tar.gz", None, Part::Infer),
            ),
            (
                "/v2/models/team/versions/2/a/infer",
                model("team/versions/2/a", None, Part::Infer),
            ),
            ("/v2/models/infer", model("infer", None, Part::Metadata)),
            ("/v2/models/infer/infer", model("infer", None, Part::Infer)),
            ("/v2/models/a%2Finfer", model("a/infer", None, Part::Metadata)),
            (
                "/v2/models/a%2Fversions%2F2",
                model("a/versions/2", None, Part::Metadata),
            ),
            ("/v2/models/%E2%98%83", model("☃", None, Part::Metadata)),
            ("/v2/repository/index", Some(Path::Index)),
            ("/v2/repository/models/m/load", Some(Path::Load("m".into()))),
            (
                "/v2/repository/models/a/b%20c/unload",
                Some(Path::Unload("a/b c".into())),
            ),
            ("/v2/repository/models/load/load", Some(Path::Load("load".into()))),
            ("/v2/repository/models/load", None),
            ("/v2/repository/models//load", None),
            ("/v2/repository/models/m", None),
            ("/v2/repository", None),
            ("/v2/health", None),
            ("/v2/models", None),
            ("/v2/models/", None),
            ("/v2/models//infer", None),
            ("/v2/models/m/versions//infer", None),
            ("/v2/models/%FF/infer", None),
            ("/v2/models/m/config", None),
            ("/v2/models/m/versions/1/stats", None),
            ("/v2x", None),
            ("/models/m", None),
        ];
        for (path, expected) in table {
            assert_eq!(Path::parse(path), expected, "{path}");
        }
    }

    #[test]
    fn only_paths_below_v2_are_the_protocols() {
        for (path, expected) in [
            ("/v2", true),
            ("/v2/x", true),
            ("/v2x", false),
            ("/v1/v2", false),
            ("", false),
        ] {
            assert_eq!(Path::is_below(path), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_name_and_version_survive_an_encoded_path(name in "\\PC{1,40}|[a-z/%.]{1,40}", version in "\\PC{1,9}") {
            let encode = |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
            let path = format!("/v2/models/{}/versions/{}/infer", encode(&name), encode(&version));
            prop_assert_eq!(Path::parse(&path), model(&name, Some(&version), Part::Infer));
            let path = format!("/v2/repository/models/{}/unload", encode(&name));
            prop_assert_eq!(Path::parse(&path), Some(Path::Unload(name)));
        }

        #[test]
        fn an_error_is_bounded_valid_json_whatever_the_message(message in "\\PC{0,3000}|[\\x00-\\x7f]{0,3000}") {
            let json = error_json(&message);
            prop_assert!(json.len() <= MAX_ERROR_BYTES);
            let read: Value = serde_json::from_str(&json).unwrap();
            prop_assert!(message.starts_with(read["error"].as_str().unwrap()));
        }
    }
}
