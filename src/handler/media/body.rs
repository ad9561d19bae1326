//! Extracts the images or recordings from a body, in each of the ways that clients send them.
//!
//! | content type | the body |
//! |---|---|
//! | `image/*`, `audio/*`, `application/x-image`, `application/octet-stream` | one file |
//! | `multipart/form-data`, `multipart/mixed` | a file in each part; the field `parameters` as JSON |
//! | `application/json` | `{"inputs": FILE}`, `{"inputs": [FILE, ...], "parameters": {...}}`, `{"instances": [FILE, ...]}`, `{"image": FILE}`, FILE or a list of them |
//! | `application/jsonlines` | one of these on each line |
//!
//! In JSON, a FILE is a base64 string, a `data:` URL, or an object with one of these under `b64`
//! (as in TensorFlow Serving), `image`, `image_bytes`, `audio`, `bytes` or `data`.
//!
//! Invariant: a JSON body with a number where a file would be is a body of tensors, and this module
//! leaves it to the formats. Parsing stops at the first number.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json};

use super::multipart;

/// The keys for a file in an object.
const FILE_KEYS: [&str; 6] = ["b64", "image", "image_bytes", "audio", "bytes", "data"];

/// The keys of a request, each with the frame of its response.
const REQUEST_KEYS: [(&str, ReplyFrame); 7] = [
    ("inputs", ReplyFrame::Bare),
    ("instances", ReplyFrame::Predictions),
    ("images", ReplyFrame::Bare),
    ("image", ReplyFrame::Bare),
    ("audio", ReplyFrame::Bare),
    ("b64", ReplyFrame::Bare),
    ("image_bytes", ReplyFrame::Bare),
];

/// The files of a request.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::handler) struct Files {
    pub files: Vec<Bytes>,
    /// Whether the request holds a single file, and not a list (not even a list of one).
    pub is_single: bool,
    pub frame: ReplyFrame,
    pub parameters: Map<String, Json>,
}

/// The JSON around the answers in a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::handler) enum ReplyFrame {
    /// No frame: Hugging Face's form.
    Bare,
    /// `{"predictions": [...]}`, as in TensorFlow Serving.
    Predictions,
}

impl ReplyFrame {
    /// The frame of the answer to a body of tensors: that of TensorFlow Serving if the body is in
    /// its format.
    pub fn of_tensors(body: &[u8]) -> Self {
        let is_instances = body.trim_ascii_start().starts_with(br#"{"instances""#);
        if is_instances { Self::Predictions } else { Self::Bare }
    }
}

/// The reason why the files of a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::handler) struct BodyProblem(pub String);

/// Extracts the files of a form.
pub(in crate::handler) fn of_form(body: &Bytes, boundary: &str) -> Result<Files, BodyProblem> {
    let (mut files, mut parameters) = (Vec::new(), Map::new());
    for part in multipart::parts(body, boundary).map_err(BodyProblem)? {
        if part.name == "parameters" && !part.is_file {
            parameters = serde_json::from_slice(&part.body)
                .map_err(|error| BodyProblem(format!("the field \"parameters\" is not a JSON object: {error}")))?;
        } else if part.is_file || !part.body.is_empty() {
            files.push(part.body);
        }
    }
    if files.is_empty() {
        return Err(BodyProblem("the form has no file; send one in each part".to_owned()));
    }
    Ok(Files {
        is_single: files.len() == 1,
        files,
        frame: ReplyFrame::Bare,
        parameters,
    })
}

/// Treats a whole body as one file.
pub(in crate::handler) fn of_file(body: Bytes) -> Files {
    Files {
        files: vec![body],
        is_single: true,
        frame: ReplyFrame::Bare,
        parameters: Map::new(),
    }
}

/// Extracts the files from a JSON document; `None` for a document of tensors.
pub(in crate::handler) fn of_json(body: &[u8]) -> Option<Result<Files, BodyProblem>> {
    let node: Node = serde_json::from_slice(body).ok()?;
    let mut parameters = Map::new();
    let (value, frame) = match node {
        Node::Object(mut members) => {
            let (key, frame) = REQUEST_KEYS
                .into_iter()
                .find(|(key, _)| members.iter().any(|(own, _)| own == key))?;
            let mut value = None;
            for (own, member) in members.drain(..) {
                match member {
                    Node::Parameters(object) => parameters = object,
                    member if own == key => value = Some(member),
                    Node::Text(_) | Node::List(_) | Node::Object(_) | Node::Nothing => {}
                }
            }
            (value?, frame)
        }
        other => (other, ReplyFrame::Bare),
    };
    let is_single = !matches!(value, Node::List(_));
    let mut files = Vec::new();
    if let Err(problem) = gather(value, &mut files) {
        return Some(Err(problem));
    }
    if files.is_empty() {
        return None;
    }
    Some(Ok(Files {
        files,
        is_single,
        frame,
        parameters,
    }))
}

/// Extracts the files from JSON Lines; `None` for lines of tensors.
pub(in crate::handler) fn of_lines(body: &[u8]) -> Option<Result<Files, BodyProblem>> {
    let mut all: Option<Files> = None;
    for (number, line) in body.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        match of_json(line)? {
            Ok(mut own) => {
                if own.files.len() != 1 {
                    let problem = format!(
                        "line {} holds {} files; expected one file on each line",
                        number + 1,
                        own.files.len()
                    );
                    return Some(Err(BodyProblem(problem)));
                }
                match &mut all {
                    Some(all) => all.files.append(&mut own.files),
                    None => {
                        all = Some(Files {
                            is_single: false,
                            ..own
                        })
                    }
                }
            }
            Err(BodyProblem(problem)) => return Some(Err(BodyProblem(format!("line {}: {problem}", number + 1)))),
        }
    }
    all.map(Ok)
}

