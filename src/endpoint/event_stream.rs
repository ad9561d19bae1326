//! Frames of `application/vnd.amazon.eventstream`, as the AWS clients read them.
//!
//! A frame consists of a head (the frame's length, the length of its headers, a CRC-32 of both),
//! the headers, a payload, and a CRC-32 of everything before it. All numbers are big-endian.
//! Clients take the end of the body for the end of the stream and do not notice that a stream was
//! cut short. So an error in mid-stream must be a frame of its own.

use bytes::{BufMut, Bytes, BytesMut};

use serde::Serialize;

/// The media type of `InvokeEndpointWithResponseStream`'s responses.
pub const CONTENT_TYPE: &str = "application/vnd.amazon.eventstream";

/// Maximum bytes of a frame's payload. Clients refuse more than 24 MiB; smaller frames arrive
/// sooner.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// Bytes of the lengths and CRCs before and after headers and payload.
const HEAD: usize = 12;
const TAIL: usize = 4;

/// The type code of a header whose value is a string.
const STRING: u8 = 7;

/// The reason why a stream ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFault {
    TimedOut,
    Broken,
}

impl StreamFault {
    pub fn code(self) -> &'static str {
        match self {
            Self::TimedOut => "ModelInvocationTimeExceeded",
            Self::Broken => "StreamBroken",
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ExceptionBody<'a> {
    message: &'a str,
    error_code: &'a str,
}

/// A frame with a part of the model's response, at most [`MAX_PAYLOAD`] bytes.
pub fn payload_part(bytes: &[u8]) -> Bytes {
    frame(
        &[
            (":event-type", "PayloadPart"),
            (":content-type", "application/octet-stream"),
            (":message-type", "event"),
        ],
        bytes,
    )
}

/// The last frame of a stream that failed.
pub fn model_stream_error(fault: StreamFault, message: &str) -> Bytes {
    let body = ExceptionBody {
        message,
        error_code: fault.code(),
    };
    // Serializing strings cannot fail.
    let body = serde_json::to_vec(&body).unwrap_or_default();
    frame(
        &[
            (":exception-type", "ModelStreamError"),
            (":content-type", "application/json"),
            (":message-type", "exception"),
        ],
        &body,
    )
}

/// Builds a frame. The names and values above are short enough for their length fields.
fn frame(headers: &[(&str, &str)], payload: &[u8]) -> Bytes {
    let headers_bytes: usize = headers.iter().map(|(name, value)| 4 + name.len() + value.len()).sum();
    let total = HEAD + headers_bytes + payload.len() + TAIL;
    let mut frame = BytesMut::with_capacity(total);
    frame.put_u32(total as u32);
    frame.put_u32(headers_bytes as u32);
    frame.put_u32(crc32(&frame));
    for (name, value) in headers {
        frame.put_u8(name.len() as u8);
        frame.put_slice(name.as_bytes());
        frame.put_u8(STRING);
        frame.put_u16(value.len() as u16);
        frame.put_slice(value.as_bytes());
    }
    frame.put_slice(payload);
    frame.put_u32(crc32(&frame));
    frame.freeze()
}

/// The CRC-32 of zlib, gzip and Ethernet.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// botocore's own decoder has read these bytes.
    #[test]
    fn a_payload_part_is_a_frame_that_botocore_reads() {
        assert_eq!(
            hex(&payload_part(b"hi")),
            "0000006b00000059997770650b3a6576656e742d7479706507000b5061796c6f6164506172740d3a636f6e74656e742d74797065\
             0700186170706c69636174696f6e2f6f637465742d73747265616d0d3a6d6573736167652d747970650700056576656e746869f0\
             e10a16"
        );
        let hello = hex(&payload_part(b"hello "));
        assert!(hello.starts_with("0000006f000000596cf7d6a5"), "{hello}");
        assert!(hello.ends_with("68656c6c6f20901be2b4"), "{hello}");
    }

    #[test]
    fn an_exception_is_a_frame_that_botocore_reads() {
        assert_eq!(
            hex(&model_stream_error(StreamFault::Broken, "m")),
            "000000980000005e0887cf4b0f3a657863657074696f6e2d747970650700104d6f64656c53747265616d4572726f720d3a636f6e\
             74656e742d747970650700106170706c69636174696f6e2f6a736f6e0d3a6d6573736167652d74797065070009657863657074696f\
             6e7b224d657373616765223a226d222c224572726f72436f6465223a2253747265616d42726f6b656e227d5d2db3a1"
        );
    }
}
