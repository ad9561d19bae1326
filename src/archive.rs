//! Archives of artifacts: `model.tar.gz` as SageMaker takes it, written (`pack.rs`) and read (`unpack.rs`).
//!
//! What always holds: an archive that is written is a function of the files' names and contents alone, so that the same
//! artifact is the same bytes on any machine and any day; one that is read makes regular files and directories below the
//! folder that was named, within bounds, or is refused by the name of what is wrong with it.

mod pack;
mod unpack;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub use pack::{Collected, LeftOut, PackError, Source, collect, write};
pub use unpack::{Bounds, UnpackError, unpack};

/// The first bytes of a gzip file.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Where a tar archive says that it is one, and what.
const USTAR: (usize, &[u8]) = (257, b"ustar");

/// Whether the file at `path` is an archive, by its content.
pub fn is_archive(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?.take(512).read_to_end(&mut head)?;
    let (at, mark) = USTAR;
    Ok(head.starts_with(&GZIP) || head.get(at..).is_some_and(|rest| rest.starts_with(mark)))
}