/// Collects the files of a value.
fn gather(value: Node, files: &mut Vec<Bytes>) -> Result<(), BodyProblem> {
    match value {
        Node::Text(text) => files.push(decoded(&text)?),
        Node::List(items) => items.into_iter().try_for_each(|item| gather(item, files))?,
        Node::Object(mut members) => {
            let position = members.iter().position(|(key, _)| FILE_KEYS.contains(&&**key));
            match position {
                Some(position) => gather(members.swap_remove(position).1, files)?,
                None => {
                    return Err(BodyProblem(format!(
                        "expected an object with a base64 file under one of {}",
                        FILE_KEYS.join(", ")
                    )));
                }
            }
        }
        Node::Nothing | Node::Parameters(_) => {
            return Err(BodyProblem(
                "found null, true or false where a file was expected".to_owned(),
            ));
        }
    }
    Ok(())
}

/// Decodes a base64 string or a `data:` URL.
fn decoded(text: &str) -> Result<Bytes, BodyProblem> {
    let text = text.trim();
    if text.starts_with("http://") || text.starts_with("https://") {
        return Err(BodyProblem(
            "the server does not fetch URLs; send the file itself, in base64 or as the body".to_owned(),
        ));
    }
    let coded = match text.strip_prefix("data:") {
        Some(url) => {
            let (about, data) = url.split_once(',').unwrap_or((url, ""));
            if !about.ends_with(";base64") {
                return Err(BodyProblem("a data: URL must be in base64".to_owned()));
            }
            data
        }
        None => text,
    };
    // Some encoders insert line breaks.
    let unbroken: String;
    let coded = if coded.contains(['\n', '\r']) {
        unbroken = coded.replace(['\n', '\r'], "");
        &unbroken
    } else {
        coded
    };
    let is_url_safe = coded.contains(['-', '_']);
    let is_padded = coded.ends_with('=');
    let bytes = match (is_url_safe, is_padded) {
        (false, true) => STANDARD.decode(coded),
        (false, false) => STANDARD_NO_PAD.decode(coded),
        (true, true) => URL_SAFE.decode(coded),
        (true, false) => URL_SAFE_NO_PAD.decode(coded),
    };
    match bytes {
        Ok(bytes) if !bytes.is_empty() => Ok(bytes.into()),
        Ok(_) => Err(BodyProblem("a file is empty".to_owned())),
        Err(error) => Err(BodyProblem(format!("a file is not valid base64: {error}"))),
    }
}

