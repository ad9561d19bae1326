//! The formats and their media types.

use super::media_type::MediaType;
use super::triton_binary;

/// A format of requests and responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// TF-Serving's row and column forms, a bare array, or the Open Inference Protocol:
    /// `codec/json.rs`.
    Json,
    /// The Open Inference Protocol with binary tensors after the JSON: `codec/triton_binary.rs`.
    TritonBinary,
    /// One instance per line: `codec/json_lines.rs`.
    JsonLines,
    /// Rows, with or without a header: `codec/csv.rs`.
    Csv,
    /// One array as NumPy saves it: `codec/npy.rs`.
    Npy,
    /// Several arrays by name, or a sparse matrix: `codec/npz.rs`.
    Npz,
    /// Records of SageMaker's built-in algorithms: `codec/recordio.rs`.
    RecordIo,
    /// Values with their indices, in requests only: `codec/libsvm.rs`.
    LibSvm,
    /// The elements of one tensor: `codec/octets.rs`.
    Octets,
}

impl Format {
    /// All formats, in the order of preference for a wildcard in `Accept`.
    pub const ALL: [Format; 9] = [
        Self::Json,
        Self::JsonLines,
        Self::Csv,
        Self::Npy,
        Self::TritonBinary,
        Self::Npz,
        Self::RecordIo,
        Self::LibSvm,
        Self::Octets,
    ];

    /// Whether responses can have this format.
    pub const fn is_written(self) -> bool {
        !matches!(self, Self::LibSvm)
    }

    /// The type and subtype of the format.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::TritonBinary => triton_binary::MEDIA_TYPE,
            Self::JsonLines => "application/jsonlines",
            Self::Csv => "text/csv",
            Self::Npy => "application/x-npy",
            Self::Npz => "application/x-npz",
            Self::RecordIo => "application/x-recordio-protobuf",
            Self::LibSvm => "text/libsvm",
            Self::Octets => "application/octet-stream",
        }
    }

    /// Finds the format of a media type in a header: any case, any alias, parameters ignored.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        Self::from_essence(&MediaType::parse(media_type)?.essence)
    }

    /// Finds the format of a type and subtype in lower case.
    pub(super) fn from_essence(essence: &str) -> Option<Self> {
        match essence {
            "application/x-ndjson" | "application/jsonl" => Some(Self::JsonLines),
            "text/x-libsvm" => Some(Self::LibSvm),
            _ => Self::ALL.into_iter().find(|format| format.media_type() == essence),
        }
    }

    /// Whether the format is text, so that its media type may have a character set.
    pub(super) const fn is_text(self) -> bool {
        match self {
            Self::Json | Self::TritonBinary | Self::JsonLines | Self::Csv | Self::LibSvm => true,
            Self::Npy | Self::Npz | Self::RecordIo | Self::Octets => false,
        }
    }
}

/// The name of the format in messages.
impl From<Format> for &'static str {
    fn from(format: Format) -> Self {
        format.media_type()
    }
}
