//! Reasons why an archive was not unpacked.
//!
//! Each message continues after the archive's name, which this module does not know. Text from the
//! archive is quoted and cut where it is long, because it ends up in logs and responses.

use std::io;

use rustix::io::Errno;

use super::extension::MAX_EXTENSION_BYTES;
use super::kind::Foreign;
use super::place::{MAX_COMPONENT_BYTES, MAX_DEPTH, MAX_NAME_BYTES};

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The source of the archive failed, and the archive itself may be fine.
    #[error("reading it failed: {0}")]
    Source(#[source] io::Error),
    /// The target could not be written, and the archive itself may be fine.
    #[error("write {name:?}: {source}")]
    Write {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("the disk has no room for its {name:?} ({source}); free space on the disk, or use another")]
    NoRoom {
        name: String,
        #[source]
        source: io::Error,
    },

    #[error("it is empty; upload it again")]
    Empty,
    #[error("it is {}; {}", .0.kind, .0.advice)]
    Foreign(Foreign),
    #[error(
        "it is not an archive, and its name does not end in .onnx or .ort as a model's does; pack the folder that \
         holds the model as .tar.gz"
    )]
    NotArchive,
    #[error("it is not compressed with gzip, as its name says; pack it as .tar.gz, or name it for what it is")]
    NotGzip,
    #[error("its compressed content is not a tar archive; pack a folder with tar, or upload the model uncompressed")]
    NotTar,
    #[error("it has no file in it; pack the folder that holds the model")]
    NoFile,

    #[error("it is damaged ({0}); pack or upload it again")]
    Damaged(#[source] io::Error),
    #[error("it is damaged: its compressed data are cut short; pack or upload it again")]
    CutShort,
    #[error("it is damaged: it is cut short in {name:?}; pack or upload it again")]
    Short { name: String },
    #[error("it is damaged: its end-of-archive marker is missing; pack or upload it again")]
    NoEnd,
    #[error("it is damaged: after {after} there is no valid tar header; pack or upload it again")]
    Header { after: String },
    #[error("it is damaged: the extension after {after} {what}; pack it with another tar")]
    Extension { after: String, what: &'static str },
    #[error("something follows its end; pack it as one archive with nothing after it")]
    Trailing,
    #[error(
        "it takes more than {} MiB of memory to decompress; compress it without zstd's --long and --ultra",
        super::decoded::MAX_WINDOW_BYTES >> 20
    )]
    Window,

    #[error("{name:?} in it is {kind}; pack regular files and directories only")]
    Kind { name: String, kind: &'static str },
    #[error("{name:?} in it leads out of the archive; pack files by relative paths without \"..\"")]
    Path { name: String },
    #[error("{name:?} in it is not a file name; rename the file, or pack the folder that it lies in")]
    Nameless { name: String },
    #[error("{name:?} in it has a name that is not UTF-8; rename the file")]
    NotText { name: String },
    #[error("{name:?} in it has a name with a NUL character; rename the file")]
    Nul { name: String },
    #[error(
        "{name:?}... in it has too long a name (a path may have {MAX_NAME_BYTES} bytes, each part of it \
         {MAX_COMPONENT_BYTES}); rename the file"
    )]
    LongName { name: String },
    #[error("{name:?} in it lies more than {MAX_DEPTH} folders deep; pack it in fewer folders")]
    Deep { name: String },
    #[error("{name:?} in it is there twice; pack it once")]
    Duplicate { name: String },
    #[error("{name:?} in it is a file and a folder at once; pack one of them")]
    Clash { name: String },
    #[error("{name:?} in it is a folder with content of its own; pack it with another tar")]
    Folder { name: String },
    #[error("{name:?} in it is a sparse file whose map {what}; pack it without --sparse")]
    Sparse { name: String, what: &'static str },
    #[error("{name:?} in it has two sizes, {header} and {extension} bytes; pack it with another tar")]
    Sizes { name: String, header: u64, extension: u64 },
    #[error(
        "the extension after {after} in it has more than {MAX_EXTENSION_BYTES} bytes; pack without extended attributes"
    )]
    LongExtension { after: String },
    #[error("the name after {after} in it is in {charset:?}; pack it with names in UTF-8")]
    Charset { after: String, charset: String },

    #[error("it has more than {0} entries; pack fewer, or raise --max-entries")]
    TooManyEntries(u64),
    #[error("it unpacks to more than {0} bytes; pack less, or raise --max-unpacked")]
    TooLarge(u64),
    #[error("it unpacks to more than {0} times its size; pack it uncompressed (tar), or raise --max-ratio")]
    Ratio(u64),
}

impl UnpackError {
    /// The error for a failed write of `name`.
    pub(super) fn write(name: &str, source: io::Error) -> Self {
        let name = brief(name);
        match is_full(&source) {
            true => Self::NoRoom { name, source },
            false => Self::Write { name, source },
        }
    }

    /// The error for a failed read of decompressed bytes.
    pub(super) fn read(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(cause) => cause,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Self::CutShort,
            // The zstd crate keeps only the text of its error code.
            Err(error) if error.to_string().contains("too much memory") => Self::Window,
            Err(error) => Self::Damaged(error),
        }
    }
}

/// Whether a write failed because the disk is full, or a quota or file size limit is reached.
pub fn is_full(error: &io::Error) -> bool {
    const FULL: [Errno; 3] = [Errno::NOSPC, Errno::DQUOT, Errno::FBIG];
    Errno::from_io_error(error).is_some_and(|errno| FULL.contains(&errno))
}

/// The beginning of a name, for a message.
pub(super) fn brief(name: &str) -> String {
    const MAX_CHARS: usize = 200;
    name.chars().take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_distinguished_from_other_failures() {
        let table = [
            (Errno::NOSPC, true),
            (Errno::DQUOT, true),
            (Errno::FBIG, true),
            (Errno::IO, false),
            (Errno::ROFS, false),
            (Errno::MFILE, false),
        ];
        for (errno, is_full) in table {
            let error = UnpackError::write("a/b", errno.into());
            assert_eq!(matches!(error, UnpackError::NoRoom { .. }), is_full, "{error}");
            assert!(error.to_string().contains("\"a/b\""), "{error}");
        }
    }
}
