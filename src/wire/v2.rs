//! The Open Inference Protocol, version 2, over HTTP: paths and JSON bodies. `codec` has the
//! bodies of inference.
//!
//! KServe specifies the protocol. Triton's extensions for binary tensors and for the model
//! repository are included.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bounded_json;

/// The only version of every model: the content of its artifact.
pub const VERSION: &str = "1";

/// The platform of every model, in the specification's spelling.
pub const PLATFORM: &str = "onnx_onnxv1";

/// The supported extensions, in Triton's spelling.
pub const EXTENSIONS: [&str; 2] = ["binary_tensor_data", "model_repository"];

/// The size of a dimension that accepts any size.
pub const ANY_SIZE: i64 = -1;

/// The resource of a path below `/v2`.
#[derive(Debug, PartialEq, Eq)]
pub enum V2Path {
    Server,
    Live,
    Ready,
    Model(V2ModelPath),
    Index,
    Load(String),
    Unload(String),
}

/// The resource of a path below `/v2/models/`.
#[derive(Debug, PartialEq, Eq)]
pub struct V2ModelPath {
    pub name: String,
    pub version: Option<String>,
    pub part: ModelPart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelPart {
    Metadata,
    Ready,
    Infer,
}

impl V2Path {
    /// Whether a raw path belongs to the protocol.
    pub fn is_below(path: &str) -> bool {
        path.strip_prefix("/v2")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Parses a raw (still percent-encoded) path. A name may have slashes, encoded or not, because
    /// clients do not encode them. The known parts before and after the name delimit it. A name
    /// that itself ends in such a part must encode that slash. `None` for an unknown path, or one
    /// that is not UTF-8 once decoded.
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
            Some((rest, "infer")) => (rest, ModelPart::Infer),
            Some((rest, "ready")) => (rest, ModelPart::Ready),
            // Paths of extensions that are not supported, not part of a name.
            Some((_, "config" | "stats" | "generate" | "generate_stream")) => return None,
            _ => (rest, ModelPart::Metadata),
        };
        let (name, version) = match rest.rsplit_once("/versions/") {
            Some((name, version)) if !version.contains('/') => (name, Some(decoded(version)?)),
            _ => (rest, None),
        };
        let name = decoded(name)?;
        Some(Self::Model(V2ModelPath { name, version, part }))
    }
}

/// Decodes a part of a path, which must not be empty.
fn decoded(part: &str) -> Option<String> {
    let part = percent_decode_str(part).decode_utf8().ok()?;
    (!part.is_empty()).then(|| part.into_owned())
}

/// Response to `GET /v2`.
#[derive(Debug, Serialize)]
pub struct ServerMetadata {
    pub name: &'static str,
    pub version: &'static str,
    pub extensions: &'static [&'static str],
}

/// Response to `GET /v2/health/live`.
#[derive(Debug, Serialize)]
pub struct LiveBody {
    pub live: bool,
}

/// Response to `GET /v2/health/ready`.
#[derive(Debug, Serialize)]
pub struct ReadyBody {
    pub ready: bool,
}

/// Response to `GET /v2/models/{name}/ready`.
#[derive(Debug, Serialize)]
pub struct ModelReady<'a> {
    pub name: &'a str,
    pub ready: bool,
}

/// Response to `GET /v2/models/{name}`.
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
    /// Lists only models that are ready. Null counts as absent, here and below.
    pub ready: Option<bool>,
}

/// One element of the response to `POST /v2/repository/index`.
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

/// Body of every error.
#[derive(Debug, Serialize)]
struct V2ErrorBody<'a> {
    error: &'a str,
}

/// Writes the body of an error, of at most [`MAX_ERROR_BYTES`](super::MAX_ERROR_BYTES).
pub fn error_json(message: &str) -> String {
    bounded_json(message, |error| V2ErrorBody { error })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::MAX_ERROR_BYTES;

    fn model(name: &str, version: Option<&str>, part: ModelPart) -> Option<V2Path> {
        Some(V2Path::Model(V2ModelPath {
            name: name.to_owned(),
            version: version.map(ToOwned::to_owned),
            part,
        }))
    }

    #[test]
    fn the_known_parts_of_a_path_delimit_the_name() {
        let table = [
            ("/v2", Some(V2Path::Server)),
            ("/v2/", Some(V2Path::Server)),
            ("/v2/health/live", Some(V2Path::Live)),
            ("/v2/health/ready", Some(V2Path::Ready)),
            ("/v2/models/m", model("m", None, ModelPart::Metadata)),
            ("/v2/models/m/ready", model("m", None, ModelPart::Ready)),
            ("/v2/models/m/infer", model("m", None, ModelPart::Infer)),
            ("/v2/models/m/versions/1", model("m", Some("1"), ModelPart::Metadata)),
            ("/v2/models/m/versions/1/ready", model("m", Some("1"), ModelPart::Ready)),
            (
                "/v2/models/m/versions/x%2Fy/infer",
                model("m", Some("x/y"), ModelPart::Infer),
            ),
            (
                "/v2/models/team/a.tar.gz/infer",
                model("team/a.tar.gz", None, ModelPart::Infer),
            ),
            (
                "/v2/models/team%2Fa.tar.gz/infer",
                model("team/a.tar.gz", None, ModelPart::Infer),
            ),
            (
                "/v2/models/team/versions/2/a/infer",
                model("team/versions/2/a", None, ModelPart::Infer),
            ),
            ("/v2/models/infer", model("infer", None, ModelPart::Metadata)),
            ("/v2/models/infer/infer", model("infer", None, ModelPart::Infer)),
            ("/v2/models/a%2Finfer", model("a/infer", None, ModelPart::Metadata)),
            (
                "/v2/models/a%2Fversions%2F2",
                model("a/versions/2", None, ModelPart::Metadata),
            ),
            ("/v2/models/%E2%98%83", model("☃", None, ModelPart::Metadata)),
            ("/v2/repository/index", Some(V2Path::Index)),
            ("/v2/repository/models/m/load", Some(V2Path::Load("m".into()))),
            (
                "/v2/repository/models/a/b%20c/unload",
                Some(V2Path::Unload("a/b c".into())),
            ),
            ("/v2/repository/models/load/load", Some(V2Path::Load("load".into()))),
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
            assert_eq!(V2Path::parse(path), expected, "{path}");
        }
    }

    #[test]
    fn only_paths_below_v2_belong_to_the_protocol() {
        for (path, expected) in [
            ("/v2", true),
            ("/v2/x", true),
            ("/v2x", false),
            ("/v1/v2", false),
            ("", false),
        ] {
            assert_eq!(V2Path::is_below(path), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_name_and_version_survive_an_encoded_path(name in "\\PC{1,40}|[a-z/%.]{1,40}", version in "\\PC{1,9}") {
            let encode = |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
            let path = format!("/v2/models/{}/versions/{}/infer", encode(&name), encode(&version));
            prop_assert_eq!(V2Path::parse(&path), model(&name, Some(&version), ModelPart::Infer));
            let path = format!("/v2/repository/models/{}/unload", encode(&name));
            prop_assert_eq!(V2Path::parse(&path), Some(V2Path::Unload(name)));
        }

        #[test]
        fn an_error_is_valid_json_of_bounded_size_for_any_message(message in "\\PC{0,3000}|[\\x00-\\x7f]{0,3000}") {
            let json = error_json(&message);
            prop_assert!(json.len() <= MAX_ERROR_BYTES);
            let read: Value = serde_json::from_str(&json).unwrap();
            prop_assert!(message.starts_with(read["error"].as_str().unwrap()));
        }
    }
}
