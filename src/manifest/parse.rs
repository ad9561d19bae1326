//! Parses the text of a manifest; each error names the path of the key that is wrong.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};

use super::{FILE, Manifest};

/// Reasons why a text is not a valid manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("invalid JSON: {0}")]
    Json(String),
    #[error("expected a JSON object such as {{\"model\": \"model.onnx\"}}")]
    NoObject,
    #[error("\"{path}\" is not a key of {FILE}{}", .nearest.as_ref().map(|known| format!("; did you mean \"{known}\"?")).unwrap_or_default())]
    UnknownKey { path: String, nearest: Option<String> },
    #[error("{}{problem}", .path.as_ref().map(|path| format!("{path}: ")).unwrap_or_default())]
    Value { path: Option<String>, problem: String },
}

/// The JSON Schema of the file.
pub fn schema() -> Json {
    let mut schema = schemars::schema_for!(Manifest).to_value();
    if let Some(object) = schema.as_object_mut() {
        object.insert("title".to_owned(), Json::from(FILE));
    }
    schema
}

/// Keys from outside the artifact that override those of its manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Overlay(Map<String, Json>);

impl Overlay {
    /// Reads an overlay, which has the form of a manifest.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let keys = object(text)?;
        read(keys.clone()).map(|_| Self(keys))
    }
}

impl Overlay {
    /// Adds a task to an overlay that does not set one.
    pub fn with_task(overlay: Option<&Self>, task: &str) -> Self {
        let mut keys = overlay.map(|Self(keys)| keys.clone()).unwrap_or_default();
        keys.entry("task").or_insert_with(|| task.into());
        Self(keys)
    }
}

impl Manifest {
    /// Parses the text of the file, if there is one. Keys of `overlay` replace its own.
    pub fn parse(text: Option<&str>, overlay: Option<&Overlay>) -> Result<Self, ManifestError> {
        let mut keys = text.map(object).transpose()?.unwrap_or_default();
        if let Some(Overlay(more)) = overlay {
            // Check the file by itself, so that an error in it is not blamed on the overlay.
            read(keys.clone())?;
            keys.extend(more.clone());
        }
        read(keys)
    }
}

fn object(text: &str) -> Result<Map<String, Json>, ManifestError> {
    // Windows editors write a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match serde_json::from_str(text) {
        Ok(Json::Object(keys)) => Ok(keys),
        Ok(_) => Err(ManifestError::NoObject),
        Err(error) => Err(ManifestError::Json(error.to_string())),
    }
}

fn read(keys: Map<String, Json>) -> Result<Manifest, ManifestError> {
    let json = Json::Object(keys);
    let schema = schema();
    check_keys(&json, &schema, &schema, "")?;
    let manifest: Manifest = serde_path_to_error::deserialize(json).map_err(|error| {
        let path = error.path().to_string();
        ManifestError::Value {
            path: (path != ".").then_some(path),
            problem: error.into_inner().to_string(),
        }
    })?;
    check(&manifest)?;
    Ok(manifest)
}

/// Refuses keys that the schema does not have. `schema` describes `json`; its references point
/// into `root`.
fn check_keys(json: &Json, schema: &Json, root: &Json, path: &str) -> Result<(), ManifestError> {
    let schema = resolved(schema, root);
    match json {
        Json::Object(members) => {
            let Some((object, known)) = object_schema(schema, root) else {
                return Ok(());
            };
            for (key, value) in members {
                let below = |key: &str| match path {
                    "" => key.to_owned(),
                    path => format!("{path}.{key}"),
                };
                let own = below(key);
                let Some(property) = known.get(key) else {
                    // The schema allows any key here.
                    if object.get("additionalProperties") != Some(&Json::Bool(false)) {
                        return Ok(());
                    }
                    let nearest = known
                        .keys()
                        .map(|known| (strsim::jaro_winkler(known, key), known))
                        .filter(|(likeness, _)| *likeness > 0.7)
                        .max_by(|one, other| one.0.total_cmp(&other.0));
                    return Err(ManifestError::UnknownKey {
                        nearest: nearest.map(|(_, known)| below(known)),
                        path: own,
                    });
                };
                check_keys(value, property, root, &own)?;
            }
            Ok(())
        }
        Json::Array(items) => {
            let Some(item_schema) = schema.get("items") else {
                return Ok(());
            };
            for (index, item) in items.iter().enumerate() {
                check_keys(item, item_schema, root, &format!("{path}[{index}]"))?;
            }
            Ok(())
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => Ok(()),
    }
}

/// Follows the reference of a schema, if it has one.
fn resolved<'a>(schema: &'a Json, root: &'a Json) -> &'a Json {
    match schema.get("$ref").and_then(Json::as_str) {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap_or(schema),
        None => schema,
    }
}

/// Finds the alternative of a schema that describes objects. Returns it with its properties.
fn object_schema<'a>(schema: &'a Json, root: &'a Json) -> Option<(&'a Json, &'a Map<String, Json>)> {
    if let Some(known) = schema.get("properties").and_then(Json::as_object) {
        return Some((schema, known));
    }
    let choices = schema.get("anyOf").or_else(|| schema.get("oneOf"))?.as_array()?;
    choices
        .iter()
        .find_map(|choice| object_schema(resolved(choice, root), root))
}

