//! Archives of artifacts in the form that SageMaker takes, `model.tar.gz`: `pack.rs` writes them
//! and `unpack.rs` reads them.
//!
//! Invariants: a written archive depends on the files' names and contents alone, so the same
//! artifact gives the same bytes on any machine and any day. A read archive creates only regular
//! files and directories below the given folder, within limits, or is refused with its defect.
//!
//! Reading is one pass over any source of bytes: `kind.rs` detects the format, `decoded.rs`
//! decompresses and counts, `header.rs`, `extension.rs` and `sparse.rs` parse tar's structures, and
//! `place.rs` creates the files. Memory holds only buffers of a fixed size, and the bounded map of
//! a sparse file.

mod decoded;
mod error;
mod extension;
mod header;
mod kind;
mod pack;
mod place;
mod sparse;
mod unpack;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;
use std::path::Path;

pub use decoded::MAX_WINDOW_BYTES;
pub use error::{UnpackError, is_full};
pub use kind::{Foreign, HEAD_BYTES, compressed, foreign};
pub use pack::{CollectedFiles, LeftOut, PackError, PackSource, collect, write};
pub use unpack::{ExpectedFormat, UnpackLimits, Unpacked, unpack};

/// tar's unit: each header is one block, and contents are padded to a multiple of it.
const BLOCK: usize = 512;

/// Detects from its content whether the file at `path` is an archive. Formats that are known to be
/// neither an archive nor a model are errors.
pub fn is_archive(path: &Path) -> Result<bool, UnpackError> {
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(BLOCK as u64).read_to_end(&mut head))
        .map_err(UnpackError::Source)?;
    match kind::FileFormat::of(&head) {
        Ok(kind) => Ok(kind.is_archive()),
        Err(UnpackError::Empty) => Ok(false),
        Err(error) => Err(error),
    }
}
