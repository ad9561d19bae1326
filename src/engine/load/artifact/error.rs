//! The errors of opening an artifact, for the user who packed it. They show the last two
//! components of a path, and cut long names off.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::beneath::was_exchanged;
use crate::archive::Foreign;
use crate::engine::load::adapter::FILE as ADAPTER;
use crate::engine::load::onnx_file::ScanError;
use crate::manifest::FILE as MANIFEST;

#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("{path} does not exist")]
    Missing { path: String },
    /// The process or the machine has no file descriptors left. The artifact is not the cause.
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
        /// A further clause, or an empty text.
        advice: &'static str,
    },
    #[error(
        "more than one model in {path} ({names}): name one of them model.onnx, or name it in {MANIFEST} as \
         {{\"model\": \"...\"}}"
    )]
    Ambiguous { path: String, names: String },
    #[error(
        "{path} holds a model of several graphs ({names}), which a program runs one after another; Longshore serves a \
         single graph: export the model as one, or name the part to serve in {MANIFEST} as {{\"model\": \"...\"}}"
    )]
    SeveralGraphs { path: String, names: String },
    #[error("more than one adapter in {path} ({names}): name the one to use {ADAPTER}, or remove the others")]
    SeveralAdapters { path: String, names: String },
    #[error("{MANIFEST}: {detail}")]
    Manifest { detail: String },
    #[error("{file} is not a model: {source}")]
    NotAModel {
        file: String,
        #[source]
        source: ScanError,
    },
    #[error("{file} is not a model: its name ends with .ort, but its content is not in ONNX Runtime's own format")]
    NotOrtFormat { file: String },
    #[error("{file} is {}; {}", .foreign.kind, .foreign.advice)]
    Foreign { file: String, foreign: Foreign },
    #[error("{file} refers to weights in {location:?}, which {problem}")]
    ExternalData {
        file: String,
        location: String,
        problem: &'static str,
    },
    #[error("{file} refers to {needed} bytes of weights in {location:?}, which has only {bytes}")]
    ShortExternalData {
        file: String,
        location: String,
        needed: u64,
        bytes: u64,
    },
    #[error(
        "{file} is a link out of the artifact; replace it with the file itself. The links of a Hugging Face snapshot are \
         followed only to the blobs of its own repository, which must be below the folder that the server was started with"
    )]
    Escapes { file: String },
    /// The files differed between two reads, so neither version is used.
    #[error("{file}, or its weights or a folder around it, changed while it was loaded; try again")]
    Changed { file: String },
    /// The artifact is not the cause.
    #[error(
        "{file} cannot be loaded now: its private copy cannot be written to {}: {source}; free {needed} bytes there, or set \
         --cache-dir to another folder",
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
    /// Whether the content of the artifact is the cause, rather than the current state of the
    /// machine.
    pub fn is_about_content(&self) -> bool {
        match self {
            Self::NoDescriptors { .. } | Self::NoCopy { .. } | Self::Changed { .. } => false,
            Self::Missing { .. }
            | Self::Unreadable { .. }
            | Self::NoModel { .. }
            | Self::Ambiguous { .. }
            | Self::SeveralGraphs { .. }
            | Self::SeveralAdapters { .. }
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

/// The error for a real path that was checked before and cannot be opened.
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

/// Shortens a path to its last two components: the model's folder and the file.
pub(super) fn shown(path: &Path) -> String {
    let names: Vec<_> = path.components().rev().take(2).collect();
    let short: PathBuf = names.into_iter().rev().collect();
    brief_name(&short.to_string_lossy())
}

/// Cuts a name off for a message.
pub(super) fn brief_name(name: &str) -> String {
    name.chars().take(200).collect()
}

/// Lists the first few names for a message.
pub(super) fn brief<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const MAX_NAMES: usize = 5;
    let count = names.len();
    let mut text = names.take(MAX_NAMES).collect::<Vec<_>>().join(", ");
    if count > MAX_NAMES {
        text.push_str(&format!(" and {} more", count - MAX_NAMES));
    }
    text
}
