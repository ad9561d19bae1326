//! Detects the format of an archive or model from its first bytes.
//!
//! Names are not evidence: a `model.tar.gz` turns out to be uncompressed, or zstd, or an "access
//! denied" response more often than one would think. Known other formats are refused here by name.
//! Everything else may be a model, which the loader judges better. The caller decides whether a
//! model may come without an archive.

use tar::Header;

use super::error::UnpackError;
use super::{BLOCK, header};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    Gzip,
    Zstd,
    Tar,
    /// Not an archive.
    Bare,
}

pub(super) const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The magic bytes of a tar archive and their offset. The oldest archives lack them, but their
/// headers have a valid checksum.
const USTAR: (usize, &[u8]) = (257, b"ustar");

/// The magic bytes of a model in ONNX Runtime's format and their offset. The bytes before them
/// vary.
const ORT: (usize, &[u8]) = (4, b"ORTM");

/// Bytes at the beginning of a file that suffice to detect its format.
pub const HEAD_BYTES: u64 = BLOCK as u64;

/// A file that is neither an archive nor a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign {
    /// Completes "it is ...".
    pub kind: &'static str,
    pub advice: &'static str,
}

const REPACK: &str = "pack it as .tar.gz";
const EXPORT: &str = "export the model as ONNX";
const LLM: &str = "Longshore serves ONNX models; export the model as ONNX (Hugging Face's optimum-cli does)";
const UPLOAD: &str = "upload the model itself";

/// Formats that users mistake for archives or models: offset, magic bytes, name, and advice.
const FOREIGN: [(usize, &[u8], &str, &str); 22] = [
    // A PyTorch checkpoint and a Keras v3 model are zip archives, too.
    (0, b"PK\x03\x04", "a zip archive", REPACK),
    (0, b"PK\x05\x06", "a zip archive", REPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", REPACK),
    (0, b"\xfd7zXZ\0", "compressed with xz", REPACK),
    (0, b"BZh", "compressed with bzip2", REPACK),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4", REPACK),
    (0, b"LZIP", "compressed with lzip", REPACK),
    (0, b"\x1f\x9d", "compressed with compress", REPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", REPACK),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", EXPORT),
    (0, b"\x80\x02", "a Python pickle", EXPORT),
    (0, b"\x80\x04", "a Python pickle", EXPORT),
    (0, b"\x80\x05", "a Python pickle", EXPORT),
    (0, b"GGUF", "a GGUF model", LLM),
    // ggml's formats before GGUF; their magic bytes are little-endian numbers.
    (0, b"lmgg", "a GGML model", LLM),
    (0, b"tjgg", "a GGML model", LLM),
    (0, b"fmgg", "a GGML model", LLM),
    (4, b"TFL3", "a TensorFlow Lite model", EXPORT),
    (0, b"\x7fELF", "an executable", UPLOAD),
    (0, b"\x93NUMPY", "a NumPy array", EXPORT),
    (0, b"%PDF-", "a PDF document", UPLOAD),
    (
        0,
        b"version https://git-lfs",
        "a pointer of Git LFS",
        "upload the file that it points to (git lfs pull)",
    ),
];

impl FileFormat {
    /// Detects the format of a file that begins with `head`, at least a block unless the file is
    /// shorter.
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
        } else if let Some(foreign) = foreign(head) {
            Err(UnpackError::Foreign(foreign))
        } else {
            Ok(Self::Bare)
        }
    }

    pub fn is_archive(self) -> bool {
        self != Self::Bare
    }
}

