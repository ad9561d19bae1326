//! Reads numbers at positions of a file that may be truncated.

use crate::vision::{PictureFormat, VisionError};

/// The bytes of a file; reading past the end is an error of its format.
#[derive(Clone, Copy)]
pub(in crate::vision) struct Bytes<'a> {
    pub bytes: &'a [u8],
    pub format: PictureFormat,
}

impl<'a> Bytes<'a> {
    /// Returns `count` bytes from `at` on.
    pub(in crate::vision) fn slice(self, at: usize, count: usize) -> Result<&'a [u8], VisionError> {
        at.checked_add(count)
            .and_then(|end| self.bytes.get(at..end))
            .ok_or_else(|| VisionError::truncated(self.format))
    }

    fn array<const N: usize>(self, at: usize) -> Result<[u8; N], VisionError> {
        let slice = self.slice(at, N)?;
        Ok(slice.try_into().expect("a slice of N bytes"))
    }

    pub(in crate::vision) fn u8(self, at: usize) -> Result<u8, VisionError> {
        Ok(self.array::<1>(at)?[0])
    }

    pub(in crate::vision) fn u16_be(self, at: usize) -> Result<u16, VisionError> {
        self.array(at).map(u16::from_be_bytes)
    }

    pub(in crate::vision) fn u32_be(self, at: usize) -> Result<u32, VisionError> {
        self.array(at).map(u32::from_be_bytes)
    }

    pub(in crate::vision) fn u16_le(self, at: usize) -> Result<u16, VisionError> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(in crate::vision) fn u24_le(self, at: usize) -> Result<u32, VisionError> {
        let [low, middle, high] = self.array(at)?;
        Ok(u32::from_le_bytes([low, middle, high, 0]))
    }

    pub(in crate::vision) fn u32_le(self, at: usize) -> Result<u32, VisionError> {
        self.array(at).map(u32::from_le_bytes)
    }
}
