//! Why an artifact does not hold a model, for the person who packed it: files go by the last names
//! of their paths, and long names are cut.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::beneath::was_exchanged;
use crate::archive::Foreign;
use crate::engine::onnx_file::ScanError;
use crate::manifest::FILE as MANIFEST;

#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("{path} does not exist")]
    Missing { path: String },
    /// Not the artifact's fault: the process, or the machine, has no file descriptors left.
    #[error("{path} cannot be opened now: {source}")]
    NoDescriptors {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path} cannot be read: {source}")]
    Unreadable {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "no model in {path}: looked for {MANIFEST}, model.onnx, model.ort, a single *.onnx and <version>/model.onnx, \
         there, in onnx/ and in its only sub-directory; it holds {holds}{advice}"
    )]
    NoModel {
        path: String,
        holds: String,
        /// A further clause, or nothing.
        advice: &'static str,
    },
    #[error(
        "more than one model in {path} ({names}): name one of them model.onnx, or name it in {MANIFEST} as \
         {{\"model\": \"...\"}}"
    )]
    Ambiguous { path: String, names: String },
    #[error(
        "{path} holds a model of several graphs ({names}), which a program runs one after another; Longshore serves one \
         graph: export the model as one, or name the part to be served in {MANIFEST} as {{\"model\": \"...\"}}"
    )]
    SeveralGraphs { path: String, names: String },
    #[error("{MANIFEST}: {detail}")]
    Manifest { detail: String },
    #[error("{file} is not a model: {source}")]
    NotAModel {
        file: String,
        #[source]
        source: ScanError,
    },
    #[error("{file} is not a model: its name says ONNX Runtime's own format, which its content is not")]
    NotOrtFormat { file: String },
    #[error("{file} is {}; {}", .foreign.kind, .foreign.advice)]
    Foreign { file: String, foreign: Foreign },
    #[error("{file} refers to weights in {location:?}, which {problem}")]
    ExternalData {
        file: String,
        location: String,
        problem: &'static str,
    },
    #[error("{file} refers to {needed} bytes of weights in {location:?}, which has {bytes}")]
    ShortExternalData {
        file: String,
        location: String,
        needed: u64,
        bytes: u64,
    },
    #[error(
        "{file} is a link out of the artifact; put the file itself there. The links of a Hugging Face snapshot are followed to \
         the blobs of its own repository, where that lies below the folder that the server was started with"
    )]
    Escapes { file: String },
    /// What was read second is not what was read first, so neither is used.
    #[error("{file}, or its weights or a folder around it, changed while it was loaded; try again")]
    Changed { file: String },
    /// Not the artifact's fault.
    #[error(
        "{file} cannot be loaded now: its private copy cannot be written to {}: {source}; free {needed} bytes there, or name \
         another folder (--cache-dir)",
        folder.display()
    )]
    NoCopy {
        file: String,
        folder: PathBuf,
        needed: u64,
        #[source]
        source: io::Error,
    },
}

impl ArtifactError {
    /// Whether it follows from what the artifact holds, rather than from what the machine lacks
    /// just now.
    pub fn is_about_content(&self) -> bool {
        match self {
            Self::NoDescriptors { .. } | Self::NoCopy { .. } | Self::Changed { .. } => false,
            Self::Missing { .. }
            | Self::Unreadable { .. }
            | Self::NoModel { .. }
            | Self::Ambiguous { .. }
            | Self::SeveralGraphs { .. }
            | Self::Manifest { .. }
            | Self::NotAModel { .. }
            | Self::NotOrtFormat { .. }
            | Self::ExternalData { .. }
            | Self::ShortExternalData { .. }
            | Self::Foreign { .. }
            | Self::Escapes { .. } => true,
        }
    }
}

/// Why a real path that was judged before could not be opened.
pub(super) fn open_error(path: &Path, source: io::Error) -> ArtifactError {
    if was_exchanged(&source) {
        return ArtifactError::Changed { file: shown(path) };
    }
    io_error(path, source)
}

pub(super) fn io_error(path: &Path, source: io::Error) -> ArtifactError {
    let path = shown(path);
    let exhausted = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
    if source.kind() == io::ErrorKind::NotFound {
        ArtifactError::Missing { path }
    } else if exhausted.contains(&source.raw_os_error()) {
        ArtifactError::NoDescriptors { path, source }
    } else {
        ArtifactError::Unreadable { path, source }
    }
}

/// The last two components say enough: the model's folder and the file.
pub(super) fn shown(path: &Path) -> String {
    let names: Vec<_> = path.components().rev().take(2).collect();
    let short: PathBuf = names.into_iter().rev().collect();
    brief_name(&short.to_string_lossy())
}

/// The beginning of a name, for a message.
pub(super) fn brief_name(name: &str) -> String {
    name.chars().take(200).collect()
}

/// The first few names, for a message.
pub(super) fn brief<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const MOST: usize = 5;
    let count = names.len();
    let mut text = names.take(MOST).collect::<Vec<_>>().join(", ");
    if count > MOST {
        text.push_str(&format!(" and {} more", count - MOST));
    }
    text
}