/// Whether the bytes begin a skippable zstd frame, which parallel compressors write first.
fn is_skippable(head: &[u8]) -> bool {
    matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

fn is_tar(head: &[u8]) -> bool {
    let block: Option<&[u8; BLOCK]> = head.first_chunk();
    block.is_some_and(|block| header::is_zero(block) || header::is_intact(Header::from_byte_slice(block)))
}

/// Detects formats that are neither an archive nor a model. `head` has [`HEAD_BYTES`], or the whole
/// file where it is shorter.
pub fn foreign(head: &[u8]) -> Option<Foreign> {
    if is_safetensors(head) {
        return Some(Foreign {
            kind: "a safetensors file",
            advice: LLM,
        });
    }
    let known = FOREIGN
        .iter()
        .find(|&&(at, mark, ..)| head.get(at..).is_some_and(|rest| rest.starts_with(mark)))
        .map(|&(_, _, kind, advice)| Foreign { kind, advice });
    // No model begins so: in protobuf, these characters start fields that ONNX does not have.
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let document = |kind| Some(Foreign { kind, advice: UPLOAD });
    known.or_else(|| match text {
        [b'<', b'!' | b'?' | b'a'..=b'z' | b'A'..=b'Z', ..] => document("an HTML or XML document"),
        [b'{', b'"' | b'\'' | b'}' | b' ' | b'\r' | b'\n' | b'\t', ..] => document("a JSON document"),
        [b'[', b'"' | b'{' | b'[' | b']' | b' ' | b'\r' | b'\n', ..] => document("a JSON document"),
        _ => None,
    })
}

/// Detects an archive or a compressed file in place of a model.
pub fn compressed(head: &[u8]) -> Option<Foreign> {
    let kind = match FileFormat::of(head).ok()? {
        FileFormat::Gzip => "compressed with gzip",
        FileFormat::Zstd => "compressed with zstd",
        // A file of zeros looks like the end of an archive.
        FileFormat::Tar if !head.iter().all(|byte| *byte == 0) => "a tar archive",
        FileFormat::Tar | FileFormat::Bare => return None,
    };
    Some(Foreign {
        kind,
        advice: "unpack it, so that the model itself has this name",
    })
}

/// Whether the file begins with the length of a safetensors header, which is JSON of at most 100
/// MB.
fn is_safetensors(head: &[u8]) -> bool {
    const MAX_HEADER_BYTES: u64 = 100_000_000;
    head.split_first_chunk().is_some_and(|(length, header)| {
        (2..=MAX_HEADER_BYTES).contains(&u64::from_le_bytes(*length)) && header.starts_with(b"{\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_format() {
        let onnx = b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\x0a";
        let table: [(&[u8], FileFormat); 10] = [
            // A node's name may contain text that files of another format begin with.
            (b"\x08\x08\x12\x04\x08\x08\x12\x04{\"", FileFormat::Bare),
            (b"\x1f\x8b\x08\0", FileFormat::Gzip),
            (b"\x28\xb5\x2f\xfd\x04", FileFormat::Zstd),
            (b"\x50\x2a\x4d\x18\x04\0\0\0", FileFormat::Zstd),
            (&[0; BLOCK], FileFormat::Tar),
            (onnx, FileFormat::Bare),
            (b"\x80\x02\0\0ORTM", FileFormat::Bare),
            (&[0; 100], FileFormat::Bare),
            (b"\x08", FileFormat::Bare),
            (&[b'x'; 600], FileFormat::Bare),
        ];
        for (head, expected) in table {
            assert_eq!(FileFormat::of(head).unwrap(), expected, "{}", head.escape_ascii());
        }
    }

    #[test]
    fn other_formats_are_refused_by_name() {
        let table: [(&[u8], &str); 16] = [
            (b"GGUF\x03\0\0\0", "a GGUF model; Longshore serves ONNX models"),
            (b"tjgg\x03\0\0\0", "a GGML model"),
            (b"\x40\0\0\0\0\0\0\0{\"__metadata__\":", "a safetensors file"),
            (b"\x1c\0\0\0TFL3", "a TensorFlow Lite model"),
            (b"\x7fELF\x02", "an executable"),
            (b"PK\x03\x04data.pkl", "a zip archive"),
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
            let error = FileFormat::of(head).unwrap_err().to_string();
            assert!(error.contains(expected), "{}: {error}", head.escape_ascii());
        }
    }
}
