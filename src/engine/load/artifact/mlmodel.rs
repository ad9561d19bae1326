//! Reads the name of the model file from MLflow's `MLmodel`: the data of its ONNX flavour.
//!
//! ```text
//! flavors:
//!   onnx:
//!     data: model.onnx
//! ```
//!
//! MLflow writes the file as YAML with one line for each key, and this parser supports only that
//! form. If it does not find the key, the model is searched for as in any other folder.

use std::io::Read;

use super::beneath::Folder;
use super::error::{ArtifactError, io_error};
use super::inside::{inside, open_file};

/// The file's name.
pub(super) const FILE: &str = "MLmodel";

/// Limit on the bytes that are read. A signature of a few thousand columns is shorter.
const MAX_BYTES: u64 = 4 << 20;

/// Returns the path that `MLmodel` in `folder` names, relative to `folder`.
pub(super) fn data(folder: &Folder) -> Result<Option<String>, ArtifactError> {
    let path = inside(folder, &folder.path().join(FILE))?;
    let (file, _) = open_file(folder, &path)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|source| io_error(&path, source))?;
    Ok(data_of(&String::from_utf8_lossy(&bytes)))
}

/// Returns the value at `flavors`, `onnx`, `data`.
fn data_of(text: &str) -> Option<String> {
    const WANTED: [&str; 3] = ["flavors", "onnx", "data"];
    // `path` holds the indents of the matched keys that enclose the current line; `below` holds
    // the indent of the keys below the last of them.
    let (mut path, mut below): (Vec<usize>, Option<usize>) = (Vec::new(), Some(0));
    for line in text.lines() {
        let key = line.trim_start();
        if key.is_empty() || key.starts_with('#') {
            continue;
        }
        let indent = line.len() - key.len();
        while let Some(above) = path.pop_if(|above| indent <= *above) {
            below = Some(above);
        }
        if indent != *below.get_or_insert(indent) {
            continue;
        }
        let Some((name, value)) = key.split_once(':') else {
            continue;
        };
        if WANTED.get(path.len()) != Some(&name) {
            continue;
        }
        if path.len() + 1 == WANTED.len() {
            let value = value.trim().trim_matches(['\'', '"']);
            return (!value.is_empty() && value != "null").then(|| value.to_owned());
        }
        path.push(indent);
        below = None;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parser_finds_the_data_of_the_onnx_flavour() {
        let table = [
            (
                "flavors:\n  onnx:\n    code: null\n    data: model.onnx\n",
                Some("model.onnx"),
            ),
            (
                "artifact_path: model\nflavors:\n  onnx:\n    data: 'a b.onnx'\n    onnx_session_options: {}\n  python_function:\n    data: other\n",
                Some("a b.onnx"),
            ),
            (
                "flavors:\n  python_function:\n    data: other\n  onnx:\n    onnx_version: 1.16.0\n    providers:\n    - CPU\n    data: net.onnx\n",
                Some("net.onnx"),
            ),
            (
                "flavors:\n  onnx:\n    deeper:\n      data: no\n    data: net.onnx\n",
                Some("net.onnx"),
            ),
            ("flavors:\n  onnx:\n    deeper:\n      data: no\n", None),
            ("flavors:\n  sklearn:\n    data: model.pkl\n", None),
            ("other:\n  onnx:\n    data: model.onnx\n", None),
            ("onnx:\n  data: model.onnx\n", None),
            ("flavors:\n  onnx:\n    data: null\n", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(data_of(text).as_deref(), expected, "{text}");
        }
    }
}
