//! The models of a whole store, by its listing.
//!
//! A store has files, and a name of any of them or of a folder may be requested. Which of them are
//! models can only be guessed: an archive is one, and so is a folder with a model file. A folder
//! with several model files of other names is a collection, in which each file is a model.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{LocationError, StoreError};
use super::name::Name;
use super::remote::{Remote, RemoteSettings};

/// Ends of the names of archives.
pub const ARCHIVES: [&str; 5] = [".tar.gz", ".tgz", ".tar", ".tar.zst", ".tzst"];

const MODELS: [&str; 2] = [".onnx", ".ort"];

/// Files that are next to the model's folders, not in them.
const MARKS: [&str; 2] = ["longshore.json", "config.json"];

/// Reasons why the models of a store are not known.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    #[error(transparent)]
    Location(#[from] LocationError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{url} has no list of its models; a web server offers none. Name a bucket or a directory")]
    NoList { url: String },
}

/// A file of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    pub name: String,
    pub bytes: u64,
    /// Identifies the content: the entity tag. `None` where equal files may have different ones.
    pub content: Option<String>,
}

/// A model of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedModel {
    pub name: String,
    /// Bytes of its files, as they are stored.
    pub bytes: u64,
    /// Identifies the content: equal for models with equal files.
    pub content: Option<String>,
}

/// Lists the models of a store, in the order of their names.
pub async fn inventory(settings: &RemoteSettings) -> Result<Vec<ListedModel>, InventoryError> {
    let remote = Remote::open(settings)?;
    Ok(grouped(remote.files().await?))
}

fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn file_of(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn ends_with_any(name: &str, endings: &[&str]) -> bool {
    let name = name.to_ascii_lowercase();
    endings.iter().any(|ending| name.ends_with(ending))
}

/// The folder to which the model in `folder` belongs: above folders of versions, such as `1`, and
/// below one with a file that describes the model.
fn artifact_of<'a>(folder: &'a str, marked: &BTreeSet<&str>) -> &'a str {
    let parents = std::iter::successors(Some(folder), |folder| {
        Some(folder_of(folder)).filter(|parent| !parent.is_empty())
    });
    let above = parents.clone().find(|parent| marked.contains(parent));
    let plain = parents
        .into_iter()
        .find(|parent| !file_of(parent).bytes().all(|byte| byte.is_ascii_digit()))
        .unwrap_or(folder);
    above.unwrap_or(plain)
}

/// Groups files into models.
fn grouped(mut files: Vec<ListedFile>) -> Vec<ListedModel> {
    files.sort_by(|one, other| one.name.cmp(&other.name));
    let is_hidden = |name: &str| {
        name.split('/')
            .any(|part| part.starts_with('.') && part != ".longshore")
    };
    files.retain(|file| !is_hidden(&file.name));
    let is_model = |name: &str| ends_with_any(name, &MODELS) && !name.contains(".longshore/");
    let marked: BTreeSet<&str> = files
        .iter()
        .filter(|file| MARKS.contains(&file_of(&file.name)))
        .map(|file| folder_of(&file.name))
        .filter(|folder| !folder.is_empty())
        .collect();
    let mut model_files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in files.iter().filter(|file| is_model(&file.name)) {
        let folder = folder_of(&file.name);
        model_files
            .entry(artifact_of(folder, &marked))
            .or_default()
            .push(&file.name);
    }
    let is_folder = |folder: &str| {
        let Some(names) = model_files.get(folder) else {
            return false;
        };
        let has_usual = names.iter().any(|name| file_of(name).starts_with("model."));
        !folder.is_empty() && (names.len() == 1 || has_usual || marked.contains(folder))
    };
    let mut models: BTreeMap<&str, Vec<&ListedFile>> = BTreeMap::new();
    for file in &files {
        let name = &*file.name;
        let parents = std::iter::successors(Some(folder_of(name)), |folder| {
            (!folder.is_empty()).then(|| folder_of(folder))
        });
        let owner = match parents.clone().find(|folder| is_folder(folder)) {
            Some(folder) => folder,
            None if ends_with_any(name, &ARCHIVES) || is_model(name) => name,
            // External data is named after its model.
            None => {
                let names = model_files.get(folder_of(name)).into_iter().flatten();
                let model = names
                    .filter(|model| name.starts_with(**model))
                    .max_by_key(|model| model.len());
                let Some(model) = model else { continue };
                model
            }
        };
        models.entry(owner).or_default().push(file);
    }
    models.into_iter().map(|(name, files)| listed(name, &files)).collect()
}

