//! Memory as large as a picture, asked for so that "no" is an answer: a vector that cannot grow
//! ends the process, and one request may not do that.

use crate::vision::VisionError;

/// An empty vector with room for `count` items.
pub(super) fn room_for<T>(count: usize) -> Result<Vec<T>, VisionError> {
    let mut items = Vec::new();
    items.try_reserve_exact(count).map_err(|_| VisionError::OutOfMemory)?;
    Ok(items)
}

/// `count` copies of `item`.
pub(super) fn filled<T: Clone>(item: T, count: usize) -> Result<Vec<T>, VisionError> {
    let mut items = room_for(count)?;
    items.resize(count, item);
    Ok(items)
}

/// The bytes of a picture of these sizes.
pub(super) fn byte_count(width: u32, height: u32, bytes_per_pixel: usize) -> Result<usize, VisionError> {
    usize::try_from(u64::from(width) * u64::from(height))
        .ok()
        .and_then(|pixels| pixels.checked_mul(bytes_per_pixel))
        .filter(|&bytes| bytes <= isize::MAX as usize)
        .ok_or(VisionError::OutOfMemory)
}
