//! What bytes are, by the first of them.
//!
//! Names are not asked: `model.tar.gz` is uncompressed, or zstd, or an answer that says "access denied", more often
//! than one would think. What is known to be something else is refused here by its name. All the rest may be a model:
//! what loads it knows better. Whether a model may come without an archive is for the caller to say.

use tar::Header;

use super::error::UnpackError;
use super::{BLOCK, header};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Gzip,
    Zstd,
    Tar,
    /// None of an archive's.
    Bare,
}

pub(super) const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Where a tar archive says that it is one. The oldest do not say so, but their headers add up.
const USTAR: (usize, &[u8]) = (257, b"ustar");

/// Where a model in ONNX Runtime's format says so. What is before it may be anything.
const ORT: (usize, &[u8]) = (4, b"ORTM");

const REPACK: &str = "pack it as .tar.gz";
const EXPORT: &str = "export the model as ONNX";
const UPLOAD: &str = "upload the model itself";

/// What people take for archives or models: its beginning, what it is, what to do instead.
const FOREIGN: [(&[u8], &str, &str); 17] = [
    // A PyTorch checkpoint and a Keras v3 model are zip archives, too.
    (b"PK\x03\x04", "a zip archive", REPACK),
    (b"PK\x05\x06", "a zip archive", REPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", REPACK),
    (b"\xfd7zXZ\0", "compressed with xz", REPACK),
    (b"BZh", "compressed with bzip2", REPACK),
    (b"\x04\x22\x4d\x18", "compressed with lz4", REPACK),
    (b"LZIP", "compressed with lzip", REPACK),
    (b"\x1f\x9d", "compressed with compress", REPACK),
    (b"Rar!\x1a\x07", "a RAR archive", REPACK),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", EXPORT),
    (b"\x80\x02", "a Python pickle", EXPORT),
    (b"\x80\x04", "a Python pickle", EXPORT),
    (b"\x80\x05", "a Python pickle", EXPORT),
    (b"GGUF", "a GGUF model", EXPORT),
    (b"\x93NUMPY", "a NumPy array", EXPORT),
    (b"%PDF-", "a PDF document", UPLOAD),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS",
        "upload what it points to (git lfs pull)",
    ),
];

impl Kind {
    /// What begins with `head`, which is shorter than a block only if that is all.
    pub fn of(head: &[u8]) -> Result<Self, UnpackError> {
        let (at, mark) = USTAR;
        if head.is_empty() {
            Err(UnpackError::Empty)
        } else if head.starts_with(&GZIP) {
            Ok(Self::Gzip)
        } else if head.starts_with(&ZSTD) || is_skippable(head) {
            Ok(Self::Zstd)
        } else if head.get(at..).is_some_and(|rest| rest.starts_with(mark)) || is_tar(head) {
            Ok(Self::Tar)
        } else if head.get(ORT.0..).is_some_and(|rest| rest.starts_with(ORT.1)) {
            Ok(Self::Bare)
        } else if let Some((kind, advice)) = foreign(head) {
            Err(UnpackError::Foreign { kind, advice })
        } else {
            Ok(Self::Bare)
        }
    }

    pub fn is_archive(self) -> bool {
        self != Self::Bare
    }
}

/// zstd's frames for what is not to be decompressed, which parallel compressors begin with.
fn is_skippable(head: &[u8]) -> bool {
    matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

fn is_tar(head: &[u8]) -> bool {
    let block: Option<&[u8; BLOCK]> = head.first_chunk();
    block.is_some_and(|block| header::is_zero(block) || header::is_intact(Header::from_byte_slice(block)))
}

fn foreign(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let known = FOREIGN.iter().find(|(magic, ..)| head.starts_with(magic));
    let known = known.map(|(_, kind, advice)| (*kind, *advice));
    // No model begins so: in protobuf, these characters open what ONNX does not have.
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    known.or(match text {
        [b'<', b'!' | b'?' | b'a'..=b'z' | b'A'..=b'Z', ..] => Some(("an HTML or XML document", UPLOAD)),
        [b'{', b'"' | b'\'' | b'}' | b' ' | b'\r' | b'\n' | b'\t', ..] => Some(("a JSON document", UPLOAD)),
        [b'[', b'"' | b'{' | b'[' | b']' | b' ' | b'\r' | b'\n', ..] => Some(("a JSON document", UPLOAD)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_tells_what_it_is() {
        let onnx = b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\x0a";
        let table: [(&[u8], Kind); 9] = [
            (b"\x1f\x8b\x08\0", Kind::Gzip),
            (b"\x28\xb5\x2f\xfd\x04", Kind::Zstd),
            (b"\x50\x2a\x4d\x18\x04\0\0\0", Kind::Zstd),
            (&[0; BLOCK], Kind::Tar),
            (onnx, Kind::Bare),
            (b"\x80\x02\0\0ORTM", Kind::Bare),
            (&[0; 100], Kind::Bare),
            (b"\x08", Kind::Bare),
            (&[b'x'; 600], Kind::Bare),
        ];
        for (head, expected) in table {
            assert_eq!(Kind::of(head).unwrap(), expected, "{}", head.escape_ascii());
        }
    }

    #[test]
    fn what_is_something_else_is_refused_by_its_name() {
        let table: [(&[u8], &str); 10] = [
            (b"", "it is empty"),
            (b"PK\x03\x04\x14", "a zip archive; pack it as .tar.gz"),
            (b"\xfd7zXZ\0\0", "compressed with xz"),
            (b"\x80\x04\x95", "a Python pickle; export the model as ONNX"),
            (
                b"<?xml version=\"1.0\"?><Error><Code>AccessDenied",
                "an HTML or XML document",
            ),
            (b"\xef\xbb\xbf\r\n <!DOCTYPE html>", "an HTML or XML document"),
            (b"{\"message\": \"forbidden\"}", "a JSON document"),
            (b"{\n  \"a\"", "a JSON document"),
            (b"[{", "a JSON document"),
            (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ];
        for (head, expected) in table {
            let error = Kind::of(head).unwrap_err().to_string();
            assert!(error.contains(expected), "{}: {error}", head.escape_ascii());
        }
    }
}
