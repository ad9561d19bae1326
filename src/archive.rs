//! Archives of artifacts: `model.tar.gz` as SageMaker takes it, written (`pack.rs`) and read (`unpack.rs`).
//!
//! What always holds: an archive that is written is a function of the files' names and contents alone, so that the
//! same artifact is the same bytes on any machine and any day; one that is read makes regular files and directories
//! below the folder that was named, within bounds, or is refused by the name of what is wrong with it.
//!
//! Reading goes in one pass from whatever yields bytes: `kind.rs` sees by the first of them what they are, `decoded.rs`
//! unpacks and counts them, `header.rs`, `extension.rs` and `sparse.rs` understand tar's, `place.rs` makes files. Only
//! buffers of a fixed size, and the bounded map of a sparse file, are held in memory.

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
pub use pack::{Collected, LeftOut, PackError, Source, collect, write};
pub use unpack::{Bounds, Expected, Unpacked, unpack};

/// tar's unit: headers are as long, and contents are filled up to a multiple of it.
const BLOCK: usize = 512;

/// Whether the file at `path` is an archive, by its content. What is known to be neither that nor a model is an error.
pub fn is_archive(path: &Path) -> Result<bool, UnpackError> {
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(BLOCK as u64).read_to_end(&mut head))
        .map_err(UnpackError::Source)?;
    match kind::Kind::of(&head) {
        Ok(kind) => Ok(kind.is_archive()),
        Err(UnpackError::Empty) => Ok(false),
        Err(error) => Err(error),
    }
}