/// JSON without numbers, except in `parameters`.
enum Node {
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
    /// The value of `parameters`.
    Parameters(Map<String, Json>),
    /// `null`, `true` or `false`.
    Nothing,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Nodes;

        impl<'de> Visitor<'de> for Nodes {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("files in base64")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Text(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Node, E> {
                Ok(Node::Text(text))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
                Ok(Node::Nothing)
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Node, E> {
                Ok(Node::Nothing)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Node::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut members = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    let value = if key == "parameters" {
                        Node::Parameters(map.next_value::<Option<Map<String, Json>>>()?.unwrap_or_default())
                    } else {
                        map.next_value()?
                    };
                    members.push((key, value));
                }
                Ok(Node::Object(members))
            }
        }

        deserializer.deserialize_any(Nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Option<Result<Files, String>> {
        of_json(text.as_bytes()).map(|files| files.map_err(|BodyProblem(problem)| problem))
    }

    #[test]
    fn each_way_to_send_files_in_json_gives_the_same_files() {
        let cases = [
            (r#"{"inputs": "YWJj"}"#, 1, true, ReplyFrame::Bare),
            (
                r#"{"inputs": ["YWJj", "YWJj"], "parameters": {"top_k": 2}}"#,
                2,
                false,
                ReplyFrame::Bare,
            ),
            (r#"{"instances": [{"b64": "YWJj"}]}"#, 1, false, ReplyFrame::Predictions),
            (
                r#"{"instances": [{"image_bytes": {"b64": "YWJj"}}]}"#,
                1,
                false,
                ReplyFrame::Predictions,
            ),
            (r#"{"image": "data:image/png;base64,YWJj"}"#, 1, true, ReplyFrame::Bare),
            (r#""YWJj""#, 1, true, ReplyFrame::Bare),
            (r#"["YW\nJj"]"#, 1, false, ReplyFrame::Bare),
        ];
        for (text, count, is_single, frame) in cases {
            let files = json(text).unwrap().unwrap();
            assert_eq!(
                (files.files.len(), files.is_single, files.frame),
                (count, is_single, frame),
                "{text}"
            );
            assert!(files.files.iter().all(|file| &**file == b"abc"), "{text}");
        }
        let with = json(r#"{"inputs": "YWJj", "parameters": {"top_k": 2}}"#)
            .unwrap()
            .unwrap();
        assert_eq!(with.parameters["top_k"], 2);
    }

    #[test]
    fn json_with_numbers_is_left_to_the_formats_of_tensors() {
        for text in [
            "[[1, 2]]",
            r#"{"inputs": {"x": [1.5]}}"#,
            r#"{"instances": [[0]]}"#,
            "{",
            "{}",
            "[]",
            "nonsense",
        ] {
            assert!(json(text).is_none(), "{text}");
        }
    }

    #[test]
    fn rejects_json_values_that_are_not_files_and_says_why() {
        let cases = [
            (r#"{"inputs": "https://example.com/cat.jpg"}"#, "does not fetch URLs"),
            (r#"{"inputs": "not base64!"}"#, "not valid base64"),
            (r#"{"inputs": {"url": "YWJj"}}"#, "under one of b64"),
            (r#"{"inputs": [null]}"#, "where a file was expected"),
            (r#"{"inputs": ""}"#, "a file is empty"),
            (r#"{"inputs": "data:text/plain,abc"}"#, "must be in base64"),
        ];
        for (text, expected) in cases {
            let problem = json(text).unwrap().unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }

    #[test]
    fn each_line_holds_one_file() {
        let files = of_lines(b"{\"inputs\": \"YWJj\"}\n\n\"YWJj\"\n").unwrap().unwrap();
        assert_eq!((files.files.len(), files.is_single), (2, false));
        let two = of_lines(b"[\"YWJj\", \"YWJj\"]\n").unwrap().unwrap_err();
        assert!(two.0.contains("line 1 holds 2 files"), "{}", two.0);
        assert!(of_lines(b"[1]\n").is_none());
    }
}