/// Checks what the types cannot express: keys that exclude each other, repeated names, bounds.
fn check(manifest: &Manifest) -> Result<(), ManifestError> {
    let refuse = |path: String, problem: String| {
        Err(ManifestError::Value {
            path: Some(path),
            problem,
        })
    };
    let mut names = BTreeSet::new();
    for (index, input) in manifest.inputs.iter().enumerate() {
        let path = format!("inputs[{index}]");
        if input.default.is_some() && input.constant.is_some() {
            let problem = format!(
                "{:?} has both \"default\" and \"constant\"; set only one of them",
                input.name
            );
            return refuse(path, problem);
        }
        for name in std::iter::once(&input.name).chain(&input.aliases) {
            if !names.insert(name) {
                return refuse(path, format!("duplicate name {name:?}"));
            }
        }
        for (key, value) in [("default", &input.default), ("constant", &input.constant)] {
            if value.as_ref().is_some_and(|value| !is_value(value)) {
                return refuse(format!("{path}.{key}"), VALUES.to_owned());
            }
        }
    }
    let mut names = BTreeSet::new();
    for (index, column) in manifest.columns.iter().enumerate() {
        let path = format!("columns[{index}]");
        for name in std::iter::once(&column.name).chain(&column.aliases) {
            if !names.insert(name) {
                return refuse(path, format!("duplicate name {name:?}"));
            }
        }
        if matches!(column.default, Some(Json::Array(_) | Json::Object(_))) {
            let problem = "expected a number, a string or a boolean, because a column has one cell in a row".to_owned();
            return refuse(format!("{path}.default"), problem);
        }
    }
    if let Some(delimiter) = manifest.csv.delimiter
        && !matches!(delimiter, ',' | ';' | '\t' | '|')
    {
        let problem = format!("expected one of \",\", \";\", \"\\t\" and \"|\", not {delimiter:?}");
        return refuse("csv.delimiter".to_owned(), problem);
    }
    let golden = manifest.golden.iter().map(|golden| &golden.request).enumerate();
    let warmup = manifest.warmup.iter().enumerate();
    let requests = warmup
        .map(|(index, request)| (format!("warmup[{index}]"), request))
        .chain(golden.map(|(index, request)| (format!("golden[{index}].request"), request)));
    for (path, request) in requests {
        if request.body.is_some() == request.file.is_some() {
            return refuse(path, "expected either \"body\" or \"file\"".to_owned());
        }
    }
    for (index, golden) in manifest.golden.iter().enumerate() {
        for (key, tolerance) in [("rtol", golden.rtol), ("atol", golden.atol)] {
            if !(tolerance >= 0.0 && tolerance.is_finite()) {
                return refuse(
                    format!("golden[{index}].{key}"),
                    "expected a number of 0 or more".to_owned(),
                );
            }
        }
    }
    Ok(())
}

const VALUES: &str = "expected a number, a string, a boolean or nested arrays of them";

fn is_value(value: &Json) -> bool {
    match value {
        Json::Number(_) | Json::String(_) | Json::Bool(_) => true,
        Json::Array(values) => values.iter().all(is_value),
        Json::Null | Json::Object(_) => false,
    }
}