fn listed(name: &str, files: &[&ListedFile]) -> ListedModel {
    let mut hasher = blake3::Hasher::new();
    let mut is_known = true;
    for file in files {
        // The names below the model count, and not its own.
        let below = file.name.strip_prefix(name).unwrap_or(&file.name);
        let content = file.content.as_deref().unwrap_or_default();
        is_known &= file.content.is_some();
        for text in [below, content] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.update(&file.bytes.to_le_bytes());
    }
    ListedModel {
        name: name.to_owned(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        content: is_known.then(|| hasher.finalize().to_hex().to_string()),
    }
}

impl ListedModel {
    /// The name as a request has it.
    pub fn parsed(&self) -> Option<Name> {
        Name::parse(&self.name).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &[&str]) -> Vec<(String, u64)> {
        let file = |name: &&str| ListedFile {
            name: (*name).to_owned(),
            bytes: 1,
            content: None,
        };
        let models = grouped(files.iter().map(file).collect());
        models.into_iter().map(|model| (model.name, model.bytes)).collect()
    }

    #[test]
    fn files_are_grouped_into_models() {
        type Case<'a> = (&'a [&'a str], &'a [(&'a str, u64)]);
        let table: [Case<'_>; 8] = [
            (
                &["a.tar.gz", "team/b.tgz", "notes.txt", "._c.tar"],
                &[("a.tar.gz", 1), ("team/b.tgz", 1)],
            ),
            (
                &["a.onnx", "b.onnx", "b.onnx.data", "c.ORT"],
                &[("a.onnx", 1), ("b.onnx", 2), ("c.ORT", 1)],
            ),
            (&["m/model.onnx", "m/weights/0.bin", "m/code/x.py"], &[("m", 3)]),
            (
                &["t/a.onnx", "t/b.onnx", "t/b.onnx_data"],
                &[("t/a.onnx", 1), ("t/b.onnx", 2)],
            ),
            (&["m/1/model.onnx", "m/2/model.onnx"], &[("m", 2)]),
            (
                &["hub/config.json", "hub/onnx/model.onnx", "hub/onnx/model_fp16.onnx"],
                &[("hub", 3)],
            ),
            (&["m/segment.onnx", "m/.longshore/prepared.ort", "m/a.tar"], &[("m", 3)]),
            (&["README.md"], &[]),
        ];
        for (files, expected) in table {
            let expected: Vec<(String, u64)> = expected
                .iter()
                .map(|(name, bytes)| ((*name).to_owned(), *bytes))
                .collect();
            assert_eq!(names(files), expected, "{files:?}");
        }
    }

    #[test]
    fn models_with_equal_files_have_the_same_content() {
        let file = |name: &str, content: Option<&str>| ListedFile {
            name: name.to_owned(),
            bytes: 5,
            content: content.map(str::to_owned),
        };
        let models = grouped(vec![
            file("a/model.onnx", Some("1")),
            file("b/model.onnx", Some("1")),
            file("c/other.onnx", Some("1")),
            file("d/model.onnx", Some("2")),
            file("e/model.onnx", None),
        ]);
        let contents: Vec<&Option<String>> = models.iter().map(|model| &model.content).collect();
        assert_eq!(contents[0], contents[1]);
        assert!(contents[0] != contents[2] && contents[0] != contents[3]);
        assert_eq!(contents[4], &None);
    }
}
